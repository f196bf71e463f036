"""Verdicts on a suite's own runs alone, held against what is published."""

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.departures import departures
from clbench.reports.verify import Verdict, verify
from clbench.suites.files import find_suite

PERMUTED_MNIST = runpy.run_path(str(Path(__file__).with_name("permuted_mnist.py")))
SUITE, PLENTY, EXPECTED, relations = (PERMUTED_MNIST[name] for name in ("SUITE", "PLENTY", "EXPECTED", "relations"))

MakeRun = Callable[..., RecordedRun]


# Against the published value


@pytest.mark.parametrize(
    ("method", "accuracy", "relation"),
    [
        # 97.6 % without a spread: half a unit of the last digit is 0.05 points.
        ("psp", 0.97641, "inside"),
        ("psp", 0.97559, "inside"),
        ("psp", 0.97661, "above"),
        ("psp", 0.97539, "below"),
        # 83 %: half a unit is half a point.
        ("avalanche-ewc", 0.8349, "inside"),
        ("avalanche-ewc", 0.8351, "above"),
        ("avalanche-si", 0.8251, "inside"),
        ("avalanche-si", 0.8249, "below"),
        # 98.42 +- 0.04 %: the spread counts, not the last digit.
        ("clnp", 0.98459, "inside"),
        ("clnp", 0.98381, "inside"),
        ("clnp", 0.98461, "above"),
        ("clnp", 0.98379, "below"),
        # 97.0 % ends in a digit that counts.
        ("ewc", 0.97049, "inside"),
        ("ewc", 0.97051, "above"),
        # Of two published values with each: 97.2 % and 96.94 %.
        ("si", 0.9721, "inside, above"),
        ("si", 0.9694, "below, inside"),
        # Nothing was published for it.
        ("joint", 0.98, ""),
    ],
)
def test_one_seed_agrees_within_the_spread_of_the_source_or_half_its_last_digit(
    judge: Callable[..., Verdict], method: str, accuracy: float, relation: str
) -> None:
    verdict = judge(method, accuracy)
    assert relations(verdict) == relation
    assert verdict.average_accuracy.half_width is None
    assert (verdict.seeds, verdict.label) == (1, method)


@pytest.mark.parametrize(
    ("method", "mean", "relation"),
    [
        # 97.6 % and half a unit, and an interval of 4.302653 x 0.001 / sqrt(3) = 0.002484 around ours.
        ("psp", 0.973016 + 2e-5, "inside"),
        ("psp", 0.973016 - 2e-5, "below"),
        ("psp", 0.978984 - 2e-5, "inside"),
        ("psp", 0.978984 + 2e-5, "above"),
        # 98.42 +- 0.04 %.
        ("clnp", 0.981316 + 2e-5, "inside"),
        ("clnp", 0.981316 - 2e-5, "below"),
        ("clnp", 0.987084 - 2e-5, "inside"),
        ("clnp", 0.987084 + 2e-5, "above"),
    ],
)
def test_three_seeds_agree_if_their_interval_and_the_published_one_overlap(
    judge: Callable[..., Verdict], method: str, mean: float, relation: str
) -> None:
    verdict = judge(method, mean - 0.001, mean, mean + 0.001)
    assert verdict.average_accuracy.half_width == pytest.approx(0.002484, abs=1e-6)
    assert relations(verdict) == relation
    assert verdict.seeds == 3


def test_two_seeds_have_no_interval_to_widen_the_agreement(judge: Callable[..., Verdict]) -> None:
    assert relations(judge("psp", 0.974, 0.976)) == "below"


# What counts


def test_modified_runs_do_not_count(own_run: MakeRun) -> None:
    modified = [
        own_run("psp", seed, 0.1, modified=True, overrides={"epochs": 1}, run_id=f"m{seed}") for seed in range(3)
    ]
    found = verify([*modified, own_run("psp", 0, 0.976)], SUITE)
    (verdict,) = found.verdicts
    assert (verdict.seeds, verdict.average_accuracy.mean, verdict.misses) == (1, pytest.approx(0.976), ())
    assert found.holds
    found = verify(modified, SUITE)
    assert found.verdicts == ()
    assert "psp" in found.not_recorded


def test_runs_that_did_not_finish_or_belong_to_another_suite_do_not_count(own_run: MakeRun) -> None:
    stopped = replace(own_run("psp", 0, 0.1), status="stopped", reason="stopped by the user")
    elsewhere = own_run("si", 0, 0.1, suite="rotated-mnist")
    half = own_run("ewc", 0, 0.1)
    half.accuracy_matrix[-1] = np.nan
    found = verify([stopped, elsewhere, half], SUITE)
    assert found.verdicts == ()
    assert found.not_recorded == EXPECTED


def test_a_method_of_the_suite_or_with_a_published_value_but_no_run_is_listed(own_run: MakeRun) -> None:
    found = verify([own_run("clnp"), own_run("naive"), own_run("joint")], SUITE)
    expected = [name for name in EXPECTED if name not in ("clnp", "naive")]
    assert list(found.not_recorded) == expected
    assert verify([], SUITE).not_recorded == EXPECTED
    assert verify([], "permuted-mnist-25").not_recorded == ("clnp:best",)
    assert verify([], "permuted-digits").not_recorded == tuple(sorted(find_suite("permuted-digits").methods))


