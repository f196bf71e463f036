"""What a report says of pruning: what it was allowed to cost, what it cost, and what the search saw."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from clbench.records.format import ALL_GROUPS, PRUNING_COLUMNS
from clbench.records.reading import RecordedRun
from clbench.reports.analysis.groups import select
from clbench.reports.analysis.pruning import spent
from clbench.reports.compose import compose
from clbench.reports.model import Figure, Report, Table

SUITE = "permuted-mnist"


def looks(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(PRUNING_COLUMNS))


def searched(of_group: str = "layer_1", test: tuple[float, float] = (0.8, 0.78)) -> pd.DataFrame:
    """Two tasks of 200 validation images that claim 30 and then 20 of 100 units."""
    none = math.nan
    return looks(
        (1, ALL_GROUPS, 100, 0.9, 200, 0, 0, test[0]),
        (1, of_group, 80, 0.9, 200, 0, 0, none),
        (1, of_group, 10, 0.2, 200, 140, 0, none),
        (1, of_group, 30, 0.89, 200, 6, 1, none),
        (1, ALL_GROUPS, 30, 0.89, 200, 6, 1, test[1]),
        (2, ALL_GROUPS, 100, 0.9, 200, 0, 0, test[0]),
        (2, of_group, 50, 0.88, 200, 4, 1, none),
        (2, ALL_GROUPS, 50, 0.88, 200, 4, 1, test[1]),
    )


@pytest.fixture
def clnp(recorded_run: Callable[..., RecordedRun], counted: Callable[..., pd.DataFrame]) -> Callable[..., RecordedRun]:
    """(pruning, seed, settings) -> a run of CLNP with these looks of its search."""
    rows = [(1, "layer_1", "neuron", 100, 70, 30, 0), (2, "layer_1", "neuron", 100, 50, 20, 10)]

    def make(pruning: pd.DataFrame, seed: int = 0, **settings: Any) -> RecordedRun:
        run = recorded_run("clnp", seed, method_settings={"margin": 2.0, **settings})
        return replace(run, capacity=counted(rows), pruning=pruning)

    return make


def items(*runs: RecordedRun) -> tuple[Table, Figure]:
    report: Report = compose(select(runs, SUITE), SUITE)
    (section,) = (section for section in report.sections if section.name == "capacity")
    (table,) = (item for item in section.items if isinstance(item, Table) and item.name.endswith("-margin"))
    (figure,) = (item for item in section.items if isinstance(item, Figure) and "-trade-off" in item.name)
    return table, figure


def column(table: Table, heading: str) -> list[str]:
    (place,) = (place for place, column in enumerate(table.columns) if column.heading == heading)
    return [row[place].text for row in table.rows]


def test_asked_spent_on_validation_and_spent_on_test_stand_beside_each_other(clnp: Callable[..., RecordedRun]) -> None:
    table, _ = items(clnp(searched()))
    assert column(table, "Asked, points") == ["2", "2"]
    assert column(table, "Spent on validation, points") == ["1.00", "2.00"]
    assert column(table, "Spent on test, points") == ["2.00", "2.00"]


def test_the_interval_of_what_was_spent_is_that_of_a_mean_of_changed_answers(clnp: Callable[..., RecordedRun]) -> None:
    # Of 200 answers 4 turned wrong and 2 right, and half an answer more of either kind and of those that stayed.
    changes = [1] * 9 + [-1] * 5 + [0] * 390
    mean = sum(changes) / 404
    variance = sum((change - mean) ** 2 for change in changes) / 404 / 202
    (first, second) = spent([clnp(searched())])
    assert first.validation.mean == pytest.approx(0.01)
    assert first.uncertainty == pytest.approx(1.96 * math.sqrt(variance))
    # All four that changed turned wrong.
    assert second.uncertainty == pytest.approx(1.96 * math.sqrt((5 / 202 - (4 / 202) ** 2) / 202))


def test_that_no_answer_changed_does_not_make_the_cost_certain(clnp: Callable[..., RecordedRun]) -> None:
    same = searched().assign(changed=0, validation_accuracy=0.9)
    assert all(0.005 < each.uncertainty < 0.02 for each in spent([clnp(same)]))


def test_what_was_spent_is_the_mean_over_seeds_with_its_interval(clnp: Callable[..., RecordedRun]) -> None:
    runs = [clnp(searched(test=(0.8, end)), seed) for seed, end in enumerate((0.78, 0.79, 0.80))]
    table, _ = items(*runs)
    assert column(table, "Spent on test, points") == ["1.00", "1.00"]
    assert all(row[-1].half_width for row in table.rows)


def test_without_test_images_that_column_is_left_out(clnp: Callable[..., RecordedRun]) -> None:
    table, _ = items(clnp(searched(test=(math.nan, math.nan))))
    assert [column.heading for column in table.columns][-1] == "95 % interval of a run, ± points"
    assert not any("test images" in note for note in table.notes)


def test_a_budget_is_said_to_cost_more_than_the_margin(clnp: Callable[..., RecordedRun]) -> None:
    assert any("With a budget" in note for note in items(clnp(searched(), budget="even"))[0].notes)
    assert not any("With a budget" in note for note in items(clnp(searched(), budget=None))[0].notes)


def test_every_look_can_be_pointed_at_and_the_chosen_one_says_so(clnp: Callable[..., RecordedRun]) -> None:
    _, figure = items(clnp(searched()))
    spots = re.findall(r"<title>(.*?)</title>", figure.svg)
    assert "layer 1, task 1: 80 neurons claimed, 0.00 points lost" in spots
    assert "layer 1, task 1: 30 neurons claimed, 1.00 points lost, chosen" in spots
    # Of 50 units kept the first task had claimed 30.
    assert "layer 1, task 2: 20 neurons claimed, 2.00 points lost, chosen" in spots
    # 70 points are far below what was chosen, and cut off.
    assert len(spots) == 3


def test_one_threshold_for_all_groups_has_one_panel(clnp: Callable[..., RecordedRun]) -> None:
    _, figure = items(clnp(searched(ALL_GROUPS)))
    assert "all groups, task 1: 30 neurons claimed, 1.00 points lost, chosen" in figure.svg


def test_runs_that_did_not_record_their_search_have_neither(
    recorded_run: Callable[..., RecordedRun], counted: Callable[..., pd.DataFrame]
) -> None:
    rows = [(1, "layer_1", "neuron", 100, 70, 30, 0), (2, "layer_1", "neuron", 100, 50, 20, 10)]
    report = compose(select([replace(recorded_run("clnp"), capacity=counted(rows))], SUITE), SUITE)
    names = [item.name for item in report.items]
    assert any(name.startswith("capacity") for name in names)
    assert not any("trade-off" in name or "margin" in name for name in names)
