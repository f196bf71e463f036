"""Two methods, or two runs, laid side by side: a table for the terminal, and a report on the pair."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

import numpy as np
import rich.table
from rich.text import Text

from clbench.errors import RecordError, SettingError
from clbench.records.identity import FEWEST_DIGITS, recorded_settings
from clbench.records.naming import has_settings
from clbench.records.reading import RecordedRun
from clbench.reports import figures
from clbench.reports.analysis.departures import OWN_SUITE, is_known
from clbench.reports.analysis.groups import Group, select
from clbench.reports.analysis.statistics import SEEDS_FOR_INTERVAL, SIGNIFICANCE, PairedComparison, compare_paired, holm
from clbench.reports.cells import cost_cell
from clbench.reports.compose import newest_end
from clbench.reports.formatting import percent, plain, readable_bytes, seconds, setting, signed_percent
from clbench.reports.model import Cell, Column, Figure, Report, Section, Table
from clbench.reports.sections.bibliography import bibliography
from clbench.reports.sections.headline import headline_figure
from clbench.reports.sections.inference import BOOTSTRAP_NOTE, comparison_cells, p_cell
from clbench.reports.sections.provenance import provenance, threads_differ

_METRICS = {
    "average_accuracy": "Average accuracy",
    "forgetting": "Forgetting",
    "backward_transfer": "Backward transfer",
    "forward_transfer": "Forward transfer",
    "learning_accuracy": "Learning accuracy",
    "average_incremental_accuracy": "Average incremental accuracy",
}
_COSTS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("Training, s per task", "train_seconds", "median", seconds),
    ("Peak memory", "peak_memory_bytes", "max", readable_bytes),
    ("Extra state", "state_bytes", "last", readable_bytes),
)


@dataclass(frozen=True)
class Pair:
    """What is compared.

    Attributes:
        suite: the suite's name.
        first, second: one group each; of a single run where runs were asked for.
    """

    suite: str
    first: Group
    second: Group

    @property
    def shared_seeds(self) -> tuple[int, ...]:
        """The seeds that both have."""
        return tuple(sorted({run.seed for run in self.first.runs} & {run.seed for run in self.second.runs}))


def find_pair(runs: Sequence[RecordedRun], suite: str, first: str, second: str) -> Pair:
    """Finds what two names mean: a method, a group as the report labels it, or a run's id (or its beginning).

    `ewc strength=1000` means the only group of `ewc` with that setting, whatever else its label says by now.

    Raises:
        SettingError: if a name means nothing or several things, or both mean the same.
        RecordError: if no run of the suite is finished.
    """
    groups = select(runs, suite).groups
    if not groups:
        raise RecordError(f"no finished run of the suite '{suite}' was found; run it with: clbench run --suite {suite}")
    found = Pair(suite, _find(groups, first), _find(groups, second))
    if found.first.runs == found.second.runs:
        raise SettingError(f"'{first}' and '{second}' are the same runs; name two that differ")
    if found.first.matrices.shape[1:] != found.second.matrices.shape[1:]:
        raise SettingError(f"'{first}' and '{second}' learned different numbers of tasks and cannot be compared")
    return found


def _find(groups: Sequence[Group], name: str) -> Group:
    labelled = [group for group in groups if group.label == name]
    if labelled:
        return labelled[0]
    # Labels change as runs are added. What one says stays true of its group.
    method, *wanted = name.split() or [""]
    meant = [group for group in groups if group.method == method and has_settings(group.config, wanted)]
    if len(meant) == 1 and (wanted or not meant[0].is_modified):
        return meant[0]
    if meant:
        labels = ", ".join(f"'{group.label}'" for group in meant)
        said = "several groups of runs" if len(meant) > 1 else "no run in the suite's own setting"
        raise SettingError(f"'{name}' has {said}; name one of {labels}, or the id of a run")
    if len(name) >= FEWEST_DIGITS:
        single = [(group, run) for group in groups for run in group.runs if run.run_id.startswith(name)]
        if len(single) == 1:
            group, run = single[0]
            return Group(group.method, f"{group.label} seed {run.seed}", group.differs, group.variant, (run,))
    nearest = get_close_matches(name, [group.label for group in groups], n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    labels = ", ".join(group.label for group in groups)
    raise SettingError(
        f"no finished run of '{name}' is recorded: {hint}expected one of {labels}, or the id of a finished run"
    )


@dataclass(frozen=True)
class MetricComparison:
    """One metric of a pair: its heading, the comparison (None where undefined), and its corrected p."""

    heading: str
    comparison: PairedComparison | None
    corrected_p: float | None


def compare_metrics(pair: Pair) -> list[MetricComparison]:
    """Every metric of the pair on its shared seeds.

    Average accuracy, the first, is the question asked beforehand, so its p stays as it is; the others are corrected for
    their number.
    """
    found = [
        (heading, compare_paired(pair.first.by_seed(name), pair.second.by_seed(name)))
        for name, heading in _METRICS.items()
    ]
    p_values = [None if item is None else item.p for _, item in found]
    corrected = iter(holm([p for p in p_values[1:] if p is not None]))
    return [
        MetricComparison(heading, item, p if number == 0 or p is None else next(corrected))
        for number, ((heading, item), p) in enumerate(zip(found, p_values, strict=True))
    ]


def verdict(pair: Pair) -> str:
    """One sentence on average accuracy."""
    names = f"{pair.first.label} and {pair.second.label}"
    comparison = compare_metrics(pair)[0]
    found = comparison.comparison
    if found is None:
        means = [group.average_accuracy for group in (pair.first, pair.second)]
        shown = " % against ".join(map(percent, means))
        return f"{names} share no seed, so nothing is paired or tested: {shown} %."
    size = f"{signed_percent(found.difference.mean)} points of average accuracy"
    if found.difference.half_width is None or comparison.corrected_p is None:
        count = len(found.seeds)
        return (
            f"{pair.first.label} less {pair.second.label}: {size} on {count} shared seed{'' if count == 1 else 's'}; "
            f"below {SEEDS_FOR_INTERVAL} there is no interval and no test."
        )
    mean, said = found.difference.mean, p_cell(comparison.corrected_p).text
    test = f"95 % interval ± {percent(found.difference.half_width)}, p {said}, {len(found.seeds)} shared seeds"
    if comparison.corrected_p < SIGNIFICANCE:
        distance = f"{percent(abs(mean))} points of average accuracy {'above' if mean > 0 else 'below'}"
        return f"{pair.first.label} is {distance} {pair.second.label} ({test})."
    return f"{names} are not shown to differ: the first less the second is {size} ({test})."


def _unlike(pair: Pair) -> Iterator[str]:
    """What makes the two no like for like, and what they can't be held against."""
    told, untold = (
        [group.label for group in (pair.first, pair.second) if group.is_told_the_task is kind] for kind in (True, False)
    )
    if told and untold:
        yield f"{told[0]} is told the task at test and {untold[0]} is not, so {told[0]} has the easier problem."
    for group in (pair.first, pair.second):
        if group.is_modified:
            yield f"{group.label} is not the suite's own setting: {group.overrides}."
    if not is_known(pair.suite):
        yield OWN_SUITE
    yield from threads_differ((pair.first, pair.second))


