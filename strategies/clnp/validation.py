"""The images on which CLNP prunes: held out of a task's training data, or given; and the accuracy on them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from avalanche.benchmarks import CLExperience
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clbench.data.loading import TensorLoader
from clbench.errors import MethodError
from clbench.methods.learned import chance
from clbench.methods.method import EVALUATION_BATCH
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.units import Units

ONE_LABEL = "CLNP prunes by the share of images classified right, which needs one label an image"
Batches = Iterable[Sequence[Tensor]]


def hold_out(dataset: Any, share: float, generator: torch.Generator) -> tuple[Any, Any]:
    """Divides a task's data set: what is left to train on, and what is held out, drawn class by class.

    A class of two images or more has at least one on either side.

    Args:
        dataset: of Avalanche, with `targets`.
        share: to hold out, above 0 and below 1.
        generator: draws.

    Raises:
        MethodError: if nothing would be left on one side, or images have several labels.
    """
    try:
        labels = torch.as_tensor([int(label) for label in dataset.targets])
    except AttributeError:
        raise MethodError(
            "CLNP holds validation images out class by class, and the data set has no targets; give it some, one label "
            "an image, or give CLNPPlugin a validation_stream"
        ) from None
    except (TypeError, ValueError):
        raise MethodError(ONE_LABEL) from None
    out = torch.zeros(len(labels), dtype=torch.bool)
    order = torch.randperm(len(labels), generator=generator)
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        wanted = round(len(members) * share)
        out[members[: min(max(wanted, 1), len(members) - 1)]] = True
    if not out.any():
        raise MethodError(
            f"CLNP cannot hold out validation images from {len(labels)} training images, one of a class; give it a "
            "validation_stream"
        )
    return (dataset.subset(order[~out[order]].tolist()), dataset.subset(order[out[order]].tolist()).eval())


def source_of(held_out: Any, stream: Sequence[Any] | None, task: int) -> Any:
    """What validation images are in: a data set, a loader, or batches, also where an experience was given.

    Args:
        held_out: of the task's data; what there is where no stream was given.
        stream: as `CLNPPlugin` was given it.
        task: number of the task.

    Raises:
        MethodError: if the stream has nothing for the task.
    """
    if stream is None:
        return held_out
    if task >= len(stream):
        raise MethodError(
            f"CLNP's validation_stream has images for {len(stream)} tasks, and this is task {task + 1}; give it one "
            "entry for each"
        )
    given = stream[task]
    if isinstance(given, CLExperience):
        return given.dataset.eval()
    # What can be gone through but once is kept.
    return list(given) if isinstance(given, Iterator) else given


def batches_of(source: Any, device: torch.device) -> Batches:
    """The task's `[x, y, task_labels]`, on the device; the same ones whenever they are iterated over."""
    if isinstance(source, TensorLoader) and source.resident() is None:
        # Too many to keep them all as floats.
        return source
    if isinstance(source, AvalancheDataset):
        source = DataLoader(source, batch_size=EVALUATION_BATCH)
    return [[part.to(device) for part in (batch[0], batch[1], batch[-1])] for batch in source]


class Accuracy:
    """Accuracy of a network on images under masks, computing again only what may have changed.

    Args:
        network: the whole one, with what the task has learned in it.
        units: of the network, seen for the task.
        batches: `[x, y, ...]` on the network's device.
        mask: bool [U], the units that there are; None for all.
    """

    def __init__(self, network: nn.Module, units: Units, batches: Batches, mask: Tensor | None = None) -> None:
        self._network, self._units, self._batches = network, units, batches
        everything = torch.ones(units.n_units, dtype=torch.bool, device=next(network.parameters()).device)
        self._reduced = self._reduced_to(everything if mask is None else mask)

    def _reduced_to(self, mask: Tensor) -> ReducedNetwork:
        return ReducedNetwork(self._network, self._units, seen_only(mask)).eval()

    @cached_property
    def chance(self) -> float:
        """The accuracy of who always says the most frequent class."""
        return chance(torch.cat([y for _, y, *_ in self._batches]))

    @torch.no_grad()
    def right(self, mask: Tensor | None) -> Tensor:
        """Which images units (bool [U]) classify correctly, bool [N] on the CPU; None stands for all there are."""
        found = []
        with self._reduced.seen_through(mask):
            for number, (x, y, *_) in enumerate(self._batches):
                self._reduced.at_batch(number)
                found.append(self._reduced(x).argmax(1) == y)
        return torch.cat(found).cpu()

    def accuracy(self, mask: Tensor | None) -> float:
        """Share of the images that units (bool [U]) classify correctly; None stands for all there are."""
        right = self.right(mask)
        return int(right.sum()) / len(right)

    @contextmanager
    def searching(self, group: int, mask: Tensor) -> Iterator[None]:
        """Within, masks differ from this one in units of a group and of later ones only.

        The network is reduced to the mask, and what lies before the group's readers is computed once per batch.
        """
        before = self._reduced
        self._reduced = self._reduced_to(mask)
        self._reduced.hold(group)
        try:
            yield
        finally:
            self._reduced = before
