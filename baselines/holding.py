"""Weights that no step may move, whatever the optimiser."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Held:
    """Entries of parameters that keep their values.

    A gradient of 0 is not enough: momentum, weight decay and Adam move weights without one. So the gradient becomes 0
    before a step, and the values are put back after it.

    Args:
        parameters: by name.
        masks: bool, shaped like the parameter of that name: which entries are held, at the values they have now.

    Example:
        held = Held({"weight": layer.weight}, {"weight": owner > 0})
        loss.backward()
        held.zero_gradients()
        optimizer.step()
        held.put_back()
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
        self._held = [
            (parameters[name], mask, parameters[name].detach().clone()) for name, mask in masks.items() if mask.any()
        ]

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Held entries get a gradient of 0."""
        for parameter, mask, _ in self._held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)

    @torch.no_grad()
    def put_back(self) -> None:
        """Held entries get their values back."""
        for parameter, mask, values in self._held:
            torch.where(mask, values, parameter, out=parameter)
