"""What a task's accuracy is worth in units: the looks of the search for what to prune."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clbench.records.format import ALL_GROUPS
from clbench.records.reading import RecordedRun
from clbench.reports.analysis.pruning import margin_of, of_network
from clbench.reports.figures.canvas import Spot, shortened, svg
from clbench.reports.figures.looks import INK
from clbench.reports.formatting import group_words, units_words

_MOST_IN_LEGEND = 5
# Shown are losses up to so many times the largest that was chosen; a search looks at far larger ones.
_DEPTH = 3


def searched(looks: pd.DataFrame) -> list[str]:
    """The groups that a search went through; the whole network, where it had one threshold for all of them."""
    return [group for group in dict.fromkeys(looks["group"]) if group != ALL_GROUPS] or [ALL_GROUPS]


def trade_off(run: RecordedRun, name: str, shown: Sequence[str]) -> str:
    """Points of validation accuracy lost against units newly claimed, one panel per group and one line per task."""
    looks, unit = _with_new(run), units_words(run.capacity["unit"])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    tasks = sorted(looks["task"].unique())
    colours = dict(zip(tasks, sns.color_palette("viridis", len(tasks) + 1), strict=False))
    unpruned = of_network(looks)["validation_accuracy"].first()
    lost = looks.assign(lost=100 * (looks["task"].map(unpruned) - looks["validation_accuracy"]))
    most = float(lost["lost"][lost["chosen"] == 1].max())
    # A margin of 0 is the axis.
    margin = margin_of(run.config) or None
    deepest = max(_DEPTH * most, 100 / float(looks["validation_images"].min()), 1.2 * (margin or 0))

    def draw(figure: Figure) -> list[Spot]:
        spots = []
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, group in zip(panels.flat, shown, strict=False):
            words = "all groups" if group == ALL_GROUPS else group_words(group)
            for task, part in lost[lost["group"] == group].groupby("task"):
                # The chosen one last where several keep as many.
                part = part.sort_values(["new", "chosen"])
                axes.plot(part["new"], part["lost"], color=colours[task], linewidth=0.9, marker=".", markersize=3)
                chosen = part[part["chosen"] == 1]
                axes.plot(chosen["new"], chosen["lost"], color=colours[task], marker="o", markersize=5, linestyle="")
                spots += [
                    Spot(axes, new, loss, f"{words}, task {task}: {new} {unit} claimed, {loss:.2f} points lost{is_it}")
                    for new, loss, is_it in zip(
                        part["new"], part["lost"], part["chosen"].map({0: "", 1: ", chosen"}), strict=True
                    )
                    if loss <= deepest
                ]
            axes.set_title(shortened(words), loc="left")
            axes.set_xlabel(f"{unit.capitalize()} newly claimed")
            axes.set_ylim(deepest, min(0.0, float(lost["lost"].min())) - 0.05 * deepest)
            axes.axhline(0, color=INK, linewidth=0.6)
            if margin is not None:
                axes.axhline(margin, color=INK, linewidth=0.6, linestyle="--")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        for row in range(rows):
            panels[row, 0].set_ylabel("Points lost")
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        figure.legend(handles=_handles(colours, margin), loc="outside lower center", ncols=_MOST_IN_LEGEND + 2)
        return spots

    return svg(draw, name, 2.1 * rows + 0.5)


def _with_new(run: RecordedRun) -> pd.DataFrame:
    """The looks of a run with what of the units kept no earlier task had claimed, in the column `new`."""
    earlier = run.capacity[["task", "group"]].assign(earlier=run.capacity["used"] - run.capacity["new"])
    everything = earlier.groupby("task", as_index=False)["earlier"].sum().assign(group=ALL_GROUPS)
    looks = run.pruning.merge(pd.concat([earlier, everything]), on=["task", "group"], how="left")
    return looks.assign(new=looks["kept"] - looks["earlier"])


def _handles(colours: dict[int, tuple[float, float, float]], margin: float | None) -> list[Line2D]:
    """Some of the tasks, the first and the last among them, and what the large point and the line mean."""
    tasks = list(colours)
    steps = min(len(tasks), _MOST_IN_LEGEND)
    places = sorted({round(step * (len(tasks) - 1) / max(1, steps - 1)) for step in range(steps)})
    lines = [Line2D([], [], color=colours[tasks[place]], label=f"task {tasks[place]}") for place in places]
    lines.append(Line2D([], [], color=INK, marker="o", markersize=5, linestyle="", label="chosen"))
    if margin is not None:
        lines.append(Line2D([], [], color=INK, linewidth=0.6, linestyle="--", label="margin"))
    return lines
