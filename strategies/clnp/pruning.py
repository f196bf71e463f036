"""How CLNP prunes: within a budget, as many units as cost no more validation accuracy than the margin.

Source: Golkar, Kagan and Cho 2019 (arXiv 1903.04476), graceful forgetting. The paper does not say how its thresholds
are found: here group by group in order, by bisection over the scores that occur. The budget is beyond the paper.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from clbench.errors import MethodWarning


class Validation(Protocol):
    """Measures a network on the task's validation images."""

    def right(self, mask: Tensor | None) -> Tensor:
        """Which images units (bool [U]) classify correctly, bool [N]; None stands for the whole network."""

    def searching(self, group: int, mask: Tensor) -> AbstractContextManager[None]:
        """A context in which masks differ from this one in units of a group and of later ones only."""


@dataclass(frozen=True)
class Probe:
    """One look of the search.

    Attributes:
        group: number of the group; None for all groups together.
        kept: units of it in force.
        accuracy: on the validation images, from 0 to 1.
        changed: how many of them the unpruned network gets right and this one wrong, or the other way about.
        is_chosen: whether the search ended here.
    """

    group: int | None
    kept: int
    accuracy: float
    changed: int
    is_chosen: bool = False


@dataclass
class Pruned:
    """What pruning came to.

    Attributes:
        mask: bool [U], what stays.
        thresholds: per group, the score up to which free units were pruned.
        spent: per group, the points of validation accuracy that it cost.
        n_images: how many the accuracy was measured on.
        cut: points that the budget cost, all groups together.
        probes: every look of the search. The first is at the unpruned network, the last at what stays.
    """

    mask: Tensor
    thresholds: list[float]
    spent: list[float]
    n_images: int
    cut: float = 0.0
    probes: list[Probe] = field(default_factory=list)


def choose(
    scores: Tensor,
    active: Tensor,
    groups: Sequence[slice],
    validation: Validation,
    margin: float,
    *,
    shares: Sequence[float] | None = None,
    limits: Sequence[int] | None = None,
    names: Sequence[str] = (),
    global_threshold: bool = False,
) -> Pruned:
    """Prunes free units while the validation accuracy stays within the margin of the unpruned network's.

    Args:
        scores: of every unit [U]; the lowest go first, and those of 0 whatever it costs.
        active: bool [U]: units of earlier tasks, which stay.
        groups: which units belong together.
        validation: measures the accuracy.
        margin: accuracy in percentage points that may be lost, by all groups together. As floats round, what costs
            exactly so much may be one image too much.
        shares: in what proportion the groups may spend it; None for evenly. What an early group does not spend passes
            on to the later.
        limits: how many free units of each group may stay; None for all.
        names: of the groups, for warnings.
        global_threshold: one threshold for all groups, instead of one for each; it takes no shares.
    """
    unpruned = validation.right(None)
    base = _share(unpruned)
    if 0 < margin < 100 / len(unpruned):
        warnings.warn(
            f"CLNP's margin of {margin:g} points is less than one of its {len(unpruned)} validation images; in "
            "effect it is 0",
            MethodWarning,
            stacklevel=2,
        )
    found = Pruned(torch.ones_like(active), [0.0] * len(groups), [0.0] * len(groups), len(unpruned))

    def look(mask: Tensor, group: int | None) -> Probe:
        right = validation.right(mask)
        kept = int((mask if group is None else mask[groups[group]]).sum())
        return Probe(group, kept, _share(right), int((right != unpruned).sum()))

    found.probes.append(Probe(None, len(active), base, 0))
    accuracy = base
    if limits is not None and _cut(found.mask, scores, active, groups, limits):
        found.probes.append(look(found.mask, None))
        accuracy = found.probes[-1].accuracy
        found.cut = 100 * (base - accuracy)
    together = [list(range(len(groups)))] if global_threshold else [[number] for number in range(len(groups))]
    parts = [1.0] * len(together) if shares is None or global_threshold else list(shares)
    for position, numbers in enumerate(together):
        allowed = base - margin * (sum(parts[: position + 1]) / sum(parts)) / 100
        inside = torch.zeros_like(active)
        for number in numbers:
            inside[groups[number]] = True
        looks: dict[float, Probe] = {}

        def pruned(theta: float, mask: Tensor = found.mask, inside: Tensor = inside) -> Tensor:
            return mask & (active | ~inside | (scores > theta))

        def reach(
            theta: float,
            pruned: Callable[[float], Tensor] = pruned,
            looks: dict[float, Probe] = looks,
            group: int | None = None if global_threshold else numbers[0],
        ) -> float:
            looks[theta] = look(pruned(theta), group)
            return looks[theta].accuracy

        candidates = scores[inside & ~active & found.mask].unique()
        # Silent units go whatever the threshold; from here on they need not be computed with.
        with validation.searching(numbers[0], pruned(0.0)):
            theta, reached = largest_threshold([0.0, *candidates[candidates > 0].tolist()], reach, allowed)
        if reached is None and found.cut > 0:
            # The budget has cost more than the margin allows, so nothing but silent units is left to prune.
            reached = looks[0.0].accuracy
        elif reached is not None:
            for number in numbers:
                found.thresholds[number] = theta
                found.spent[number] = 100 * (accuracy - reached) / len(numbers)
            accuracy = reached
        if reached is not None:
            found.mask = pruned(theta)
            # Of one threshold for all, the last look says what was chosen.
            looks[theta] = replace(looks[theta], is_chosen=not global_threshold)
        else:
            name = names[numbers[0]] if names else f"group {numbers[0] + 1}"
            warnings.warn(
                f"CLNP pruned nothing in {name}: even without its silent units the validation accuracy falls below "
                f"{100 * allowed:.2f} %",
                MethodWarning,
                stacklevel=2,
            )
        found.probes += looks.values()
    found.probes.append(replace(look(found.mask, None), is_chosen=True))
    return found


