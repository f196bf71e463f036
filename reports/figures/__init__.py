"""The drawings, each an SVG document as text: same input, same bytes."""

from clbench.reports.figures.accuracy import (
    MATRICES_PER_FIGURE,
    MOST_PANELS,
    accuracy_matrices,
    average_accuracy,
    forgetting,
    trajectories,
)
from clbench.reports.figures.capacity import MOST_GROUPS, capacity, filling, reuse
from clbench.reports.figures.comparison import critical_difference, task_differences
from clbench.reports.figures.costs import Tradeoff, costs, state_growth, tradeoffs
from clbench.reports.figures.pruning import searched, trade_off
from clbench.reports.figures.samples import samples

__all__ = [
    "MATRICES_PER_FIGURE",
    "MOST_GROUPS",
    "MOST_PANELS",
    "Tradeoff",
    "accuracy_matrices",
    "average_accuracy",
    "capacity",
    "costs",
    "critical_difference",
    "filling",
    "forgetting",
    "reuse",
    "samples",
    "searched",
    "state_growth",
    "task_differences",
    "trade_off",
    "tradeoffs",
    "trajectories",
]
