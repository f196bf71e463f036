"""CLNP in other people's Avalanche code: beside other plugins, whatever these read or write, it works as without."""

import copy
import csv

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import CSVLogger, InteractiveLogger
from avalanche.models import MTSimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import (
    EarlyStoppingPlugin,
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    ReplayPlugin,
)
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel

from clbench.data import load_images
from clbench.errors import DivergenceError, MethodError, MethodWarning
from clbench.strategies import CLNPPlugin

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified", "ignore:CLNP has only")

EPOCHS = 5


def digits(task, part="train"):
    """Images [N, 1, 8, 8] of a permutation, and their labels."""
    found = load_images("digits")
    x = getattr(found, f"{part}_images").flatten(1) / 255
    order = torch.arange(64) if task == 0 else torch.randperm(64, generator=torch.Generator().manual_seed(task))
    return x[:, order].view(-1, 1, 8, 8), getattr(found, f"{part}_labels")


def data_set(x, y, label=0):
    return _make_taskaware_tensor_classification_dataset(x, y, task_labels=label)


def two_tasks(*, labels=(0, 0)):
    train = [data_set(*digits(task), label) for task, label in enumerate(labels)]
    return dataset_benchmark(train, [data_set(*digits(task, "test"), label) for task, label in enumerate(labels)])


def network(*, act=nn.ReLU, width=160):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 10)
    )


