r"""Replay: ER and DER++, which train on a few images of earlier tasks beside those of the new one.

Source: Chaudhry et al. 2019, "On tiny episodic memories in continual learning" (arXiv 1902.10486), for ER. Buzzega et
al. 2020, "Dark experience for general continual learning" (arXiv 2004.07211), for DER++. Every step draws a batch from
the memory. ER's loss is the mean over both batches. DER++ has

.. math:: L(x, y) + \alpha \, \lVert z(x') - z' \rVert^2 / C + \beta \, L(x'', y'')

with z' the C logits that the network gave for a remembered image, and x', x'' two batches.

Departs from it: the memory is filled after a task, where theirs is a reservoir over the stream. All tasks so far have
equal shares of it. Logits are those after the task, of images as they are, also where training augments them. A batch
of the memory has batch statistics of its own. Images stay where they are, and the memory holds their positions. The
bytes of state count the images.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.data.streams import Stream, Task
from clbench.methods.method import Method, Plugin
from clbench.methods.settings import MethodSettings
from clbench.methods.space import Among, Between
from clbench.networks.answer import answer, evaluating
from clbench.records.format import REPLAYED
from clbench.suites.suite import Suite


class ERSettings(MethodSettings):
    """Hyper-parameters of ER.

    Attributes:
        memory: images that are remembered, of all tasks together.
        memory_batch: images drawn from it in every step; None for as many as a batch has.
    """

    batches = ("batch_size", "memory_batch")

    memory: int = Field(default=500, ge=1)
    memory_batch: int | None = Field(default=None, ge=1)


class DERPlusPlusSettings(ERSettings):
    """Hyper-parameters of DER++.

    Attributes:
        alpha: weight of the distance from remembered logits.
        beta: weight of the loss on remembered labels.
    """

    alpha: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    beta: float = Field(default=0.5, ge=0, allow_inf_nan=False)


class Memory:
    """A few training images of every task so far, by their positions.

    Args:
        size: images of all tasks together.
        stream: the tasks.
        device: where batches shall lie.

    Attributes:
        positions: task -> int64 [n], in random order.
        logits: task -> [n, C], where they are remembered.
    """

    def __init__(self, size: int, stream: Stream, device: torch.device) -> None:
        self.size, self.stream, self.device = size, stream, device
        self.positions: dict[int, Tensor] = {}
        self.logits: dict[int, Tensor] = {}

    def add(self, task: Task) -> None:
        """Draws images of a task, so that all tasks so far have equal shares."""
        share = max(1, self.size // (len(self.positions) + 1))
        self.positions[task.index] = torch.randperm(len(task.train))
        for number in list(self.positions):
            self.positions[number] = self.positions[number][:share].clone()
            if number in self.logits:
                self.logits[number] = self.logits[number][:share].clone()

    def batch(self, n: int, augment: Any = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Images [B, ...], labels [B], task labels [B] and remembered logits [B, C] of n images, or of all."""
        counts = torch.tensor([len(found) for found in self.positions.values()])
        drawn = torch.randperm(int(counts.sum()))[:n]
        owner = torch.bucketize(drawn, counts.cumsum(0), right=True)
        starts = counts.cumsum(0) - counts
        parts: list[tuple[Tensor, ...]] = []
        for place in owner.unique().tolist():
            number = list(self.positions)[place]
            chosen = drawn[owner == place] - starts[place]
            samples = self.stream.tasks[number].train
            x, y = samples.batch(self.positions[number][chosen], augment, self.device)
            logits = self.logits.get(number)
            labels = torch.full((len(y),), samples.task_label, device=self.device)
            parts.append((x, y, labels, *([] if logits is None else [logits[chosen.to(logits.device)]])))
        x, y, labels, *rest = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return x, y, labels, rest[0] if rest else None

    @property
    def image_bytes(self) -> int:
        """Of the images that it stands for, a byte for each number."""
        return sum(map(len, self.positions.values())) * self.stream.tasks[0].train.images[0].numel()


