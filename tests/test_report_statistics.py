"""The reports' statistics against scipy, statsmodels, brute force and cases solved on paper."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.groups import select
from clbench.reports.analysis.statistics import (
    FEWEST_SUITES,
    bootstrap_interval,
    compare_paired,
    holm,
    on_front,
    ranks_over_suites,
)
from clbench.reports.sections.inference import judge, standings

MakeRuns = Callable[..., list[RecordedRun]]


# Bootstrap


def test_the_bootstrap_interval_is_bca_by_its_textbook_formula() -> None:
    values = np.array([0.91, 0.95, 0.93, 0.99, 0.90, 0.94])
    # Efron 1987, written out on the resamples themselves: all 6^6 of them, so that no generator is involved.
    means = np.array(list(itertools.product(values, repeat=6))).mean(axis=1)
    mean = values.mean()
    below = (np.count_nonzero(means < mean - 1e-12) + np.count_nonzero(means <= mean + 1e-12)) / (2 * len(means))
    bias = stats.norm.ppf(below)
    jackknife = np.array([np.delete(values, i).mean() for i in range(6)])
    away = jackknife.mean() - jackknife
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    expected = []
    for share in (0.025, 0.975):
        z = bias + stats.norm.ppf(share)
        expected.append(np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z))))
    # Our 9,999 resamples against all of them: within a twentieth of the interval's width.
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=(expected[1] - expected[0]) / 20)


def test_the_bootstrap_is_the_same_every_time() -> None:
    values = [0.91, 0.95, 0.93, 0.99]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_there_is_no_bootstrap_interval_below_three_values_and_equal_ones_have_no_width() -> None:
    assert bootstrap_interval([0.9, 0.8]) is None
    assert bootstrap_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


# Paired comparison


def test_the_paired_comparison_is_scipys_paired_t_test_on_the_shared_seeds() -> None:
    first = {0: 0.95, 1: 0.93, 2: 0.97, 3: 0.96, 9: 0.1}
    second = {3: 0.90, 2: 0.92, 1: 0.91, 0: 0.90, 8: 0.99}
    found = compare_paired(first, second)
    assert found is not None
    assert found.seeds == (0, 1, 2, 3)
    ours = [first[seed] for seed in range(4)]
    theirs = [second[seed] for seed in range(4)]
    expected = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert found.difference.half_width is not None
    assert found.difference.mean - found.difference.half_width == pytest.approx(interval.low, rel=1e-9)
    assert found.difference.mean + found.difference.half_width == pytest.approx(interval.high, rel=1e-9)
    # By hand: differences 0.05, 0.02, 0.05, 0.06; mean 0.045, s = sqrt(0.0009 / 3); J(3) = 1 - 3 / 11.
    assert found.effect == pytest.approx((8 / 11) * 0.045 / math.sqrt(0.0009 / 3), rel=1e-9)


def test_without_a_shared_seed_nothing_is_compared_and_below_three_there_is_no_test() -> None:
    assert compare_paired({0: 0.9}, {1: 0.9}) is None
    two = compare_paired({0: 0.9, 1: 0.8}, {0: 0.7, 1: 0.7})
    assert two is not None
    assert (two.p, two.effect, two.bootstrap, two.difference.half_width) == (None, None, None, None)
    assert two.difference.mean == pytest.approx(0.15)


def test_equal_runs_do_not_differ_and_a_difference_without_noise_is_certain() -> None:
    seeds = {0: 0.5, 1: 0.5, 2: 0.5}
    same = compare_paired(seeds, seeds)
    shifted = compare_paired({seed: 0.25 for seed in seeds}, seeds)
    assert same is not None
    assert (same.p, same.effect) == (1.0, 0.0)
    assert shifted is not None
    assert (shifted.p, shifted.effect) == (0.0, -math.inf)


def test_a_difference_of_as_many_images_in_every_seed_is_one_without_noise_however_floats_round() -> None:
    images = 359 * 10
    first = {seed: (3000 + 7 * seed) / images for seed in range(3)}
    second = {seed: (2995 + 7 * seed) / images for seed in range(3)}
    assert len({first[seed] - second[seed] for seed in range(3)}) > 1
    found = compare_paired(first, second)
    assert found is not None
    assert (found.p, found.effect) == (0.0, math.inf)
    assert found.bootstrap == pytest.approx((5 / images, 5 / images))
    assert bootstrap_interval([0.5, 0.5, 0.5000000000000001]) == (0.5, 0.5)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.5], [0.02, 0.02, 0.9], [], [0.6, 0.7]])
def test_holms_correction_is_that_of_statsmodels(p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    expected = list(multitest.multipletests(p_values, method="holm")[1]) if p_values else []
    assert holm(p_values) == pytest.approx(expected)


def test_holms_correction_on_paper() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# Who wins


def test_the_best_is_better_or_not_told_apart_by_test_and_not_by_its_mean(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("ewc", 0.90, 0.91, 0.92, 0.93),
        # A lower mean, but not on every seed: no difference is shown.
        *recorded_seeds("si", 0.93, 0.90, 0.89, 0.92),
        # Always 30 points lower, give or take one.
        *recorded_seeds("naive", 0.60, 0.61, 0.63, 0.62),
    ]
    groups = select(runs, "permuted-mnist").groups
    assert standings(groups, judge(groups)) == {
        "ewc": "not told apart",
        "si": "not told apart",
        "naive": "worse than the best",
    }
    without_si = [group for group in groups if group.label != "si"]
    assert standings(without_si, judge(without_si)) == {"ewc": "best of its kind", "naive": "worse than the best"}


def test_methods_told_the_task_are_judged_apart_and_upper_bounds_not_at_all(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("clnp", 0.98, 0.981, 0.982, task_known_at_test=True),
        *recorded_seeds("ewc", 0.90, 0.91, 0.92),
        *recorded_seeds("naive", 0.50, 0.51, 0.53),
        *recorded_seeds("joint", 0.99, 0.99, 0.99),
        *recorded_seeds("joint:multitask", 0.97, 0.98, 0.99),
        *recorded_seeds("single-task", 0.99, 0.99, 0.99, task_known_at_test=True),
    ]
    groups = select(runs, "permuted-mnist").groups
    found = standings(groups, judge(groups))
    assert found == {
        "clnp": "nothing to compare",
        "ewc": "best of its kind",
        "naive": "worse than the best",
        "joint": "upper bound",
        "joint:multitask": "upper bound",
        "single-task": "upper bound",
    }


def test_only_what_learned_the_same_tasks_in_the_same_network_is_judged_together(recorded_seeds: MakeRuns) -> None:
    def modified(method: str, *accuracies: float, **overrides: Any) -> list[RecordedRun]:
        settings = {"hidden_sizes": [100], "epochs": 3, **overrides}
        runs = recorded_seeds(method, *accuracies, modified=True, overrides=overrides, suite_settings=settings)
        return [replace(run, run_id=f"{run.run_id}-{overrides}") for run in runs]

    runs = [
        *modified("ewc", 0.80, 0.81, 0.82, epochs=3),
        *modified("naive", 0.60, 0.61, 0.63, epochs=3),
        # Easier, because the network is wider, or is trained for longer.
        *modified("naive", 0.90, 0.91, 0.93, hidden_sizes=[200]),
        *modified("naive", 0.95, 0.95, 0.96, epochs=9),
    ]
    groups = select(runs, "permuted-mnist").groups
    judgements = judge(groups)
    assert [(found.best.label, found.other.overrides) for found in judgements] == [("ewc", "epochs=3")]
    found = {(group.method, group.overrides): standings(groups, judgements)[group.label] for group in groups}
    assert found == {
        ("ewc", "epochs=3"): "best of its kind",
        ("naive", "epochs=3"): "worse than the best",
        ("naive", "epochs=9"): "nothing to compare",
        ("naive", "hidden_sizes=200"): "nothing to compare",
    }
    # What may be compared stands together.
    assert [(group.method, group.overrides) for group in groups[:2]] == list(found)[:2]


def test_with_two_seeds_nobody_wins(recorded_seeds: MakeRuns) -> None:
    groups = select([*recorded_seeds("ewc", 0.9, 0.9), *recorded_seeds("naive", 0.5, 0.5)], "permuted-mnist").groups
    assert set(standings(groups, judge(groups)).values()) == {"not tested"}


def test_a_single_seed_on_top_keeps_nobody_from_being_tested(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("online-ewc", 0.95),
        *recorded_seeds("ewc", 0.90, 0.91, 0.92),
        *recorded_seeds("naive", 0.50, 0.51, 0.53),
    ]
    groups = select(runs, "permuted-mnist").groups
    # That it might be better than the best tested, not highest leaves open whether that one wins.
    assert standings(groups, judge(groups)) == {
        "online-ewc": "not tested",
        "ewc": "best tested, not highest",
        "naive": "worse than the best",
    }


def test_a_single_seed_below_leaves_the_best_its_lead(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("ewc", 0.90, 0.91, 0.92),
        *recorded_seeds("online-ewc", 0.85),
        *recorded_seeds("naive", 0.50, 0.51, 0.53),
    ]
    groups = select(runs, "permuted-mnist").groups
    assert standings(groups, judge(groups)) == {
        "ewc": "best of all tested",
        "online-ewc": "not tested",
        "naive": "worse than the best",
    }


def test_the_p_values_are_corrected_for_the_comparisons_of_their_kind(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("ewc", 0.90, 0.91, 0.92, 0.93),
        *recorded_seeds("si", 0.89, 0.91, 0.90, 0.92),
        *recorded_seeds("naive", 0.60, 0.61, 0.63, 0.62),
    ]
    judgements = judge(select(runs, "permuted-mnist").groups)
    raw = [item.comparison.p for item in judgements if item.comparison is not None and item.comparison.p is not None]
    assert len(raw) == 2
    assert [item.corrected_p for item in judgements] == pytest.approx(holm(raw))


# Fronts


def test_the_front_holds_what_nothing_dominates() -> None:
    #       a: cheap, poor   b: better   c: dominated by b   d: as b, dearer   e: best
    costs = [1.0, 2.0, 3.0, 2.5, 9.0]
    gains = [0.1, 0.5, 0.4, 0.5, 0.9]
    assert on_front(costs, gains) == [True, True, False, False, True]
    # Twins do not dominate each other.
    assert on_front([1, 1], [0.5, 0.5]) == [True, True]


def test_the_front_is_that_of_a_sweep_over_sorted_costs() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        costs, gains = random.permutation(20).astype(float), random.permutation(20).astype(float)
        best, expected = -math.inf, [False] * 20
        for place in np.argsort(costs):
            if gains[place] > best:
                best, expected[place] = gains[place], True
        assert on_front(list(costs), list(gains)) == expected


# Ranks over suites


def scores(suites: int) -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame(random.normal([3, 2, 1, 0], 0.8, (suites, 4)), columns=list("abcd"))


def test_ranks_are_averaged_over_suites_and_ties_share_them() -> None:
    table = pd.DataFrame({"a": [0.9, 0.8], "b": [0.5, 0.8], "c": [0.1, 0.2]})
    assert ranks_over_suites(table).average.to_dict() == {"a": 1.25, "b": 1.75, "c": 3.0}


def test_with_too_few_suites_there_are_ranks_and_no_test() -> None:
    found = ranks_over_suites(scores(FEWEST_SUITES - 1))
    assert (found.friedman_p, found.pairwise_p, found.critical_difference) == (None, None, None)
    assert ranks_over_suites(scores(9)[["a", "b"]]).critical_difference is None


def test_nemenyis_p_values_and_critical_difference_are_those_of_demsars_paper() -> None:
    table = scores(8)
    found = ranks_over_suites(table)
    # Demsar 2006, table 5: q at 0.05 is 2.569 for 4 classifiers; CD = q sqrt(k (k + 1) / 6 N).
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 8)), rel=1e-3)
    assert found.pairwise_p is not None
    ranks = table.rank(axis=1, ascending=False).mean()
    for one, other in itertools.combinations("abcd", 2):
        differs = abs(ranks[one] - ranks[other]) > found.critical_difference
        assert bool(found.pairwise_p.loc[one, other] < 0.05) is bool(differs)
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*table.to_numpy().T).pvalue)


def test_methods_that_always_tie_cannot_be_told_apart() -> None:
    table = pd.DataFrame({name: [0.5] * 6 for name in "abc"})
    found = ranks_over_suites(table)
    assert found.friedman_p == 1.0
    assert set(found.average) == {2.0}
