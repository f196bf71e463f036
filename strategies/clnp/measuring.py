"""What units do on a task: how large their activity is, how much it varies, and what it leads to."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from clbench.networks.reduced import ReducedNetwork
from clbench.strategies.clnp.claims import Claims


class Activity:
    """Mean size and spread of what units give, as the layers that read them get it.

    A filter's activity is the mean over images and positions. Of a unit that several layers read, the largest counts.

    Attributes:
        size: float64 [U], mean absolute activity.
        spread: float64 [U], standard deviation; None where it was not measured.
    """

    def __init__(self, size: Tensor, spread: Tensor | None = None) -> None:
        self.size = size
        self.spread = spread


@torch.no_grad()
def measure(
    network: ReducedNetwork,
    before: Callable[[Tensor], None],
    images: Iterable[Tensor],
    precision: Callable[[], AbstractContextManager[object]],
    *,
    spread: bool,
) -> Activity:
    """The activity of units over images.

    Args:
        network: of the units to be measured; the others are silent.
        before: is told of every batch.
        images: in batches, on the network's device.
        precision: in which to compute.
        spread: whether to measure that as well, which takes as long again.
    """
    was_training = network.training
    network.eval()
    device = network.part.constant.device
    sums: dict[str, list[Tensor]] = {}
    count = 0
    for x in images:
        before(x)
        with precision(), network.noting():
            network(x)
            for name, given in network.given().items():
                # Each number for a unit has the same weight: as many images, as many positions.
                axes, positions = [0, *range(2, given.ndim)], given[0, 0].numel()
                found = [given.abs().sum(axes, dtype=torch.float32)]
                if spread:
                    found += [(given.float() ** 2).sum(axes), given.float().sum(axes)]
                found = [total.double() / positions for total in found]
                sums[name] = found if name not in sums else [a + b for a, b in zip(sums[name], found, strict=True)]
        count += len(x)
    # The network at hand may be the one that trains on.
    network.train(was_training)
    n_units = len(network.part.constant)
    size = torch.zeros(n_units, dtype=torch.float64, device=device)
    deviation = size.clone()
    for name, totals in sums.items():
        reads = network.layers[name].inputs.units
        absolute, *others = (_mean_of(total / count, reads, n_units) for total in totals)
        size = torch.maximum(size, absolute)
        if spread:
            squared, plain = others
            deviation = torch.maximum(deviation, (squared - plain**2).clamp(min=0).sqrt())
    return Activity(size, deviation if spread else None)


def _mean_of(values: Tensor, reads: Tensor, n_units: int) -> Tensor:
    """Per unit the mean of the columns [in] that come from it, [U]; 0 where none does."""
    from_units = reads >= 0
    total = values.new_zeros(n_units).index_add_(0, reads[from_units], values[from_units])
    columns = values.new_zeros(n_units).index_add_(0, reads[from_units], torch.ones_like(values[from_units]))
    return total / columns.clamp(min=1)


@torch.no_grad()
def contribution(activity: Activity, claims: Claims) -> Tensor:
    """Spread of each unit's activity times the norm of its outgoing weights, float64 [U]; 0 for silent units."""
    assert activity.spread is not None
    squares = torch.zeros_like(activity.size)
    found = claims.tensors()
    for name in claims.readers():
        weight = found[f"{name}.weight"]
        per_column = (weight.double() ** 2).sum([axis for axis in range(weight.ndim) if axis != 1])
        reads = claims.units.layers[name].reads.to(weight.device)
        from_units = reads >= 0
        squares.index_add_(0, reads[from_units], per_column[from_units])
    return torch.where(activity.size > 0, activity.spread * squares.sqrt(), 0.0)
