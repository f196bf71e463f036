"""A model that CLNP has trained is saved, copied, traced and exported like any other."""

import copy
import pickle

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import nn

from clbench.data import load_images
from clbench.errors import MethodError
from clbench.strategies import CLNPPlugin

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified", "ignore:CLNP has only")


def images(task, part="train"):
    found = load_images("digits")
    x = getattr(found, f"{part}_images").float() / 255
    return x.flip(3) if task else x, getattr(found, f"{part}_labels")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class TakesCopies(SupervisedPlugin):
    """Copies and pickles the model in the midst of a step, as whoever keeps a teacher does."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def before_update(self, strategy, **kwargs):
        if strategy.clock.train_exp_iterations == 5:
            self.copies.append(copy.deepcopy(strategy.model))
            pickle.loads(pickle.dumps(strategy.model))


OPTIONS = {"budget": 0.4, "l1_activities": 1e-4}


def learned(model, plugins, n_tasks=2):
    b = dataset_benchmark(
        [_make_taskaware_tensor_classification_dataset(*images(task), task_labels=0) for task in range(2)],
        [_make_taskaware_tensor_classification_dataset(*images(task, "test"), task_labels=0) for task in range(2)],
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    strategy = Naive(model=model, optimizer=optimizer, plugins=plugins, train_mb_size=64, train_epochs=2)
    for experience in b.train_stream[:n_tasks]:
        strategy.train(experience)
    return b, strategy


@pytest.fixture(scope="module")
def trained():
    model, clnp = network(), CLNPPlugin(**OPTIONS)
    learned(model, [clnp])
    return model, clnp


def answers(model, clnp, task):
    with torch.no_grad(), clnp.task(task):
        return model.eval()(images(task, "test")[0])


def test_model_and_plugin_saved_together_answer_as_before(trained, tmp_path):
    model, clnp = trained
    torch.save({"model": model, "clnp": clnp}, tmp_path / "both.pt")
    loaded = torch.load(tmp_path / "both.pt", weights_only=False)
    for task in (0, 1):
        assert torch.equal(answers(loaded["model"], loaded["clnp"], task), answers(model, clnp, task))
    assert not torch.equal(answers(model, clnp, 0), model.eval()(images(0, "test")[0]))


@pytest.mark.parametrize("attached", [True, False], ids=["after attach", "before attach"])
def test_model_and_plugin_saved_apart_answer_as_before_and_learn_on(trained, tmp_path, attached):
    model, clnp = trained
    torch.save({"model": model.state_dict(), "clnp": clnp.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again, plugin = network(seed=1), CLNPPlugin(**OPTIONS)
    again.load_state_dict(state["model"])
    if attached:
        plugin.attach(again, torch.zeros(1, 1, 8, 8))
        plugin.load_state_dict(state["clnp"])
    else:
        plugin.load_state_dict(state["clnp"])
        plugin.attach(again, torch.zeros(1, 1, 8, 8))
    before = [answers(again, plugin, task) for task in (0, 1)]
    assert all(torch.equal(mine, answers(model, clnp, task)) for task, mine in enumerate(before))
    learned(again, [plugin], n_tasks=1)
    assert all(torch.equal(answers(again, plugin, task), before[task]) for task in (0, 1))
    assert [*plugin.masks] == [0, 1, 2]


def test_a_state_of_another_network_is_refused(trained):
    _, clnp = trained
    other = CLNPPlugin()
    other.attach(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)), torch.zeros(1, 1, 8, 8))
    with pytest.raises(MethodError, match="of a network with 80 units, but the network has 9"):
        other.load_state_dict(clnp.state_dict())


def test_a_copy_of_the_model_alone_answers_for_the_task_that_was_shown(trained):
    model, clnp = trained
    with clnp.task(0):
        alone = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(alone.eval()(images(0, "test")[0]), answers(model, clnp, 0))


def test_copies_taken_while_training_disturb_nothing_and_the_model_has_no_hooks_afterwards(trained):
    model, clnp = trained
    copies, other, plugin = TakesCopies(), network(), CLNPPlugin(**OPTIONS)
    learned(other, [plugin, copies])
    assert len(copies.copies) == 2
    assert all(torch.equal(answers(other, plugin, task), answers(model, clnp, task)) for task in (0, 1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in other.modules())
    with torch.no_grad():
        copies.copies[1].train()(images(1)[0][:8])


def test_a_task_can_be_traced_and_exported(trained):
    model, clnp = trained
    x = images(0, "test")[0]
    with torch.no_grad(), clnp.task(0):
        model.eval()
        traced = torch.jit.trace(model, x[:2])
        exported = torch.export.export(model, (x[:2],), dynamic_shapes=[{0: torch.export.Dim("batch", min=2)}])
        expected = model(x)
        torch.testing.assert_close(traced(x), expected)
        torch.testing.assert_close(exported.module()(x), expected)


def test_the_network_of_a_task_is_smaller_and_answers_as_the_whole_one(trained):
    model, clnp = trained
    x = images(0, "test")[0]
    alone = clnp.network_of(0)
    assert alone.layers["0"].outputs.order.numel() < 16
    with torch.no_grad():
        torch.testing.assert_close(alone(x), answers(model, clnp, 0))
    with pytest.raises(MethodError, match="has not learned task 7; expected one of 0, 1"):
        clnp.network_of(7)