def comparison_table(pair: Pair) -> rich.table.Table:
    """The comparison for the terminal; the page has more."""
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("% or points")
    for heading in (pair.first.label, pair.second.label, "difference", "g", "p, corrected"):
        table.add_column(Text(heading), justify="right")
    places = [0, 1, 2, 4, 6, 8]
    shown = _metrics_table(pair)
    for row in shown.rows:
        # Text, not str: a name is not markup.
        table.add_row(*(Text(f"{row[place].text} {row[place].detail}".strip()) for place in places))
    table.caption = Text(f"{shown.notes[0]}\n\n{' '.join([verdict(pair), *_unlike(pair)])}")
    table.caption_justify = "left"
    return table


def compose_comparison(pair: Pair) -> Report:
    """The report on a pair."""
    groups = (pair.first, pair.second)
    settings = pair.first.config.get("suite_settings") or {}
    title = pair.first.config.get("title") or settings.get("title") or pair.suite
    marks = "Modified runs. " if any(group.is_modified for group in groups) else ""
    items: list[Table | Figure] = []
    if pair.shared_seeds:
        items.append(_task_figure(pair, marks))
    items.append(_costs_table(groups, marks))
    items.append(_settings_table(groups))
    return Report(
        suite=pair.suite,
        title=f"{pair.first.label} and {pair.second.label}",
        dated=newest_end([run for group in groups for run in group.runs]),
        summary=(f"{marks}{title}, suite {pair.suite}.", verdict(pair), *_unlike(pair)),
        headline=(headline_figure(groups, "average-accuracy", marks), _metrics_table(pair, marks)),
        sections=(
            Section("details", "What differs", (), tuple(items)),
            Section("provenance", "Provenance", (), provenance(groups)),
        ),
        bibliography=bibliography(groups),
    )


