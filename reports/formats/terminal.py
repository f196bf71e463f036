"""The results as a table for the terminal, from the same groups as the report."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from clbench.records.naming import overridden
from clbench.records.reading import RecordedRun
from clbench.records.told import told
from clbench.reports.analysis.departures import OWN_SUITE, is_known
from clbench.reports.analysis.groups import are_mixed, select
from clbench.reports.analysis.statistics import Estimate
from clbench.reports.formatting import percent


def summary_table(runs: Sequence[RecordedRun], suite: str) -> Table:
    """One row per group of runs: seeds, average accuracy with its interval, forgetting, task known at test.

    A line is left empty between groups of other tasks, another network or another training.
    """
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("method")
    for heading in ("seeds", "average accuracy, %", "forgetting, points"):
        table.add_column(heading, justify="right")
    table.add_column("told the task", no_wrap=True)
    groups = select(runs, suite).groups
    notes = [] if is_known(suite) else [OWN_SUITE]
    if are_mixed(groups):
        notes.append("an empty line parts other tasks, networks or trainings, which cannot be held against each other")
    for before, group in zip([None, *groups], groups, strict=False):
        if before and before.circumstances != group.circumstances:
            table.add_row()
        if group.differs:
            notes.append(f"{group.label} has {group.differs}")
        if group.departures and not group.is_modified:
            notes.append(f"{group.label} is not what the suite has here: {', '.join(group.departures)}")
        cells = [
            group.label,
            str(len(group.runs)),
            _shown(group.metric("average_accuracy")),
            _shown(group.metric("forgetting")),
            told(group.config),
        ]
        # Text, not str: a name is not markup.
        table.add_row(*map(Text, cells))
    if said := overridden([group.config for group in groups], [group.label for group in groups]):
        notes.append(said)
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table


def _shown(value: Estimate | None) -> str:
    if value is None:
        return "n/a"
    interval = "" if value.half_width is None else f" ± {percent(value.half_width)}"
    return percent(value.mean) + interval
