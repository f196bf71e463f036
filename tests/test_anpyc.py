"""ANPyC: what is important, what is pruned when, and what holds the rest."""

import math
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def small(make_workplace):
    return make_workplace(n_tasks=3, hidden_sizes=[24, 16], epochs=2, batch_size=64)


def test_importance_is_the_published_one_by_hand(small, make_method):
    method, task = make_method("anpyc", small), small.stream.tasks[0]
    found = method.measured(task)
    parameters = dict(method.model.named_parameters())
    sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
    x, _ = task.train.tensors()
    batches = x.split(100)
    for batch in batches:
        p = method.model(batch).softmax(1)
        entropy = -(p * p.log()).sum(1).mean()
        method.model.zero_grad()
        entropy.backward()
        for name, value in parameters.items():
            moved = value.grad * value.detach()
            sums[name] += torch.maximum(torch.zeros(()), moved + moved**2 / 2)
    method.model.zero_grad()
    for name, total in sums.items():
        torch.testing.assert_close(found[name], total / len(batches), rtol=1e-3, atol=1e-7)


def test_each_task_prunes_to_its_share_and_only_what_was_empty(small, make_method):
    method = make_method("anpyc", small, target=0.5, target_kept=0.8, step=0.1, retrain_epochs=1)
    before = None
    for task, share in zip(small.stream.tasks, (0.5, 0.4, 0.32), strict=True):
        phases = method.phases(task)
        assert sum(phase.epochs for phase in phases) == 2 + math.ceil(round(share / 0.1, 6))
        method.learn(task)
        for name in method.pruned:
            empty, weight = method.empty[name], method.model.get_parameter(f"{name}.weight")
            assert int(empty.sum()) == pytest.approx(share * empty.numel(), abs=1)
            assert not weight[empty].any()
            if before is not None:
                assert not (empty & ~before[name]).any()
        rows = method.capacity()
        assert [row["group"] for row in rows] == ["layer_1", "layer_2"]
        for row, name in zip(rows, method.pruned, strict=True):
            assert row["free"] == int(method.empty[name].sum())
            empty_before = row["units"] if before is None else int(before[name].sum())
            assert row["new"] == empty_before - row["free"]
            assert row["reused"] == row["units"] - empty_before
        before = {name: empty.clone() for name, empty in method.empty.items()}


@pytest.mark.parametrize(
    ("target", "step", "steps"), [(0.96, 0.1, 10), (0.5, 1.0, 1), (0.5, 0.4, 2), (0.04, 0.1, 1), (0.0, 0.1, 0)]
)
def test_the_target_is_reached_whatever_the_step(target, step, steps, small, make_method):
    method = make_method("anpyc", small, target=target, step=step, retrain_epochs=0)
    assert method.steps(0) == steps
    method.learn(small.stream.tasks[0])
    for empty in method.empty.values():
        assert int(empty.sum()) == pytest.approx(target * empty.numel(), abs=1)


def test_what_is_pruned_is_what_matters_least(small, make_method):
    method, task = make_method("anpyc", small), small.stream.tasks[0]
    importance = method.measured(task)
    allowed = {name: torch.ones_like(method.model.get_parameter(f"{name}.weight"), dtype=torch.bool)
               for name in method.pruned}  # fmt: skip
    method.prune(task, allowed, 0.25)
    for name in method.pruned:
        empty, ranks = method.empty[name], importance[f"{name}.weight"]
        assert int(empty.sum()) == empty.numel() // 4
        assert ranks[empty].max() <= ranks[~empty].min()


def test_of_weights_that_matter_alike_the_smallest_are_pruned(small, make_method, monkeypatch):
    method, task = make_method("anpyc", small), small.stream.tasks[0]
    nothing = {name: torch.zeros_like(value) for name, value in method.held().items()}
    monkeypatch.setattr(method, "measured", lambda task: nothing)
    weights = {name: method.model.get_parameter(f"{name}.weight").detach().clone() for name in method.pruned}
    allowed = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    method.prune(task, allowed, 0.25)
    for name, weight in weights.items():
        empty = method.empty[name]
        assert weight[empty].abs().max() <= weight[~empty].abs().min()


def test_a_strong_pull_holds_the_weights_that_matter_and_output_layers_of_tasks_are_free(
    make_workplace, make_method, split_digits
):
    workplace = make_workplace(split_digits, n_tasks=2, hidden_sizes=[16], epochs=2)
    first, second = workplace.stream.tasks
    moved = {}
    for strength in (0.0, 1e5):
        settings = {"optimizer": "sgd", "learning_rate": 0.01, "target": 0.0}
        method = make_method("anpyc", workplace, strength=strength, **settings)
        method.learn(first)
        assert not any(name.startswith("heads") for name in method.importance)
        then = method.model.trunk[0].weight.detach().clone()
        importance = method.importance["trunk.0.weight"]
        important = importance > importance.quantile(0.9)
        method.learn(second)
        moved[strength] = float((method.model.trunk[0].weight.detach() - then)[important].abs().mean())
    assert moved[1e5] < 0.5 * moved[0.0]


def test_the_pull_is_the_gradient_of_the_published_penalty_around_the_latest_weights(small, make_method):
    method = make_method("anpyc", small, strength=7.0, target=0.0)
    first, second, third = small.stream.tasks
    method.learn(first)
    one = {name: value.clone() for name, value in method.importance.items()}
    method.learn(second)
    for name, value in method.model.named_parameters():
        assert torch.equal(method.reference[name], value)
    measured = method.measured(second)
    for name, total in method.importance.items():
        torch.testing.assert_close(total, one[name] + measured[name])
    (plugin,) = method.method_plugins
    plugin.before_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=third.index)))
    moved = {}
    with torch.no_grad():
        for name, value in method.model.named_parameters():
            value.add_(torch.rand_like(value))
            value.grad = torch.zeros_like(value)
            moved[name] = value.detach().clone().requires_grad_()
    plugin.before_update(None)
    penalty = sum(
        7.0 * (method.importance[name] * (value - method.reference[name]) ** 2).sum() for name, value in moved.items()
    )
    penalty.backward()
    for name, value in method.model.named_parameters():
        torch.testing.assert_close(value.grad, moved[name].grad)
