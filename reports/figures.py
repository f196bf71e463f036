"""The drawings, each an SVG document as text: same input, same bytes.

Where a value is worth reading off, the drawing holds an invisible spot with the value as its title, which a browser
shows when one points at it.

Every method has one colour, marker and line style, whatever else is drawn, so that figures of different
reports can be laid side by side. Colours are Okabe and Ito's and Tol's, safe for the colour-blind; markers and
line styles carry the same distinction in grey.
"""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from clbench.reports.forecast import Forecast
from clbench.reports.formatting import byte_unit, counted, percent, readable_bytes, seconds
from clbench.reports.groups import Group
from clbench.reports.inference import UPPER_BOUNDS, kinds
from clbench.reports.statistics import Estimate, Ranks

WIDTH = 6.7
"""Width of every figure in inches: the text width of an A4 page."""

MATRICES_PER_FIGURE = 2
INK, GRID, PAPER = "#1b1f24", "#d0d0d1", "#fffffe"
"""Text and axes, grid, what is left white: in colours of their own, so that a dark page can swap them."""

_ANNOTATED_TASKS = 12
_POINTED_TASKS = 30  # beyond, hover values would be most of the page
_ON_LIGHT, _ON_DARK = "#262626", "#ffffff"  # on the colour map, which is the same on a dark page
MOST_PANELS = 12
_LABEL_LENGTH = 26
_CLOSE_UP = 10.0
_FARTHEST_FORECAST = 4

_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "hatch.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    # Outlines, not font references: the reader's fonts cannot shift or clip a label.
    "svg.fonttype": "path",
    # A method's name may hold a dollar sign.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every figure."""

    colour: str
    marker: str
    line: str


_LOOKS = {
    "clnp": Look("#D55E00", "o", "-"),
    "ewc": Look("#0072B2", "s", "-"),
    "si": Look("#009E73", "^", "-"),
    "psp": Look("#CC79A7", "D", "-"),
    "naive": Look("#404040", "X", ":"),
    "joint": Look("#E69F00", "v", "--"),
    "single-task": Look("#56B4E9", "P", "--"),
    "online-ewc": Look("#6699CC", ">", "--"),
    "mas": Look("#B8860B", "8", "-"),
    "avalanche-ewc": Look("#332288", "d", "-."),
    "avalanche-si": Look("#117733", "<", "-."),
    # Variants of the suites, near their method's.
    "clnp:best": Look("#A63A00", "p", "-"),
    "clnp:10-epochs": Look("#F0965A", "*", "-."),
    "si:10-epochs": Look("#44BB99", "H", "--"),
    "ewc:20-epochs": Look("#004D80", "x", "--"),
    "psp:complex": Look("#994F88", "h", "--"),
    "psp:rotation": Look("#EE99CC", "+", "-."),
    "classp": Look("#882255", "1", "-"),
    "anpyc": Look("#999933", "2", "-"),
    "sor-snn-style": Look("#AA4499", "3", "-"),
}


@dataclass(frozen=True)
class Spot:
    """A place in a drawing, in the data's coordinates, and the value to be read there."""

    axes: Axes
    x: float
    y: float
    words: str


Draw = Callable[[Figure], list[Spot]]

_LAYER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
_LAYER_MARKERS = ("o", "s", "^", "D", "v")
_MORE_COLOURS = ("#661100", "#AA4466", "#44AA99", "#888888", "#4477AA")
COLOURS = (*(look.colour for look in _LOOKS.values()), *_MORE_COLOURS, *_LAYER_COLOURS)
"""Every colour that means a method or a layer."""
_MORE_MARKERS = ("4", "|", "_")
# By which further groups of a method are told apart.
_FILLS = ("full", "none", "left", "top", "right", "bottom")
_STROKES = ("1", "2", "3", "4", "+", "x", "|", "_")  # markers that are all edge
_MORE_LINES = ("-", "--", "-.")


def look_of(method: str) -> Look:
    """A method's colour, marker and line style, which depend on its name alone."""
    if method in _LOOKS:
        return _LOOKS[method]
    digest = hashlib.sha256(method.encode()).digest()
    return Look(
        _MORE_COLOURS[digest[0] % len(_MORE_COLOURS)],
        _MORE_MARKERS[digest[1] % len(_MORE_MARKERS)],
        _MORE_LINES[digest[2] % len(_MORE_LINES)],
    )


