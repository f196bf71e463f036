"""Figures of what a method costs."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clbench.records.identity import recorded_settings
from clbench.reports.analysis.groups import Group
from clbench.reports.figures.accuracy import _least_of_the_leading
from clbench.reports.figures.canvas import Spot, draw_bars, legend, log_axis, mean, svg, task_axis, within
from clbench.reports.figures.looks import INK, line_of, look_of
from clbench.reports.formatting import byte_unit, counted, percent, readable_bytes, seconds
from clbench.reports.sections.inference import kinds
from clbench.suites.settings import base_name

# Letters at a point of a figure.
_LONGEST_BESIDE = 12


def costs(groups: Sequence[Group], name: str) -> str:
    """Training time per task, peak memory and extra state, one bar per group; one panel per recorded quantity."""
    wanted: list[tuple[str, str, str, Callable[[float], str]]] = [
        ("train_seconds", "median", "Training time (s per task)", seconds),
        ("peak_memory_bytes", "max", "Peak memory ({unit})", readable_bytes),
        ("state_bytes", "last", "Extra state ({unit})", readable_bytes),
    ]
    panels = []
    for column, over_tasks, label, show in wanted:
        bars = [(group, group.tasks(column, over_tasks)) for group in groups]
        means = [value.mean for _, value in bars if value is not None]
        if means:
            unit, size = byte_unit(max(means)) if "{unit}" in label else ("", 1.0)
            panels.append((bars, label.format(unit=unit), 1 / size, show))

    def draw(figure: Figure) -> list[Spot]:
        all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (bars, label, scale, show) in zip(all_axes, panels, strict=True):
            draw_bars(axes, bars, label, scale=scale, words=mean(show))
            axes.tick_params(axis="y", labelleft=axes is all_axes[0])
        return []

    return svg(draw, name, 0.24 * len(groups) + 0.7)


def state_growth(groups: Sequence[Group], name: str) -> str:
    """What each method keeps beside the weights, against tasks learned, mean over seeds."""
    curves = [(group, group.task_means("state_bytes")) for group in groups]
    known = [(group, curve) for group, curve in curves if not np.isnan(curve).all()]
    unit, size = byte_unit(max(float(np.nanmax(curve)) for _, curve in known))

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        spots = []
        for group, curve in known:
            tasks = np.arange(1, len(curve) + 1)
            axes.plot(tasks, curve / size, **line_of(group))
            spots += [
                Spot(
                    axes,
                    float(task),
                    value / size,
                    f"{group.label}, after {counted(int(task), 'task')}: {readable_bytes(value)}",
                )
                for task, value in zip(tasks, curve, strict=True)
                if not np.isnan(value)
            ]
        task_axis(axes, max(len(curve) for _, curve in known))
        axes.set_ylabel(f"Extra state ({unit})")
        legend(figure, [group for group, _ in known])
        return spots

    return svg(draw, name, 2.6)


@dataclass(frozen=True)
class Tradeoff:
    """A panel of accuracy against a cost.

    Attributes:
        label: of the cost's axis, with its unit.
        points: group, cost in that unit, average accuracy (a fraction), whether it is on the front of its kind.
        curves: whether settings of one method that differ in one alone are joined.
    """

    label: str
    points: tuple[tuple[Group, float, float, bool], ...]
    curves: bool = False


def tradeoffs(panels: Sequence[Tradeoff], name: str) -> str:
    """Accuracy against each cost, and close up; rings and lines mark the fronts of both kinds of method."""
    close = _least_of_the_leading([group for group, *_ in panels[0].points])
    accuracies = [100 * accuracy for _, _, accuracy, _ in panels[0].points]
    leading = [value for value in accuracies if value > close]
    span = max(accuracies) - min(leading)
    close_up = len(leading) > 1 and max(accuracies) - min(accuracies) > 3 * span
    limits = [None, (min(leading) - 0.15 * span, max(accuracies) + 0.15 * span)] if close_up else [None]

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        grid = figure.subplots(len(limits), len(panels), squeeze=False, sharex="col", sharey="row")
        for row, limit in zip(grid, limits, strict=True):
            for axes, panel in zip(row, panels, strict=True):
                spots += _tradeoff(axes, panel)
                if limit:
                    axes.set_ylim(limit)
            row[0].set_ylabel("Average accuracy (%)")
        for axes, panel in zip(grid[-1], panels, strict=True):
            axes.set_xlabel(panel.label)
        if close_up:
            grid[0][0].set_title("all", loc="left")
            grid[1][0].set_title("close-up of the leading ones", loc="left")
        legend(figure, [group for group, *_ in panels[0].points], lines=False)
        return within(spots)

    return svg(draw, name, 5.0 if close_up else 3.0)


def _settings_of_methods(panel: Tradeoff) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The settings of a method that differ in one alone, and their costs and accuracies in per cent, by cost.

    Runs of other tasks, another network or another training make no curve.
    """
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for group, cost, accuracy, _ in panel.points:
        settings = recorded_settings(group.config)["method_settings"]
        for varied in settings:
            others = json.dumps({**settings, varied: None}, sort_keys=True)
            key = (base_name(group.method), group.circumstances, others)
            curves.setdefault(key, []).append((cost, 100 * accuracy))
    for (method, *_), found in curves.items():
        if len(found) > 1:
            yield method, sorted(found)


def _beside(group: Group) -> str:
    """What tells a group from others of its method: short enough to stand at its point, else nothing."""
    words = group.label.removeprefix(group.method).strip(" ()")
    return words if len(words) <= _LONGEST_BESIDE else ""


def _tradeoff(axes: Axes, panel: Tradeoff) -> list[Spot]:
    spots = []
    on_fronts = {group.label: (cost, 100 * accuracy) for group, cost, accuracy, best in panel.points if best}
    for alike in kinds([group for group, *_ in panel.points]):
        labels = {group.label for group in alike}
        front = sorted(point for label, point in on_fronts.items() if label in labels)
        if front:
            costs, accuracies = zip(*front, strict=True)
            line = "-" if alike[0].is_told_the_task else "--"
            # From one point of the front to the next, what is reached at a cost stays until more is paid.
            axes.step(costs, accuracies, where="post", color=INK, linewidth=0.7, linestyle=line, zorder=1)
            ring: Any = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 0.7}
            axes.plot(costs, accuracies, "o", markersize=10, linestyle="", **ring)
    if panel.curves:
        for method, found in _settings_of_methods(panel):
            costs, accuracies = zip(*found, strict=True)
            axes.plot(costs, accuracies, color=look_of(method).colour, linewidth=0.9, linestyle=":", zorder=1)
    for group, cost, accuracy, _ in panel.points:
        axes.plot([cost], [100 * accuracy], **{**line_of(group), "linestyle": "", "markersize": 5.5})
        words = f"{group.label}: {percent(accuracy)} %, {panel.label} {cost:.3g}"
        spots.append(Spot(axes, cost, 100 * accuracy, words))
        axes.annotate(
            _beside(group),
            (cost, 100 * accuracy),
            xytext=(4, -6),
            textcoords="offset points",
            fontsize=5.5,
            color=look_of(group.method).colour,
            annotation_clip=True,
        )
    axes.margins(0.1)
    log_axis(axes, [cost for _, cost, *_ in panel.points])
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    return spots
