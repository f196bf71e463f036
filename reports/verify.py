"""Recorded runs against the published numbers and against our own goals.

Both stand in the suite's file. Those of a user's suite are read from its records. A published value and ours agree
(`inside`) if they overlap: ours with its 95 % confidence interval, theirs with its spread or, where none is given, with
half a unit of its last digit. A goal is what the suite's own setting must reach as the mean over its seeds: fewer can
miss it, and reach it only so far.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.departures import OWN_SUITE, is_known
from clbench.reports.analysis.groups import Group, select
from clbench.reports.analysis.pruning import cost_on_test, margin_of
from clbench.reports.analysis.published import Goal, PublishedResult, goals, published_results
from clbench.reports.analysis.statistics import SEEDS_FOR_INTERVAL, Estimate
from clbench.reports.formatting import group_words, percent
from clbench.suites.files import find_suite
from clbench.suites.suite import Suite

# Far below what one image more or less is worth.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Verdict:
    """What one group of runs shows.

    Attributes:
        method: the group's.
        label: the group's name.
        differs: what sets it apart from other groups of the method; empty where there are none.
        seeds: how many.
        average_accuracy: ours.
        published: the literature's values.
        goal: None where there is none.
        misses: a sentence for each part of the goal that is not reached.
        waits: what else must be recorded before the goal is reached: methods that it stands beside, and their seeds.
    """

    method: str
    label: str
    differs: str
    seeds: int
    average_accuracy: Estimate
    published: tuple[PublishedResult, ...]
    goal: Goal | None
    misses: tuple[str, ...]
    waits: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all is recorded that the goal is about."""
        return self.goal is None or (self.seeds >= self.goal.seeds and not self.waits)

    @property
    def goal_reached(self) -> str:
        """In a word."""
        if self.goal is None:
            return "-"
        if self.misses:
            return "no"
        if self.is_complete:
            return "yes"
        return "so far" if self.seeds >= self.goal.seeds else f"so far ({self.seeds} of {self.goal.seeds} seeds)"


@dataclass(frozen=True)
class Verification:
    """What a suite's runs show.

    Attributes:
        verdicts: one per group of runs.
        not_recorded: the methods that the suite runs, or that have a goal or a published value, without a run.
        goals_without_runs: those of them that have a goal.
        other_settings: a sentence for each group of runs in a setting that the suite does not give its method here.
        left_out: how many runs of the suite were not looked at: modified, unfinished, trials of a search, or repeating
            a seed.
        remark: what to know about the suite; empty where there is nothing.
    """

    verdicts: tuple[Verdict, ...]
    not_recorded: tuple[str, ...]
    goals_without_runs: tuple[str, ...]
    other_settings: tuple[str, ...]
    left_out: int
    remark: str = ""

    @property
    def holds(self) -> bool:
        """Whether no goal was missed."""
        return not any(verdict.misses for verdict in self.verdicts)

    @property
    def is_complete(self) -> bool:
        """Whether all is recorded that the goals are about."""
        return not self.goals_without_runs and all(verdict.is_complete for verdict in self.verdicts)


