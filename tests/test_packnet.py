"""PackNet: what it gives every task, how it prunes, and how it trains on."""

import runpy
from pathlib import Path

import pytest
import torch
from avalanche.core import SupervisedPlugin

from clbench.errors import SettingError
from clbench.methods.strategy import Plateau
from clbench.methods.table import resolve_settings
from clbench.suites.files import SUITES

learn_noting = runpy.run_path(str(Path(__file__).with_name("noted_steps.py")))["learn_noting"]


def test_packnet_gives_every_task_as_many_weights_of_each_layer(make_workplace, make_method):
    workplace = make_workplace(n_tasks=4, hidden_sizes=[32, 16], epochs=1)
    method = make_method("packnet", workplace)
    for task in workplace.stream.tasks:
        method.learn(task)
        rows = method.capacity()
        assert [row["group"] for row in rows] == ["layer_1", "layer_2"]
        for row, n in zip(rows, (64 * 32, 32 * 16), strict=True):
            assert row["unit"] == "weight"
            assert row["units"] == n
            assert row["new"] == n // 4
            assert row["reused"] == task.index * n // 4
            assert row["free"] == n - (task.index + 1) * n // 4
    owners = method.owner["trunk.0"]
    assert owners.unique(return_counts=True)[1].tolist() == [64 * 32 // 4] * 4


def test_packnet_cuts_the_smallest_of_what_the_task_trained_and_free_weights_are_0(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[32], epochs=2)
    method = make_method("packnet", workplace, shares=[0.75, 0.0], fine_tune_share=0.0)
    assert make_method("packnet", workplace, shares=0.75).share_of(1) == 0.75
    first, second = workplace.stream.tasks
    method.learn(first)
    weight, owner = method.weights()["trunk.0"].detach(), method.owner["trunk.0"]
    assert int((owner == 1).sum()) == weight.numel() // 4
    assert not weight[owner == 0].any()
    kept = weight[owner == 1].clone()
    method.learn(second)
    assert torch.equal(weight[owner == 1], kept)
    assert (owner == 2).sum() == weight.numel() * 3 // 4


@pytest.mark.parametrize("restart", ["zero", "draw"])
def test_packnet_says_so_where_weights_that_stayed_at_0_leave_a_task_fewer_than_its_share(
    restart, make_workplace, make_method, recwarn
):
    method = make_method("packnet", make_workplace(n_tasks=3, hidden_sizes=[16], epochs=1), restart=restart)
    method.learn(method.workplace.stream.tasks[0])
    assert not recwarn.list
    method.begin(1)
    method.prune(1)
    said = "task 2 of packnet keeps 0 weights of layer_1 instead of 341"
    assert [str(each.message)[: len(said)] for each in recwarn] == ([said] if restart == "zero" else [])


def test_packnet_trains_on_at_the_rate_of_fine_tuning_and_gives_the_full_one_back(make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=4, learning_rate_schedule="constant")
    method, seen = make_method("packnet", workplace, fine_tune_share=0.5, fine_tune_rate=0.5), []

    learn_noting(method, workplace.stream.tasks[0], lambda strategy: strategy.optimizer.param_groups[0]["lr"], seen)
    full = method.settings.learning_rate
    half = len(seen) // 2
    assert seen == [full] * half + [full / 2] * half
    assert method.strategy.optimizer.param_groups[0]["lr"] == full


def test_packnet_keeps_the_best_weights_before_pruning_and_after_it(make_workplace, make_method, monkeypatch):
    losses = iter([3, 1, 2, 5, 4, 6])
    monkeypatch.setattr(Plateau, "_validation_loss", lambda plugin, model: next(losses))
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=6, learning_rate_schedule="plateau")
    method = make_method("packnet", workplace, shares=0.5, fine_tune_share=0.5, fine_tune_rate=0.5)
    states, pruned, rates = [], [], []
    prune = method.prune

    def noting(task):
        pruned.append(method.weights()["trunk.0"].detach().clone())
        prune(task)

    class Recorder(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            states.append(method.weights()["trunk.0"].detach().clone())
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(method, "prune", noting)
    method.strategy.plugins.append(Recorder())
    method.learn(workplace.stream.tasks[0])
    full = method.settings.learning_rate
    assert rates == [full] * 3 + [full / 2] * 3
    assert torch.equal(pruned[0], states[1])
    assert torch.equal(method.weights()["trunk.0"], states[4])
    assert int((method.weights()["trunk.0"] == 0).sum()) == 64 * 16 // 2
    assert method.strategy.optimizer.param_groups[0]["lr"] == full


def test_packnet_prunes_where_the_rate_has_fallen_so_far_and_then_trains_on(make_workplace, make_method, monkeypatch):
    losses = iter([1] * 40)
    monkeypatch.setattr(Plateau, "_validation_loss", lambda plugin, model: next(losses))
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=40, learning_rate=1e-6)
    settings = {"learning_rate_schedule": "plateau", "fine_tune_share": 0.25, "shares": 0.5}
    method, seen = make_method("packnet", workplace, **settings, fine_tune_rate=1.0), []
    learn_noting(method, workplace.stream.tasks[0], lambda strategy: bool(method.owner["trunk.0"].eq(0).any()), seen)
    # The first epoch, and six without a lower loss: half the rate is too little. The same again after pruning.
    steps = len(seen) // 14
    assert seen == [False] * 7 * steps + [True] * 7 * steps


