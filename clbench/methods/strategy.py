"""Avalanche's training template over batches from tensors in memory.

Avalanche's own loaders cost seven nested dataset layers of Python per image. `TensorStrategy` replaces them
through the documented hooks `make_train_dataloader` and `make_eval_dataloader`; everything else is Avalanche's,
so any Avalanche plugin runs in it.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from clbench.data.loading import TensorLoader
from clbench.data.streams import Samples, Stream, Task
from clbench.errors import MethodWarning
from clbench.methods.events import told_directly
from clbench.networks.answer import batch_norms
from clbench.seeding import RandomStreams

if TYPE_CHECKING:
    from avalanche.training.templates import SupervisedTemplate as _Template
else:
    # Avalanche takes a template's arguments for misspelt that the bases of any of its classes do not know.
    _Template = object


class TensorLoaders(_Template):
    """What a template of Avalanche's needs to train on a `Stream`, with its own batch order and optional bfloat16.

    It stands before the template, as in `TensorStrategy`. If a plugin has replaced the training data
    (`strategy.adapted_dataset`), Avalanche's loader takes over, so that replay and the like work as anywhere. It
    augments no image.

    Args:
        stream: the tasks; experiences are looked up by `current_experience`.
        seeds: the batch order of task t comes from ("batches", t), its augmentation from ("augmentation", t).
        training_samples: what is trained on for a task.
        steps_per_epoch: batches of an epoch for each of these samples; None is one pass.
        precision: `float32`, or `bfloat16` for autocast in training. Evaluation is always float32.
        settings: as for the template.
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
        # A template may train on more than the task as well.
        adapted = super().train_dataset_adaptation.__func__
        self._own_dataset = self.adapted_dataset if adapted is _ADAPTS_NOTHING else None

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Sets `self.dataloader` to shuffled batches of the current task."""
        if self.adapted_dataset is not self._own_dataset:
            super().make_train_dataloader(**kwargs)
            return
        task = self.stream.tasks[self.experience.current_experience]
        samples = self.training_samples(task)
        augment = None
        if self.stream.augmentation is not None:
            generator = self.seeds.generator("augmentation", task.index)
            augment = partial(self.stream.augmentation, generator=generator)
        self.dataloader = TensorLoader(
            samples,
            self.train_mb_size,
            self.device,
            self.seeds.generator("batches", task.index),
            None if self.steps_per_epoch is None else self.steps_per_epoch * len(samples),
            augment,
            least=2 if batch_norms(self.model) else 1,
        )

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Sets `self.dataloader` to the current evaluation experience in its order."""
        task = self.stream.tasks[self.experience.current_experience]
        samples = {"train": task.train, "validation": task.validation, "test": task.test}
        self.dataloader = TensorLoader([samples[self.experience.origin_stream.name]], self.eval_mb_size, self.device)

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's, but that events nobody hears cost nothing."""
        if not isinstance(self.dataloader, TensorLoader | _Limited):
            if self.stream.augmentation is not None:
                warnings.warn(
                    "images that Avalanche's own loader gives, such as those of a memory, are not augmented",
                    MethodWarning,
                    stacklevel=2,
                )
            if self.steps_per_epoch is not None:
                self.dataloader = _Limited(self.dataloader, self.steps_per_epoch)
        with told_directly(self):
            super().training_epoch(**kwargs)

    def _unpack_minibatch(self) -> None:
        # Our batches lie on the device already.
        if not isinstance(self.dataloader, TensorLoader):
            super()._unpack_minibatch()

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


class TensorStrategy(TensorLoaders, SupervisedTemplate):
    """Avalanche's `SupervisedTemplate` on a `Stream`."""

    def forward(self) -> Tensor:
        """The forward pass; every batch has task labels, for which Avalanche would ask the experience each time."""
        with self.autocast():
            output: Tensor = avalanche_forward(self.model, self.mb_x, self.mb_task_id)
        return output.float()