def verify(runs: Sequence[RecordedRun], suite: str, stated: Suite | None = None) -> Verification:
    """Compares the suite's own finished runs with what was published and with the goals.

    Its own are those whose setting is the one that the suite gives the method here: neither modified nor from before a
    change of it. Where clbench has no such suite, its own are those that are not modified.

    Args:
        runs: recorded ones.
        suite: its name.
        stated: a user's suite as its file has it now; None takes what its newest run recorded of its goals.
    """
    published: dict[str, tuple[PublishedResult, ...]] = {}
    for result in published_results(suite, runs, stated):
        published[result.method] = (*published.get(result.method, ()), result)
    wanted = {goal.method: goal for goal in goals(suite, runs, stated)}
    selection = select(runs, suite)
    verdicts, other_settings, modified = [], [], 0
    own: list[tuple[Group, Estimate]] = []
    for group in selection.groups:
        if group.is_in_the_suites_setting:
            ours = group.metric("average_accuracy")
            assert ours is not None  # a finished run has its last row
            own.append((group, ours))
        elif group.is_modified:
            modified += len(group.runs)
        else:
            other_settings.append(f"{group.label} ({len(group.runs)}): {', '.join(group.departures)}")
    beside: dict[str, list[tuple[Group, Estimate]]] = {}
    for group, ours in own:
        beside.setdefault(group.method, []).append((group, ours))
    for group, ours in own:
        goal = wanted.get(group.method)
        verdicts.append(
            Verdict(
                group.method,
                group.label,
                group.differs,
                len(group.runs),
                ours,
                # A variant stands beside what is published for its method, but is not held to its goal.
                published.get(group.name_among(published), ()),
                goal,
                tuple([*_misses(group, ours, goal), *_misses_beside(group, ours, goal, beside)]) if goal else (),
                tuple(_waits(goal, beside)) if goal else (),
            )
        )
    recorded = {verdict.method for verdict in verdicts}
    methods = {*find_suite(suite).methods} if is_known(suite) else set()
    return Verification(
        tuple(verdicts),
        tuple(sorted((published.keys() | wanted.keys() | methods) - recorded)),
        tuple(sorted(wanted.keys() - recorded)),
        tuple(other_settings),
        modified + len(selection.left_out),
        "" if is_known(suite) else OWN_SUITE,
    )


def _misses(group: Group, ours: Estimate, goal: Goal) -> list[str]:
    misses = [*_misses_of_accuracy(ours, goal)]
    if goal.no_forgetting:
        misses += [
            f"the accuracy on task {task} changed after it was learned (seed {run.seed})"
            for run in group.runs
            for task in _changed_tasks(run)[:1]
        ]
    misses += _misses_of_capacity(group.capacity_used, goal)
    capacity = group.capacity
    groups = list(dict.fromkeys(capacity["group"])) if len(capacity) else []
    for number, share in enumerate(goal.free_share, start=1):
        if number > len(groups):
            misses.append(f"no free neurons are recorded for layer {number}")
            continue
        rows = capacity[capacity["group"] == groups[number - 1]]
        last = rows.loc[rows["task"].idxmax()]
        free, name = float(last["free"]) / float(last["units"]), group_words(groups[number - 1])
        if free < float(share):
            misses.append(f"{percent(free, 1)} % of {name} is free, below {percent(float(share), 1)} %")
    return misses


def _misses_of_accuracy(ours: Estimate, goal: Goal) -> Iterator[str]:
    if goal.average_accuracy is None:
        return
    # The mean of ten times 0.976 is a little less than 0.976.
    least = float(goal.average_accuracy - (goal.within or 0))
    if ours.mean < least - _ROUNDING:
        yield f"average accuracy {percent(ours.mean, 3)} % is below {percent(least)} %"
    most = math.inf if goal.within is None else float(goal.average_accuracy + goal.within)
    if ours.mean > most + _ROUNDING:
        yield f"average accuracy {percent(ours.mean, 3)} % is above {percent(most)} %"


def _misses_of_capacity(ours: Estimate | None, goal: Goal) -> Iterator[str]:
    if goal.capacity_used is None and goal.capacity_below is None:
        return
    if ours is None:
        yield "its CAP is not recorded"
        return
    wanted, within, found = goal.capacity_used, float(goal.capacity_within), f"CAP is {percent(ours.mean, 1)} %"
    if wanted is not None and abs(ours.mean - float(wanted)) > within + _ROUNDING:
        yield f"{found}, more than {percent(within, 1)} points from {percent(float(wanted), 1)} %"
    if goal.capacity_below is not None and ours.mean >= float(goal.capacity_below):
        yield f"{found}, not below {percent(float(goal.capacity_below), 1)} %"


def _waits(goal: Goal, beside: Mapping[str, list[tuple[Group, Estimate]]]) -> Iterator[str]:
    """Others that are not recorded. To be above one by more than both intervals, it takes as many seeds of either."""
    for method in goal.beside:
        seeds = max((len(other.runs) for other, _ in beside.get(method, [])), default=0)
        if not seeds:
            yield method
        elif method in goal.above and seeds < goal.seeds:
            yield f"{method} ({seeds} of {goal.seeds} seeds)"


