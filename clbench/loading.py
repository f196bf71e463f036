"""Avalanche's training template over batches from tensors in memory.

Avalanche's own loaders cost seven nested dataset layers of Python per image. `TensorStrategy` replaces them
through the documented hooks `make_train_dataloader` and `make_eval_dataloader`; everything else is Avalanche's,
so any Avalanche plugin runs in it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor

from clbench.seeding import RandomStreams
from clbench.streams import Samples, Stream, Task

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


class TensorStrategy(SupervisedTemplate):
    """Avalanche's `SupervisedTemplate` on a `Stream`, with its own batch order and optional bfloat16.

    If a plugin has replaced the training data (`strategy.adapted_dataset`), Avalanche's loader takes over, so
    that replay and the like work as anywhere.

    Args:
        stream: the tasks; experiences are looked up by `current_experience`.
        seeds: the batch order of task t comes from ("batches", t).
        training_samples: what is trained on for a task.
        steps_per_epoch: batches of an epoch for each of these samples; None is one pass.
        precision: `float32`, or `bfloat16` for autocast in training. Evaluation is always float32.
        settings: as for `SupervisedTemplate`.
    """

    def __init__(
        self,
        *,
        stream: Stream,
        seeds: RandomStreams,
        training_samples: Callable[[Task], Sequence[Samples]],
        steps_per_epoch: int | None,
        precision: str,
        **settings: Any,
    ) -> None:
        self.stream = stream
        self.seeds = seeds
        self.training_samples = training_samples
        self.steps_per_epoch = steps_per_epoch
        self.precision = precision
        with warnings.catch_warnings():
            # We measure accuracy ourselves and want none of its loggers; it warns about that.
            warnings.simplefilter("ignore", UserWarning)
            super().__init__(evaluator=None, **settings)
        # Without metrics and loggers it has nothing to do, but copies the experience at every event of every step.
        self.plugins.remove(self.evaluator)

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Avalanche's, remembering its result to notice a plugin's replacement."""
        super().train_dataset_adaptation(**kwargs)
        self._own_dataset = self.adapted_dataset

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Sets `self.dataloader` to shuffled batches of the current task."""
        if self.adapted_dataset is not self._own_dataset:
            super().make_train_dataloader(**kwargs)
            return
        task = self.stream.tasks[self.experience.current_experience]
        samples = self.training_samples(task)
        self.dataloader = TensorLoader(
            samples,
            self.train_mb_size,
            self.device,
            self.seeds.generator("batches", task.index),
            None if self.steps_per_epoch is None else self.steps_per_epoch * len(samples),
        )

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Sets `self.dataloader` to the current evaluation experience in its order."""
        task = self.stream.tasks[self.experience.current_experience]
        samples = {"train": task.train, "validation": task.validation, "test": task.test}
        self.dataloader = TensorLoader([samples[self.experience.origin_stream.name]], self.eval_mb_size, self.device)

    def forward(self) -> Tensor:
        """Avalanche's forward pass, under autocast while training in bfloat16; the result is float32."""
        with self.autocast():
            output = super().forward()
        return output.float()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which training computes."""
        if self.precision == "bfloat16" and self.is_training:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


class LinearDecay(SupervisedPlugin):
    """Lets every learning rate fall linearly over a task, from its full value to 0 after the last step.

    It ends with the main epochs: extra epochs that a method adds afterwards (fine-tuning) set their own rate.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Notes the full rates and the number of steps."""
        self._full = [group["lr"] for group in strategy.optimizer.param_groups]
        self._steps = len(strategy.dataloader) * strategy.train_epochs
        self._done = 0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Sets the rate of this step."""
        if self._done < self._steps:
            share = 1 - self._done / self._steps
            for group, full in zip(strategy.optimizer.param_groups, self._full, strict=True):
                group["lr"] = full * share
            self._done += 1

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the full rates back."""
        for group, full in zip(strategy.optimizer.param_groups, self._full, strict=True):
            group["lr"] = full
