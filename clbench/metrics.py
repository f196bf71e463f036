r"""Numbers from an accuracy matrix, in numpy alone.

Letters used throughout: T tasks; `matrix` has shape [T + 1, T], and `matrix[i, j]` is the test accuracy, in
[0, 1], on task j + 1 after i tasks were learned. Row 0 is the untrained network. NaN stands for "not measured".
In the literature's R (Lopez-Paz and Ranzato 2017, arXiv 1706.08840) the rows count from 1: R[i, j] is
`matrix[i, j - 1]` here.

A number that is undefined for a matrix is None, never 0: backward transfer of a single task, forward transfer
where the network could not be tried on a task before learning it (multi-head).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def check_matrix(matrix: npt.ArrayLike) -> Matrix:
    """The matrix as float64, after checking its form.

    Raises:
        ValueError: if the shape is not [T + 1, T], a value lies outside [0, 1], or a value on or below the
            diagonal is missing while a later row was measured. Only a matrix with nothing but its last row may lack
            the rows before it.
    """
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] + 1 or array.shape[1] == 0:
        raise ValueError(f"expected an accuracy matrix of shape [T + 1, T] with T >= 1, but got {array.shape}")
    known = array[~np.isnan(array)]
    if known.size and (known.min() < 0 or known.max() > 1 or not np.isfinite(known).all()):
        raise ValueError(f"expected accuracies in [0, 1], but got values from {known.min()} to {known.max()}")
    learned = tasks_learned(array)
    only_last = bool(np.isnan(array[1:learned]).all())
    for i in range(learned if only_last else 1, learned + 1):
        if np.isnan(array[i, :i]).any():
            raise ValueError(f"row {i} of the accuracy matrix lacks a value for one of its first {i} tasks")
    return array


def tasks_learned(matrix: Matrix) -> int:
    """How many tasks the matrix has rows for: the last i for which `matrix[i]` holds any value."""
    measured = [i for i in range(1, matrix.shape[0]) if not np.isnan(matrix[i]).all()]
    return measured[-1] if measured else 0


def average_accuracy(matrix: Matrix, learned: int | None = None) -> float:
    """ACC: mean accuracy over the tasks learned so far, after the last of them, in [0, 1]."""
    t = _learned(matrix, learned)
    return float(matrix[t, :t].mean())


def backward_transfer(matrix: Matrix, learned: int | None = None) -> float | None:
    """BWT: mean change of the earlier tasks' accuracy since each was learned, in [-1, 1]; None for one task."""
    t = _learned(matrix, learned)
    return _mean([matrix[t, j] - matrix[j + 1, j] for j in range(t - 1)])


def forgetting(matrix: Matrix, learned: int | None = None) -> float | None:
    """Mean drop of the earlier tasks from their best accuracy so far (Chaudhry et al. 2018, arXiv 1801.10112).

    The best is taken over all measured rows 1 to t - 1, as in that paper; Avalanche starts from the row in
    which the task was learned. None for one task.
    """
    t = _learned(matrix, learned)
    rows = [i for i in range(1, t) if not np.isnan(matrix[i]).all()]
    # Each task's best is known only if it was measured after it was learned.
    if not all(any(i > j for i in rows) for j in range(t - 1)):
        return None
    return _mean([np.nanmax(matrix[rows, j]) - matrix[t, j] for j in range(t - 1)])


def forward_transfer(matrix: Matrix, learned: int | None = None) -> float | None:
    """FWT: mean accuracy on a task just before it is learned, less that of the untrained network.

    None where any of these values was not measured, and for one task.
    """
    t = _learned(matrix, learned)
    return _mean([matrix[j, j] - matrix[0, j] for j in range(1, t)])


def average_incremental_accuracy(matrix: Matrix, learned: int | None = None) -> float | None:
    """Mean, over i tasks learned, of the average accuracy after i tasks, in [0, 1]; None where one is not known."""
    t = _learned(matrix, learned)
    return _mean([matrix[i, :i].mean() for i in range(1, t + 1)])


def learning_accuracy(matrix: Matrix, learned: int | None = None) -> float | None:
    """Mean accuracy on each task right after learning it, in [0, 1]; None where one was not measured."""
    t = _learned(matrix, learned)
    return _mean([matrix[j + 1, j] for j in range(t)])


SUMMARY = {
    "average_accuracy": average_accuracy,
    "backward_transfer": backward_transfer,
    "forgetting": forgetting,
    "forward_transfer": forward_transfer,
    "average_incremental_accuracy": average_incremental_accuracy,
    "learning_accuracy": learning_accuracy,
}


def summarise(matrix: npt.ArrayLike, learned: int | None = None) -> dict[str, float]:
    """Every metric that is defined after `learned` tasks (default: all that were learned), by name."""
    array = check_matrix(matrix)
    values = {name: metric(array, learned) for name, metric in SUMMARY.items()}
    return {name: value for name, value in values.items() if value is not None}


def capacity_used(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """CAP: the share of the hidden weights that tasks use, with what says which. It may exceed 1.

    Source: Kang et al. 2022 (WSN).

    Args:
        rows: of capacity.csv, with the columns `format.CAPACITY_COLUMNS`; the last task's count.

    Returns:
        None where the weights were not counted.
    """
    last = max((row["task"] for row in rows), default=0)
    now = [row for row in rows if row["task"] == last]
    weights = sum(row.get("weights", np.nan) for row in now)
    if not weights > 0:
        return None
    return float(sum(row["weights_used"] * row["weights"] for row in now) / weights)


def _mean(values: Sequence[float]) -> float | None:
    """The mean; None without values, or if one is not known."""
    value = np.mean(values) if values else np.nan
    return None if np.isnan(value) else float(value)


def _learned(matrix: Matrix, learned: int | None) -> int:
    measured = tasks_learned(matrix)
    t = measured if learned is None else learned
    if not measured:
        raise ValueError("expected a matrix with at least one learned task, but got that of an untrained network")
    if not 1 <= t <= measured:
        raise ValueError(f"expected 1 to {measured} learned tasks, but got {t}")
    return t


def task_columns(n_tasks: int) -> Sequence[str]:
    """Column names of a recorded accuracy matrix: `task_01`, `task_02`, ... up to `task_T`."""
    return [f"task_{j:02d}" for j in range(1, n_tasks + 1)]