def _misses_beside(
    group: Group, ours: Estimate, goal: Goal, beside: Mapping[str, list[tuple[Group, Estimate]]]
) -> Iterator[str]:
    """What of a goal is missed beside each group of other methods, by their means, and beside the margin."""
    for method in goal.beside:
        for other, theirs in beside.get(method, []):
            found = (
                f"average accuracy {percent(ours.mean, 3)} % is {{}} that of {other.label}, {percent(theirs.mean, 3)} %"
            )
            if method in goal.not_below and ours.mean < theirs.mean - _ROUNDING:
                yield found.format("below")
            slack = (ours.half_width or 0.0) + (theirs.half_width or 0.0)
            if method in goal.above and ours.mean <= theirs.mean + slack:
                yield f"{found.format('not above')}, by more than both intervals, {percent(slack, 3)} points"
    if goal.within_margin:
        cost, margin = cost_on_test(group.runs), margin_of(group.config) or 0.0
        if cost is None:
            yield "what pruning cost on test images is not recorded"
        elif 100 * (cost.mean - (cost.half_width or 0.0)) > margin:
            yield (
                f"pruning and fine-tuning cost {percent(cost.mean)} ± {percent(cost.half_width or 0.0)} points on test "
                f"images, above the margin of {margin:g}"
            )


def _changed_tasks(run: RecordedRun) -> list[int]:
    """The tasks that were ever tested with another accuracy than right after they were learned.

    Not a mean over tasks, in which what one gains makes up for what another loses.
    """
    learned = run.accuracy_matrix[1:]  # [T, T]; the first row is the untrained network
    return [task for task in range(1, len(learned)) if np.any(learned[task:, task - 1] != learned[task - 1, task - 1])]


def _goal_words(goal: Goal | None) -> str:
    if goal is None:
        return "-"
    if goal.average_accuracy is None:
        return _beside(goal) or "-"
    within = "" if goal.within is None else f", within {goal.within.scaleb(2):f}"
    return f"{goal.average_accuracy.scaleb(2):f}{within}{', and more' if _beside(goal) else ''}"


def _beside(goal: Goal) -> str:
    """The methods that it is to exceed, or to reach."""
    return ", ".join([*(f"> {name}" for name in goal.above), *(f">= {name}" for name in goal.not_below)])


def verification_table(found: Verification) -> Table:
    """One row per group of runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True, overflow="fold")
    for heading in ("seeds", "published, %", "ours, %"):
        table.add_column(heading, justify="right", no_wrap=True)
    # Where the screen is narrow it is the goals that take a second line.
    table.add_column("ours is", min_width=len("inside"))
    table.add_column("goal, %", justify="right", min_width=len("within 0.3"))
    table.add_column("goal reached", min_width=len("reached"))
    for verdict in found.verdicts:
        ours = verdict.average_accuracy
        interval = "" if ours.half_width is None else f" ± {percent(ours.half_width)}"
        cells = [
            verdict.label,
            str(verdict.seeds),
            ", ".join(result.percent for result in verdict.published) or "-",
            percent(ours.mean) + interval,
            ", ".join(result.relation(ours) for result in verdict.published) or "-",
            _goal_words(verdict.goal),
            verdict.goal_reached,
        ]
        table.add_row(*map(Text, cells))
    notes = [found.remark] if found.remark else []
    if any(verdict.average_accuracy.half_width is None for verdict in found.verdicts):
        notes.append(f"± is the 95 % interval over seeds; there is none below {SEEDS_FOR_INTERVAL} seeds")
        notes.append("without one, above and below compare the mean alone")
    for verdict in found.verdicts:
        goal = verdict.goal
        if goal is not None and goal.average_accuracy is not None and (beside := _beside(goal)):
            notes.append(f"the goal of {verdict.label} is also {beside}")
    notes += [f"{verdict.label} has {verdict.differs}" for verdict in found.verdicts if verdict.differs]
    for verdict in found.verdicts:
        others = {result.method for result in verdict.published} - {verdict.method}
        notes += [f"{verdict.label} stands beside what is published for {name}" for name in sorted(others)]
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table
