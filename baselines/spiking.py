"""Neurons that spike: what turns a network of ReLUs into one of leaky integrate-and-fire neurons."""

from typing import Any

import torch
from torch import Tensor, nn

_THRESHOLD = 0.5
_STEEPNESS = 2.0


class _Spike(torch.autograd.Function):
    """1 where a membrane is above its threshold; backwards the slope of a quadratic step."""

    @staticmethod
    def forward(ctx: Any, above: Tensor) -> Tensor:
        ctx.save_for_backward(above)
        return (above > 0).to(above.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (above,) = ctx.saved_tensors
        slope = (_STEEPNESS - _STEEPNESS**2 * above.abs()).clamp(min=0)
        return gradients[0] * slope


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons: u <- u + (I - u) / 2, a spike where u > 0.5, which sets u to 0.

    Attributes:
        membranes: u of every neuron, one tensor for each place of the network that calls this module, in their order.
        n_spikes: spikes since `begin`, a scalar; None before the first step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        """Starts anew with images that were not seen yet."""
        self.membranes: list[Tensor] = []
        self.n_spikes: Tensor | None = None
        self.begin_step()

    def begin_step(self) -> None:
        """Starts the next step in time with the same images."""
        self._calls = 0

    def forward(self, current: Tensor) -> Tensor:
        """Spikes, 0 or 1, for the current that arrives, in its shape."""
        if self._calls == len(self.membranes):
            self.membranes.append(torch.zeros_like(current))
        before = self.membranes[self._calls]
        u = before + (current - before) / 2
        spikes: Tensor = _Spike.apply(u - _THRESHOLD)
        self.membranes[self._calls] = u * (1 - spikes.detach())
        self._calls += 1
        n = spikes.detach().sum()
        self.n_spikes = n if self.n_spikes is None else self.n_spikes + n
        return spikes


class _Repeated:
    """A network's forward pass, several times over with the same images; what it gives is the mean over time."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        self.network, self.steps = network, steps

    def __call__(self, *given: Any) -> Tensor:
        neurons = spiking_neurons(self.network)
        for lif in neurons:
            lif.begin()
        answers = []
        for _ in range(self.steps):
            for lif in neurons:
                lif.begin_step()
            answers.append(type(self.network).forward(self.network, *given))
        for lif in neurons:
            # They hold the graph of this batch.
            lif.membranes = []
        return torch.stack(answers).mean(0)


def spiking_neurons(network: nn.Module) -> list[LIF]:
    """The spiking neurons of a network, layer by layer."""
    return [module for module in network.modules() if isinstance(module, LIF)]


def made_spiking(network: nn.Module, steps: int) -> nn.Module:
    """The same network, its ReLU modules spiking, which looks at each image for so many steps (direct encoding).

    Args:
        network: changed in place.
        steps: T.
    """
    for parent in list(network.modules()):
        # A module may stand at several places. `named_children` would show the first alone.
        for name, child in list(parent._modules.items()):
            if type(child) is nn.ReLU:
                setattr(parent, name, LIF())
    network.forward = _Repeated(network, steps)
    return network


def unfit_to_spike(network: nn.Module) -> str:
    """Why a network cannot spike, in a few words; empty where it can."""
    if not any(type(module) is nn.ReLU for module in network.modules()):
        return "spiking neurons take the place of nn.ReLU modules, but the network has none"
    return ""
