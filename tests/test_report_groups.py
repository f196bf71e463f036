"""Reports on groups of filters, weights and neurons: their names, their units, and no sum over different ones."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import pytest

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.groups import select
from clbench.reports.compose import compose
from clbench.reports.figures.capacity import MOST_GROUPS
from clbench.reports.formatting import group_words
from clbench.reports.model import Figure, Section, Table

SUITE = "permuted-mnist"
MIXED = (("conv1+conv2", "filter"), ("layer_2", "neuron"), ("head", "weight"))
FILTERS = tuple((f"conv{number}", "filter") for number in (2, 10, 1))


@pytest.fixture
def counting(
    recorded_run: Callable[..., RecordedRun], counted: Callable[..., pd.DataFrame]
) -> Callable[..., RecordedRun]:
    """(groups, seed, tasks) -> a run that counted these groups, a tenth of each claimed by every task."""

    def make(groups: Sequence[tuple[str, str]], seed: int = 0, tasks: int = 2) -> RecordedRun:
        rows = [
            (task, group, unit, 100, 100 - 10 * task, 10, 0) for task in range(1, tasks + 1) for group, unit in groups
        ]
        return replace(recorded_run("clnp", seed), capacity=counted(rows))

    return make


def capacity_of(runs: Sequence[RecordedRun]) -> Section:
    (section,) = (s for s in compose(select(runs, SUITE), SUITE).sections if s.name == "capacity")
    return section


def table_of(section: Section) -> Table:
    (found,) = (item for item in section.items if isinstance(item, Table))
    return found


def figures_of(section: Section) -> list[Figure]:
    return [item for item in section.items if isinstance(item, Figure)]


def spots(figure: Figure) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", figure.svg)


def test_a_layer_is_called_by_its_number_and_any_other_group_by_its_name() -> None:
    assert [group_words(name) for name in ("layer_1", "layer_12", "layer_a", "conv1+conv2", "layer4.0.conv1")] == [
        "layer 1",
        "layer 12",
        "layer_a",
        "conv1+conv2",
        "layer4.0.conv1",
    ]


def test_groups_of_one_unit_stand_in_the_order_of_the_record_with_the_unit_in_the_heading(
    counting: Callable[..., RecordedRun],
) -> None:
    section = capacity_of([counting(FILTERS, seed) for seed in range(3)])
    table = table_of(section)
    headings = [column.heading for column in table.columns]
    assert headings == ["Group", "Task", "Filters", "Used", "Free", "Free, %", "New", "Reused"]
    assert [row[0].text for row in table.rows] == ["conv2", "conv2", "conv10", "conv10", "conv1", "conv1"]
    assert [row[1].text for row in table.rows] == ["1", "2"] * 3
    assert "neuron" not in str(section).replace("neurons or", "")
    bars, reuse, *_ = figures_of(section)
    assert bars.caption.startswith("clnp: filters by group and task, mean over seeds. Free after the last task: conv2")
    assert "conv10, task 1: 10.0 newly claimed" in spots(bars)
    assert "conv1, task 2: 0.0 %" in spots(reuse)


def test_units_of_several_kinds_are_told_apart_and_never_added(counting: Callable[..., RecordedRun]) -> None:
    section = capacity_of([counting(MIXED, tasks=6)])
    table = table_of(section)
    assert [column.heading for column in table.columns] == [
        *("Group", "Task", "Of", "Units", "Used", "Free", "Free, %", "New", "Reused")
    ]
    of_task_1 = [[cell.text for cell in row[:4]] for row in table.rows if row[1].text == "1"]
    assert of_task_1 == [
        ["conv1+conv2", "1", "filters", "100"],
        ["layer 2", "1", "neurons", "100"],
        ["head", "1", "weights", "100"],
    ]
    notes = " ".join(table.notes)
    assert "conv1+conv2: full after 10 tasks" in notes
    assert (
        "Layer 2: full after 10 tasks (95 % prediction interval: 10 to 10); the next task is expected to claim" in notes
    )
    assert [note.rpartition(" ")[2] for note in table.notes[:3]] == ["filters.", "neurons.", "weights."]
    assert "% of a layer's units are free" in notes
    (filling,) = (figure for figure in figures_of(section) if figure.name.endswith("-forecast"))
    assert "conv1+conv2, 10 tasks: 0.0 % free expected" in spots(filling)


def test_what_the_method_does_have_is_shown(counting: Callable[..., RecordedRun]) -> None:
    run = counting(FILTERS)
    run = replace(run, capacity=run.capacity.assign(threshold=0.125))
    headings = [column.heading for column in table_of(capacity_of([run])).columns]
    assert "Threshold" in headings
    assert "Margin spent, points" not in headings


def test_many_groups_are_drawn_on_several_figures_that_fit_on_a_page(counting: Callable[..., RecordedRun]) -> None:
    groups = [(f"stage{number}.conv1+stage{number}.conv2", "filter") for number in range(2 * MOST_GROUPS + 1)]
    bars = [figure for figure in figures_of(capacity_of([counting(groups)])) if "Stacked bars" in figure.alt]
    assert [figure.name for figure in bars] == ["capacity-1", "capacity-1-2", "capacity-1-3"]
    assert "(2 of 3)" in bars[1].caption
    drawn = [{spot.partition(",")[0] for spot in spots(figure)} for figure in bars]
    assert [len(names) for names in drawn] == [MOST_GROUPS, MOST_GROUPS, 1]
    assert set.union(*drawn) == {name for name, _ in groups}
    heights = [float(re.search(r'height="([\d.]+)pt"', figure.svg)[1]) for figure in bars]  # type: ignore[index]
    assert max(heights) < 600


@pytest.mark.parametrize(
    ("change", "said"), [({"numbers": "0.2.0"}, "clbench=0.2.0"), ({"method_numbers": 1}, "numbers=1")]
)
def test_runs_of_other_numbers_are_not_averaged(
    recorded_run: Callable[..., RecordedRun], change: dict[str, object], said: str
) -> None:
    recorded = {"numbers": "0.1.0", "method_numbers": 0}
    runs = [recorded_run("ewc", 0, **recorded), recorded_run("ewc", 1, **recorded | change)]
    groups = select(runs, SUITE).groups
    assert [len(group.runs) for group in groups] == [1, 1]
    assert f"ewc {said}" in [group.label for group in groups]


def test_runs_of_another_version_with_the_same_numbers_are_averaged_and_marked(
    recorded_run: Callable[..., RecordedRun],
) -> None:
    recorded = {"numbers": "0.1.0", "method_numbers": 0}
    newer = {"versions": {"python": "3.11.0", "torch": "2.9.0", "clbench": "0.2.0"}}
    runs = [recorded_run("ewc", seed, **recorded) for seed in (0, 1)] + [recorded_run("ewc", 2, **recorded | newer)]
    (group,) = select(runs, SUITE).groups
    assert (len(group.runs), group.differs) == (3, "clbench=0.2.0")
