"""What a small step costs beside a bare loop's: 784-100-100-10, batches of 10, where every microsecond shows.

    python benchmarks/small_steps.py [METHOD ...]

Each method is measured between two bare loops, ROUNDS times over; the median of the shares counts.
"""

import statistics
import sys
import time

import torch

from clbench.data import ImageSet
from clbench.data.streams import make_stream
from clbench.methods.method import Workplace
from clbench.methods.table import find_method, resolve_settings
from clbench.runs.watching import Progress, Watch
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

ROUNDS, IMAGES, BATCH, EPOCHS = 12, 10_000, 10, 3


def workplace():
    suite = find_suite("permuted-mnist").with_overrides(
        {"n_tasks": ROUNDS, "hidden_sizes": [100, 100], "batch_size": BATCH, "epochs": EPOCHS}
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (IMAGES, 1, 28, 28), generator=generator, dtype=torch.uint8)
    y = torch.arange(IMAGES) % 10
    images = ImageSet("noise", x, y, x[:1000], y[:1000], tuple("0123456789"), sha256="")
    seeds = RandomStreams(0)
    return Workplace(suite, make_stream(suite, images, seeds), seeds, torch.device("cpu"), "float32")


def bare_loop(place, model, optimizer, task):
    x, y = task.train.tensors()
    start = time.perf_counter()
    for chosen in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
    return len(x) / (time.perf_counter() - start)


def main(names):
    torch.set_num_threads(1)
    place = workplace()
    for name in names:
        settings = resolve_settings(place.suite, name, {"epochs": EPOCHS})
        method = find_method(name)(settings, place)
        method.prepare([Watch(Progress(n_tasks=ROUNDS), lambda progress: None, lambda: False)])
        plain = find_method("naive")(resolve_settings(place.suite, "naive", {}), place)
        plain.prepare()
        model, optimizer = plain.model, plain.strategy.optimizer
        shares, rates = [], []
        for task in place.stream.tasks:
            before = bare_loop(place, model, optimizer, task)
            start = time.perf_counter()
            method.learn(task)
            rate = EPOCHS * len(task.train) / (time.perf_counter() - start)
            after = bare_loop(place, model, optimizer, task)
            # The first task warms up.
            if task.index:
                shares.append(2 * rate / (before + after))
                rates.append(rate)
        share, step = statistics.median(shares), 1e3 * BATCH / statistics.median(rates)
        print(f"{name:<12} {share:.3f} of the bare loop, {step:.3f} ms a step")


main(sys.argv[1:] or ["naive"])
