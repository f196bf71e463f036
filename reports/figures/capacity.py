"""Figures of what a network has left."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from clbench.reports.analysis.forecast import Forecast
from clbench.reports.analysis.groups import Group
from clbench.reports.figures.canvas import Spot, shortened, svg, task_axis
from clbench.reports.figures.looks import PAPER, line_of_group
from clbench.reports.formatting import group_words, units_words

_FARTHEST_FORECAST = 4
MOST_GROUPS = 9
"""Panels of a figure: more would not fit on a page."""


def capacity(group: Group, name: str, shown: Sequence[str]) -> str:
    """Free, newly claimed and earlier claimed units per task, one panel per group of units, mean over seeds."""
    frame = group.capacity
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    kinds = [
        ("claimed earlier, reused", {"facecolor": "#0072B2", "edgecolor": "#0072B2"}),
        ("claimed earlier, not reused", {"facecolor": "#A6CEE3", "edgecolor": "#0072B2"}),
        ("newly claimed", {"facecolor": "#D55E00", "edgecolor": PAPER, "hatch": "/////"}),
        ("free", {"facecolor": PAPER, "edgecolor": "#707070"}),
    ]

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        counted = []
        for axes, units in zip(panels.flat, shown, strict=False):
            words = group_words(units)
            part = frame[frame["group"] == units]
            counted.append(part["unit"].iloc[0])
            earlier = part["units"] - part["free"] - part["new"]
            heights = [part["reused"], earlier - part["reused"], part["new"], part["free"]]
            bottom = np.zeros(len(part))
            for (kind, style), height in zip(kinds, heights, strict=True):
                values = np.clip(height.to_numpy(dtype=float), 0, None)
                drawn: Any = style
                axes.bar(part["task"], values, bottom=bottom, width=0.8, linewidth=0.5, **drawn)
                spots += [
                    Spot(axes, task, base + value / 2, f"{words}, task {task:.0f}: {value:.1f} {kind}")
                    for task, base, value in zip(part["task"], bottom, values, strict=True)
                    if value
                ]
                bottom = bottom + values
            axes.set_title(shortened(words), loc="left")
            axes.set_xlabel("Task")
            axes.set_xlim(0.4, part["task"].max() + 0.6)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        same = len(set(counted)) == 1
        for number, unit in enumerate(counted):
            if not same or number % columns == 0:
                panels.flat[number].set_ylabel(f"{unit}s".capitalize())
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        handles = [Patch(linewidth=0.5, **style) for _, style in kinds]
        figure.legend(handles, [label for label, _ in kinds], loc="outside lower center", ncols=4)
        return spots

    return svg(draw, name, 2.3 * rows + 0.5)


def reuse(group: Group, name: str) -> str:
    """Of the units that earlier tasks claimed, the share that each task reuses, one line per group of units."""
    shares = group.reused_shares

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        spots = []
        for number, units in enumerate(shares.columns):
            words = group_words(units)
            part = 100 * shares[units].dropna()
            axes.plot(part.index, part, label=shortened(words), **line_of_group(number))
            spots += [
                Spot(axes, task, value, f"{words}, task {task:.0f}: {value:.1f} %") for task, value in part.items()
            ]
        task_axis(axes, int(shares.index.max()))
        axes.set_xlabel("Task")
        axes.set_ylabel("Reused, % of claimed earlier")
        axes.set_ylim(-3, 103)
        figure.legend(loc="outside right upper")
        return spots

    return svg(draw, name, _height(len(shares.columns)))


def filling(group: Group, forecasts: Sequence[Forecast], name: str) -> str:
    """Free units against tasks learned, one line per group, and on to the task after which none is left."""
    frame = group.capacity
    seen = int(frame["task"].max())
    ends = [end for found in forecasts for end in (found.full_after, found.high) if math.isfinite(end)]
    # A layer that hardly fills up any more should not press the recorded tasks together.
    until = int(min(max([1.5 * seen, *ends]), _FARTHEST_FORECAST * seen))

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        spots = []
        for number, found in enumerate(forecasts):
            words, look = group_words(found.group), line_of_group(number)
            part = frame[frame["group"] == found.group]
            share = (100 * part["free"] / part["units"]).to_numpy()
            axes.plot(part["task"], share, label=shortened(words), **look)
            spots += [
                Spot(axes, task, value, f"{words}, {task:.0f} tasks learned: {value:.1f} % free")
                for task, value in zip(part["task"], share, strict=True)
            ]
            if found.is_full:
                continue
            low, median, high = 100 * found.left[:, : until - seen + 1]
            tasks = np.arange(seen, seen + len(median))
            axes.fill_between(tasks, low, high, color=look["color"], alpha=0.18, linewidth=0)
            axes.plot(tasks, median, color=look["color"], linewidth=1.2, linestyle="--")
            spots += [
                Spot(axes, task, value, f"{words}, {task} tasks: {value:.1f} % free expected")
                for task, value in zip(tasks[1:], median[1:], strict=True)
            ]
        task_axis(axes, until)
        axes.set_ylabel(f"Free {units_words(found.unit for found in forecasts)} (%)")
        axes.set_ylim(-3, 103)
        figure.legend(loc="outside right upper")
        return spots

    return svg(draw, name, _height(len(forecasts)))


def _height(lines: int) -> float:
    """In inches, so that the legend of so many lines has room."""
    return max(2.3, 0.2 * lines + 0.4)
