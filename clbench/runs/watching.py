"""What listens to every training step: progress, requests to stop, and losses that are no longer finite."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from clbench.errors import DivergenceError, Interrupted

# Reading the loss waits for the device, so it is read once in so many steps.
_STEPS_BETWEEN_CHECKS = 100


@dataclass
class Progress:
    """Where a run stands; changed in place while it trains.

    Attributes:
        task, n_tasks: the task being learned, from 1, of how many.
        images, images_per_task: trained on within the task, and expected.
        images_trained, images_total: in the whole run.
        seconds: spent in training so far.
    """

    n_tasks: int
    task: int = 0
    images: int = 0
    images_per_task: int = 0
    images_trained: int = 0
    images_total: int = 0
    seconds: float = 0.0


def seldom(seconds: float, action: Callable[..., None]) -> Callable[..., None]:
    """The action, done at most once in so many seconds; what is asked in between is dropped."""
    last = -math.inf

    def act(*arguments: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            action(*arguments)

    return act


class Watch:
    """Counts images, asks whether to stop, and ends a run whose loss has left the finite numbers.

    Args:
        progress: updated in place.
        on_progress: called after every batch.
        should_stop: asked after every batch.
    """

    def __init__(
        self,
        progress: Progress,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.progress = progress
        self.on_progress = on_progress
        self.should_stop = should_stop

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the task's sums."""
        self._loss = torch.zeros((), device=strategy.device)
        self._steps = 0
        self._since = time.perf_counter()

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Counts the batch."""
        self._loss += strategy.loss.detach().sum()
        self._steps += 1
        if self._steps % _STEPS_BETWEEN_CHECKS == 0:
            self._check(strategy)
        n = len(strategy.mb_y)
        self.progress.images += n
        self.progress.images_trained += n
        now = time.perf_counter()
        self.progress.seconds += now - self._since
        self._since = now
        self.on_progress(self.progress)
        if self.should_stop():
            raise Interrupted

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The last steps count as well."""
        self._check(strategy)

    def _check(self, strategy: Any) -> None:
        if not torch.isfinite(self._loss):
            rate = strategy.optimizer.param_groups[0]["lr"]
            raise DivergenceError(
                f"the loss of task {self.progress.task} is no longer finite after {self._steps} steps (learning rate "
                f"now {rate:g}); try a lower learning rate, or a weaker penalty if the method has one"
            )
