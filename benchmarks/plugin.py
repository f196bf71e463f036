"""What CLNPPlugin costs in a plain Avalanche strategy: images per second as a share of Naive's own.

    python benchmarks/plugin.py [--network mlp|wide|cnn] [--rounds N]

Two tasks of noise, in batches of 128, learned in turns by `Naive` and by `Naive` with the plugin; the median over the
rounds counts. `epochs` are the strategy's own. `in all` counts holding out, measuring, pruning and one epoch of
fine-tuning as time, and the images of fine-tuning as images.
"""

import argparse
import statistics
import time

import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import SimpleCNN, SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from clbench.strategies.clnp.plugin import CLNPPlugin

IMAGES, EPOCHS, BATCH = 20_000, 2, 128
NETWORKS = {
    "mlp": ((784,), lambda: SimpleMLP(num_classes=10)),
    "wide": (
        (784,),
        lambda: nn.Sequential(nn.Linear(784, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 10)),
    ),
    "cnn": ((3, 32, 32), lambda: SimpleCNN(num_classes=10)),
}


class Clock(SupervisedPlugin):
    """Seconds that the strategy's own epochs take, task by task, and the images in them."""

    def __init__(self):
        super().__init__()
        self.seconds, self.images = [], []

    def before_training_exp(self, strategy, **kwargs):
        self.seconds.append(0.0)
        self.images.append(0)

    def before_training_epoch(self, strategy, **kwargs):
        self.start = time.perf_counter()

    def after_training_iteration(self, strategy, **kwargs):
        self.images[-1] += len(strategy.mb_x)

    def after_training_epoch(self, strategy, **kwargs):
        self.seconds[-1] += time.perf_counter() - self.start


def tasks(shape):
    """Two tasks of noise, with as many images in either."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for label in range(2):
        x = torch.randn(IMAGES, *shape, generator=generator)
        found.append(_make_taskaware_tensor_classification_dataset(x, torch.arange(IMAGES) % 10, task_labels=label))
    return dataset_benchmark(found, [part.subset(range(100)) for part in found])


def rates(shape, build, plugins):
    """Images per second of both tasks: in the strategy's epochs, and in all."""
    torch.manual_seed(0)
    clock, benchmark, model = Clock(), tasks(shape), build()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        plugins=[*plugins, clock],
        evaluator=EvaluationPlugin(),
    )
    found = []
    for number, experience in enumerate(benchmark.train_stream):
        start = time.perf_counter()
        strategy.train(experience)
        seconds = time.perf_counter() - start
        images = clock.images[number]
        in_all = images + (images // EPOCHS if plugins else 0)
        found.append((images / clock.seconds[number], in_all / seconds))
    return found


def main():
    """Prints a line per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape, build = NETWORKS[given.network]
    turns = []
    for _ in range(given.rounds):
        plain = rates(shape, build, [])
        turns.append((plain, rates(shape, build, [CLNPPlugin(margin=5.0, budget=0.5, fine_tune_epochs=1)])))
    for task in range(2):
        for place, what in enumerate(("epochs", "in all")):
            shares = [ours[task][place] / plain[task][place] for plain, ours in turns]
            naive = statistics.median(plain[task][place] for plain, _ in turns)
            share = statistics.median(shares)
            print(f"{given.network}, task {task + 1}, {what}: {share:.2f} of Naive's {naive:.0f} images/s")


main()
