"""The forecast against tables whose end is known."""

import math
import re

import pandas as pd
import pytest

from clbench.reports.forecast import forecasts


def table(claims_by_layer, neurons=100):
    rows = []
    for layer, claims in enumerate(claims_by_layer, start=1):
        free = neurons
        for task, new in enumerate(claims, start=1):
            free -= new
            rows.append({"task": task, "layer": layer, "neurons": neurons, "free": free, "new": new})
    return pd.DataFrame(rows)


def test_steady_claims_fill_a_layer_when_the_division_says():
    (first, second) = forecasts([table([[10] * 6, [5] * 6])])
    assert (first.layer, first.claims, first.full_after) == (1, 10, 10)
    assert (second.layer, second.claims, second.full_after) == (2, 5, 20)
    assert (first.low, first.high) == (10, 10)


def test_the_first_half_of_the_tasks_has_no_say():
    (found,) = forecasts([table([[30, 20, 5, 5]])])
    assert found.claims == 5
    assert found.full_after == 4 + 40 / 5


def test_the_interval_is_students_over_the_claims_of_all_seeds():
    from scipy import stats

    (found,) = forecasts([table([[9, 9, 4, 6]]), table([[9, 9, 8, 6]])])
    claims = [4, 6, 8, 6]
    low, high = stats.t.interval(0.95, 3, loc=6, scale=stats.sem(claims))
    free = ((100 - 28) + (100 - 32)) / 2
    assert found.low == pytest.approx(4 + free / high)
    assert found.high == pytest.approx(4 + free / low)
    assert found.low < found.full_after < found.high


def test_a_full_layer_says_when_it_was_full():
    (found,) = forecasts([table([[40, 40, 20, 0, 0, 0]])])
    assert (found.full_after, found.low, found.high) == (3, 3, 3)
    assert found.is_full


def test_a_layer_that_nothing_claims_is_never_full():
    (found,) = forecasts([table([[40, 0, 0, 0]])])
    assert found.full_after == found.low == found.high == math.inf


def test_claims_that_may_be_none_leave_the_upper_end_open():
    (found,) = forecasts([table([[1, 1, 0, 9]])])
    assert math.isfinite(found.full_after)
    assert found.high == math.inf


def test_falling_claims_leave_the_end_open():
    (found,) = forecasts([table([[30, 30, 30, 30, 30, 10, 9, 8, 7, 6]], neurons=400)])
    assert found.trend == "falling"
    assert found.full_after == pytest.approx(10 + 210 / 8)
    assert 10 < found.low < found.full_after
    assert found.high == math.inf


def test_rising_claims_bring_the_beginning_forward_to_where_their_line_ends():
    (found,) = forecasts([table([[0, 0, 0, 0, 0, 2, 4, 6, 8, 10]], neurons=100)])
    assert found.trend == "rising"
    # 70 are free; n more tasks on the line 10, 10 + 2, ... use up 10 n + n^2.
    n = -5 + math.sqrt(25 + 70)
    assert found.low == pytest.approx(10 + n)
    assert found.full_after == pytest.approx(10 + 70 / 6)


def test_only_the_tasks_asked_for_are_looked_at():
    whole = table([[10, 10, 10, 10, 50, 0]])
    assert forecasts([whole], tasks=4) == forecasts([table([[10, 10, 10, 10]])])


def test_too_few_tasks_are_refused():
    with pytest.raises(ValueError, match="at least 4 tasks to forecast from, but got 3"):
        forecasts([table([[1, 2, 3]])])


def test_the_report_says_when_each_layer_will_be_full(recorded_run):
    from dataclasses import replace

    from clbench.reports.compose import compose
    from clbench.reports.groups import select
    from clbench.reports.model import Figure, Table

    claims = table([[10] * 4, [30, 30, 40, 0], [5, 5, 0, 0]])
    capacity = claims.assign(reused=0, threshold=0.0, margin_spent=0.0)
    run = replace(recorded_run("clnp"), capacity=capacity)
    report = compose(select([run], "permuted-mnist"), "permuted-mnist")
    (section,) = (section for section in report.sections if section.name == "capacity")
    (found,) = (item for item in section.items if isinstance(item, Table))
    assert found.notes == (
        "Layer 1: if every further task claims as many neurons as those of the second half did on average (10.0), "
        "it is full after 10.0 tasks (95 % interval: 10.0 to 10.0).",
        "Layer 2: full after 3 tasks.",
        "Layer 3: the later tasks claimed nothing, so it does not fill up.",
    )
    (drawn,) = (item for item in section.items if isinstance(item, Figure) and item.name.endswith("-forecast"))
    assert drawn.alt.endswith(" ".join(found.notes))
    # What can be pointed at: every recorded task of every layer, and the end of the one that fills up.
    spots = re.findall(r"<title>(.*?)</title>", drawn.svg)
    assert len(spots) == 3 * 4 + 1
    assert "layer 1: full after 10.0" in spots
