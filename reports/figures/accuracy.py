"""Figures of accuracy: by tasks learned, by task, and as matrices."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from clbench.reports.analysis.groups import Group
from clbench.reports.figures.canvas import (
    NARROW,
    Spot,
    draw_bars,
    each_seed,
    legend,
    log_axis,
    shortened,
    svg,
    task_axis,
    with_interval,
    within,
)
from clbench.reports.figures.looks import line_of
from clbench.reports.formatting import counted, seconds
from clbench.reports.sections.inference import is_upper_bound

MATRICES_PER_FIGURE = 2
_ON_LIGHT, _ON_DARK = "#262626", "#ffffff"  # on the colour map, which is the same on a dark page

_ANNOTATED_TASKS = 12
_POINTED_TASKS = 30  # beyond, hover values would be most of the page
MOST_PANELS = 12
CLOSE_UP = 10.0


def average_accuracy(groups: Sequence[Group], name: str, *, narrow: bool = False) -> str:
    """Average accuracy against tasks learned; a close-up beside it where the best lie too near each other.

    Narrow, the panels stand below each other.
    """
    curves = [100 * group.average_accuracy_curves for group in groups]
    close = _least_of_the_leading(groups)
    leading = [curve for curve in curves if curve[:, -1].mean() > close]
    finals = [group.metric("average_accuracy") for group in groups]
    intervals = [found for found in finals if found is not None and found.half_width is not None]
    ends = [(100 * (found.mean - found.half_width), 100 * (found.mean + found.half_width)) for found in intervals]
    ends_of_leading = [end for end, found in zip(ends, intervals, strict=True) if 100 * found.mean > close]
    lowest = min(float(np.nanmin(curve)) for curve in curves)
    # With room for the intervals, which are drawn beside the curves.
    lowest_leading = min([float(np.nanmin(curve)) for curve in leading] + [low for low, _ in ends_of_leading])
    highest = max([float(np.nanmax(curve)) for curve in curves] + [min(high, 100.0) for _, high in ends_of_leading])
    close_up = len(leading) > 1 and highest - lowest > 3 * (highest - lowest_leading)

    prices = [
        (group, found.mean) for group in groups if (found := group.tasks("train_seconds", "median")) and found.mean
    ]
    # A single point would say nothing that the table does not.
    prices = prices if len(prices) > 1 else []
    widths = [1.0] * (1 + close_up) + [0.8] * bool(prices)

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        if narrow:
            panels = list(figure.subplots(len(widths), 1, squeeze=False)[:, 0])
        else:
            panels = list(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
        all_panels = tuple(panels)
        priced = panels.pop() if prices else None
        for axes in panels:
            for group, curve in zip(groups, curves, strict=True):
                spots += each_seed(
                    axes, curve, group, lambda task, mean: f"after {counted(task, 'task')}: {mean:.2f} %"
                )
            task_axis(axes, curves[0].shape[1], most=6 if len(widths) > 2 and not narrow else 12)
        for axes in all_panels if narrow else panels[:1]:
            axes.set_ylabel("Average accuracy (%)")
        if close_up:
            room = 0.06 * (highest - lowest_leading)
            panels[1].set_ylim(lowest_leading - room, highest + room)
            panels[0].set_title("all", loc="left")
            panels[1].set_title("close-up of the leading ones", loc="left")
        if priced:
            if not close_up:
                # A close-up has room for the intervals already.
                panels[0].update_datalim([(1, end) for interval in ends for end in interval])
                panels[0].autoscale_view(scalex=False)
            priced.set_ylim(panels[-1].get_ylim())
            # Of the others a close-up would show the end of an interval at most.
            shown = [(group, price) for group, price in prices if not close_up or 100 * group.average_accuracy > close]
            spots += _priced(priced, shown)
            priced.tick_params(axis="y", labelleft=narrow)
            priced.set_title("these, at what cost" if close_up else "in the end, at what cost", loc="left")
            priced.set_xlabel("Training (s per task, log)")
        spots = within(spots)
        legend(figure, groups)
        return spots

    return svg(draw, name, 2.1 * len(widths) + 0.1 * len(groups) + 0.3, NARROW) if narrow else svg(draw, name, 3.3)


def _least_of_the_leading(groups: Sequence[Group]) -> float:
    """The average accuracy, in %, above which a group is in a close-up.

    It is on the best that is no upper bound, and among runs of several circumstances on the first of these.
    """
    first = [group for group in groups if group.circumstances == groups[0].circumstances]
    judged = [group for group in first if not is_upper_bound(group.method)] or first
    return 100 * max(group.average_accuracy for group in judged) - CLOSE_UP


def _priced(axes: Axes, prices: Sequence[tuple[Group, float]]) -> list[Spot]:
    """Final average accuracy with its 95 % interval, or every seed where there are too few for one, against seconds."""
    spots = []
    for group, price in prices:
        found = group.metric("average_accuracy")
        assert found is not None  # a finished run has its last row
        drawn: Any = {**line_of(group), "linestyle": ""}
        if found.half_width is None:
            axes.plot([price] * len(found.values), [100 * value for value in found.values], **drawn)
        else:
            axes.errorbar([price], [100 * found.mean], [100 * found.half_width], elinewidth=1, capsize=2, **drawn)
        words = f"{group.label}: {with_interval(found)} %, {seconds(price)} s per task"
        spots.append(Spot(axes, price, 100 * found.mean, words))
    log_axis(axes, [price for _, price in prices])
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    return spots


def trajectories(groups: Sequence[Group], name: str) -> str:
    """Accuracy on a task against tasks learned, one small panel per task, at most twelve, evenly chosen."""
    tasks = groups[0].matrices.shape[2]
    chosen = np.unique(np.linspace(0, tasks - 1, min(tasks, MOST_PANELS)).round().astype(int))
    columns = min(5 if len(chosen) in (5, 9, 10) else 4, len(chosen))
    rows = -(-len(chosen) // columns)

    def draw(figure: Figure) -> list[Spot]:
        spots: list[Spot] = []
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, task in zip(panels.flat, chosen, strict=False):
            for group in groups:
                spots += each_seed(
                    axes,
                    100 * group.matrices[:, 1:, task],
                    group,
                    partial(_trajectory_words, int(task) + 1),
                    from_task=int(task) + 1,
                    small=True,
                )
            axes.set_title(f"task {task + 1}", loc="left")
            task_axis(axes, tasks, most=5)
            axes.set_xlabel("")
        for axes in panels.flat[len(chosen) :]:
            axes.set_visible(False)
        for axes in panels[-1]:
            axes.set_xlabel("Tasks learned")
        for axes in panels[:, 0]:
            axes.set_ylabel("Accuracy (%)")
        legend(figure, groups)
        return spots

    return svg(draw, name, 1.35 * rows + 0.9)


def forgetting(groups: Sequence[Group], name: str) -> str:
    """What each task lost from its best accuracy to the end, and the mean of that by group."""
    means = [(group, group.metric("forgetting")) for group in groups]
    bars = [(group, value) for group, value in means if value is not None]

    def draw(figure: Figure) -> list[Spot]:
        ratios = [1.25, 1] if bars else [1]
        spots: list[Spot] = []
        panels = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        for group in groups:
            lost = 100 * group.forgetting_per_task
            spots += each_seed(panels[0], lost, group, lambda task, mean: f"task {task}: {mean:.2f} points forgotten")
        task_axis(panels[0], lost.shape[1])
        panels[0].set_xlabel("Task")
        panels[0].set_ylabel("Forgetting (percentage points)")
        if bars:
            # In two lines, for long names leave the panel little room.
            draw_bars(panels[1], bars, "Mean forgetting\n(percentage points)", scale=100, words=with_interval)
        legend(figure, groups)
        return spots

    return svg(draw, name, max(3.1, 0.22 * len(groups) + 1.2))


def accuracy_matrices(groups: Sequence[Group], name: str, lowest: float) -> str:
    """Accuracy matrices of one or two groups side by side, mean over seeds, coloured from `lowest` to 100 %."""

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        # By hand: finding room around so many small texts took a third of the time of a report.
        figure.set_layout_engine("none")
        place = {"left": 0.07, "right": 0.87, "bottom": 0.18, "top": 0.91, "wspace": 0.16}
        panels = figure.subplots(1, MATRICES_PER_FIGURE, squeeze=False, gridspec_kw=place)[0]
        scale = Normalize(lowest, 100)
        for axes, group in zip(panels, groups, strict=False):
            matrix = 100 * group.matrices[:, 1:, :].mean(axis=0)
            tasks = matrix.shape[1]
            few = tasks <= _ANNOTATED_TASKS
            mesh = axes.pcolormesh(matrix, cmap="cividis", norm=scale)
            # Seams between the cells would show in some viewers.
            mesh.set_edgecolor("face")
            mesh.set_linewidth(0.3)
            axes.invert_yaxis()
            for i, j in np.argwhere(~np.isnan(matrix)) if few else ():
                letters = _ON_LIGHT if scale(matrix[i, j]) > 0.6 else _ON_DARK
                entry = _matrix_entry(matrix[i, j])
                words = axes.text(j + 0.5, i + 0.5, entry, size=6.3, color=letters, ha="center", va="center")
                # They lie within the axes; asking each for its extent took half of the time of a figure.
                words.set_in_layout(False)
            step = 1 if few else 5
            numbers = np.arange(step, tasks + 1, step)
            axes.set_xticks(numbers - 0.5, [str(number) for number in numbers])
            axes.set_yticks(numbers - 0.5, [str(number) for number in numbers])
            # Right of the step line lie tasks that were not learned yet.
            steps = np.repeat(np.arange(tasks + 1), 2)
            axes.plot(steps[1:], steps[:-1], color="white", linewidth=1.4, clip_on=False)
            if tasks <= _POINTED_TASKS:
                spots += [
                    Spot(
                        axes,
                        j + 0.5,
                        i + 0.5,
                        f"{group.label}, task {j + 1} after {counted(i + 1, 'task')}: {matrix[i, j]:.2f} %",
                    )
                    for i, j in np.argwhere(~np.isnan(matrix))
                ]
            axes.set_title(shortened(group.label), loc="left")
            axes.tick_params(length=0, rotation=0)
            axes.set_xlabel("Tested on task")
            axes.set_ylabel("Tasks learned" if axes is panels[0] else "")
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        bar = figure.colorbar(
            ScalarMappable(scale, "cividis"), cax=figure.add_axes((0.895, 0.18, 0.016, 0.73)), label="Test accuracy (%)"
        )
        bar.outline.set_visible(False)
        if bar.solids is not None:
            # By default the bar is a bitmap, the only one in the report.
            bar.solids.set_rasterized(False)
            bar.solids.set_edgecolor("face")
        return spots

    return svg(draw, name, 2.35)


def _trajectory_words(task: int, learned: int, mean: float) -> str:
    return f"task {task} after {counted(learned, 'task')}: {mean:.2f} %"


def _matrix_entry(value: float) -> str:
    return "100" if value >= 99.95 else f"{value:.1f}"
