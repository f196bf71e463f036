"""The budget of a task, beyond the paper: how much of every group it may claim at most."""

import pytest
import torch

from clbench.strategies.clnp.pruning import limits_of


@pytest.mark.parametrize(
    ("budget", "free", "to_come", "limits"),
    [
        (None, [100, 40], 10, None),
        ("even", [100, 40], 10, [10, 4]),
        ("even", [100, 40], 1, [100, 40]),
        # A third of 90 is 30, though as a float it is less. Something is left to claim as long as anything is free.
        ("even", [90, 2, 0], 3, [30, 1, 0]),
        ([0.29, 1.0], [100, 40], 10, [29, 40]),
    ],
)
def test_the_budget_is_a_share_of_what_is_free(budget, free, to_come, limits):
    assert limits_of(budget, free, to_come) == limits


def test_over_the_budget_the_lowest_go_whatever_it_costs_and_the_margin_is_of_the_unpruned_network(chosen):
    # Four neurons cost four points, which is more than the margin of three: nothing else is pruned.
    found = chosen(3.0, limits=[2, 2])
    assert found.mask.nonzero().flatten().tolist() == [2, 3, 6, 7]
    assert found.cut == pytest.approx(4.0)
    assert found.spent == [0.0, 0.0]
    # Of a margin of six, the first layer may spend three, which the budget has spent already.
    found = chosen(6.0, limits=[2, 2])
    assert [int(half.sum()) for half in found.mask.split(4)] == [2, 0]
    assert sum(found.spent) == pytest.approx(2.0)


def test_below_its_budget_a_task_claims_what_the_margin_asks_for(chosen):
    assert torch.equal(chosen(3.0, limits=[4, 4]).mask, chosen(3.0).mask)
    assert chosen(3.0, limits=[4, 4]).cut == 0.0


@pytest.mark.parametrize(
    ("budget", "claims_at_most"),
    [
        ("even", lambda free, to_come: [count // to_come for count in free]),
        (0.25, lambda free, _: [count // 4 for count in free]),
        ([0.5, 0.125], lambda free, _: [free[0] // 2, free[1] // 8]),
        ({"layer_2": 0.125}, lambda free, _: [free[0], free[1] // 8]),
    ],
    ids=["even", "a number", "a number for each group", "by name"],
)
def test_no_task_claims_more_than_its_budget_and_all_are_learned(budget, claims_at_most, small_clnp, logits_of):
    method = small_clnp({"budget": budget, "margin": 0.0, "l1_weights": 0.0})
    tasks, free = method.workplace.stream.tasks, [128, 128]
    for task in tasks:
        method.learn(task)
        limits = claims_at_most(free, len(tasks) - task.index)
        new = [report.new for report in method.clnp.reports[task.index]]
        assert all(0 < found <= limit for found, limit in zip(new, limits, strict=True))
        free = [report.free for report in method.clnp.reports[task.index]]
        assert float((logits_of(method, task).argmax(1) == task.test.labels).float().mean()) > 0.5
