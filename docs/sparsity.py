"""Draws docs/sparsity.svg, what a sparser method costs in accuracy, from the runs in docs/results.

python docs/sparsity.py docs/sparsity.svg
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from clbench.records.identity import recorded_settings
from clbench.records.reading import read_runs
from clbench.reports.analysis.groups import Group, select
from clbench.reports.figures.looks import STYLE, look_of

RESULTS = Path(__file__).resolve().parent / "results" / "sparsity"
# What was varied.
SETTINGS = {"supsup": "share", "wsn": "share", "hat": "strength", "packnet": "shares", "clnp": "margin"}


def main(target: Path) -> None:
    """Writes the drawing."""
    on_white = {"svg.hashsalt": "clbench", "figure.facecolor": "white", "savefig.facecolor": "white"}
    look: dict[Any, Any] = {**STYLE, **on_white}
    with matplotlib.rc_context(look):
        target.write_text(drawing(select(read_runs(RESULTS), "permuted-digits").groups), encoding="utf-8")


def of_group(group: Group) -> tuple[float, float, float]:
    """A setting, and in per cent the capacity used and the average accuracy."""
    used = group.capacity_used
    assert used is not None
    setting = recorded_settings(group.config)["method_settings"][SETTINGS[group.method]]
    return setting, 100 * used.mean, 100 * group.average_accuracy


def drawing(groups: Sequence[Group]) -> str:
    """The figure as SVG: accuracy against capacity, a line for each method, a point for each setting."""
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for method, setting in SETTINGS.items():
        points = sorted(of_group(group) for group in groups if group.method == method)
        look = look_of(method)
        values, used, accuracy = zip(*points, strict=True)
        axes.plot(used, accuracy, marker=look.marker, color=look.colour, label=f"{method}, {setting}")
        for value, *place in zip(values, used, accuracy, strict=True):
            axes.annotate(
                f"{value:g}",
                tuple(place),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                color=look.colour,
                fontsize=7,
            )
    axes.set_xlabel("CAP: share of the hidden weights that ten tasks use, with their masks, %")
    axes.set_ylabel("average accuracy, %")
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    axes.legend(loc="lower left")
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
