"""After how many tasks a layer will be full, from what the tasks so far have claimed.

The model: every further task claims as many neurons as the tasks of the second half so far did on average (the first
ones find nothing to reuse and are left out). The interval is that of this mean, Student's t at 95 % over tasks and
seeds. Where the claims of that half have a trend (its slope is not 0 at 95 %), the interval takes it in: with falling
claims, as of a network that fills up and is reused instead, it is open upwards; with rising ones it begins where the
straight line through them has used up what is free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
        trend: of the claims: `falling`, `rising`, or empty where there is none to be sure of.
    """

    layer: int
    claims: float
    full_after: float
    low: float
    high: float
    is_full: bool = False
    trend: Literal["falling", "rising", ""] = ""


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
    later = rows[rows["task"] > seen // 2]
    claims = later["new"].to_numpy(dtype=float)
    mean = float(claims.mean())
    free = float(rows.loc[rows["task"] == seen, "free"].mean())
    if free == 0:
        full = float(rows.loc[rows["free"] == 0].groupby("task").size().index.min())
        return Forecast(layer, mean, full, full, full, is_full=True)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(claims) - 1)
    half_width = float(quantile * np.std(claims, ddof=1) / math.sqrt(len(claims)))

    def until(per_task: float) -> float:
        return seen + free / per_task if per_task > 0 else math.inf

    low, high = until(mean + half_width), until(mean - half_width)
    line = stats.linregress(later["task"].to_numpy(dtype=float), claims)
    # Claims that are all the same have no trend, and no p-value either.
    if not line.pvalue < 1 - CONFIDENCE:
        return Forecast(layer, mean, until(mean), low, high)
    if line.slope < 0:
        return Forecast(layer, mean, until(mean), low, math.inf, trend="falling")
    # Tasks n more use up n a + n^2 b / 2, with a what the line gives for the last task seen and b its slope.
    now, slope = line.intercept + line.slope * seen, line.slope
    soonest = seen + (math.sqrt(now**2 + 2 * slope * free) - now) / slope
    return Forecast(layer, mean, until(mean), min(low, soonest), high, trend="rising")
