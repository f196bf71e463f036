"""How each method looks in every figure."""

import hashlib
from dataclasses import dataclass
from typing import Any

from clbench.reports.analysis.groups import Group

INK, GRID, PAPER = "#1b1f24", "#d0d0d1", "#fffffe"
"""Text and axes, grid, what is left white: in colours of their own, so that a dark page can swap them."""

STYLE = {
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
    marker: str | tuple[int, int, int]
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
    "hat": Look("#8C2D04", (5, 0, 36), "-"),
    "packnet": Look("#1B7837", (5, 1, 36), "-"),
    "wsn": Look("#5E3C99", (7, 1, 0), "-"),
    "supsup": Look("#9E9AC8", (8, 1, 0), "--"),
    "gpm": Look("#01665E", (3, 1, 0), "-"),
    "lwf": Look("#80CDC1", (7, 0, 0), "--"),
    "frozen-trunk": Look("#969696", (10, 1, 0), ":"),
    "anpyc:without-pruning": Look("#D9A06B", "_", ":"),
    "sor-snn-style": Look("#542788", (9, 1, 0), ":"),
    "classp": Look("#7F7F00", (3, 1, 60), "-."),
    "anpyc": Look("#A65628", (4, 1, 45), "-."),
    "er": Look("#C51B7D", (4, 0, 22), "-"),
    "der++": Look("#F1B6DA", (3, 0, 75), "-"),
    "avalanche-ewc": Look("#332288", "d", "-."),
    "avalanche-si": Look("#117733", "<", "-."),
    # Variants of the suites, near their method's.
    "clnp:best": Look("#A63A00", "p", "-"),
    "clnp:budget": Look("#FF8C42", "2", "--"),
    "clnp:10-epochs": Look("#F0965A", "*", "-."),
    "si:10-epochs": Look("#44BB99", "H", "--"),
    "si:weaker": Look("#2E8B57", "1", "--"),
    "clnp:even": Look("#D9A400", "3", "--"),
    "wsn:less": Look("#4A3F8C", "4", "--"),
    "ewc:sgd": Look("#2B5C8A", "|", "-."),
    "ewc:20-epochs": Look("#004D80", "x", "--"),
    "psp:complex": Look("#994F88", "h", "--"),
    "psp:rotation": Look("#EE99CC", "+", "-."),
}

LAYER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
LAYER_MARKERS = ("o", "s", "^", "D", "v")
_MORE_COLOURS = ("#661100", "#C2185B", "#7E57C2", "#6B8E00", "#00838F")
COLOURS = (*(look.colour for look in _LOOKS.values()), *_MORE_COLOURS, *LAYER_COLOURS)
"""Every colour that means a method or a layer."""
# Stars of four and six points, and a turned triangle: filled, and no fixed look has them.
_MORE_MARKERS = ((4, 1, 0), (6, 1, 0), (3, 0, 30))
# By which further groups of a method are told apart.
_FILLS = ("full", "none", "left", "top", "right", "bottom")
_STROKES = ("1", "2", "3", "4", "+", "x", "|", "_")  # markers that are all edge
_MORE_LINES = ("-", "--", "-.", ":")


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


def line_of(group: Group) -> dict[str, Any]:
    """How a group's curve is drawn, as matplotlib takes it."""
    look, variant = look_of(group.method), group.variant
    marker, is_hollow = look.marker, variant == 1
    fill = "full" if is_hollow else _FILLS[variant % len(_FILLS)]
    if isinstance(marker, tuple):
        # Polygons and stars cannot be half filled, so they turn: by a third of what would give the same one.
        corners, style, angle = marker
        marker, is_hollow = (corners, style, angle + variant // 2 * 120 / corners), variant % 2 == 1
        fill = "full"
    others = [line for line in _MORE_LINES if line != look.line]
    return {
        "color": look.colour,
        "marker": marker,
        "linestyle": look.line if not variant else others[(variant - 1) % len(others)],
        "linewidth": 1.2,
        # A star covers less than other markers of its size.
        "markersize": 7.5 if isinstance(look.marker, tuple) else 4.6,
        # Further groups of a method keep its colour and are told apart by the line, and by hollow, half filled and
        # turned markers.
        "markeredgewidth": 0.8 if variant or marker in _STROKES else 0,
        "fillstyle": fill,
        "markerfacecolor": PAPER if is_hollow else look.colour,
        "markerfacecoloralt": PAPER,
    }


def line_of_group(number: int) -> dict[str, Any]:
    """How the curve of the number-th group of units is drawn, as matplotlib takes it; 25 look differently."""
    turn = number // len(LAYER_COLOURS)
    return {
        "color": LAYER_COLOURS[number % len(LAYER_COLOURS)],
        "marker": LAYER_MARKERS[(number + turn) % len(LAYER_MARKERS)],
        "linewidth": 1.2,
        "markersize": 4.6,
    }
