r"""Powerpropagation: weights train as powers, so that small ones move less and zeros stay.

Source: Schwarz, Jayakumar, Pascanu, Latham and Teh 2021, "Powerpropagation: a sparsity inducing weight
reparameterisation" (arXiv 2110.00296). Every weight is a power of what is trained,

.. math:: w = \phi \, |\phi|^{\alpha - 1}

Departs from it: the network keeps its weights w. A step goes to phi and comes back, which is the same but for rounding.
So any method can have it, whatever it does with the network's weights. The initial w are the network's own.
"""

from typing import Any

import torch
from torch import Tensor


def to_phi(weight: Tensor, alpha: float) -> Tensor:
    """phi of weights."""
    return weight.sign() * weight.abs().pow(1 / alpha)


def to_weight(phi: Tensor, alpha: float) -> Tensor:
    """Weights of phi."""
    return phi * phi.abs().pow(alpha - 1)


class _Powered:
    """A step of an optimiser in phi, for weights with two dimensions or more; biases stay as they are."""

    alpha: float

    @torch.no_grad()
    def step(self, *arguments: Any, **options: Any) -> Any:
        """One step."""
        powered: list[tuple[Any, Tensor, Tensor, Tensor, Tensor]] = []
        for group in self.param_groups:  # type: ignore[attr-defined]
            for parameter in group["params"]:
                if parameter.ndim > 1 and parameter.grad is not None:
                    # A layer that starts at 0 would stay there. Its first step is a plain one. A GPU is not asked
                    # which, for every answer would hold the step up.
                    is_powered = parameter.any()
                    phi, gradient = to_phi(parameter, self.alpha), parameter.grad
                    by_phi = gradient * phi.abs().pow(self.alpha - 1).mul_(self.alpha)
                    # Others may still want the gradient by the weight.
                    parameter.grad = torch.where(is_powered, by_phi, gradient)
                    powered.append((parameter, gradient, parameter.clone(), phi, is_powered))
                    parameter.copy_(phi)
        found = super().step(*arguments, **options)  # type: ignore[misc]
        for parameter, gradient, before, phi, is_powered in powered:
            # What the step leaves would drift by the rounding of thousands of steps.
            as_weight = torch.where(parameter == phi, before, to_weight(parameter, self.alpha))
            parameter.copy_(torch.where(is_powered, as_weight, parameter))
            parameter.grad = gradient
        return found


def powered(optimizer: torch.optim.Optimizer, alpha: float) -> torch.optim.Optimizer:
    """The same optimiser, whose steps go through phi. With alpha 1 it stays as it is.

    Args:
        optimizer: changed in place. Momentum and weight decay are of phi.
        alpha: 1 or more.

    Example:
        optimizer = powered(torch.optim.SGD(model.parameters(), lr=0.1), alpha=3.0)
    """
    if alpha != 1:
        kind = type(optimizer)
        optimizer.__class__ = type(f"Powered{kind.__name__}", (_Powered, kind), {"alpha": alpha})
    return optimizer