def _metrics_table(pair: Pair, mark: str = "") -> Table:
    def mean(group: Group, name: str) -> Cell:
        found = group.metric(name)
        return Cell("n/a") if found is None else Cell(percent(found.mean), "", 100 * found.mean)

    names = list(_METRICS)
    return Table(
        "comparison",
        f"{mark}{pair.first.label} less {pair.second.label}, on shared seeds",
        (
            Column("Metric, % or points", "text", 1.8),
            Column(pair.first.label),
            Column(pair.second.label),
            Column("Shared seeds", width=0.8),
            Column("Difference, points", width=1.2),
            Column("BCa interval", width=1.4),
            Column("Hedges' g", width=0.9),
            Column("p", width=0.8),
            Column("p, corrected", width=0.9),
        ),
        tuple(
            (
                Cell(item.heading),
                mean(pair.first, name),
                mean(pair.second, name),
                *comparison_cells(item.comparison, item.corrected_p),
            )
            for name, item in zip(names, compare_metrics(pair), strict=True)
        ),
        (
            "Means are over all seeds of each, differences over the shared seeds, with Student's 95 % interval; p: "
            "paired t test, two-sided. Average accuracy is the question, so its p is not corrected; the others are, "
            "by Holm for their number. Not shown to differ is not shown to be equal.",
            BOOTSTRAP_NOTE,
        ),
    )


def _task_figure(pair: Pair, mark: str) -> Figure:
    by_seed = [{run.seed: run.accuracy_matrix[-1] for run in group.runs} for group in (pair.first, pair.second)]
    differences = 100 * np.stack([by_seed[0][seed] - by_seed[1][seed] for seed in pair.shared_seeds])
    means = ", ".join(f"{mean:+.2f}".replace("-", "−") for mean in differences.mean(axis=0))
    return Figure(
        "task-differences",
        f"{mark}{pair.first.label} less {pair.second.label}: accuracy on each task after the last one. Bars are means "
        "over the shared seeds, dots the seeds.",
        f"{mark}Bars of the difference in final accuracy by task, in points: {means}.",
        partial(figures.task_differences, pair.first, pair.second, differences, "task-differences"),
    )


def _costs_table(groups: tuple[Group, Group], mark: str) -> Table:
    def rows() -> Iterator[tuple[Cell, ...]]:
        for heading, column, over, show in _COSTS:
            found = [group.tasks(column, over) for group in groups]
            first, second = found
            ratio = Cell("n/a")
            if first is not None and second is not None and second.mean:
                ratio = Cell(f"{first.mean / second.mean:.2f}", "", first.mean / second.mean)
            cells = [cost_cell(group, column, over, show) for group in groups]
            yield (Cell(heading), *cells, ratio)

    return Table(
        "costs",
        f"{mark}Time and memory, mean over seeds",
        (Column("Cost", "text", 1.8), *(Column(group.label) for group in groups), Column("Ratio")),
        tuple(rows()),
        ("Times compare only where device, threads and host are the same: see Provenance.",),
    )


def _settings_table(groups: tuple[Group, Group]) -> Table:
    """Every setting in which the two differ."""
    settings = []
    for group in groups:
        of_suite, of_method = recorded_settings(group.config).values()
        told = {
            "task known at test": plain(group.is_told_the_task),
            "precision": plain(group.config.get("precision")),
        }
        settings.append(of_suite | of_method | told)
    names = sorted(settings[0].keys() | settings[1].keys())
    rows = [
        (Cell(name), *(Cell(setting(each[name]) if name in each else "–") for each in settings))
        for name in names
        if settings[0].get(name) != settings[1].get(name)
    ]
    return Table(
        "settings-that-differ",
        "Settings in which the two differ",
        (Column("Setting", "text"), *(Column(group.label, "code") for group in groups)),
        tuple(rows),
        () if rows else ("None: the two have the same settings.",),
    )
