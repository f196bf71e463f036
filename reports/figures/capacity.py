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
from clbench.reports.figures.canvas import Spot, svg, task_axis
from clbench.reports.figures.looks import LAYER_COLOURS, LAYER_MARKERS, PAPER

_FARTHEST_FORECAST = 4


def capacity(group: Group, name: str) -> str:
    """Free, newly claimed and earlier claimed neurons per task, one panel per layer, mean over seeds."""
    frame = group.capacity
    layers = sorted(frame["layer"].unique())
    columns = min(3, len(layers))
    rows = -(-len(layers) // columns)
    kinds = [
        ("claimed earlier, reused", {"facecolor": "#0072B2", "edgecolor": "#0072B2"}),
        ("claimed earlier, not reused", {"facecolor": "#A6CEE3", "edgecolor": "#0072B2"}),
        ("newly claimed", {"facecolor": "#D55E00", "edgecolor": PAPER, "hatch": "/////"}),
        ("free", {"facecolor": PAPER, "edgecolor": "#707070"}),
    ]

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, layer in zip(panels.flat, layers, strict=False):
            part = frame[frame["layer"] == layer].fillna(0)
            earlier = part["neurons"] - part["free"] - part["new"]
            heights = [part["reused"], earlier - part["reused"], part["new"], part["free"]]
            bottom = np.zeros(len(part))
            for (kind, style), height in zip(kinds, heights, strict=True):
                values = np.clip(height.to_numpy(dtype=float), 0, None)
                drawn: Any = style
                axes.bar(part["task"], values, bottom=bottom, width=0.8, linewidth=0.5, **drawn)
                spots += [
                    Spot(axes, task, base + value / 2, f"layer {layer:.0f}, task {task:.0f}: {value:.1f} {kind}")
                    for task, base, value in zip(part["task"], bottom, values, strict=True)
                    if value
                ]
                bottom = bottom + values
            axes.set_title(f"layer {int(layer)}", loc="left")
            axes.set_xlabel("Task")
            axes.set_xlim(0.4, part["task"].max() + 0.6)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        for axes in panels[:, 0]:
            axes.set_ylabel("Neurons")
        for axes in panels.flat[len(layers) :]:
            axes.set_visible(False)
        handles = [Patch(linewidth=0.5, **style) for _, style in kinds]
        figure.legend(handles, [label for label, _ in kinds], loc="outside lower center", ncols=4)
        return spots

    return svg(draw, name, 2.3 * rows + 0.5)


def reuse(group: Group, name: str) -> str:
    """Of the neurons that earlier tasks claimed, the share that each task reuses, one line per layer."""
    shares = group.reused_shares

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        spots = []
        for number, layer in enumerate(shares.columns):
            part = 100 * shares[layer].dropna()
            axes.plot(
                part.index,
                part,
                color=LAYER_COLOURS[number % len(LAYER_COLOURS)],
                marker=LAYER_MARKERS[number % len(LAYER_MARKERS)],
                linewidth=1.2,
                markersize=4.6,
                label=f"layer {layer:.0f}",
            )
            spots += [
                Spot(axes, task, value, f"layer {layer:.0f}, task {task:.0f}: {value:.1f} %")
                for task, value in part.items()
            ]
        task_axis(axes, int(shares.index.max()))
        axes.set_xlabel("Task")
        axes.set_ylabel("Reused, % of claimed earlier")
        axes.set_ylim(-3, 103)
        figure.legend(loc="outside right upper")
        return spots

    return svg(draw, name, 2.3)


def filling(group: Group, forecasts: Sequence[Forecast], name: str) -> str:
    """Free neurons against tasks learned, one line per layer, and on to the task after which none is left."""
    frame = group.capacity
    seen = int(frame["task"].max())
    ends = [end for found in forecasts for end in (found.full_after, found.high) if math.isfinite(end)]
    # A layer that hardly fills up any more should not press the recorded tasks together.
    until = int(min(max([1.5 * seen, *ends]), _FARTHEST_FORECAST * seen))

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        spots = []
        for number, found in enumerate(forecasts):
            part = frame[frame["layer"] == found.layer]
            share = (100 * part["free"] / part["neurons"]).to_numpy()
            colour = LAYER_COLOURS[number % len(LAYER_COLOURS)]
            axes.plot(
                part["task"],
                share,
                color=colour,
                marker=LAYER_MARKERS[number % len(LAYER_MARKERS)],
                linewidth=1.2,
                markersize=4.6,
                label=f"layer {found.layer}",
            )
            spots += [
                Spot(axes, task, value, f"layer {found.layer}, {task:.0f} tasks learned: {value:.1f} % free")
                for task, value in zip(part["task"], share, strict=True)
            ]
            if found.is_full:
                continue
            low, median, high = 100 * found.left[:, : until - seen + 1]
            tasks = np.arange(seen, seen + len(median))
            axes.fill_between(tasks, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(tasks, median, color=colour, linewidth=1.2, linestyle="--")
            spots += [
                Spot(axes, task, value, f"layer {found.layer}, {task} tasks: {value:.1f} % free expected")
                for task, value in zip(tasks[1:], median[1:], strict=True)
            ]
        task_axis(axes, until)
        axes.set_ylabel("Free neurons (%)")
        axes.set_ylim(-3, 103)
        figure.legend(loc="outside right upper")
        return spots

    return svg(draw, name, 2.3)
