"""Searches that ask what to try next: what they ask, what they spend, and how they go on."""

import csv
import re
from pathlib import Path

import pytest
import torch

from clbench.errors import SettingError
from clbench.methods.method import Method
from clbench.methods.space import Among, Between
from clbench.methods.table import METHODS, find_method, method_names
from clbench.search.protocols import (
    RATES,
    Budget,
    Found,
    _holding,
    _is_within,
    _one,
    _rounded,
    chf,
    first_k,
    plain_fine_tuning,
    space_of,
)
from clbench.search.session import alone
from clbench.search.trials import Plan
from clbench.suites.files import find_suite

pytest.importorskip("optuna", reason="Optuna is not installed; pip install 'clbench[search]'")


@pytest.fixture
def plan(digits):
    return Plan(find_suite("permuted-digits"), 2, 1000, digits, "float32", torch.device("cpu"))


class Trainer:
    """Answers trials by a formula, at once; remembers what it was asked."""

    def __init__(self, accuracy, learning=lambda settings: 0.9, images=100):
        self.asked, self.accuracy, self.learning, self.images = [], accuracy, learning, images

    def __call__(self, trials):
        self.asked += [dict(trial.settings) for trial in trials]
        return [
            Found(trial, self.accuracy(trial.settings), self.learning(trial.settings), self.images) for trial in trials
        ]


def test_it_asks_within_the_ranges_and_first_what_the_suite_has(plan, tmp_path):
    train = Trainer(lambda settings: 0.5)
    found = first_k(plan, "ewc", Budget(12), train, tmp_path / "a.journal")
    assert len(found) == len(train.asked) == 12
    own = plan.trial("ewc", {}).spec.settings
    assert train.asked[0] == {"strength": own.strength, "learning_rate": own.learning_rate}
    space = space_of("ewc", plan.trial("ewc", {}))
    for settings in train.asked:
        for key, value in settings.items():
            assert space[key].low <= value <= space[key].high
            assert value == float(f"{value:.4g}")


@pytest.mark.long
def test_it_asks_the_same_again_and_finds_what_is_better_than_by_chance(plan, tmp_path):
    def peak(settings):
        return 1 - abs(torch.log10(torch.tensor(settings["strength"] / 50)).item()) / 4

    first, second = Trainer(peak), Trainer(peak)
    found = first_k(plan, "ewc", Budget(50), first, tmp_path / "a.journal")
    first_k(plan, "ewc", Budget(50), second, tmp_path / "b.journal")
    assert first.asked == second.asked
    by_chance, chosen = found[1:8], found[-12:]
    mean = sum(each.accuracy for each in by_chance) / len(by_chance)
    assert sum(each.accuracy for each in chosen) / len(chosen) > mean + 0.1


def test_a_search_that_was_killed_asks_again_what_had_no_answer_and_goes_on_as_if_it_had_not_been(plan, tmp_path):
    whole = Trainer(lambda settings: settings["learning_rate"])
    first_k(plan, "si", Budget(6), whole, tmp_path / "whole.journal")

    class Killed(Trainer):
        def __call__(self, trials):
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().__call__(trials)

    killed = Killed(lambda settings: settings["learning_rate"])
    with pytest.raises(KeyboardInterrupt):
        first_k(plan, "si", Budget(6), killed, tmp_path / "cut.journal")
    again = Trainer(lambda settings: settings["learning_rate"])
    found = first_k(plan, "si", Budget(6), again, tmp_path / "cut.journal")
    assert [dict(each.trial.settings) for each in found] == whole.asked


@pytest.mark.parametrize(("images", "trials"), [(250, 2), (300, 3), (301, 3), (10_000, 5)])
def test_no_trial_begins_that_goes_beyond_the_budget_of_images(images, trials, plan, tmp_path):
    train = Trainer(lambda settings: 0.5)
    assert len(first_k(plan, "ewc", Budget(5, images), train, tmp_path / "a.journal")) == trials


def test_trials_that_diverge_are_counted_and_the_search_goes_on(plan, tmp_path):
    train = Trainer(lambda settings: None if settings["learning_rate"] > 0.003 else 0.8)
    found = first_k(plan, "ewc", Budget(10), train, tmp_path / "a.journal", at_once=2)
    assert len(found) == 10
    assert {each.accuracy for each in found} == {None, 0.8}


def test_chf_takes_the_rate_that_learns_most_and_halves_until_enough_is_learned(plan):
    def learning(settings):
        # As if 0.0005 learned most, and a strength of 60 were what leaves enough room.
        return 0.5 if settings.get("strength", 0) > 60 else 0.9 - abs(settings["learning_rate"] - 5e-4)

    train = Trainer(lambda settings: 0.7, learning)
    found = chf(plan, "online-ewc", Budget(10), train, plain_fine_tuning(plan, train))
    assert [settings["learning_rate"] for settings in train.asked[: len(RATES)]] == list(RATES)
    assert [dict(each.trial.settings) for each in found] == [
        {"learning_rate": 5e-4, "strength": value} for value in (400.0, 200.0, 100.0, 50.0)
    ]


def test_a_range_holds_what_the_suite_has_and_chf_begins_no_lower(plan, tmp_path):
    # Its L1 norm lies above the range that CLNP names.
    own = plan.trial("clnp", {}).spec.settings
    assert own.l1_weights > find_method("clnp").searched["l1_weights"].high
    train = Trainer(lambda settings: 0.5)
    first_k(plan, "clnp", Budget(1), train, tmp_path / "a.journal")
    assert train.asked[0]["l1_weights"] == own.l1_weights
    train = Trainer(lambda settings: 0.7, lambda settings: 0.1 if "strength" in settings else 1)
    found = chf(plan, "ewc", Budget(2), train, plain_fine_tuning(plan, train))
    assert [each.trial.settings["strength"] for each in found] == [3000.0, 1500.0]
    assert not any(each.learns_enough for each in found)