class ER(Method):
    """ER on a suite.

    Attributes:
        n_replayed: images of the present task's steps that came from the memory.
    """

    Settings = ERSettings
    resumes = True
    n_replayed = 0
    searched = {"memory_batch": Among((None, 16, 64, 256))}

    @classmethod
    def refuses(cls, suite: Suite, settings: ERSettings) -> str:
        """A memory with less than an image of each task."""
        if settings.memory < suite.n_tasks:
            return f"a memory of {settings.memory} images is less than one of each of {suite.n_tasks} tasks; give more"
        return ""

    def plugins(self) -> list[Plugin]:
        """What replays."""
        self.memory = Memory(self.settings.memory, self.workplace.stream, self.workplace.device)
        return [_Replaying(self)]

    def replayed(self, loss: Tensor, n: int, augment: Any) -> Tensor:
        """The loss of a batch of n images, with what is remembered."""
        x, y, labels, _ = self.memory.batch(self.settings.memory_batch or self.settings.batch_size, augment)
        of_memory = F.cross_entropy(self.answers(x, labels), y)
        return (n * loss + len(y) * of_memory) / (n + len(y))

    def answers(self, x: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, C] in training."""
        self.n_replayed += len(x)
        with self.strategy.autocast():
            found = answer(self.model, x, labels)
        return found.float()

    def measures(self) -> Mapping[str, float]:
        """How many images the task just learned replayed, each counted as often as it was used."""
        return {REPLAYED: float(self.n_replayed)}

    def remember(self, task: Task) -> None:
        """Takes images of a learned task."""
        self.memory.add(task)

    def extra_state(self) -> Mapping[str, Tensor]:
        """Positions of images, and their logits."""
        found = {"positions": self.memory.positions, "logits": self.memory.logits}
        return {f"{kind}/{task}": tensor for kind, kept in found.items() for task, tensor in kept.items()}

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        for key, tensor in extra.items():
            kind, task = key.split("/")
            # Images are looked up on the CPU, whatever the device.
            place = self.workplace.device if kind == "logits" else torch.device("cpu")
            getattr(self.memory, kind)[int(task)] = tensor.to(place, copy=True)

    def extra_state_bytes(self) -> int | None:
        """With the images."""
        return (super().extra_state_bytes() or 0) + self.memory.image_bytes


class DERPlusPlus(ER):
    """DER++ on a suite."""

    Settings = DERPlusPlusSettings
    resumes = True
    searched = {"alpha": Between(0.05, 2.0), "beta": Between(0.05, 2.0)}

    def replayed(self, loss: Tensor, n: int, augment: Any) -> Tensor:
        """The loss of a batch, with remembered logits and remembered labels."""
        size = self.settings.memory_batch or self.settings.batch_size
        x, _, labels, logits = self.memory.batch(size, augment)
        assert logits is not None
        loss = loss + self.settings.alpha * F.mse_loss(self.answers(x, labels), logits.to(x.device))
        x, y, labels, _ = self.memory.batch(size, augment)
        return loss + self.settings.beta * F.cross_entropy(self.answers(x, labels), y)

    @torch.no_grad()
    def remember(self, task: Task) -> None:
        """Takes images of a learned task, and what the network says of them."""
        super().remember(task)
        x, _ = task.train.batch(self.memory.positions[task.index], device=self.workplace.device)
        with evaluating(self.model):
            self.memory.logits[task.index] = torch.cat([answer(self.model, part, task.index) for part in x.split(256)])


class _Replaying:
    def __init__(self, method: ER) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.method.n_replayed = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.method.memory.positions:
            augment = getattr(strategy.dataloader, "augment", None)
            strategy.loss = self.method.replayed(strategy.loss, len(strategy.mb_x), augment)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.method.remember(self.method.workplace.stream.tasks[strategy.experience.current_experience])
