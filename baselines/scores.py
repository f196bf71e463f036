"""Weights chosen by scores: a layer computes with those of highest score, and the scores learn which these are."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# How far a threshold moves in a step, at most, for the quick way to find it.
_NEAR = 0.01


def smallest(sizes: Tensor, place: int, near: Tensor | None = None) -> Tensor:
    """The value at a place (from 1) in the order of sizes [N], a scalar.

    Args:
        near: where it was before. Looking there alone takes a fifth of the time. The result is the same.
    """
    if near is not None and sizes.device.type == "cpu":
        least, most = near * (1 - _NEAR), near * (1 + _NEAR)
        below = int(torch.count_nonzero(sizes < least))
        around = sizes[(sizes >= least) & (sizes <= most)]
        if below < place <= below + len(around):
            return around.kthvalue(place - below).values
    return sizes.kthvalue(place).values


class _Chosen(torch.autograd.Function):
    """W * m; what is chosen gets its gradient, and every score that of its weight, times the score's sign."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scores, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        weight, scores, mask = ctx.saved_tensors
        (gradient,) = gradients
        of_weight = gradient * mask if ctx.needs_input_grad[0] else None
        return of_weight, gradient * weight * scores.sign(), None


def chosen_weight(weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """The weights that a mask lets through, differentiable by the scores that it was made of, all of one shape."""
    found: Tensor = _Chosen.apply(weight, scores, mask)
    return found


class Chosen(nn.Module):
    """What makes a layer's weight of its weights and their scores: a parametrisation of torch.

    Args:
        weight: the layer's.
        share: of the weights, that is chosen.

    Attributes:
        scores: a parameter shaped like the weight, trained by the straight-through estimator.
    """

    def __init__(self, weight: Tensor, share: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros_like(weight))
        n = weight.numel()
        self._place = min(n, 1 + round((1 - share) * (n - 1)))
        self._near: Tensor | None = None

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None = None) -> None:
        """Draws the scores anew, as PyTorch draws a layer's weights; without a generator from the global one."""
        self.scores.uniform_(-1, 1, generator=generator).mul_(self.scores[0].numel() ** -0.5)

    def mask(self) -> Tensor:
        """Which weights are chosen, bool: those with the largest scores by size, at least one."""
        sizes = self.scores.detach().abs()
        self._near = smallest(sizes.flatten(), self._place, self._near)
        return sizes >= self._near

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that are chosen; 0 in the place of others."""
        return chosen_weight(weight, self.scores, self.mask())


def choose(layer: nn.Module, share: float) -> Chosen:
    """From here on, the layer computes with the weights of highest score."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    made = Chosen(weight, share)
    parametrize.register_parametrization(layer, "weight", made, unsafe=True)
    return made