def average_accuracy(groups: Sequence[Group], name: str) -> str:
    """Average accuracy against tasks learned; a close-up beside it where the best lie too near each other."""
    curves = [100 * group.average_accuracy_curves for group in groups]
    close = _least_of_the_leading(groups)
    leading = [curve for curve in curves if curve[:, -1].mean() > close]
    finals = [group.metric("average_accuracy") for group in groups]
    intervals = [found for found in finals if found is not None and found.half_width is not None]
    ends = [(100 * (found.mean - found.half_width), 100 * (found.mean + found.half_width)) for found in intervals]
    ends_of_leading = [end for end, found in zip(ends, intervals, strict=True) if 100 * found.mean > close]
    lowest = min(float(curve.min()) for curve in curves)
    # With room for the intervals, which are drawn beside the curves.
    lowest_leading = min([float(curve.min()) for curve in leading] + [low for low, _ in ends_of_leading])
    highest = max([float(curve.max()) for curve in curves] + [min(high, 100.0) for _, high in ends_of_leading])
    close_up = len(leading) > 1 and highest - lowest > 3 * (highest - lowest_leading)

    prices = [
        (group, found.mean) for group in groups if (found := group.tasks("train_seconds", "median")) and found.mean
    ]
    # A single point would say nothing that the table does not.
    prices = prices if len(prices) > 1 else []

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        widths = [1.0] * (1 + close_up) + [0.8] * bool(prices)
        panels = list(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
        priced = panels.pop() if prices else None
        for axes in panels:
            for group, curve in zip(groups, curves, strict=True):
                spots += _seeds(axes, curve, group, lambda task, mean: f"after {counted(task, 'task')}: {mean:.2f} %")
            _task_axis(axes, curves[0].shape[1], most=6 if len(widths) > 2 else 12)
        panels[0].set_ylabel("Average accuracy (%)")
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
            priced.set_title("these, at what cost" if close_up else "in the end, at what cost", loc="left")
            priced.set_xlabel("Training (s per task, log)")
        spots = _within(spots)
        _legend(figure, groups)
        return spots

    return _svg(draw, name, 3.3)


def _least_of_the_leading(groups: Sequence[Group]) -> float:
    """The average accuracy, in %, above which a group is in a close-up.

    It is on the best that is no upper bound, and among runs of several circumstances on the first of these.
    """
    first = [group for group in groups if group.circumstances == groups[0].circumstances]
    judged = [group for group in first if group.method not in UPPER_BOUNDS] or first
    return 100 * max(group.average_accuracy for group in judged) - _CLOSE_UP


def _priced(axes: Axes, prices: Sequence[tuple[Group, float]]) -> list[Spot]:
    """Final average accuracy with its 95 % interval, or every seed where there are too few for one, against seconds."""
    spots = []
    for group, price in prices:
        found = group.metric("average_accuracy")
        assert found is not None  # a finished run has its last row
        drawn: Any = {**_line(group), "linestyle": ""}
        if found.half_width is None:
            axes.plot([price] * len(found.values), [100 * value for value in found.values], **drawn)
        else:
            axes.errorbar([price], [100 * found.mean], [100 * found.half_width], elinewidth=1, capsize=2, **drawn)
        words = f"{group.label}: {_with_interval(found)} %, {seconds(price)} s per task"
        spots.append(Spot(axes, price, 100 * found.mean, words))
    _log_axis(axes, [price for _, price in prices])
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", labelleft=False)
    return spots


def _log_axis(axes: Axes, costs: Sequence[float]) -> None:
    """A logarithmic axis of costs; one that may be 0 begins with a linear part."""
    positive = [cost for cost in costs if cost > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    room = max(1.25, (high / low) ** 0.08)
    if len(positive) == len(costs):
        axes.set_xscale("log")
        axes.set_xlim(low / room, high * room)
    else:
        axes.set_xscale("symlog", linthresh=low, linscale=0.4)
        axes.set_xlim(-0.6 * low, high * room)
    # Powers of ten, or where they would be too few, steps between them.
    steps = (1, 2, 3, 5, 7) if high / low < 30 else (1,)
    ticks = [step * 10.0**power for power in range(-9, 13) for step in steps]
    ticks = [tick for tick in ticks if low / room <= tick <= high * room]
    if len(ticks) < 2:
        ticks = [
            tick for tick in MaxNLocator(3).tick_values(low / room, high * room) if low / room <= tick <= high * room
        ]
    ticks = ticks[:: -(-len(ticks) // 5)]
    ticks = ticks if len(positive) == len(costs) else [0.0, *ticks]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


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
                spots += _seeds(
                    axes,
                    100 * group.matrices[:, 1:, task],
                    group,
                    partial(_trajectory_words, int(task) + 1),
                    from_task=int(task) + 1,
                    small=True,
                )
            axes.set_title(f"task {task + 1}", loc="left")
            _task_axis(axes, tasks, most=5)
            axes.set_xlabel("")
        for axes in panels.flat[len(chosen) :]:
            axes.set_visible(False)
        for axes in panels[-1]:
            axes.set_xlabel("Tasks learned")
        for axes in panels[:, 0]:
            axes.set_ylabel("Accuracy (%)")
        _legend(figure, groups)
        return spots

    return _svg(draw, name, 1.35 * rows + 0.9)


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
            spots += _seeds(panels[0], lost, group, lambda task, mean: f"task {task}: {mean:.2f} points forgotten")
        _task_axis(panels[0], lost.shape[1])
        panels[0].set_xlabel("Task")
        panels[0].set_ylabel("Forgetting (percentage points)")
        if bars:
            _bars(panels[1], bars, "Mean forgetting (percentage points)", scale=100, words=_with_interval)
        _legend(figure, groups)
        return spots

    return _svg(draw, name, max(3.1, 0.22 * len(groups) + 1.2))


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
            axes.set_title(_short(group.label), loc="left")
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

    return _svg(draw, name, 2.35)


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
        handles = [Patch(linewidth=0.5, **style) for _, style in kinds]  # type: ignore[arg-type]
        figure.legend(handles, [label for label, _ in kinds], loc="outside lower center", ncols=4)
        return spots

    return _svg(draw, name, 2.3 * rows + 0.5)


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
                color=_LAYER_COLOURS[number % len(_LAYER_COLOURS)],
                marker=_LAYER_MARKERS[number % len(_LAYER_MARKERS)],
                linewidth=1.2,
                markersize=4.6,
                label=f"layer {layer:.0f}",
            )
            spots += [
                Spot(axes, task, value, f"layer {layer:.0f}, task {task:.0f}: {value:.1f} %")
                for task, value in part.items()
            ]
        _task_axis(axes, int(shares.index.max()))
        axes.set_xlabel("Task")
        axes.set_ylabel("Reused, % of claimed earlier")
        axes.set_ylim(-3, 103)
        figure.legend(loc="outside right upper")
        return spots

    return _svg(draw, name, 2.3)


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
            colour = _LAYER_COLOURS[number % len(_LAYER_COLOURS)]
            axes.plot(
                part["task"],
                share,
                color=colour,
                marker=_LAYER_MARKERS[number % len(_LAYER_MARKERS)],
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
        _task_axis(axes, until)
        axes.set_ylabel("Free neurons (%)")
        axes.set_ylim(-3, 103)
        figure.legend(loc="outside right upper")
        return spots

    return _svg(draw, name, 2.3)


def costs(groups: Sequence[Group], name: str) -> str:
    """Training time per task, peak memory and extra state, one bar per group; one panel per recorded quantity."""
    wanted: list[tuple[str, str, str, Callable[[float], str]]] = [
        ("train_seconds", "median", "Training time (s per task)", seconds),
        ("peak_memory_bytes", "max", "Peak memory ({unit})", readable_bytes),
        ("extra_state_bytes", "last", "Extra state ({unit})", readable_bytes),
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
            _bars(axes, bars, label, scale=scale, words=_mean(show))
            axes.tick_params(axis="y", labelleft=axes is all_axes[0])
        return []

    return _svg(draw, name, 0.24 * len(groups) + 0.7)


def state_growth(groups: Sequence[Group], name: str) -> str:
    """What each method keeps beside the weights, against tasks learned, mean over seeds."""
    curves = [(group, group.task_means("extra_state_bytes")) for group in groups]
    known = [(group, curve) for group, curve in curves if not np.isnan(curve).all()]
    unit, size = byte_unit(max(float(np.nanmax(curve)) for _, curve in known))

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        spots = []
        for group, curve in known:
            tasks = np.arange(1, len(curve) + 1)
            axes.plot(tasks, curve / size, **_line(group))
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
        _task_axis(axes, max(len(curve) for _, curve in known))
        axes.set_ylabel(f"Extra state ({unit})")
        _legend(figure, [group for group, _ in known])
        return spots

    return _svg(draw, name, 2.6)


@dataclass(frozen=True)
class Tradeoff:
    """A panel of accuracy against a cost.

    Attributes:
        label: of the cost's axis, with its unit.
        points: group, cost in that unit, average accuracy (a fraction), whether it is on the front of its kind.
    """

    label: str
    points: tuple[tuple[Group, float, float, bool], ...]


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
        _legend(figure, [group for group, *_ in panels[0].points], lines=False)
        return _within(spots)

    return _svg(draw, name, 5.0 if close_up else 3.0)


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
    for group, cost, accuracy, _ in panel.points:
        axes.plot([cost], [100 * accuracy], **{**_line(group), "linestyle": "", "markersize": 5.5})
        words = f"{group.label}: {percent(accuracy)} %, {panel.label} {cost:.3g}"
        spots.append(Spot(axes, cost, 100 * accuracy, words))
    axes.margins(0.1)
    _log_axis(axes, [cost for _, cost, *_ in panel.points])
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    return spots


def task_differences(first: Group, second: Group, differences: np.ndarray, name: str) -> str:
    """Final accuracy of the first less the second by task, [n, T] in percentage points: mean and every seed."""

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        tasks = np.arange(1, differences.shape[1] + 1)
        means = differences.mean(axis=0)
        colours = [look_of((first if mean >= 0 else second).method).colour for mean in means]
        axes.bar(tasks, means, width=0.7, color=colours, alpha=0.35, linewidth=0)
        for seed in differences:
            axes.plot(tasks, seed, "o", color=INK, markersize=2.6)
        axes.axhline(0, color=INK, linewidth=0.6)
        _task_axis(axes, len(tasks))
        axes.set_xlabel("Task")
        axes.set_ylabel("Difference (percentage points)")
        return [
            Spot(axes, task, mean, f"task {task}: {mean:+.2f} points") for task, mean in zip(tasks, means, strict=True)
        ]

    return _svg(draw, name, 2.6)


def critical_difference(ranks: Ranks, name: str) -> str:
    """Average ranks on a line, bars joining methods that do not differ significantly."""
    import scikit_posthocs

    assert ranks.pairwise_p is not None  # the caller has enough suites

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        scikit_posthocs.critical_difference_diagram(
            ranks.average,
            ranks.pairwise_p,
            ax=axes,
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
            color_palette={str(method): look_of(str(method)).colour for method in ranks.average.index},
            crossbar_props={"color": INK, "marker": None, "linewidth": 2.5},
            text_h_margin=0.04,
        )
        for words in axes.texts:
            # By default in the method's colour, in which some could hardly be read.
            words.set_color(INK)
        axes.set_xlabel("Average rank (1 is best)")
        return []

    return _svg(draw, name, 0.22 * len(ranks.average) + 1.2)


def _seeds(
    axes: Axes,
    values: np.ndarray,
    group: Group,
    words: Callable[[int, float], str],
    *,
    from_task: int = 1,
    small: bool = False,
) -> list[Spot]:
    """Draws [n, T] values against tasks: the mean as a line, the seeds' range as a thin band."""
    colour = look_of(group.method).colour
    tasks = np.arange(1, values.shape[1] + 1)
    if from_task > 1:
        tasks, values = tasks[from_task - 1 :], values[:, from_task - 1 :]
    means = values.mean(axis=0)
    axes.fill_between(tasks, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(tasks, means, **{**_line(group), **({"markersize": 2.6, "linewidth": 0.9} if small else {})})
    return [
        Spot(axes, task, mean, f"{group.label}, {words(int(task), float(mean))}")
        for task, mean in zip(tasks, means, strict=True)
        if not np.isnan(mean)
    ]


def _trajectory_words(task: int, learned: int, mean: float) -> str:
    return f"task {task} after {counted(learned, 'task')}: {mean:.2f} %"


def _within(spots: Sequence[Spot]) -> list[Spot]:
    """Without those that a close-up cuts off."""
    return [spot for spot in spots if spot.axes.get_ylim()[0] <= spot.y <= spot.axes.get_ylim()[1]]


def _line(group: Group) -> dict[str, Any]:
    look = look_of(group.method)
    return {
        "color": look.colour,
        "marker": look.marker,
        "linestyle": look.line,
        "linewidth": 1.2,
        "markersize": 4.6,
        # Further groups of a method keep its look and are told apart by hollow and half filled markers.
        "markeredgewidth": 0.8 if group.variant or look.marker in _STROKES else 0,
        "fillstyle": "full" if group.variant == 1 else _FILLS[group.variant % len(_FILLS)],
        "markerfacecolor": PAPER if group.variant == 1 else look.colour,
        "markerfacecoloralt": PAPER,
    }


def _task_axis(axes: Axes, last: int, most: int = 12) -> None:
    """Tasks 1 to `last`, at most so many of them numbered."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if last / step <= most or step == 500)
    axes.set_xlabel("Tasks learned")
    axes.set_xticks(np.arange(step, last + 1, step))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _bars(
    axes: Axes,
    bars: Sequence[tuple[Group, Estimate | None]],
    label: str,
    *,
    scale: float,
    words: Callable[[Estimate], str],
) -> None:
    """One horizontal bar per group with its value written at its end."""
    for place, (group, value) in enumerate(bars):
        length = 0.0 if value is None else scale * value.mean
        axes.barh(place, length, height=0.62, color=look_of(group.method).colour, linewidth=0)
        axes.annotate(
            "n/a" if value is None else words(value),
            (max(length, 0.0), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.set_yticks(range(len(bars)), [_short(group.label) for group, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    lengths = [scale * value.mean for _, value in bars if value is not None]
    lowest, highest = min([0.0, *lengths]), max([0.0, *lengths])
    # Room on the right for the words; an axis of some length where every bar is zero.
    axes.set_xlim(1.05 * lowest, 1.5 * highest or (0.5 * -lowest or 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(label)


def _mean(show: Callable[[float], str]) -> Callable[[Estimate], str]:
    return lambda value: show(value.mean)


def _with_interval(value: Estimate) -> str:
    return percent(value.mean) + ("" if value.half_width is None else f" ± {percent(value.half_width)}")


def _legend(figure: Figure, groups: Sequence[Group], *, lines: bool = True) -> None:
    labels = [_short(group.label) for group in groups]
    handles = [Line2D([], [], **{**_line(group), **({} if lines else {"linestyle": ""})}) for group in groups]
    # About 5 points per letter at this size, 40 for the line before it.
    columns = max(1, min(len(labels), int(72 * WIDTH / (5 * max(map(len, labels)) + 40))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else f"{label[: _LABEL_LENGTH - 1]}…"


def _matrix_entry(value: float) -> str:
    return "100" if value >= 99.95 else f"{value:.1f}"


def _svg(draw: Draw, name: str, height: float) -> str:
    """Draws a figure and returns it without dates, comments or ids that another figure could share."""
    buffer = io.StringIO()
    style: Any = {**sns.axes_style("ticks"), **_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the text beside the figure has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        spots = draw(figure)
        metadata: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
        # Not savefig, which draws everything once more beforehand to settle the layout; drawing does that itself.
        canvas.print_svg(buffer, metadata=metadata)
        places = [_placed(spot, figure, height) for spot in spots]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    return (
        text.replace("</svg>", f'<g fill="none" pointer-events="all">{"".join(places)}</g>\n</svg>') if places else text
    )


def _placed(spot: Spot, figure: Figure, height: float) -> str:
    """A spot as an element of the drawing; to be called once the layout is settled."""
    # By fractions of the figure, which hold whatever resolution a renderer draws at.
    x, y = figure.transFigure.inverted().transform(spot.axes.transData.transform((spot.x, spot.y)))
    place = f'cx="{72 * WIDTH * x:.1f}" cy="{72 * height * (1 - y):.1f}"'
    return f'<circle class="spot" {place} r="5"><title>{escape(spot.words)}</title></circle>'
