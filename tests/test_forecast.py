"""The forecast against tables whose end is known."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from clbench.records.format import CAPACITY_COLUMNS, capacity_table
from clbench.records.reading import read_runs
from clbench.reports.analysis.forecast import Budget, forecasts


def table(claims_by_layer, neurons=100):
    rows = []
    for layer, claims in enumerate(claims_by_layer, start=1):
        free = neurons
        for task, new in enumerate(claims, start=1):
            free -= new
            rows.append(
                {
                    "task": task,
                    "group": f"layer_{layer}",
                    "unit": "neuron",
                    "units": neurons,
                    "free": free,
                    "new": new,
                    "reused": 0,
                }
            )
    return capacity_table(rows).reindex(columns=list(CAPACITY_COLUMNS))


def test_steady_claims_fill_a_layer_when_the_division_says():
    (first, second) = forecasts([table([[10] * 6, [5] * 6])])
    assert (first.group, first.full_after, first.low, first.high) == ("layer_1", 10, 10, 10)
    assert (second.group, second.full_after, second.low, second.high) == ("layer_2", 20, 20, 20)
    assert first.next_claim == pytest.approx(10)
    assert first.left[:, :5] == pytest.approx(np.array([[0.4, 0.3, 0.2, 0.1, 0.0]] * 3))


def test_claims_that_shrink_with_what_is_free_fill_a_layer_by_halves():
    # Every task claims half of what is free: 1 % and less is left after 7 tasks of 1024 neurons.
    (found,) = forecasts([table([[512, 256, 128, 64, 32, 16]], neurons=1024)])
    assert (found.full_after, found.low, found.high) == (7, 7, 7)
    assert found.next_claim == pytest.approx(8)


def test_two_tasks_are_too_few_however_many_seeds():
    assert forecasts([table([[30, 20]])] * 5) == []
    assert forecasts([table([[30, 20, 10]])] * 5)


def test_the_first_half_of_the_tasks_has_no_say():
    one, other = (forecasts([table([[*first, 5, 5, 5]])])[0] for first in ([30, 20, 5], [25, 25, 5]))
    assert one.full_after == other.full_after == 6 + 30 // 5


def test_the_expected_claim_is_the_line_of_least_squares_over_all_seeds():
    from scipy import stats

    tables = [table([[9, 9, 9, 4, 6, 8]]), table([[9, 9, 9, 8, 6, 3]])]
    (found,) = forecasts(tables)
    before, claims = [73, 69, 63, 73, 65, 59], [4, 6, 8, 8, 6, 3]
    line = stats.linregress(before, claims)
    assert found.next_claim == pytest.approx(line.intercept + line.slope * (55 + 56) / 2)
    assert found.low < found.full_after < found.high


def test_the_interval_of_the_next_task_is_students_for_a_new_observation():
    from scipy import stats

    before, claims = [], []
    whole = table([[9, 12, 8, 11, 10, 9, 12, 7, 11, 10, 8, 12]], neurons=1000)
    for row in whole[whole["task"] > 6].itertuples():
        before.append(row.free + row.new)
        claims.append(row.new)
    (found,) = forecasts([whole])
    line = stats.linregress(before, claims)
    free = whole["free"].iloc[-1]
    noise = np.sqrt(np.sum((np.array(claims) - line.intercept - line.slope * np.array(before)) ** 2) / 4)
    spread = np.sum((np.array(before) - np.mean(before)) ** 2)
    half_width = stats.t.ppf(0.975, 4) * noise * np.sqrt(1 + 1 / 6 + (free - np.mean(before)) ** 2 / spread)
    expected = line.intercept + line.slope * free
    # Quantiles of 2,000 draws lie within some per cent of the formula's.
    low, median, high = 1000 * found.left[:, 1]
    assert free - median == pytest.approx(expected, abs=0.5)
    assert free - high == pytest.approx(max(0, expected - half_width), abs=0.7)
    assert free - low == pytest.approx(expected + half_width, abs=0.7)


def test_an_even_budget_limits_what_the_next_tasks_may_claim():
    # Six tasks of ten have left 70 of 100, of which the four to come may claim an even share each: 17 at first.
    claims = table([[1, 1, 1, 2, 20, 5]])
    (free,) = forecasts([claims])
    (within,) = forecasts([claims], budget=Budget.of("even", ["layer_1"], 10))
    assert within.left[:, 1].min() == pytest.approx((70 - 17) / 100)
    assert free.left[0, 1] < 0.5
    assert within.next_claim <= 17


@pytest.mark.parametrize("setting", [[0.1], [0.5, 0.1], {"layer_2": 0.1}])
def test_a_share_limits_what_every_further_task_may_claim(setting):
    claims = table([[1, 1, 1, 2, 8, 2], [5, 5, 5, 5, 9, 1]])
    _, second = forecasts([claims], budget=Budget.of(setting, ["layer_1", "layer_2"], 6))
    left = 70.0
    for step in range(1, 20):
        left -= max(math.floor(left * 0.1), min(left, 1))
        assert second.left[:, step].min() >= left / 100 - 1e-9


@pytest.mark.parametrize("setting", [None, "none", [0.1, 0.2, 0.3]])
def test_what_is_no_budget_for_these_groups_limits_nothing(setting):
    assert Budget.of(setting, ["layer_1", "layer_2"], 6) is None


def test_full_layers_say_when_each_seed_was_full():
    (found,) = forecasts([table([[40, 40, 20, 0, 0, 0]])])
    assert (found.full_after, found.full_seeds, found.is_full) == (3, (3,), True)
    several = [table([[40, 40, 20, 0, 0, 0]]), table([[20, 20, 20, 20, 20, 0]]), table([[10] * 6])]
    (found,) = forecasts(several)
    assert found.full_seeds == (3, 5, None)
    assert not found.is_full
    # A third of the continuations has ended already, and the last seed goes on.
    assert found.low == 3
    assert found.high > 6


def test_a_layer_that_nothing_claims_is_never_full():
    (found,) = forecasts([table([[40, 0, 0, 0, 0, 0]])])
    assert found.full_after == found.low == found.high == math.inf
    assert found.next_claim == 0


def test_claims_that_may_be_none_leave_the_upper_end_open():
    (found,) = forecasts([table([[1, 1, 1, 0, 9, 0]])])
    assert math.isfinite(found.low)
    assert found.high == math.inf


def test_only_the_tasks_asked_for_are_looked_at():
    whole = table([[10, 10, 10, 10, 10, 10, 40, 0]])
    (part,) = forecasts([whole], tasks=6)
    (same,) = forecasts([table([[10] * 6])])
    assert (part.full_after, part.next_claim) == (same.full_after, same.next_claim) == (10, pytest.approx(10))


def test_too_few_tasks_make_no_forecast():
    assert forecasts([table([[1, 2, 3, 4]])]) == []
    assert len(forecasts([table([[1, 2, 3, 4]])] * 2)) == 1


RESULTS = Path(__file__).parent.parent / "docs" / "results"


def capacities(suite, method="clnp"):
    """The capacity tables of the recorded runs, by seed."""
    runs = [run for run in read_runs(RESULTS / suite) if run.method == method]
    return [run.capacity for run in sorted(runs, key=lambda run: run.seed)]


# The model was made with the first seed in sight; the other two were trained after it.
@pytest.mark.parametrize(("seed", "inside"), [(0, 33), (1, 31), (2, 27)])
def test_what_was_left_after_25_tasks_lies_in_most_of_the_intervals_made_before(seed, inside):
    recorded = capacities("permuted-mnist-25", "clnp:best")[seed]
    in_the_end = recorded[recorded["task"] == 25].set_index("group")
    held = []
    for seen in range(5, 25):
        for found in forecasts([recorded], tasks=seen):
            low, _, high = found.left[:, 25 - seen]
            held.append(low <= in_the_end["free"][found.group] / in_the_end["units"][found.group] <= high)
            # Neither layer was full by then, and no interval said that it would be.
            assert found.high > 25
    # Less than 95 %, because the true line bends; the module says so.
    assert (sum(held), len(held)) == (inside, 40)


def test_a_layer_of_50_tasks_filled_up_later_than_most_intervals_said_and_the_other_never_did():
    (recorded,) = capacities("permuted-mnist-50", "clnp:best")
    first, second = forecasts([recorded])
    assert (first.full_seeds, second.full_seeds) == ((None,), (41,))
    made = [forecasts([recorded], tasks=seen) for seen in range(5, 41)]
    assert sum(layer.high == math.inf for layer, _ in made) == 35
    # As the module says: tasks claim less when little is left, which a line fitted before does not know.
    assert sum(layer.low <= 41 <= layer.high for _, layer in made) == 17
    assert min(layer.high for _, layer in made) == 31
    assert not any(layer.low > 41 for _, layer in made)


@pytest.mark.parametrize("seen", [4, 5, 6])
def test_layers_that_did_fill_up_did_so_within_their_interval(seen):
    recorded = capacities("permuted-digits")
    first, second = forecasts(recorded, tasks=seen)
    (_, whole) = forecasts(recorded)
    assert whole.is_full
    assert all(second.low <= tasks <= second.high for tasks in whole.full_seeds)
    # The first layer never filled up.
    assert first.high == math.inf
    assert min(table.loc[table["group"] == "layer_1", "free"].min() for table in recorded) > 50


def test_the_report_says_when_each_layer_will_be_full(recorded_run):
    from dataclasses import replace

    from clbench.reports.analysis.groups import select
    from clbench.reports.compose import compose
    from clbench.reports.model import Figure, Table

    claims = table([[10] * 6, [30, 30, 40, 0, 0, 0], [5, 5, 0, 0, 0, 0], [1, 1, 1, 0, 9, 0]])
    run = replace(recorded_run("clnp"), capacity=claims)
    report = compose(select([run], "permuted-mnist"), "permuted-mnist")
    (section,) = (section for section in report.sections if section.name == "capacity")
    (found,) = (item for item in section.items if isinstance(item, Table))
    first, second, third, fourth, meaning = found.notes
    assert first == (
        "Layer 1: full after 10 tasks (95 % prediction interval: 10 to 10); the next task is expected to claim 10.0 "
        "neurons."
    )
    assert second == "Layer 2: full after 3 tasks."
    assert third == "Layer 3: not expected to fill up."
    assert fourth.startswith("Layer 4: more likely than not never full, and not before 7 tasks;")
    assert meaning.startswith("Full: at most 1 % of a layer's neurons are free.")
    (drawn,) = (item for item in section.items if isinstance(item, Figure) and item.name.endswith("-forecast"))
    assert drawn.alt.endswith(" ".join(found.notes))
    # What can be pointed at: every recorded task of every layer, and every further one that is drawn.
    spots = re.findall(r"<title>(.*?)</title>", drawn.svg)
    assert "layer 1, 6 tasks learned: 40.0 % free" in spots
    assert "layer 1, 7 tasks: 30.0 % free expected" in spots


def test_seeds_that_filled_a_layer_already_are_counted(recorded_run):
    from dataclasses import replace

    from clbench.reports.analysis.groups import select
    from clbench.reports.compose import compose
    from clbench.reports.model import Table

    claims = ([40, 40, 20, 0, 0, 0], [20, 20, 20, 20, 20, 0], [10] * 6)
    runs = [replace(recorded_run("clnp", n), capacity=table([c])) for n, c in enumerate(claims)]

    def note(chosen):
        report = compose(select(chosen, "permuted-mnist"), "permuted-mnist")
        (section,) = (section for section in report.sections if section.name == "capacity")
        return next(item for item in section.items if isinstance(item, Table)).notes[0]

    assert note(runs[:2]) == "Layer 1: full after 3 to 5 tasks."
    assert note(runs).endswith("2 of 3 seeds have filled it already.")
