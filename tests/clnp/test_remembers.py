"""What CLNP claims, checked to the bit: what a task learned stays, and may be looked back at."""

import contextlib

import pytest
import torch

from clbench.errors import MethodWarning
from clbench.methods.method import answering
from clbench.methods.table import resolve_settings
from clbench.networks.reduced import Part
from clbench.strategies.clnp.dense import Held
from clbench.strategies.clnp.method import CLNP

OPTIMIZERS = {
    "adam": {"optimizer": "adam"},
    "shared output weights": {"optimizer": "adam", "output_weights": "shared"},
    "momentum sgd": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05},
    "adam with weight decay": {"optimizer": "adam", "weight_decay": 0.01},
    "momentum sgd with weight decay": {
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 0.05,
        "weight_decay": 0.01,
    },
    "trained in place, shared output weights": {"optimizer": "adam", "weight_decay": 0.01, "output_weights": "shared"},
}


@pytest.mark.parametrize("head", ["single", "multi"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_logits_stay_bit_identical_through_all_later_tasks(kind, head, small_clnp, logits_of, split_digits):
    method = small_clnp(OPTIMIZERS[kind], **({"suite": split_digits, "n_tasks": 2} if head == "multi" else {}))
    if "in place" in kind:
        method.clnp.engine_name = "dense"
    tasks, after_own_pruning = method.workplace.stream.tasks, {}
    for task in tasks:
        method.learn(task)
        after_own_pruning[task.index] = logits_of(method, task)
        for earlier in tasks[: task.index + 1]:
            assert torch.equal(logits_of(method, earlier), after_own_pruning[earlier.index])
    # The claim would hold trivially if later tasks had changed nothing.
    assert all(report.new > 0 for report in method.clnp.reports[1])


@pytest.mark.parametrize("engine", ["reduced", "dense"])
def test_bfloat16_training_forgets_as_little(engine, small_clnp, logits_of):
    method = small_clnp(n_tasks=2, precision="bfloat16")
    method.clnp.engine_name = engine
    first, second = method.workplace.stream.tasks
    method.learn(first)
    before = logits_of(method, first)
    method.learn(second)
    assert torch.equal(logits_of(method, first), before)
    assert method.clnp.reports[1][0].new > 0


@pytest.mark.parametrize("engine", ["reduced", "dense"])
def test_holding_active_neurons_constant_is_what_prevents_the_drift(engine, small_clnp, logits_of, monkeypatch):
    method = small_clnp(n_tasks=2)
    method.clnp.engine_name = engine
    first, second = method.workplace.stream.tasks
    method.learn(first)
    before = logits_of(method, first)

    def all_trainable(constant, trainable, **more):
        return Part(torch.zeros_like(constant), constant | trainable, **more)

    monkeypatch.setattr("clbench.strategies.clnp.reduced.Part", all_trainable)
    monkeypatch.setattr(Held, "hold_gradient", lambda held: None)
    monkeypatch.setattr(Held, "put_back", lambda held: None)
    method.learn(second)
    assert not torch.equal(logits_of(method, first), before)


def test_what_leads_to_the_outputs_is_frozen_with_a_task_where_all_tasks_share_it(small_clnp, logits_of, monkeypatch):
    method = small_clnp({"output_weights": "shared"}, n_tasks=2)
    first, second = method.workplace.stream.tasks
    method.learn(first)
    before = logits_of(method, first)
    monkeypatch.setattr(type(method.clnp.claims), "taken", lambda claims, head: None)
    method.learn(second)
    assert not torch.equal(logits_of(method, first), before)


def test_frozen_weights_do_not_change_and_free_ones_start_anew(small_clnp):
    method = small_clnp(n_tasks=2)
    first, second = method.workplace.stream.tasks
    method.learn(first)
    claims = method.clnp.claims
    was_active, before = claims.active.clone(), {name: value.clone() for name, value in claims.tensors().items()}
    method.learn(second)
    for name in ("trunk.0", "trunk.2"):
        weight, bias = (claims.tensors()[f"{name}.{kind}"] for kind in ("weight", "bias"))
        old, old_bias = (before[f"{name}.{kind}"] for kind in ("weight", "bias"))
        claimed = claims.rows(name, was_active)
        assert 0 < claimed.sum() < len(claimed)
        assert torch.equal(weight[claimed], old[claimed])
        assert torch.equal(bias[claimed], old_bias[claimed])
        assert not torch.isclose(weight[~claimed], old[~claimed]).any(1).all()


# -- Full networks -----------------------------------------------------------------------------------------------------


def test_a_group_that_is_nearly_full_is_announced(small_clnp):
    method = small_clnp({"l1_weights": 0.0, "margin": 0.0}, n_tasks=2, hidden_sizes=[16, 16], epochs=1)
    method.learn(method.workplace.stream.tasks[0])
    method.clnp.claims.active[:] = True
    with pytest.warns(MethodWarning, match="only 0 of 16 neurons of layer_1 left"):
        method.learn(method.workplace.stream.tasks[1])


@pytest.mark.parametrize("engine", ["reduced", "dense"])
@pytest.mark.parametrize("full", [[True, True], [True, False], [False, True]], ids=["both", "first", "second"])
def test_full_groups_stop_neither_learning_nor_remembering(full, engine, small_clnp, logits_of, by_group):
    options = {"l1_weights": 1e-3, "l1_activities": 0.001, "margin": 0.0}
    method = small_clnp(options, n_tasks=2, hidden_sizes=[16, 16], epochs=2)
    method.clnp.engine_name = engine
    first, second = method.workplace.stream.tasks
    method.learn(first)
    claims = method.clnp.claims
    for mask in (claims.active, claims.masks[0]):
        for part, is_full in zip(by_group(method.clnp, mask), full, strict=True):
            part |= is_full
    claims.cut(claims.masks[0], claims.active)
    method._view = None
    before = logits_of(method, first)
    with pytest.warns(MethodWarning, match="only 0 of 16 neurons"):
        method.learn(second)
    assert torch.equal(logits_of(method, first), before)
    assert all(row["new"] == 0 for row, is_full in zip(method.capacity(), full, strict=True) if is_full)
    assert torch.count_nonzero(claims.own[second.index]["head.bias"]) > 0


# -- Looking back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["reduced", "dense"])
def test_a_look_back_in_the_midst_of_training_disturbs_it_in_nothing(engine, small_clnp, logits_of, in_the_midst):
    trained, seen = [], []

    def look(strategy):
        first = method.workplace.stream.tasks[0]
        seen.append(logits_of(method, first))
        with torch.no_grad(), method.clnp.task(0):
            seen.append(method.model(first.test.tensors()[0]))

    for observers in ([], [in_the_midst(look)]):
        method = small_clnp(n_tasks=2, epochs=2, observers=observers)
        method.clnp.engine_name = engine
        first, second = method.workplace.stream.tasks
        method.learn(first)
        after_first = logits_of(method, first)
        method.learn(second)
        trained.append(method.model.state_dict())
    in_a_network, in_the_model = seen
    assert torch.equal(in_a_network, after_first)
    torch.testing.assert_close(in_the_model, after_first, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.fixture
def two_tasks_learned(small_clnp):
    method = small_clnp(n_tasks=2)
    for task in method.workplace.stream.tasks:
        method.learn(task)
    return method


def test_looks_back_may_be_nested(two_tasks_learned):
    method = two_tasks_learned
    x, plugin = method.workplace.stream.tasks[0].test.tensors()[0], method.clnp
    before = {name: value.clone() for name, value in method.model.state_dict().items()}
    with torch.no_grad():
        with plugin.task(0):
            expected = method.model(x)
        with plugin.task(0), contextlib.suppress(KeyError), plugin.task(1):
            other = method.model(x)
            raise KeyError
        with plugin.task(0):
            with plugin.task(1):
                pass
            assert torch.equal(method.model(x), expected)
    assert not torch.allclose(other, expected)
    assert all(torch.equal(value, before[name]) for name, value in method.model.state_dict().items())


def test_a_task_that_is_looked_back_at_has_gradients_where_they_are_asked_for(two_tasks_learned):
    method = two_tasks_learned
    claims = method.clnp.claims
    x = method.workplace.stream.tasks[0].test.tensors()[0].requires_grad_()
    with torch.no_grad(), method.clnp.task(0):
        expected = method.model(x)
    with method.clnp.task(0):
        output = method.model(x)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
        output.sum().backward()
    assert torch.count_nonzero(x.grad) > 0
    gradient = method.model.trunk[2].weight.grad
    of_task = claims.rows("trunk.2", claims.masks[0])
    assert torch.count_nonzero(gradient[of_task]) > 0
    assert torch.count_nonzero(gradient[~of_task]) == 0


def test_a_task_with_a_head_of_its_own_can_be_seen_before_it_is_learned(small_clnp, split_digits):
    method = small_clnp(suite=split_digits, plain=True, n_tasks=2, hidden_sizes=[32, 32], epochs=1)
    first, second = method.workplace.stream.tasks
    method.learn(first)
    with method.clnp.task(second.index), answering(method.model, second) as network:
        assert network(second.test.tensors()[0]).shape == (len(second.test), method.workplace.stream.n_outputs)


def test_a_task_is_looked_back_at_with_its_own_neurons_alone_and_answers_as_the_masked_network(
    two_tasks_learned, logits_of, by_group
):
    method = two_tasks_learned
    first, claims = method.workplace.stream.tasks[0], method.clnp.claims
    x, masks = first.test.tensors()[0], by_group(method.clnp, claims.masks[0])
    assert (claims.masks[1] & ~claims.masks[0]).any()
    with torch.inference_mode():
        hidden = x.flatten(1)
        for linear, mask in zip((method.model.trunk[0], method.model.trunk[2]), masks, strict=True):
            hidden = torch.relu(linear(hidden)) * mask
        expected = hidden @ claims.own[0]["head.weight"].T + claims.own[0]["head.bias"]
    torch.testing.assert_close(logits_of(method, first), expected, atol=1e-4, rtol=1e-4)
    with torch.inference_mode(), method.clnp.task(0):
        torch.testing.assert_close(method.model(x), expected, atol=1e-4, rtol=1e-4)
    widths = []
    network = method.clnp.network_of(0)
    for layer in network.layers.values():
        layer.register_forward_hook(lambda _, __, output: widths.append(output.shape[1]))
    network(x)
    assert widths == [*(int(mask.sum()) for mask in masks), 10]


def test_an_own_network_whose_outputs_are_sliced_by_task_forgets_nothing(make_workplace, logits_of, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, image_shape, n_outputs):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n_outputs))\n"
    )
    workplace = make_workplace(n_tasks=3, network=f"{tmp_path}/net.py:Net", head="multi", epochs=6, batch_size=32)
    method = CLNP(resolve_settings(workplace.suite, "clnp", {"budget": "even"}), workplace)
    method.prepare()
    tasks, before = method.workplace.stream.tasks, []
    for task in tasks:
        method.learn(task)
        before.append(logits_of(method, task))
        right = before[-1].argmax(1) == task.test.tensors()[1]
        assert right.float().mean() > 0.6
    assert all(torch.equal(logits_of(method, task), found) for task, found in zip(tasks, before, strict=True))