def test_a_second_command_does_not_ask_for_the_same_trials(clbench, assert_refused, small, tmp_path):
    output = tmp_path / "clbench-tuning" / "small"
    asked = ["tune", "--suite", small, "--methods", "ewc", "--protocol", "first-k"]
    with alone(output, "first-k"):
        assert_refused(clbench(tmp_path, *asked), "another command searches with its trials")


def test_what_cannot_be_searched_is_refused_before_anything_is_trained(clbench, assert_refused, small, tmp_path):
    asked = ["tune", "--suite", small, "--protocol", "chf", "--methods"]
    assert_refused(clbench(tmp_path, *asked, "ewc,naive"), "naive names no setting that keeps what is known")
    assert not (tmp_path / "clbench-tuning").exists()


def test_chf_stops_with_its_budget_and_leaves_another_optimisers_rate_alone(plan):
    train = Trainer(lambda settings: 0.7, lambda settings: 0.1 if "strength" in settings else 0.9)
    plain = plain_fine_tuning(plan, train)
    assert len(chf(plan, "mas", Budget(3), train, plain)) == 3
    # HAT trains with SGD, plain fine-tuning with the suite's Adam.
    assert all("learning_rate" not in each.trial.settings for each in chf(plan, "hat", Budget(2), train, plain))
    with pytest.raises(SettingError, match="wsn names no setting that keeps what is known"):
        chf(plan, "wsn", Budget(3), train, plain)


def test_of_rates_that_learn_as_much_the_one_that_forgets_least_is_taken(plan):
    train = Trainer(lambda settings: 1 - settings["learning_rate"])
    assert plain_fine_tuning(plan, train).trial.settings == {"learning_rate": min(RATES)}


@pytest.mark.parametrize("name", [name for name in method_names() if name in METHODS])
def test_what_a_method_names_are_settings_of_it_with_values_that_fit(name, plan):
    method = find_method(name)
    for key, each in method.searched.items():
        for value in each.values if isinstance(each, Among) else (each.low, each.high):
            plan.trial(name, {key: value})
    if method.stability:
        plan.trial(name, dict([method.stability]))


@pytest.mark.parametrize(
    ("own", "first"), [([0.95, 0.99, 0.99], "[0.95, 0.99, 0.99]"), ([0.97], 0.97), ([0.5], 0.5), ("sgd", "sgd"), (7, 7)]
)
def test_one_of_several_values_may_be_the_suites_own(own, first, plan):
    widened = _holding(Among((0.9, 0.97)), own)
    assert first in widened.values
    assert set(widened.values) == {0.9, 0.97, first}
    assert _is_within({"energy": widened}, "energy", _one(own))
    if isinstance(own, list):
        assert plan.trial("gpm", _rounded({"energy": first})).spec.settings.energy == own


def test_a_method_of_the_users_names_its_own_ranges(plan):
    class Mine(Method):
        searched = {"weight_decay": Between(1e-6, 1e-2)}

    assert set(Mine.searched) == {"weight_decay"}
    assert Method.searched == {}


@pytest.fixture
def small(tmp_path):
    """A suite that is learned in a moment."""
    path = tmp_path / "small.toml"
    says = {"name": "small", "title": "small", "source": "this test", "extends": "permuted-digits"}
    lines = [f'{key} = "{value}"' for key, value in says.items()]
    path.write_text("\n".join([*lines, "hidden_sizes = [8]", "epochs = 1", ""]))
    return path


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["first-k", "chf"])
def test_the_command_logs_every_trial_and_repeats_none(protocol, clbench, small, tmp_path):
    asked = ["tune", "--suite", small, "--methods", "ewc", "--protocol", protocol, "--trials", 2, "--tasks", 2]
    first = clbench(tmp_path, *asked)
    assert first.code == 0
    log = tmp_path / "clbench-tuning" / "small.csv"
    rows = list(csv.DictReader(log.open()))
    assert {row["method"] for row in rows} == ({"ewc"} if protocol == "first-k" else {"ewc", "naive"})
    if protocol == "first-k":
        assert "on validation images after 2 tasks" in first.out
        assert "--set ewc.strength=" in first.out
    else:
        assert "methods shall learn" in first.out
        assert "ewc: 2 trials, of which none learns within 20 % of plain fine-tuning; give more --trials" in first.out
    before = log.read_bytes()
    again = clbench(tmp_path, *asked)
    assert log.read_bytes() == before
    assert again.out.count("logged before") == len(rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--protocol", "random"], "unknown protocol 'random': expected grid, first-k, chf"),
        (["--trials", 3], "--trials is for --protocol first-k and chf"),
        (["--protocol", "chf", "--grid", "a.toml"], "--grid is for --protocol grid"),
        (["--protocol", "first-k", "--executor", "slurm"], "a search asks what to try next"),
        (["--protocol", "first-k", "--workers", 2], "--workers needs --executor"),
        (["--protocol", "first-k", "--tasks", 99], "small has 10 tasks, but got --tasks 99"),
        (
            ["--protocol", "chf", "--methods", "si", "--images", 5],
            "a trial of si trains on 3,666 images, but got --images 5",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said, clbench, assert_refused, small, tmp_path):
    assert_refused(clbench(tmp_path, "tune", "--suite", small, *options), said)


def test_the_document_names_the_methods_that_chf_takes():
    text = (Path(__file__).resolve().parents[1] / "docs" / "search.md").read_text()
    (line,) = re.findall(r"takes methods with such a setting: (.*)\.", text)
    assert set(re.findall(r"`(.*?)`", line)) == {name for name in METHODS if find_method(name).stability}
