"""How each kind of layer gives the gradients of single images, one rule per kind.

Letters: B images, P positions (pixels, or 1), I inputs and O outputs of a layer, G groups, K kernel entries.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.networks.tracing import computes_its_own

Size = Callable[[Tensor], Tensor]
"""What is summed of a gradient, element by element: a function f with f(ab) = f(a) f(b), such as a square."""


class Rule(Protocol):
    """Sums f(gradient) over the images of a batch, for one layer.

    Args:
        layer: whose parameters these are.
        x: what it was given, [B, ...].
        size: f.
    """

    def __init__(self, layer: nn.Module, x: Tensor, size: Size) -> None: ...

    @property
    def nbytes(self) -> int:
        """Memory that it takes while it adds."""

    def add(self, delta: Tensor, weight: Tensor | None) -> None:
        """Takes the gradient of a number of each image with respect to the layer's output, [B, ...].

        Args:
            delta: that gradient.
            weight: [B, 1], how much each image counts; None for 1.
        """

    def finish(self, totals: dict[str, Tensor]) -> None:
        """Adds what was summed to the totals of `weight` and `bias`."""


class OfLinear:
    """The gradient of the weight is the outer product of delta [O] and x [I], which is never formed."""

    def __init__(self, layer: nn.Linear, x: Tensor, size: Size) -> None:
        self.x, self.size = x, size
        self.factor: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Of the inputs."""
        return self.x.nbytes

    def add(self, delta: Tensor, weight: Tensor | None) -> None:
        """f(delta x^T) = f(delta) f(x)^T, and x does not depend on what is differentiated: the deltas add up first."""
        sizes = self.size(delta)
        if weight is None:
            self.factor = sizes if self.factor is None else self.factor + sizes
        else:
            self.factor = (torch.zeros_like(sizes) if self.factor is None else self.factor).addcmul_(sizes, weight)

    def finish(self, totals: dict[str, Tensor]) -> None:
        """One product of matrices for all images."""
        assert self.factor is not None
        totals["weight"].addmm_(self.factor.T, self.size(self.x))
        if "bias" in totals:
            totals["bias"].add_(self.factor.sum(0))


class _Formed:
    """Sums gradients that are formed image by image."""

    def __init__(self, layer: nn.Module, x: Tensor, size: Size) -> None:
        self.size = size
        self.sums: dict[str, Tensor] = {}

    nbytes = 0

    def gradients(self, delta: Tensor) -> dict[str, Tensor]:
        """Of `weight` and `bias`, each [B, ...]."""
        raise NotImplementedError

    def add(self, delta: Tensor, weight: Tensor | None) -> None:
        """Forms the gradients of every image, and forgets them."""
        for kind, gradient in self.gradients(delta).items():
            sizes = self.size(gradient).flatten(1)
            found = sizes.sum(0) if weight is None else (weight.T @ sizes).squeeze(0)
            self.sums[kind] = self.sums[kind] + found if kind in self.sums else found

    def finish(self, totals: dict[str, Tensor]) -> None:
        """Adds the sums to the totals."""
        for kind, total in totals.items():
            total.add_(self.sums[kind].view_as(total))


class OfConvolution(_Formed):
    """The gradient of the kernels is a sum over positions, which squares and sizes cannot be taken of one by one."""

    def __init__(self, layer: nn.Conv2d, x: Tensor, size: Size) -> None:
        super().__init__(layer, x, size)
        self.groups = layer.groups
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        columns = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        self.columns = columns.unflatten(1, (self.groups, -1)).transpose(2, 3)  # [B, G, P, I / G * K]
        self.nbytes = columns.nbytes + len(x) * layer.weight.nbytes

    def gradients(self, delta: Tensor) -> dict[str, Tensor]:
        """[B, G, O / G, I / G * K], and [B, O]."""
        delta = delta.flatten(2)
        return {"weight": delta.unflatten(1, (self.groups, -1)) @ self.columns, "bias": delta.sum(2)}


class OfBatchNorm(_Formed):
    """In evaluation an affine map of each channel, its statistics constant."""

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, size: Size) -> None:
        super().__init__(layer, x, size)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        channels = (1, -1, *[1] * (x.ndim - 2))
        spread = (layer.running_var + layer.eps).sqrt()
        self.normalised = (x - layer.running_mean.view(channels)) / spread.view(channels)
        self.nbytes = x.nbytes

    def gradients(self, delta: Tensor) -> dict[str, Tensor]:
        """[B, C] each."""
        positions = (*delta.shape[:2], -1)
        return {
            "weight": (delta * self.normalised).reshape(positions).sum(2),
            "bias": delta.reshape(positions).sum(2),
        }


Kind = type[OfLinear] | type[OfConvolution] | type[OfBatchNorm]

RULES: dict[type[nn.Module], Kind] = {
    nn.Linear: OfLinear,
    nn.Conv2d: OfConvolution,
    nn.BatchNorm1d: OfBatchNorm,
    nn.BatchNorm2d: OfBatchNorm,
}


def rule_of(layer: nn.Module) -> Kind | None:
    """The rule of a layer; None for one that computes something of its own, or whose output other images change."""
    base = next((base for base in RULES if isinstance(layer, base)), None)
    if base is None or computes_its_own(layer, base) or getattr(layer, "running_mean", layer) is None:
        return None
    return RULES[base]
