"""The section on accuracy along the stream: curves per task, forgetting, accuracy matrices."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from clbench.reports import figures
from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.statistics import estimate
from clbench.reports.cells import accuracy_cell, points_cell
from clbench.reports.formatting import signed_percent
from clbench.reports.model import Cell, Column, Figure, Section, Table
from clbench.reports.sections.headline import listed


def accuracy_section(groups: Sequence[Group], mark: str) -> Section:
    """Figures and a table of what happens while tasks are learned."""
    return Section("accuracy", "Accuracy over the stream", (), tuple(_items(groups, mark)))


def stream_table(groups: Sequence[Group], name: str, mark: str) -> Table:
    """Transfer, and accuracy at particular points of the stream."""
    return Table(
        name,
        f"{mark}Transfer, and accuracy along the stream",
        (
            Column("Method", "text", 1.6),
            Column("Backward transfer, points", width=1.2),
            Column("Forward transfer, points", width=1.2),
            Column("Learning accuracy, %", width=1.2),
            Column("Average incremental accuracy, %", width=1.3),
            Column("Task 1 in the end, %", width=1.2),
            Column("Last task, %", width=1.2),
        ),
        tuple(
            (
                Cell(group.label),
                points_cell(group.metric("backward_transfer"), signed_percent),
                points_cell(group.metric("forward_transfer"), signed_percent),
                accuracy_cell(group.metric("learning_accuracy")),
                accuracy_cell(group.metric("average_incremental_accuracy")),
                accuracy_cell(estimate(group.matrices[:, -1, 0])),
                accuracy_cell(estimate(group.matrices[:, -1, -1])),
            )
            for group in groups
        ),
    )


def _items(groups: Sequence[Group], mark: str) -> Iterator[Table | Figure]:
    tasks = min(group.matrices.shape[2] for group in groups)
    same_tasks = all(group.matrices.shape[2] == tasks for group in groups)
    yield stream_table(groups, "stream", mark)
    if same_tasks:
        first_task = listed(groups, lambda group: group.matrices[:, -1, 0])
        yield Figure(
            "trajectories",
            f"{mark}Accuracy on each task from when it is learned to the end (mean and range of seeds"
            f"{'' if tasks <= figures.MOST_PANELS else f'; {figures.MOST_PANELS} of the {tasks} tasks'}).",
            f"{mark}A small line chart per task of the accuracy on it against tasks learned. Task 1 after the last "
            f"task: {first_task}.",
            partial(figures.trajectories, groups, "trajectories"),
        )
    # A method that was not measured before the end has nothing to forget.
    forgetful = [group for group in groups if group.metric("forgetting") is not None]
    if tasks > 1 and forgetful:
        lost = listed(forgetful, lambda group: group.forgetting_per_task)
        yield Figure(
            "forgetting",
            f"{mark}Left: what each task has lost after the last one, from its best accuracy before (mean and range of "
            "seeds). Right: the mean over tasks ± half the 95 % confidence interval.",
            f"{mark}Line chart of forgetting by task, and bars of its mean in percentage points: "
            f"{lost.replace(' %', '')}.",
            partial(figures.forgetting, forgetful, "forgetting"),
        )
    lowest = 10 * math.floor(min(10 * float(np.nanmin(group.matrices[:, 1:])) for group in groups))
    pairs = range(0, len(groups), figures.MATRICES_PER_FIGURE)
    for number, start in enumerate(pairs, start=1):
        shown = groups[start : start + figures.MATRICES_PER_FIGURE]
        labels = " and ".join(group.label for group in shown)
        key = "; right of the step line are tasks not yet learned, blank is not measured" if number == 1 else ""
        yield Figure(
            f"matrices-{number}",
            f"{mark}Accuracy matrices in per cent, mean over seeds ({number} of {len(pairs)}): {labels}{key}.",
            f"{mark}Heat maps of test accuracy by tasks learned and task tested, on one colour scale from {lowest} "
            f"to 100 %: {labels}.",
            partial(figures.accuracy_matrices, shown, f"matrices-{number}", lowest),
        )
