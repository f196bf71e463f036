"""The norms that make units silent and weights small while a task trains."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clbench.strategies.clnp.settings import CLNPOptions


class Norms:
    """The norms of weights and of activities, while they are switched on.

    Args:
        options: `l1_weights`, `l1_proximal`, `activity_norm`.
        optimizer: whose learning rate the proximal norm goes by.

    Attributes:
        are_on: whether they act; not while fine-tuning.
    """

    def __init__(self, options: CLNPOptions, optimizer: torch.optim.Optimizer) -> None:
        self._options, self._optimizer = options, optimizer
        self.are_on = True

    @torch.no_grad()
    def before_step(self, weights: list[nn.Parameter]) -> None:
        """Adds the gradient of the L1 norm of the weights."""
        if self.are_on and self._options.l1_weights:
            for weight in weights:
                # Free units that lead to a full layer have no gradient.
                if weight.grad is not None:
                    weight.grad.add_(weight.sign(), alpha=self._options.l1_weights)

    @torch.no_grad()
    def after_step(self, weights: list[nn.Parameter]) -> None:
        """Shrinks the weights."""
        if self.are_on and self._options.l1_proximal:
            bound = self._options.l1_proximal * self._optimizer.param_groups[0]["lr"]
            for weight in weights:
                weight.sub_(weight.clamp(-bound, bound))

    def of_activities(self, found: Iterable[tuple[float, Tensor, int]]) -> Tensor | float:
        """What to add to the loss.

        Args:
            found: per group, its strength, the mean sizes of its free units' activity in the batch, and its size.
        """
        total: Tensor | float = 0.0
        for strength, sizes, n_units in found:
            if self._options.activity_norm == "l1":
                total = total + strength * sizes.sum()
            else:
                squares = (sizes**2).sum()
                # Of units that are all silent the number is 0.
                total = (
                    total + strength * sizes.sum() ** 2 / squares.clamp(min=torch.finfo(squares.dtype).tiny) / n_units
                )
        return total
