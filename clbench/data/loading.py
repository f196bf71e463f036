"""Batches from tensors in memory: one gather per batch, no Python per image."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from clbench.data.streams import Samples

Batch = list[Tensor]

# Images of a task that take more than this as floats stay uint8, and every batch is made when it is asked for.
RESIDENT_BYTES = 256 * 2**20


class TensorLoader:
    """Batches `[x, y, task_labels]` on the device; one gather per batch, no Python per image.

    Samples of one task are changed (permuted, rotated) and normalised once, when they are first needed, if they are not
    augmented and take at most `RESIDENT_BYTES` as floats. Otherwise every batch is gathered from uint8 images and
    changed by itself. These lie on a GPU where that is the device. On a CPU they are the images that all tasks share,
    which may be a memory-mapped file larger than memory.

    Samples of several tasks are mixed in every batch and changed batch by batch, so that memory does not grow with the
    tasks.

    Whoever iterates over a loader that augments sees augmented images: training, and what is measured on training
    images after it, such as Fisher information.

    Args:
        samples: what to iterate over, one entry per task.
        batch_size: B; the last batch may be smaller.
        device: where the batches shall lie.
        generator: shuffles each pass; None keeps the order.
        n_batches: how many batches make one iteration, pass after pass; None is one pass.
        augment: takes the uint8 images [B, C, H, W] of a batch and returns what to train on in their place; None
            leaves them.
        least: images of a batch. A last one with fewer joins the one before it, for batch norms cannot train on one.
    """

    def __init__(
        self,
        samples: Sequence[Samples],
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        n_batches: int | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        least: int = 1,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.device = device
        self.generator = generator
        self.n_batches = n_batches
        self.augment = augment
        self.least = least
        self._at_hand: tuple[Tensor, int, Tensor] | None = None  # the latest images, their version, their positions
        self._resident: tuple[Tensor, Tensor] | None = None
        self._near: Samples | None = None

    @property
    def n_images(self) -> int:
        """Images there are, each counted once."""
        return sum(map(len, self.samples))

    def __len__(self) -> int:
        # Some ask in every step.
        whole, last = divmod(self.n_images, self.batch_size)
        joins = whole > 0 and last < self.least
        return self.n_batches or whole + (last > 0 and not joins)

    def __iter__(self) -> Iterator[Batch]:
        if self.n_batches is None:
            order = self._pass()
        else:
            wanted = self.n_batches * self.batch_size
            order = torch.cat([self._pass() for _ in range(-(-wanted // self.n_images))])[:wanted]
        if len(self.samples) > 1:
            return self._mixed(order)
        return self._made(order) if self.resident() is None else self._looked_up(order)

    def _split(self, order: Tensor) -> Sequence[Tensor]:
        return order.tensor_split([self.batch_size * number for number in range(1, len(self))])

    def _pass(self) -> Tensor:
        if self.generator is None:
            return torch.arange(self.n_images)
        return torch.randperm(self.n_images, generator=self.generator)

    def resident(self) -> tuple[Tensor, Tensor] | None:
        """All images [N, ...] and labels [N] of its only task, on the device.

        None where they are not kept as floats: for several tasks, augmented images, or more than `RESIDENT_BYTES`.
        """
        if self._resident is None:
            first = self.samples[0]
            bytes_as_floats = 4 * len(first) * first.images[0].numel()
            if len(self.samples) > 1 or self.augment is not None or bytes_as_floats > RESIDENT_BYTES:
                return None
            x, y = first.tensors()
            self._resident = x.to(self.device), y.to(self.device)
        return self._resident

    def positions(self, x: Tensor) -> Tensor | None:
        """Where the images x stand in `resident()`, int64 [B]; None unless x is the latest batch, and unchanged."""
        if self._at_hand is None:
            return None
        latest, version, positions = self._at_hand
        return positions if x is latest and x._version == version else None

    def _looked_up(self, order: Tensor) -> Iterator[Batch]:
        kept = self.resident()
        assert kept is not None
        x, y = kept
        labels = torch.full((self.batch_size + self.least,), self.samples[0].task_label, device=self.device)
        for chosen in self._split(order.to(self.device)):
            images = x[chosen]
            self._at_hand = images, images._version, chosen
            yield [images, y[chosen], labels[: len(chosen)]]

    def _made(self, order: Tensor) -> Iterator[Batch]:
        if self._near is None:
            self._near = self.samples[0] if self.device.type == "cpu" else self.samples[0].on(self.device)
        labels = torch.full((self.batch_size + self.least,), self._near.task_label, device=self.device)
        for chosen in self._split(order.to(self.device)):
            yield [*self._near.batch(chosen, self.augment), labels[: len(chosen)]]

    def _mixed(self, order: Tensor) -> Iterator[Batch]:
        starts = torch.tensor([0, *map(len, self.samples)]).cumsum(0)
        for chosen in self._split(order):
            owner = torch.bucketize(chosen, starts, right=True) - 1
            parts = []
            for task in owner.unique().tolist():
                positions = chosen[owner == task] - starts[task]
                x, y = self.samples[task].batch(positions, self.augment, self.device)
                parts.append((x, y, torch.full((len(y),), self.samples[task].task_label, device=self.device)))
            yield [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
