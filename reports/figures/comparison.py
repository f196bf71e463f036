"""Figures of a comparison: differences by task, ranks over suites."""

import numpy as np
from matplotlib.figure import Figure

from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.statistics import Ranks
from clbench.reports.figures.canvas import Spot, svg, task_axis
from clbench.reports.figures.looks import INK, look_of


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
        task_axis(axes, len(tasks))
        axes.set_xlabel("Task")
        axes.set_ylabel("Difference (percentage points)")
        return [
            Spot(axes, task, mean, f"task {task}: {mean:+.2f} points") for task, mean in zip(tasks, means, strict=True)
        ]

    return svg(draw, name, 2.6)


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

    return svg(draw, name, 0.22 * len(ranks.average) + 1.2)
