"""The drawings, each an SVG document as text: same input, same bytes.

Every method has one colour, marker and line style, whatever else is drawn, so that figures of different
reports can be laid side by side. Colours are Okabe and Ito's and Tol's, safe for the colour-blind; markers and
line styles carry the same distinction in grey.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from clbench.reports.formatting import byte_unit, percent, readable_bytes, tenths
from clbench.reports.groups import Estimate, Group

WIDTH = 6.7
"""Width of every figure in inches: the text width of an A4 page."""

MATRICES_PER_FIGURE = 2
_ANNOTATED_TASKS = 12
_LABEL_LENGTH = 26
_CLOSE_UP = 10.0

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
    "grid.color": "#d0d0d0",
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
    "avalanche-ewc": Look("#332288", "s", "-."),
    "avalanche-si": Look("#117733", "^", "-."),
    "classp": Look("#882255", "*", "-"),
    "anpyc": Look("#999933", "p", "-"),
    "sor-snn-style": Look("#AA4499", "h", "-"),
}
_MORE_COLOURS = ("#661100", "#6699CC", "#AA4466", "#44AA99", "#888888", "#4477AA", "#B8860B")
_MORE_MARKERS = ("<", ">", "d", "8", "p", "h", "*")
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
    best = max(curve[:, -1].mean() for curve in curves)
    leading = [curve for curve in curves if curve[:, -1].mean() > best - _CLOSE_UP]
    lowest = min(float(curve.min()) for curve in curves)
    lowest_leading = min(float(curve.min()) for curve in leading)
    highest = max(float(curve.max()) for curve in curves)
    close_up = len(leading) > 1 and highest - lowest > 3 * (highest - lowest_leading)

    def draw(figure: Figure) -> None:
        panels = list(figure.subplots(1, 2 if close_up else 1, squeeze=False)[0])
        for axes in panels:
            for group, curve in zip(groups, curves, strict=True):
                _seeds(axes, group, curve)
            _task_axis(axes)
        panels[0].set_ylabel("Average accuracy (%)")
        if close_up:
            room = 0.06 * (highest - lowest_leading)
            panels[1].set_ylim(lowest_leading - room, highest + room)
            panels[0].set_title("all", loc="left")
            panels[1].set_title("close-up of the leading ones", loc="left")
        _legend(figure, groups)

    return _svg(draw, name, 3.1)


def first_task_and_forgetting(groups: Sequence[Group], name: str) -> str:
    """Accuracy on the first task against tasks learned, and forgetting after the last."""
    forgetting = [(group, group.metric("forgetting")) for group in groups]
    bars = [(group, value) for group, value in forgetting if value is not None]

    def draw(figure: Figure) -> None:
        ratios = [1.25, 1] if bars else [1]
        panels = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        for group in groups:
            _seeds(panels[0], group, 100 * group.matrices[:, 1:, 0])
        _task_axis(panels[0])
        panels[0].set_ylabel("Accuracy on task 1 (%)")
        if bars:
            _bars(panels[1], bars, "Forgetting (percentage points)", scale=100, words=_with_interval)
        _legend(figure, groups)

    return _svg(draw, name, max(3.1, 0.22 * len(groups) + 1.2))


def accuracy_matrices(groups: Sequence[Group], name: str, lowest: float) -> str:
    """Accuracy matrices of one or two groups side by side, mean over seeds, coloured from `lowest` to 100 %."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, MATRICES_PER_FIGURE, squeeze=False)[0]
        scale = Normalize(lowest, 100)
        for axes, group in zip(panels, groups, strict=False):
            matrix = 100 * group.matrices[:, 1:, :].mean(axis=0)
            tasks = matrix.shape[1]
            few = tasks <= _ANNOTATED_TASKS
            sns.heatmap(
                matrix,
                ax=axes,
                cmap="cividis",
                norm=scale,
                annot=np.vectorize(_matrix_entry, otypes=[str])(matrix) if few else False,
                fmt="",
                annot_kws={"size": 6.3},
                cbar=False,
                xticklabels=False,
                yticklabels=False,
            )
            step = 1 if few else 5
            numbers = np.arange(step, tasks + 1, step)
            axes.set_xticks(numbers - 0.5, [str(number) for number in numbers])
            axes.set_yticks(numbers - 0.5, [str(number) for number in numbers])
            # Seams between the cells would show in some viewers.
            axes.collections[0].set_edgecolor("face")
            axes.collections[0].set_linewidth(0.3)
            # Right of the step line lie tasks that were not learned yet.
            steps = np.repeat(np.arange(tasks + 1), 2)
            axes.plot(steps[1:], steps[:-1], color="white", linewidth=1.4, clip_on=False)
            axes.set_title(_short(group.label), loc="left")
            axes.tick_params(length=0, rotation=0)
            axes.set_xlabel("Tested on task")
            axes.set_ylabel("Tasks learned" if axes is panels[0] else "")
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        bar = figure.colorbar(
            ScalarMappable(scale, "cividis"), ax=list(panels), label="Test accuracy (%)", aspect=28, pad=0.02
        )
        bar.outline.set_visible(False)
        if bar.solids is not None:
            # By default the bar is a bitmap, the only one in the report.
            bar.solids.set_rasterized(False)
            bar.solids.set_edgecolor("face")

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
        ("newly claimed", {"facecolor": "#D55E00", "edgecolor": "white", "hatch": "/////"}),
        ("free", {"facecolor": "white", "edgecolor": "#707070"}),
    ]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, layer in zip(panels.flat, layers, strict=False):
            part = frame[frame["layer"] == layer].fillna(0)
            earlier = part["neurons"] - part["free"] - part["new"]
            heights = [part["reused"], earlier - part["reused"], part["new"], part["free"]]
            bottom = np.zeros(len(part))
            for (_, style), height in zip(kinds, heights, strict=True):
                values = np.clip(height.to_numpy(dtype=float), 0, None)
                drawn: Any = style
                axes.bar(part["task"], values, bottom=bottom, width=0.8, linewidth=0.5, **drawn)
                bottom = bottom + values
            axes.set_title(f"layer {int(layer)}", loc="left")
            axes.set_xlabel("Task")
            axes.set_xlim(0.4, part["task"].max() + 0.6)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels[:, 0]:
            axes.set_ylabel("Neurons")
        for axes in panels.flat[len(layers) :]:
            axes.set_visible(False)
        handles = [Patch(linewidth=0.5, **style) for _, style in kinds]  # type: ignore[arg-type]
        figure.legend(handles, [label for label, _ in kinds], loc="outside lower center", ncols=4)

    return _svg(draw, name, 2.3 * rows + 0.5)