def _share(right: Tensor) -> float:
    return int(right.sum()) / len(right)


def _cut(mask: Tensor, scores: Tensor, active: Tensor, groups: Sequence[slice], limits: Sequence[int]) -> bool:
    """Takes out of the mask what is over the limits, the lowest scores first. Returns whether anything was."""
    before = mask.clone()
    for group, limit in zip(groups, limits, strict=True):
        free = (~active[group]).nonzero().squeeze(1)
        order = scores[group][free].argsort(descending=True, stable=True)
        mask[group] = mask[group].index_fill(0, free[order[limit:]], False)
    return bool((mask != before).any())


def limits_of(budget: "str | Sequence[float] | None", free: Sequence[int], tasks_to_come: int) -> list[int] | None:
    """How many free units of each group a task may claim.

    Args:
        budget: `even`, a share of what is free for each group, or None for no limit.
        free: units of each group that are free.
        tasks_to_come: this one counted.

    Example:
        limits_of("even", [100, 40], 10)  # [10, 4]
    """
    if budget is None:
        return None
    shares = [1 / tasks_to_come] * len(free) if isinstance(budget, str) else budget
    # A share as a float is a bit less or more than meant.
    return [math.floor(share * units + 1e-9) or min(units, 1) for share, units in zip(shares, free, strict=True)]


def largest_threshold(
    candidates: list[float], accuracy: Callable[[float], float], allowed: float
) -> tuple[float, float | None]:
    """Bisection for the largest candidate (ascending) whose accuracy is allowed, and that accuracy.

    Returns:
        0 and None if not even the smallest is allowed.
    """
    reached = accuracy(candidates[0])
    if reached < allowed:
        return 0.0, None
    low, high = 0, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        found = accuracy(candidates[middle])
        if found >= allowed:
            low, reached = middle, found
        else:
            high = middle
    return candidates[low], reached
