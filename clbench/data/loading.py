"""Batches from tensors in memory: one gather per batch, no Python per image."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from clbench.data.streams import Samples

Batch = list[Tensor]


class TensorLoader:
    """Batches `[x, y, task_labels]` on the device; one gather per batch, no Python per image.

    Samples of one task are changed (permuted, rotated) once, when they are first needed. Samples of several tasks
    are mixed in every batch and changed batch by batch, so that memory does not grow with the tasks.

    Args:
        samples: what to iterate over, one entry per task.
        batch_size: B; the last batch may be smaller.
        device: where the batches shall lie.
        generator: shuffles each pass; None keeps the order.
        n_batches: how many batches make one iteration, pass after pass; None is one pass.
    """

    def __init__(
        self,
        samples: Sequence[Samples],
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        n_batches: int | None = None,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.device = device
        self.generator = generator
        self.n_batches = n_batches
        self._at_hand: tuple[Tensor, int, Tensor] | None = None  # the latest images, their version, their positions
        self._resident: tuple[Tensor, Tensor] | None = None

    @property
    def n_images(self) -> int:
        """Images there are, each counted once."""
        return sum(map(len, self.samples))

    def __len__(self) -> int:
        return self.n_batches or -(-self.n_images // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.n_batches is None:
            order = self._pass()
        else:
            wanted = self.n_batches * self.batch_size
            order = torch.cat([self._pass() for _ in range(-(-wanted // self.n_images))])[:wanted]
        return self._single(order) if len(self.samples) == 1 else self._mixed(order)

    def _pass(self) -> Tensor:
        if self.generator is None:
            return torch.arange(self.n_images)
        return torch.randperm(self.n_images, generator=self.generator)

    def resident(self) -> tuple[Tensor, Tensor]:
        """All images [N, ...] and labels [N] of its only task, on the device."""
        if self._resident is None:
            (samples,) = self.samples
            x, y = samples.tensors()
            self._resident = x.to(self.device), y.to(self.device)
        return self._resident

    def positions(self, x: Tensor) -> Tensor | None:
        """Where the images x stand in `resident()`, int64 [B]; None unless x is the latest batch, and unchanged."""
        if self._at_hand is None:
            return None
        latest, version, positions = self._at_hand
        return positions if x is latest and x._version == version else None

    def _single(self, order: Tensor) -> Iterator[Batch]:
        x, y = self.resident()
        labels = torch.full((self.batch_size,), self.samples[0].task_label, device=self.device)
        for chosen in order.to(self.device).split(self.batch_size):
            images = x[chosen]
            self._at_hand = images, images._version, chosen
            yield [images, y[chosen], labels[: len(chosen)]]

    def _mixed(self, order: Tensor) -> Iterator[Batch]:
        starts = torch.tensor([0, *map(len, self.samples)]).cumsum(0)
        for chosen in order.split(self.batch_size):
            owner = torch.bucketize(chosen, starts, right=True) - 1
            parts = []
            for task in owner.unique().tolist():
                x, y = self.samples[task].batch(chosen[owner == task] - starts[task])
                parts.append((x, y, torch.full((len(y),), self.samples[task].task_label)))
            yield [torch.cat(tensors).to(self.device) for tensors in zip(*parts, strict=True)]