_ADAPTS_NOTHING = SupervisedTemplate.train_dataset_adaptation


class _Limited:
    """So many batches of a loader that a plugin has put in the place of ours, pass after pass."""

    def __init__(self, loader: Any, n_batches: int) -> None:
        self._loader = loader
        self._n_batches = n_batches

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[Any]:
        passes = itertools.chain.from_iterable(itertools.repeat(self._loader))
        return itertools.islice(passes, self._n_batches)


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


class Plateau(SupervisedPlugin):
    """Halves every learning rate after 6 epochs in a row without a lower validation loss, and keeps the best weights.

    The task ends after its epochs, or when the rates have fallen below 1e-6. The network then has the weights and
    buffers of the epoch with the lowest loss, before plugins that come later hear of the task's end. What these have
    summed up on the way (SI's path integral) goes on to the last step.

    The loss is the mean cross-entropy of the validation images of the tasks that are trained on: in evaluation mode, in
    float32, no image augmented.

    A method that prunes within a task begins again after it, and clears `ends_task` until then.

    Source: the protocol of HAT (Serrà et al. 2018), with the numbers of WSN (Kang et al. 2022).

    Attributes:
        is_over: whether the rates have fallen so far.
        ends_task: whether the task then ends.
    """

    PATIENCE = 6
    LEAST_RATE = 1e-6

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Notes the full rates, and what the loss is measured on."""
        self._full = [group["lr"] for group in strategy.optimizer.param_groups]
        tasks = strategy.stream.tasks
        trained_on = strategy.training_samples(tasks[strategy.experience.current_experience])
        validation = [tasks[samples.task_label].validation for samples in trained_on]
        self._batches = TensorLoader(validation, strategy.eval_mb_size, strategy.device)
        self.ends_task = True
        self._forget()

    def _forget(self) -> None:
        self._lowest = math.inf
        self._best: dict[str, Tensor] = {}
        self._epochs_without = 0
        self.is_over = False

    def begin_again(self, strategy: Any, share: float) -> None:
        """Puts the best weights so far in place, and forgets them. The rates go on at this share of the full ones."""
        self._put_back(strategy.model)
        self._forget()
        for group, full in zip(strategy.optimizer.param_groups, self._full, strict=True):
            group["lr"] = share * full

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Ends the task in place of another epoch, if it is time."""
        # Not when the rate falls: after the last epoch Avalanche would keep the request, and end the next task by it.
        if self.is_over and self.ends_task:
            strategy.stop_training()

    @torch.no_grad()
    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Measures the loss, and lowers the rates if it has not fallen for long."""
        loss = self._validation_loss(strategy.model)
        if loss < self._lowest:
            self._lowest = loss
            self._epochs_without = 0
            for name, tensor in strategy.model.state_dict().items():
                if name in self._best:
                    self._best[name].copy_(tensor)
                else:
                    self._best[name] = tensor.clone()
            return
        self._epochs_without += 1
        if self._epochs_without == self.PATIENCE:
            self._epochs_without = 0
            for group in strategy.optimizer.param_groups:
                group["lr"] /= 2
            self.is_over = all(group["lr"] < self.LEAST_RATE for group in strategy.optimizer.param_groups)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the best weights in place, and the full rates back."""
        self._put_back(strategy.model)
        for group, full in zip(strategy.optimizer.param_groups, self._full, strict=True):
            group["lr"] = full
        del self._best, self._batches

    @torch.no_grad()
    def _put_back(self, model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            # Nothing was best where the loss never was a number.
            if name in self._best:
                tensor.copy_(self._best[name])

    def _validation_loss(self, model: nn.Module) -> float:
        model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._batches.device)
        for x, y, labels in self._batches:
            total += nn.functional.cross_entropy(avalanche_forward(model, x, labels), y, reduction="sum")
        model.train()
        return float(total) / self._batches.n_images