def test_packnets_owners_take_the_bits_that_tell_its_tasks_apart(make_workplace, make_method):
    method = make_method("packnet", make_workplace(n_tasks=4, hidden_sizes=[16], epochs=1))
    # 0 to 4 are three bits.
    assert method.extra_state_bytes() == 64 * 16 * 3 // 8
    method.learn(method.workplace.stream.tasks[0])
    assert method.extra_state_bytes() == 64 * 16 * 3 // 8 + 4 * (16 + 16 * 10 + 10)


def test_packnet_searches_the_largest_share_of_halves_that_costs_no_more_than_it_may(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[64], epochs=6)
    task = workplace.stream.tasks[0]
    found = {}
    for drop in (0.0, 0.3, 1.0):
        method = make_method("packnet", workplace, shares="search", search_drop=drop, fine_tune_share=0.0)
        method.learn(task)
        owner = method.owner["trunk.0"]
        found[drop] = float((owner == 0).sum()) / owner.numel()
    possible = [0.9 / 2**trial for trial in range(10)] + [0.0]
    assert all(min(abs(share - each) for each in possible) < 1e-3 for share in found.values())
    assert found[0.0] < found[0.3] <= found[1.0] == pytest.approx(0.9, abs=1e-3)


def test_packnet_fine_tunes_with_a_new_optimiser_at_a_share_of_the_falling_rate(make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=4, learning_rate_schedule="linear")
    method, seen = make_method("packnet", workplace, fine_tune_share=0.5, fine_tune_rate=0.5), []

    learn_noting(method, workplace.stream.tasks[0], lambda strategy: strategy.optimizer.param_groups[0]["lr"], seen)
    full, n = method.settings.learning_rate, len(seen)
    falling = [full * (1 - step / n) for step in range(n)]
    assert seen == pytest.approx(falling[: n // 2] + [rate / 2 for rate in falling[n // 2 :]])
    assert {int(state["step"]) for state in method.strategy.optimizer.state.values()} == {n // 2}


@pytest.mark.parametrize("shares", [1, -0.5, "all", [0.5, 2.0], (0.5, "equal"), True])
def test_shares_that_are_none_are_refused_in_one_sentence(shares):
    with pytest.raises(SettingError, match=r"^the setting packnet\.shares=.* does not fit: expected equal, search, or"):
        resolve_settings(SUITES["permuted-digits"], "packnet", {"shares": shares})
