"""After how many tasks a layer will be full, from what the tasks so far have claimed.

A layer stands here for any group of units that a method counts: neurons, filters or weights.

The model: what a task claims is a straight line in the number of neurons that are free before it, and noise. A line
that is flat is a network that fills up task by task; one through 0 is a network that claims less and less and reuses
more. It is fitted by least squares to the tasks of the second half so far (the first ones find little to reuse), every
seed's. From what each seed has left, continuations are then simulated, each with a line and a noise that the fit leaves
possible (Student's t), and their quantiles are the forecast: an interval for a run like these, not for a mean. Where a
budget limits what a task may claim, it limits the continuations as well.

What it leaves out: a line that bends, and noise that lasts longer than a task. On the recorded runs of 25 tasks the 95
% intervals for what is free in the end, made after 5, 6, ... 24 tasks, held 33, 31 and 27 times of 40, and where they
did not, more was free than they said. On that of 50 tasks a layer's last fifth lasted twice as long as the line said,
because tasks claim less when little is left: it was full after 41 tasks, and 17 of 36 intervals held that, the others
ending up to ten tasks early (`docs/forecast.md`). So it says when a layer is scarce, rather than when its last neuron
is gone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

CONFIDENCE = 0.95
FULL = 0.01  # share of free neurons up to which a layer counts as full; the last few are claimed by chance
FARTHEST = 10  # times as many tasks as were seen; beyond, an end is open
_FEWEST_CLAIMS = 3  # of which a line and a noise can be told,
_FEWEST_TASKS = 2  # and of each seed, because seeds alone do not say what comes with the tasks
_CONTINUATIONS = 2000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """One group's forecast.

    Attributes:
        group: its name, such as `layer_1`.
        unit: what it counts.
        next_claim: units that the next task is expected to claim, mean over seeds.
        full_after: tasks in all until the layer is full, the median; infinite beyond `FARTHEST`.
        low, high: its 95 % prediction interval; infinite likewise.
        full_seeds: per seed, after how many tasks it was full; None for those that are not.
        left: free units after none, one, two ... further tasks, as a share: low, median and high, [3, steps].
    """

    group: str
    unit: str
    next_claim: float
    full_after: float
    low: float
    high: float
    full_seeds: tuple[int | None, ...]
    left: Floats

    @property
    def is_full(self) -> bool:
        """Whether it is full in every seed: nothing is forecast then."""
        return None not in self.full_seeds


@dataclass(frozen=True)
class Budget:
    """How much of a group a task may claim at most, as CLNP's `budget` says.

    Attributes:
        shares: of what is free, by group; None for an even one, by the tasks still to come.
        n_tasks: of the suite.
    """

    shares: Mapping[str, float] | None
    n_tasks: int

    @classmethod
    def of(cls, setting: object, groups: Sequence[str], n_tasks: int) -> "Budget | None":
        """The budget that a recorded setting means for these groups; None for no limit."""
        if setting == "even":
            return cls(None, n_tasks)
        if isinstance(setting, list) and len(setting) in (1, len(groups)):
            each = setting * len(groups) if len(setting) == 1 else setting
            return cls(dict(zip(groups, each, strict=True)), n_tasks)
        return cls(setting, n_tasks) if isinstance(setting, dict) else None

    def limit(self, group: str, learned: int, free: Floats) -> Floats:
        """Units that the next task may claim, after so many tasks and of so many free ones."""
        share = 1 / max(1, self.n_tasks - learned) if self.shares is None else self.shares.get(group, 1.0)
        return np.maximum(np.floor(share * free + 1e-9), np.minimum(free, 1))


def forecasts(
    capacities: Sequence[pd.DataFrame], tasks: int | None = None, budget: Budget | None = None
) -> list[Forecast]:
    """A forecast for every group, in order of appearance; none while there are too few tasks for one.

    Args:
        capacities: one table per seed, columns as in capacity.csv.
        tasks: how many of the tasks to look at; None for all.
        budget: what limited the claims; None for nothing.
    """
    seen = min(int(table["task"].max()) for table in capacities) if tasks is None else tasks
    tables = [table[table["task"] <= seen] for table in capacities]
    later = seen - seen // 2
    if later < _FEWEST_TASKS or len(tables) * later < _FEWEST_CLAIMS:
        return []
    return [
        _forecast(group, [table[table["group"] == group] for table in tables], seen, budget)
        for group in dict.fromkeys(tables[0]["group"])
    ]


def _forecast(group: str, tables: Sequence[pd.DataFrame], seen: int, budget: Budget | None) -> Forecast:
    units, unit = float(tables[0]["units"].iloc[0]), str(tables[0]["unit"].iloc[0])
    bound = FULL * units
    full_seeds = tuple(_first(table["free"].to_numpy() <= bound, table["task"].to_numpy()) for table in tables)
    later = pd.concat([table[table["task"] > seen // 2] for table in tables])
    claims = later["new"].to_numpy(dtype=float)
    before = later["free"].to_numpy(dtype=float) + claims
    last = np.array([float(table["free"].iloc[-1]) for table in tables])

    def at_most(learned: int, free: Floats) -> Floats:
        return free if budget is None else budget.limit(group, learned, free)

    paths, next_claim = _continued(before, claims, last, seen, at_most)
    # Which seed a continuation goes on from: each as often.
    seeds = np.arange(_CONTINUATIONS) % len(last)
    below = paths <= bound
    ends = np.where(below.any(axis=0), seen + below.argmax(axis=0), math.inf)
    for seed, full in enumerate(full_seeds):
        if full is not None:
            ends[seeds == seed] = full
    shares = [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2]
    low, median, high = np.quantile(ends, shares, method="nearest")
    left = np.quantile(paths, shares, axis=1) / units
    return Forecast(group, unit, next_claim, float(median), float(low), float(high), full_seeds, left)


def _continued(
    before: Floats, claims: Floats, last: Floats, seen: int, at_most: Callable[[int, Floats], Floats]
) -> tuple[Floats, float]:
    """Free neurons along simulated continuations, [steps, `_CONTINUATIONS`], and what the next task should claim.

    `at_most` says how many it may claim, after so many tasks and of so many free ones.
    """
    columns = [np.ones_like(before)] + ([before] if np.ptp(before) else [])
    design = np.stack(columns, axis=1)
    line, *_ = np.linalg.lstsq(design, claims)
    freedom = len(claims) - design.shape[1]
    residuals = claims - design @ line
    draw = np.random.default_rng(0)
    # The noise and the line are as uncertain as so few tasks leave them.
    chi = draw.chisquare(freedom, _CONTINUATIONS) / freedom
    noise = np.sqrt(float(residuals @ residuals) / freedom / chi)
    root = np.linalg.cholesky(np.linalg.inv(design.T @ design))
    lines = line + (draw.standard_normal((_CONTINUATIONS, len(line))) @ root.T) * noise[:, None]
    free = last[np.arange(_CONTINUATIONS) % len(last)]
    paths = [free]
    for learned in range(seen, FARTHEST * seen):
        expected = lines[:, 0] + (lines[:, 1] * free if lines.shape[1] > 1 else 0.0)
        free = free - np.clip(expected + noise * draw.standard_normal(_CONTINUATIONS), 0, at_most(learned, free))
        paths.append(free)
    slope = line[1] if len(line) > 1 else 0.0
    return np.stack(paths), float(np.clip(line[0] + slope * last, 0, at_most(seen, last)).mean())


def _first(is_full: npt.NDArray[np.bool_], tasks: npt.NDArray[np.int64]) -> int | None:
    return int(tasks[is_full.argmax()]) if is_full.any() else None