def costs(groups: Sequence[Group], name: str) -> str:
    """Training time per task, peak memory and extra state, one bar per group; one panel per recorded quantity."""
    wanted: list[tuple[str, str, str, Callable[[float], str]]] = [
        ("train_seconds", "mean", "Training time (s per task)", tenths),
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

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (bars, label, scale, show) in zip(all_axes, panels, strict=True):
            _bars(axes, bars, label, scale=scale, words=_mean(show))
            axes.tick_params(axis="y", labelleft=axes is all_axes[0])

    return _svg(draw, name, 0.24 * len(groups) + 0.7)


def _seeds(axes: Axes, group: Group, values: np.ndarray) -> None:
    """Draws [n, T] values against tasks learned: the mean as a line, the seeds' range as a thin band."""
    colour = look_of(group.method).colour
    tasks = np.arange(1, values.shape[1] + 1)
    axes.fill_between(tasks, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(tasks, values.mean(axis=0), **_line(group))


def _line(group: Group) -> dict[str, Any]:
    look = look_of(group.method)
    return {
        "color": look.colour,
        "marker": look.marker,
        "linestyle": look.line,
        "linewidth": 1.2,
        "markersize": 4.6,
        "markeredgewidth": 0.8 if group.variant else 0,
        # Further groups of a method keep its look and are told apart by hollow markers.
        "markerfacecolor": "white" if group.variant else look.colour,
    }


def _task_axis(axes: Axes) -> None:
    axes.set_xlabel("Tasks learned")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
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
        axes.barh(place, length, height=0.62, color=look_of(group.method).colour)
        axes.annotate(
            "n/a" if value is None else words(value),
            (max(length, 0.0), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    axes.axvline(0, color="#202020", linewidth=0.6)
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


def _legend(figure: Figure, groups: Sequence[Group]) -> None:
    labels = [_short(group.label) for group in groups]
    handles = [Line2D([], [], **_line(group)) for group in groups]
    # About 5 points per letter at this size, 40 for the line before it.
    columns = max(1, min(len(labels), int(72 * WIDTH / (5 * max(map(len, labels)) + 40))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else f"{label[: _LABEL_LENGTH - 1]}…"


def _matrix_entry(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f}".removesuffix(".0") if value >= 99.95 else f"{value:.1f}"


def _svg(draw: Callable[[Figure], None], name: str, height: float) -> str:
    """Draws a figure and returns it without dates, comments or ids that another figure could share."""
    buffer = io.StringIO()
    style: Any = {**sns.axes_style("ticks"), **_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the text beside the figure has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        metadata: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
