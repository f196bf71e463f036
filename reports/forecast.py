"""After how many tasks a layer will be full, from what the tasks so far have claimed.

The model: every further task claims as many neurons as the tasks of the second half so far did on average (the first
ones find nothing to reuse and are left out). The interval is that of this mean, Student's t at 95 % over tasks and
seeds; that claims may change as the network fills up is not in it, so a forecast far beyond the tasks seen is a rough
one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
FEWEST_TASKS = 4  # of whose second half an interval can be made


@dataclass(frozen=True)
class Forecast:
    """One layer's forecast.

    Attributes:
        layer: its number, from 1.
        claims: neurons per further task.
        full_after: tasks in all until no neuron is free; infinite if nothing is claimed any more.
        low, high: its interval; equal to `full_after` where the layer is full already.
        is_full: whether it is: nothing is forecast then.
    """

    layer: int
    claims: float
    full_after: float
    low: float
    high: float
    is_full: bool = False


def forecasts(capacities: Sequence[pd.DataFrame], tasks: int | None = None) -> list[Forecast]:
    """A forecast for every layer.

    Args:
        capacities: one table per seed, columns as in capacity.csv.
        tasks: how many of the tasks to look at; None for all.

    Raises:
        ValueError: with fewer than 4 tasks, of whose second half no interval could be made.
    """
    frame = pd.concat(capacities).apply(pd.to_numeric)
    seen = int(frame["task"].max()) if tasks is None else tasks
    if seen < FEWEST_TASKS:
        raise ValueError(f"expected at least {FEWEST_TASKS} tasks to forecast from, but got {seen}")
    frame = frame[frame["task"] <= seen]
    return [_forecast(int(layer), rows, seen) for layer, rows in frame.groupby("layer")]


def _forecast(layer: int, rows: pd.DataFrame, seen: int) -> Forecast:
    claims = rows.loc[rows["task"] > seen // 2, "new"].to_numpy(dtype=float)
    mean = float(claims.mean())
    free = float(rows.loc[rows["task"] == seen, "free"].mean())
    if free == 0:
        full = float(rows.loc[rows["free"] == 0].groupby("task").size().index.min())
        return Forecast(layer, mean, full, full, full, is_full=True)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(claims) - 1)
    half_width = float(quantile * np.std(claims, ddof=1) / math.sqrt(len(claims)))

    def until(per_task: float) -> float:
        return seen + free / per_task if per_task > 0 else math.inf

    return Forecast(layer, mean, until(mean), until(mean + half_width), until(mean - half_width))