def filters():
    """As `network`, of filters with batch norms, which learn from each batch beside the optimiser."""
    trunk = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    layers = (nn.Linear(24 * 16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(*trunk, *layers)


def strategy_of(model, plugins, *, optimizer=None, epochs=EPOCHS, evaluator=None, **settings):
    return Naive(
        model=model,
        optimizer=optimizer or torch.optim.Adam(model.parameters(), lr=0.003),
        plugins=list(plugins),
        train_mb_size=32,
        train_epochs=epochs,
        eval_mb_size=256,
        evaluator=evaluator or EvaluationPlugin(accuracy_metrics(experience=True), strict_checks=False),
        **settings,
    )


def accuracy(strategy, experience):
    found = strategy.eval([experience])
    return next(value for name, value in found.items() if name.startswith("Top1_Acc_Exp/eval"))


class Clips(SupervisedPlugin):
    """Clips the gradient by hand."""

    def __init__(self, most=1.0):
        super().__init__()
        self.most, self.norms = most, []

    def before_update(self, strategy, **kwargs):
        self.norms.append(float(nn.utils.clip_grad_norm_(strategy.model.parameters(), self.most)))


class Averages(SupervisedPlugin):
    """Keeps an average of the weights."""

    def before_training(self, strategy, **kwargs):
        self.average = AveragedModel(strategy.model, avg_fn=lambda old, new, _: 0.9 * old + 0.1 * new)

    def after_update(self, strategy, **kwargs):
        self.average.update_parameters(strategy.model)


class Keeps(SupervisedPlugin):
    """Keeps the weights of the last epoch."""

    def after_training_epoch(self, strategy, **kwargs):
        self.last = copy.deepcopy(strategy.model.state_dict())


def one_cycle(strategy_model, optimizer):
    # 1438 images, of which a tenth is held out: no more than 45 steps an epoch.
    schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=2 * EPOCHS * 45 + 1)
    return [LRSchedulerPlugin(schedule, step_granularity="iteration")]


BESIDE = {
    "early stopping": lambda m, o: [EarlyStoppingPlugin(patience=2, val_stream_name="train_stream")],
    "a rate by epochs": lambda m, o: [LRSchedulerPlugin(StepLR(o, 3, 0.5))],
    "a rate by iterations": one_cycle,
    "LwF": lambda m, o: [LwFPlugin(alpha=0.5, temperature=2)],
    "replay": lambda m, o: [ReplayPlugin(mem_size=200)],
    "EWC": lambda m, o: [EWCPlugin(ewc_lambda=1.0)],
    "clipping by hand": lambda m, o: [Clips()],
    "an average of the weights": lambda m, o: [Averages()],
    "weights kept by epoch": lambda m, o: [Keeps()],
}


# They read and write what others here do.
LIKE_ANOTHER = ("a rate by epochs", "EWC", "an average of the weights", "weights kept by epoch")


@pytest.mark.parametrize("made", [network, pytest.param(filters, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["CLNP first", "CLNP last"])
@pytest.mark.parametrize(
    "others",
    [
        pytest.param(made, id=name, marks=pytest.mark.slow if name in LIKE_ANOTHER else [])
        for name, made in BESIDE.items()
    ],
)
def test_beside_other_plugins_a_task_is_learned_as_without_and_kept_to_the_bit(others, first, made):
    b = two_tasks()

    def trained(with_clnp):
        torch.manual_seed(0)
        model = made()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        found, clnp = others(model, optimizer), CLNPPlugin(seed=1) if with_clnp else None
        mine = [] if clnp is None else [clnp]
        settings = {"eval_every": 1} if isinstance(found[0], EarlyStoppingPlugin) else {}
        plugins = [*mine, *found] if first else [*found, *mine]
        strategy = strategy_of(model, plugins, optimizer=optimizer, **settings)
        strategy.train(b.train_stream[0])
        return strategy, clnp

    without = accuracy(trained(False)[0], b.test_stream[0])
    strategy, clnp = trained(True)
    learned = accuracy(strategy, b.test_stream[0])
    assert learned > without - 0.03
    x, _ = digits(0, "test")
    with torch.no_grad(), clnp.task(0):
        before = strategy.model.eval()(x)
    strategy.train(b.train_stream[1])
    with torch.no_grad(), clnp.task(0):
        assert torch.equal(strategy.model.eval()(x), before)
    assert accuracy(strategy, b.test_stream[0]) == learned
    assert accuracy(strategy, b.test_stream[1]) > 0.5


def test_with_a_head_per_task_both_tasks_are_learned_and_the_first_is_kept():
    b = two_tasks(labels=(0, 1))

    def trained(plugins):
        torch.manual_seed(0)
        strategy = strategy_of(MTSimpleMLP(input_size=64, hidden_size=160), plugins)
        strategy.train(b.train_stream[0])
        return strategy

    strategy = trained([CLNPPlugin(seed=1)])
    learned = accuracy(strategy, b.test_stream[0])
    assert learned > accuracy(trained([]), b.test_stream[0]) - 0.03
    strategy.train(b.train_stream[1])
    assert accuracy(strategy, b.test_stream[0]) == learned
    assert accuracy(strategy, b.test_stream[1]) > 0.85


def test_loggers_are_told_of_the_epochs_that_were_asked_for_and_of_no_fine_tuning(tmp_path, capsys):
    b, clnp = two_tasks(), CLNPPlugin(fine_tune_epochs=3)
    evaluator = EvaluationPlugin(
        accuracy_metrics(epoch=True, experience=True),
        loss_metrics(epoch=True, experience=True),
        loggers=[CSVLogger(log_folder=str(tmp_path)), InteractiveLogger()],
        strict_checks=False,
    )
    torch.manual_seed(0)
    strategy = strategy_of(network(), [clnp], evaluator=evaluator)
    learned = []
    for task, experience in enumerate(b.train_stream):
        strategy.train(experience)
        assert strategy.clock.train_iterations == (task + 1) * EPOCHS * 41
        rows = list(csv.DictReader((tmp_path / "training_results.csv").open()))
        assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(EPOCHS)] * (task + 1)
        assert capsys.readouterr().out.count("Top1_Acc_Epoch/") == EPOCHS
        learned.append([accuracy(strategy, b.test_stream[earlier]) for earlier in range(task + 1)])
        assert learned[task][0] == learned[0][0]
    rows = list(csv.DictReader((tmp_path / "eval_results.csv").open()))
    assert float(rows[0]["eval_accuracy"]) == float(rows[1]["eval_accuracy"]) == pytest.approx(learned[0][0], abs=1e-4)
    assert learned[0][0] > 0.85


def test_gradients_that_are_clipped_to_nothing_teach_nothing():
    b, clips, keeps = two_tasks(), Clips(most=1e-9), Keeps()
    torch.manual_seed(0)
    model = network()
    before = copy.deepcopy(model.state_dict())
    plugins = [CLNPPlugin(fine_tune_epochs=0, l1_weights=0.0), clips, keeps]
    with pytest.warns(MethodWarning, match="hardly learned task 1"):
        strategy_of(model, plugins, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)).train(b.train_stream[0])
    assert min(clips.norms) > 0.1
    assert all(torch.allclose(tensor, before[name], atol=1e-6) for name, tensor in keeps.last.items())


def test_what_a_plugin_keeps_of_every_epoch_is_what_was_trained():
    b, keeps, averages = two_tasks(), Keeps(), Averages()
    torch.manual_seed(0)
    model = network()
    before = model[1].weight.detach().clone()
    strategy_of(model, [CLNPPlugin(fine_tune_epochs=0), keeps, averages]).train(b.train_stream[0])
    assert not torch.equal(keeps.last["1.weight"], before)
    x, y = digits(0, "test")
    with torch.no_grad():
        assert float((averages.average.eval()(x).argmax(1) == y).float().mean()) > 0.85


def test_layers_that_the_user_has_frozen_stay_as_they_are():
    b = two_tasks()
    torch.manual_seed(0)
    model = network()
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model[1].state_dict())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    clnp = CLNPPlugin()
    strategy = strategy_of(model, [clnp], optimizer=torch.optim.Adam(trained, lr=0.003))
    for experience in b.train_stream:
        strategy.train(experience)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model[1].state_dict().items())
    assert clnp.reports[1][0].new == 0
    assert accuracy(strategy, b.test_stream[0]) > 0.85


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (lambda m: m[3], "'3' is frozen .requires_grad=False., but it works on units that train"),
        (lambda m: m[5], "CLNP trains the output layer, but '5' is frozen"),
        (lambda m: m[1].weight, "the weights of '1' are frozen and its bias is not"),
    ],
)
def test_freezing_a_part_that_cannot_stay_is_refused_before_the_first_step(freeze, said):
    b, model = two_tasks(), network()
    freeze(model).requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    strategy = strategy_of(model, [CLNPPlugin()], optimizer=torch.optim.Adam(trained))
    with pytest.raises(MethodError, match=said):
        strategy.train(b.train_stream[0])
    assert strategy.clock.train_iterations == 0


