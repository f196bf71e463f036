"""Draws docs/margins.svg, what CLNP's margin frees and what it costs, from the runs in docs/results.

python docs/margins.py docs/margins.svg
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from clbench.records.reading import RecordedRun, read_runs
from clbench.reports.figures.looks import STYLE

RESULTS = Path(__file__).resolve().parent / "results"
# With fine-tuning, and plain.
KINDS = {True: ("fine-tuned", "#d55e00", "o"), False: ("plain", "#0072b2", "s")}


def main(target: Path) -> None:
    """Writes the drawing."""
    runs = read_runs(RESULTS / "margins")
    whole = read_runs(RESULTS / "split-cifar100-10-short")
    (alone,) = (run for run in whole if (run.method, run.seed) == ("single-task", 0))
    on_white = {"svg.hashsalt": "clbench", "figure.facecolor": "white", "savefig.facecolor": "white"}
    look: dict[Any, Any] = {**STYLE, **on_white}
    with matplotlib.rc_context(look):
        target.write_text(drawing(runs, alone), encoding="utf-8")


def of_run(run: RecordedRun) -> tuple[float, float]:
    """After the first task: the share of units that is free, and its accuracy, both in per cent."""
    first = run.capacity[run.capacity["task"] == 1]
    return 100 * float(first["free"].sum() / first["units"].sum()), 100 * float(run.accuracy_matrix[1, 0])


def drawing(runs: Sequence[RecordedRun], alone: RecordedRun) -> str:
    """The figure as SVG: accuracy against units free, a line for each kind, a point for each margin."""
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.subplots()
    for is_tuned, (name, colour, marker) in KINDS.items():
        of_kind = [run for run in runs if (run.config["method_settings"]["fine_tune_share"] > 0) is is_tuned]
        of_kind.sort(key=lambda run: run.config["method_settings"]["margin"])
        points = [of_run(run) for run in of_kind]
        axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=name)
        for run, point in zip(of_kind, points, strict=True):
            margin = f"{run.config['method_settings']['margin']:g}"
            axes.annotate(margin, point, textcoords="offset points", xytext=(0, 6), ha="center", color=colour)
    unpruned = 100 * float(alone.accuracy_matrix[1, 0])
    axes.axhline(unpruned, color="#555555", linestyle="--", linewidth=0.9, label="single-task")
    axes.set_xlabel("units free after the first task, %")
    axes.set_ylabel("accuracy, %")
    axes.set_title("CLNP, each point with its margin in points", loc="left")
    axes.legend()
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
