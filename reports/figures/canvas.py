"""The drawings, each an SVG document as text: same input, same bytes.

Where a value is worth reading off, the drawing holds an invisible spot with the value as its title, which a browser
shows when one points at it.

Every method has one colour, marker and line style, whatever else is drawn, so that figures of different
reports can be laid side by side. Colours are Okabe and Ito's and Tol's, safe for the colour-blind; markers and
line styles carry the same distinction in grey.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.statistics import Estimate
from clbench.reports.figures.looks import INK, STYLE, line_of, look_of
from clbench.reports.formatting import percent

WIDTH = 6.7
"""Width of a figure in inches: the text width of an A4 page."""
NARROW = 3.6
"""Width in inches of a drawing for a narrow screen, on which its letters are as large as the text."""
LABEL_LENGTH = 40


@dataclass(frozen=True)
class Spot:
    """A place in a drawing, in the data's coordinates, and the value to be read there."""

    axes: Axes
    x: float
    y: float
    words: str


Draw = Callable[[Figure], list[Spot]]


def log_axis(axes: Axes, costs: Sequence[float]) -> None:
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


def each_seed(
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
    axes.plot(tasks, means, **{**line_of(group), **({"markersize": 2.6, "linewidth": 0.9} if small else {})})
    return [
        Spot(axes, task, mean, f"{group.label}, {words(int(task), float(mean))}")
        for task, mean in zip(tasks, means, strict=True)
        if not np.isnan(mean)
    ]


def within(spots: Sequence[Spot]) -> list[Spot]:
    """Without those that a close-up cuts off."""
    return [spot for spot in spots if spot.axes.get_ylim()[0] <= spot.y <= spot.axes.get_ylim()[1]]


def task_axis(axes: Axes, last: int, most: int = 12) -> None:
    """Tasks 1 to `last`, at most so many of them numbered."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if last / step <= most or step == 500)
    axes.set_xlabel("Tasks learned")
    axes.set_xticks(np.arange(step, last + 1, step))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def draw_bars(
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
    axes.set_yticks(range(len(bars)), [shortened(group.label) for group, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    lengths = [scale * value.mean for _, value in bars if value is not None]
    lowest, highest = min([0.0, *lengths]), max([0.0, *lengths])
    # Room on the right for the words; an axis of some length where every bar is zero.
    axes.set_xlim(1.05 * lowest, 1.5 * highest or (0.5 * -lowest or 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(label)


def mean(show: Callable[[float], str]) -> Callable[[Estimate], str]:
    """Says the mean of an estimate in words."""
    return lambda value: show(value.mean)


def with_interval(value: Estimate) -> str:
    """An accuracy with its interval, in per cent."""
    return percent(value.mean) + ("" if value.half_width is None else f" ± {percent(value.half_width)}")


# Rows of a legend for which a figure has room, and inches for each further one.
_LEGEND_ROWS, _ROW_HEIGHT = 3, 0.17


def legend(figure: Figure, groups: Sequence[Group], *, lines: bool = True) -> None:
    """One legend for all panels, below them. A long one makes the figure higher."""
    labels = [shortened(group.label) for group in groups]
    handles = [Line2D([], [], **{**line_of(group), **({} if lines else {"linestyle": ""})}) for group in groups]
    # About 5 points per letter at this size, 40 for the line before it.
    columns = max(1, min(len(labels), int(72 * figure.get_figwidth() / (5 * max(map(len, labels)) + 40))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    further = -(-len(labels) // columns) - _LEGEND_ROWS
    figure.set_figheight(figure.get_figheight() + _ROW_HEIGHT * max(0, further))


def shortened(label: str) -> str:
    """A label that fits into a legend."""
    return label if len(label) <= LABEL_LENGTH else f"{label[: LABEL_LENGTH - 1]}…"


def svg(draw: Draw, name: str, height: float, width: float = WIDTH) -> str:
    """Draws a figure, inches high and wide, without dates, comments or ids that another figure could share."""
    buffer = io.StringIO()
    style: Any = {**sns.axes_style("ticks"), **STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the text beside the figure has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        spots = draw(figure)
        metadata: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
        # Not savefig, which draws everything once more beforehand to settle the layout; drawing does that itself.
        canvas.print_svg(buffer, metadata=metadata)
        places = [_placed(spot, figure) for spot in spots]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    return (
        text.replace("</svg>", f'<g fill="none" pointer-events="all">{"".join(places)}</g>\n</svg>') if places else text
    )


def _placed(spot: Spot, figure: Figure) -> str:
    """A spot as an element of the drawing; to be called once the layout is settled."""
    # By fractions of the figure, which hold whatever resolution a renderer draws at.
    x, y = figure.transFigure.inverted().transform(spot.axes.transData.transform((spot.x, spot.y)))
    width, height = figure.get_size_inches()
    place = f'cx="{72 * width * x:.1f}" cy="{72 * height * (1 - y):.1f}"'
    return f'<circle class="spot" {place} r="5"><title>{escape(spot.words)}</title></circle>'