class Stops(SupervisedPlugin):
    """Interrupts once, after so many of its calls at an event."""

    def __init__(self, at):
        super().__init__()
        self.n, self.at = 0, at

    def after_update(self, strategy, **kwargs):
        self.n += 1
        if self.n == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [10, EPOCHS * 41 + 20], ids=["while training", "while fine-tuning"])
@pytest.mark.parametrize("engine", ["dense", "reduced"])
def test_after_an_interruption_the_same_program_trains_on_as_if_there_was_none(engine, at):
    b = two_tasks()
    torch.manual_seed(0)
    model = network()
    clnp = CLNPPlugin(engine=engine)
    strategy = strategy_of(model, [clnp, Stops(at)])
    with pytest.raises(KeyboardInterrupt):
        strategy.train(b.train_stream[0])
    strategy.train(b.train_stream[0])
    assert strategy.optimizer.param_groups[0]["lr"] == 0.003
    assert len(strategy.optimizer.param_groups[0]["params"]) == 6
    assert accuracy(strategy, b.test_stream[0]) > 0.85
    assert [*clnp.masks] == [0]


def test_a_network_whose_training_was_interrupted_trains_without_the_plugin_as_any_other():
    b = two_tasks()
    torch.manual_seed(0)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        strategy_of(model, [CLNPPlugin(), Stops(10)]).train(b.train_stream[0])
    plain = strategy_of(model, [])
    plain.train(b.train_stream[0])
    assert accuracy(plain, b.test_stream[0]) > 0.9


def test_two_of_them_are_refused():
    b = two_tasks()
    with pytest.raises(MethodError, match="two CLNPPlugins, which would claim the same units; give it one"):
        strategy_of(network(), [CLNPPlugin(), CLNPPlugin()]).train(b.train_stream[0])


def test_images_of_another_tasks_head_are_refused():
    b = two_tasks(labels=(0, 1))
    strategy = strategy_of(MTSimpleMLP(input_size=64, hidden_size=64), [ReplayPlugin(mem_size=300), CLNPPlugin()])
    strategy.train(b.train_stream[0])
    with pytest.raises(MethodError, match="images of other tasks among the batches; leave the replay out"):
        strategy.train(b.train_stream[1])


def test_weights_that_leave_the_finite_numbers_are_said_to_and_the_first_task_is_kept():
    b, clnp = two_tasks(), CLNPPlugin()
    torch.manual_seed(0)
    model = network()
    strategy = strategy_of(model, [clnp])
    strategy.train(b.train_stream[0])
    learned = accuracy(strategy, b.test_stream[0])
    for group in strategy.optimizer.param_groups:
        group["lr"] = 1e30
    with pytest.raises(DivergenceError, match="not finite numbers, so nothing was claimed for the task"):
        strategy.train(b.train_stream[1])
    assert [*clnp.masks] == [0]
    assert accuracy(strategy, b.test_stream[0]) == learned
