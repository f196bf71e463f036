"""Recorded runs against the published numbers and against our own goals.

Both stand in `baselines/published.toml`. A published value and ours agree (`inside`) if they overlap: ours with its
95 % confidence interval, theirs with its spread or, where none is given, with half a unit of its last digit. A goal
is what the suite's own setting must reach as the mean over the seeds recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from clbench.records import RecordedRun
from clbench.reports.formatting import percent
from clbench.reports.groups import Group, select
from clbench.reports.published import Goal, PublishedResult, goals, published_results
from clbench.reports.statistics import SEEDS_FOR_INTERVAL, Estimate

Relation = Literal["inside", "above", "below", ""]


@dataclass(frozen=True)
class Verdict:
    """What one group of runs shows.

    Attributes:
        label: the group's name.
        seeds: how many.
        average_accuracy: ours.
        published: the literature's, None where there is none.
        relation: where ours lies; empty without a published value.
        goal: None where there is none.
        misses: a sentence for each part of the goal that is not reached.
    """

    label: str
    seeds: int
    average_accuracy: Estimate
    published: PublishedResult | None
    relation: Relation
    goal: Goal | None
    misses: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """All verdicts of a suite, and the methods that have a goal or a published value but no run."""

    verdicts: tuple[Verdict, ...]
    not_recorded: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether no goal was missed."""
        return not any(verdict.misses for verdict in self.verdicts)


def verify(runs: Sequence[RecordedRun], suite: str) -> Verification:
    """Compares the suite's own (unmodified, finished) runs with what was published and with the goals."""
    published: dict[str, PublishedResult] = {}
    for result in published_results(suite):
        published.setdefault(result.method, result)
    wanted = {goal.method: goal for goal in goals(suite)}
    groups = [group for group in select(runs, suite).groups if not group.is_modified]
    verdicts = []
    for group in groups:
        ours = group.metric("average_accuracy")
        assert ours is not None  # a finished run has its last row
        known, goal = published.get(group.method), wanted.get(group.method)
        verdicts.append(
            Verdict(
                group.label,
                len(group.runs),
                ours,
                known,
                _relation(ours, known),
                goal,
                tuple(_misses(group, ours, goal)) if goal else (),
            )
        )
    recorded = {group.method for group in groups}
    return Verification(tuple(verdicts), tuple(sorted((published.keys() | wanted.keys()) - recorded)))


def _relation(ours: Estimate, known: PublishedResult | None) -> Relation:
    if known is None:
        return ""
    slack = float(known.spread or known.last_digit / 2) + (ours.half_width or 0.0)
    difference = ours.mean - float(known.average_accuracy)
    if abs(difference) <= slack:
        return "inside"
    return "above" if difference > 0 else "below"


def _misses(group: Group, ours: Estimate, goal: Goal) -> list[str]:
    misses = []
    if ours.mean < float(goal.average_accuracy):
        misses.append(f"average accuracy {percent(ours.mean, 3)} % is below {percent(float(goal.average_accuracy))} %")
    forgetting = group.metric("forgetting")
    if goal.no_forgetting and (forgetting is None or max(forgetting.values) > 0):
        misses.append("forgetting is not exactly 0 in every run")
    capacity = group.capacity
    for layer, share in enumerate(goal.free_share, start=1):
        rows = capacity[capacity["layer"] == layer] if len(capacity) else capacity
        if not len(rows):
            misses.append(f"no free neurons are recorded for layer {layer}")
            continue
        last = rows.loc[rows["task"].idxmax()]
        free = float(last["free"]) / float(last["neurons"])
        if free < float(share):
            misses.append(f"{percent(free, 1)} % of layer {layer} is free, below {percent(float(share), 1)} %")
    return misses


def verification_table(found: Verification) -> Table:
    """One row per group of runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True, overflow="fold")
    for heading in ("seeds", "published, %", "ours, %"):
        table.add_column(heading, justify="right")
    table.add_column("ours is")
    table.add_column("goal, %", justify="right")
    table.add_column("goal reached")
    for verdict in found.verdicts:
        ours = verdict.average_accuracy
        interval = "" if ours.half_width is None else f" ± {percent(ours.half_width)}"
        cells = [
            verdict.label,
            str(verdict.seeds),
            verdict.published.percent if verdict.published else "-",
            percent(ours.mean) + interval,
            verdict.relation or "-",
            f"{verdict.goal.average_accuracy.scaleb(2):f}" if verdict.goal else "-",
            ("no" if verdict.misses else "yes") if verdict.goal else "-",
        ]
        table.add_row(*map(Text, cells))
    if any(verdict.average_accuracy.half_width is None for verdict in found.verdicts):
        table.caption = Text(f"± is the 95 % interval over seeds; there is none below {SEEDS_FOR_INTERVAL} seeds")
        table.caption_justify = "left"
    return table
