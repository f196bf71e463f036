"""The schedule that halves the rate where validation loss no longer falls: when, to what, and with which weights."""

import copy
from itertools import chain, repeat

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.nn import functional as F

from clbench.errors import SettingError
from clbench.methods.strategy import Plateau
from clbench.runs.runner import train
from clbench.runs.spec import make_specs

CPU = torch.device("cpu")
SMALL = {"n_tasks": 2, "batch_size": 128, "learning_rate_schedule": "plateau"}
MLP = {"hidden_sizes": [8]}
RESNET = {"network": "resnet18", "width": 2}


class Recorder(SupervisedPlugin):
    """Notes, after every epoch, the rate it had and the weights, and what stands at the end of the task."""

    def __init__(self):
        super().__init__()
        self.rates, self.states, self.at_the_end = [], [], {}

    def before_training_exp(self, strategy, **kwargs):
        self.rates, self.states = [], []

    def before_training_iteration(self, strategy, **kwargs):
        self.rate = strategy.optimizer.param_groups[0]["lr"]

    def after_training_epoch(self, strategy, **kwargs):
        self.rates.append(self.rate)
        self.states.append({name: tensor.clone() for name, tensor in strategy.model.state_dict().items()})

    def after_training_exp(self, strategy, **kwargs):
        self.at_the_end = {name: tensor.clone() for name, tensor in strategy.model.state_dict().items()}


class Spoiler(SupervisedPlugin):
    """Sets all weights to 0 in the eighth epoch, so that it has no low loss on any processor."""

    def before_training_epoch(self, strategy, **kwargs):
        self.spoils = strategy.clock.train_exp_epochs == 7

    @torch.no_grad()
    def after_training_iteration(self, strategy, **kwargs):
        if self.spoils:
            for weight in strategy.model.parameters():
                weight.zero_()


@pytest.fixture
def prepared(make_method, make_workplace):
    """(name, overrides) -> method and its Recorder."""

    def make(name="naive", network=MLP, **overrides):
        method = make_method(name, make_workplace(**SMALL | network | overrides))
        recorder = Recorder()
        method.strategy.plugins.append(recorder)
        return method, recorder

    return make


@pytest.fixture
def losses(monkeypatch):
    """(numbers) -> validation losses, epoch after epoch, in place of measured ones."""

    def give(*numbers):
        upcoming = chain(numbers, repeat(99.0))
        monkeypatch.setattr(Plateau, "_validation_loss", lambda plugin, model: next(upcoming))

    return give


def test_the_rate_halves_after_six_epochs_without_a_lower_loss_counted_anew_from_each_lower_one(prepared, losses):
    # By hand: 4 is the lowest until the 3; an equal loss is no lower one; 5 in a row are not enough.
    losses(5, 4, 4, 5, 6, 4, 5, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2, 7)
    method, recorder = prepared(epochs=22, learning_rate=0.5, n_tasks=1)
    method.learn(method.workplace.stream.tasks[0])
    assert recorder.rates == [0.5] * 14 + [0.25] * 6 + [0.125] * 2
    assert method.strategy.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("epochs", [18, 19, 20, 60])
def test_a_task_ends_when_the_rate_falls_below_a_millionth_and_the_next_begins_anew(prepared, losses, epochs):
    # 4e-6, 2e-6, 1e-6 and then too little: the first epoch, and three times six without a lower loss.
    losses(1, *[2] * (min(epochs, 19) - 1), 1)
    method, recorder = prepared(epochs=epochs, learning_rate=4e-6)
    for task in method.workplace.stream.tasks:
        method.learn(task)
        expected = [4e-6] * 7 + [2e-6] * 6 + [1e-6] * 6
        assert recorder.rates == pytest.approx(expected[:epochs], rel=1e-12)
        assert method.strategy.optimizer.param_groups[0]["lr"] == 4e-6


def brute_force_loss(method, task, state):
    method.model.load_state_dict(state)
    method.model.eval()
    with torch.no_grad():
        x, y = task.validation.tensors()
        with method.network_for(task) as network:
            return float(F.cross_entropy(network(x).double(), y))


@pytest.mark.parametrize("network", [MLP, RESNET], ids=["mlp", "resnet18"])
def test_the_network_ends_with_the_weights_and_buffers_of_the_epoch_with_the_lowest_loss(network, prepared):
    method, recorder = prepared(network=network, n_tasks=1, epochs=8, learning_rate=0.01)
    method.strategy.plugins.append(Spoiler())
    (task,) = method.workplace.stream.tasks
    method.learn(task)
    found = {name: tensor.clone() for name, tensor in method.model.state_dict().items()}
    measured = [brute_force_loss(method, task, state) for state in recorder.states]
    best = measured.index(min(measured))
    # Else the last weights, or the first, would do as well.
    assert 0 < best < 7
    for name, tensor in recorder.states[best].items():
        assert torch.equal(found[name], tensor)
        # Plugins that come later see them.
        assert torch.equal(recorder.at_the_end[name], tensor)


