"""What one task did to the groups of units, in numbers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clbench.networks.unit_map import Group
from clbench.strategies.clnp.claims import Claims
from clbench.strategies.clnp.measuring import Activity
from clbench.strategies.clnp.pruning import Pruned


@dataclass(frozen=True)
class GroupReport:
    """What one task did to one group of units.

    Attributes:
        group, unit: its name, and `neuron` or `filter`.
        units, free, new, reused: counts after the task; `reused` are units of earlier tasks that are active on this one
            and reach a newly claimed unit, or the head, through a weight that is not 0.
        threshold: theta, the score up to which free units were pruned.
        margin_spent: accuracy in percentage points that pruning this group cost on the validation data.
        weights_used: of the weights that lead to the group, the share that lie between claimed units; and the masks of
            the tasks, a bit a unit, as a share of 32 bits a weight.
        weights: how many lead to the group.
    """

    group: str
    unit: str
    units: int
    free: int
    new: int
    reused: int
    threshold: float
    margin_spent: float
    weights_used: float
    weights: int

    @property
    def used(self) -> int:
        """Units that some task has claimed."""
        return self.units - self.free


def reports_of(claims: Claims, pruned: Pruned, activity: Activity, new: Tensor, head: str) -> list[GroupReport]:
    """A report for each group, of a task that is about to claim units.

    Args:
        claims: as they are before it.
        pruned, activity: what was found.
        new: bool [U], what it claims.
        head: name of its output layer.
    """
    read = _read_by(claims, new, head)
    found = []
    for number, group in enumerate(claims.units.groups):
        of_group = group.slice
        threshold = pruned.thresholds[number]
        awake = claims.active[of_group] & (activity.size[of_group] > threshold)
        n_new = int(new[of_group].sum())
        found.append(
            GroupReport(
                group=group.name,
                unit=group.unit,
                units=group.size,
                free=claims.free_of(number) - n_new,
                new=n_new,
                reused=int((awake & read[of_group]).sum()),
                threshold=threshold,
                margin_spent=pruned.spent[number],
                **_weights_used(claims, claims.active | new, group),
            )
        )
    return found


def _weights_used(claims: Claims, active: Tensor, group: Group) -> dict[str, Any]:
    """How many weights lead to a group, and the share of them that tasks use up, the present one counted."""
    inside = torch.zeros_like(active)
    inside[group.slice] = True
    tensors = claims.tensors()
    used = there = 0
    for name, layer in claims.units.layers.items():
        rows = claims.rows(name, inside)
        if layer.kind == "norm" or not rows.any():
            continue
        each = tensors[f"{name}.weight"][0, 0].numel()
        claimed = int(claims.rows(name, inside & active).sum())
        # A filter that sees one channel belongs to it alone.
        columns = torch.ones(1) if layer.kind == "depthwise" else claims.columns(name, active)
        used += each * claimed * int(columns.sum())
        there += each * int(rows.sum()) * len(columns)
    bits = group.size * (len(claims.masks) + 1)
    return {"weights_used": (used + bits / 32) / there if there else 0.0, "weights": there}


@torch.no_grad()
def _read_by(claims: Claims, new: Tensor, head: str) -> Tensor:
    """bool [U], units that new units or the output layer read through a weight that is not 0."""
    found = torch.zeros_like(new)
    tensors = claims.tensors()
    for name in claims.readers():
        weight = tensors[f"{name}.weight"]
        rows = weight if name == head else weight[claims.rows(name, new)]
        columns = (rows != 0).transpose(0, 1).flatten(1).any(1)
        reads = claims.layers[name].reads.to(columns.device)
        found[reads[columns & (reads >= 0)]] = True
    return found