def test_runs_of_a_method_that_may_not_be_averaged_are_judged_apart(own_run: MakeRun) -> None:
    runs = [
        *(own_run("psp", seed, 0.99) for seed in range(2)),
        own_run("psp", 0, 0.9, precision="bfloat16", run_id="b"),
    ]
    found = verify(runs, SUITE)
    judged = {verdict.label: (verdict.seeds, relations(verdict), bool(verdict.misses)) for verdict in found.verdicts}
    assert judged == {
        "psp precision=float32": (2, "above", False),
        "psp precision=bfloat16": (1, "below", True),
    }
    assert not found.holds


def test_a_variant_stands_beside_its_methods_published_value_and_is_not_held_to_its_goal(own_run: MakeRun) -> None:
    found = verify([own_run("si:10-epochs", accuracy=0.5)], SUITE)
    (verdict,) = found.verdicts
    assert [result.method for result in verdict.published] == ["si", "si"]
    assert (verdict.label, verdict.goal, verdict.misses) == ("si:10-epochs", None, ())
    assert "si" in found.not_recorded


def test_runs_from_before_a_change_of_the_setting_do_not_count_and_are_told(own_run: MakeRun) -> None:
    today = own_run("psp", 0, 0.976)
    for kind, key, value in (("suite", "epochs", 7), ("method", "kind", "complex"), ("suite", "n_tasks", 3)):
        changed = {f"{kind}_settings": {**today.config[f"{kind}_settings"], key: value}}
        earlier = [own_run("psp", seed, 0.1, run_id=f"e{seed}", **changed) for seed in range(3)]
        found = verify([*earlier, today], SUITE)
        (verdict,) = found.verdicts
        assert (verdict.seeds, verdict.average_accuracy.mean, found.holds) == (1, pytest.approx(0.976), True)
        (said,) = found.other_settings
        assert re.fullmatch(rf'psp {key}={value} \(3\): {key}="?{value}"? \(here .+\)', said)
        assert "psp" in verify(earlier, SUITE).not_recorded


def test_a_method_of_ones_own_counts_in_the_suites_own_setting_alone(own_run: MakeRun) -> None:
    def brought(**changes: Any) -> RecordedRun:
        run = own_run("naive", accuracy=0.9)
        return replace(run, config={**run.config, "method": "Mine", "method_sha256": "1" * 64, **changes})

    settings = brought().config["suite_settings"]
    (verdict,) = verify([brought()], SUITE).verdicts
    assert (verdict.method, verdict.average_accuracy.mean) == ("Mine", pytest.approx(0.9))
    for overrides, changed in (({"Mine.strength": 0.5}, {}), ({"n_tasks": 3}, {"n_tasks": 3})):
        run = brought(modified=True, overrides=overrides, suite_settings={**settings, **changed})
        found = verify([run], SUITE)
        assert (found.verdicts, found.other_settings, found.left_out) == ((), (), 1)
    # Of a suite that has changed since.
    found = verify([brought(suite_settings={**settings, "epochs": 7})], SUITE)
    assert found.verdicts == ()
    assert found.other_settings == ("Mine (1): epochs=7 (here 10)",)


def test_a_setting_that_came_later_departs_from_nothing_at_the_value_that_changes_nothing(own_run: MakeRun) -> None:
    config = own_run("clnp:best").config
    assert departures(config) == []
    spelt_out = {**config["method_settings"], "frozen_cache_mib": 1024}
    assert departures({**config, "method_settings": spelt_out}) == []
    without = {key: value for key, value in config["method_settings"].items() if key != "margin"}
    assert departures({**config, "method_settings": without}) == ["margin=null (here 1.0)"]


def test_what_was_an_override_once_and_is_the_setting_now_counts(own_run: MakeRun) -> None:
    once = [own_run("psp", seed, 0.976, modified=True, overrides={"epochs": 10}) for seed in range(3)]
    found = verify(once, SUITE)
    assert [(verdict.method, verdict.seeds) for verdict in found.verdicts] == [("psp", 3)]
    assert found.left_out == 0


def test_words_about_a_suite_and_settings_spelt_out_keep_no_seeds_apart(own_run: MakeRun) -> None:
    runs = [own_run("clnp", seed, 0.985, free=PLENTY) for seed in range(3)]
    settings = runs[1].config["suite_settings"] | {"source": "in other words", "title": "another"}
    runs[1] = own_run("clnp", 1, 0.985, free=PLENTY, suite_settings=settings)
    spelt_out = runs[2].config["method_settings"] | {"frozen_cache_mib": 1024}
    runs[2] = own_run("clnp", 2, 0.985, free=PLENTY, method_settings=spelt_out)
    assert [verdict.seeds for verdict in verify(runs, SUITE).verdicts] == [3]


def test_a_method_that_does_not_load_keeps_no_other_from_being_judged(
    own_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = EntryPoint("broken", "no_such_package:Method", "clbench.methods")
    run = own_run("psp", 1)
    broken = replace(run, config={**run.config, "method": "broken"})
    monkeypatch.setattr("clbench.methods.table._plugins", lambda: [plugin])
    found = verify([own_run("psp", 0, 0.976), broken], SUITE)
    assert [verdict.method for verdict in found.verdicts] == ["psp"]
    assert re.fullmatch(r"broken \(1\): the method 'broken' .* does not load: .*", found.other_settings[0])


def test_runs_of_a_method_or_variant_that_is_no_more_are_told_so(own_run: MakeRun) -> None:
    for name in ("clnp:paper", "no-such-method"):
        found = verify([replace(own_run("clnp"), config={**own_run("clnp").config, "method": name})], SUITE)
        assert found.verdicts == ()
        assert found.other_settings == (f"{name} (1): there is no {name} here",)