@pytest.mark.parametrize("name", ["naive", "joint"])
def test_the_loss_is_of_the_plain_validation_images_of_the_tasks_trained_on_in_evaluation_mode(name, prepared):
    method, _ = prepared(name, epochs=1, augmentation="crop,flip")
    seen = []
    tasks = method.workplace.stream.tasks
    build = method.build_network

    def watched(*key):
        model = build(*key)

        def note(module, args):
            if not module.training:
                seen.append(args[0])

        model.register_forward_pre_hook(note)
        return model

    method.build_network = watched
    method.prepare()
    for task in tasks:
        seen.clear()
        method.learn(task)
        expected = tasks[: task.index + 1] if name == "joint" else [task]
        assert torch.equal(torch.cat(seen), torch.cat([each.validation.tensors()[0] for each in expected]))
    assert method.model.training


def test_the_loss_is_the_mean_over_images_not_over_batches(prepared, monkeypatch):
    method, _ = prepared(epochs=1, n_tasks=1)
    (task,) = method.workplace.stream.tasks
    method.strategy.eval_mb_size = len(task.validation) - 1
    found = []
    measure = Plateau._validation_loss
    monkeypatch.setattr(Plateau, "_validation_loss", lambda *args: found.append(measure(*args)) or found[-1])
    method.learn(task)
    assert found == pytest.approx([brute_force_loss(method, task, method.model.state_dict())], rel=1e-6)


def test_a_loss_that_is_no_number_is_no_better_one_and_leaves_the_weights(prepared, losses):
    losses(*[float("nan")] * 3)
    method, recorder = prepared(epochs=3, n_tasks=1)
    method.learn(method.workplace.stream.tasks[0])
    assert all(torch.equal(recorder.at_the_end[name], recorder.states[2][name]) for name in recorder.at_the_end)


@pytest.mark.parametrize("name", ["naive", "joint", "single-task", "ewc", "si", "psp"])
def test_a_run_goes_on_after_a_task_to_the_same_bits(name, prepared):
    overrides = {"epochs": 9, "learning_rate": 0.1, "n_tasks": 3, "optimizer": "sgd"}
    methods = [prepared(name, **overrides)[0] for _ in range(3)]
    whole, half, resumed = methods
    tasks = whole.workplace.stream.tasks
    for method, learned in ((whole, tasks), (half, tasks[:2])):
        for task in learned:
            method.learn(task)
    resumed.load_state_dict(half.state_dict())
    resumed.learn(tasks[2])
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in resumed.model.state_dict().items())


def test_a_run_counts_what_was_trained_when_a_task_ends_early(plain, digits, losses):
    changes = SMALL | MLP | {"epochs": 60, "learning_rate": 1.5e-6}
    (spec,) = make_specs(plain, ["naive"], [0], changes, digits, "float32", "cpu")
    # Each task has 7 epochs, of at most 60.
    losses(1, *[2] * 6, 1)
    seen, rows, saved = [], [], []

    def note(progress):
        seen.append((progress.task, progress.images, progress.images_trained, progress.images_total))

    def keep(result):
        rows.extend(result.tasks[-1:])

    train(spec, digits, CPU, keep, note, save=lambda state: saved.append(copy.deepcopy(state)))
    one_pass = 1222
    assert seen[-1] == (2, 7 * one_pass, 14 * one_pass, (7 + 60) * one_pass)
    assert [row[3] for row in seen if row[0] == 1] == [120 * one_pass] * (7 * 10)
    assert [row["train_seconds"] * row["train_images_per_second"] for row in rows] == pytest.approx([7 * one_pass] * 2)

    # The same where it goes on after the first task.
    resumed = seen.copy()
    seen.clear()
    train(spec, digits, CPU, lambda result: None, note, saved=saved[0])
    assert seen == [row for row in resumed if row[0] == 2]


def test_methods_that_it_does_not_fit_are_refused(plain, digits):
    for name, own, said in (("clnp", {}, "CLNP trains"), ("si", {"si.train_on_validation": True}, "train_on_valid")):
        with pytest.raises(SettingError, match=said):
            make_specs(plain, [name], [0], SMALL | MLP | own, digits, "float32", "cpu")
    assert make_specs(plain, ["si"], [0], SMALL | MLP, digits, "float32", "cpu")
