"""Layers of a reduced network: each computes with some rows and columns of a whole one, and trains some of those."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Channels:
    """What of a tensor's channels is there, and in what order.

    Attributes:
        order: int64 [kept], which channels of the whole tensor.
        units: int64 [kept], whose they are; -1 for those of the network's inputs.
        constant: bool [kept], which do not train.
    """

    order: Tensor
    units: Tensor
    constant: Tensor

    def repeated(self, times: int) -> "Channels":
        """Every channel so often in a row, as flattening gives positions."""
        steps = torch.arange(times, device=self.order.device)
        order = (self.order[:, None] * times + steps).flatten()
        return Channels(order, self.units.repeat_interleave(times), self.constant.repeat_interleave(times))

    @property
    def counts(self) -> tuple[int, int]:
        """How many are constant, and how many are not."""
        n_constant = int(self.constant.sum())
        return n_constant, len(self.constant) - n_constant


def joined(parts: list[tuple[Channels, int]]) -> Channels:
    """Channels one after the other, the constant ones first; each part with how many the whole tensor has."""
    offsets, orders = 0, []
    for channels, whole in parts:
        orders.append(channels.order + offsets)
        offsets += whole
    return constant_first(
        torch.cat(orders), torch.cat([c.units for c, _ in parts]), torch.cat([c.constant for c, _ in parts])
    )


def constant_first(order: Tensor, units: Tensor, constant: Tensor) -> Channels:
    """The same channels, the constant ones before the others."""
    place = torch.cat([constant.nonzero().squeeze(1), (~constant).nonzero().squeeze(1)])
    return Channels(order[place], units[place], constant[place])


def picked_channels(x: Tensor, channels: list[int]) -> Tensor:
    """Channels of a tensor [B, ..] in an order; zeros in the place of -1."""
    index = torch.tensor(channels, device=x.device)
    found = x.index_select(1, index.clamp(min=0))
    return found if bool((index >= 0).all()) else found * (index >= 0).view(1, -1, *[1] * (x.ndim - 2))


def masked_outputs(logits: Tensor, masked: list[bool], value: float) -> Tensor:
    """As Avalanche's heads give outputs that no task has had yet."""
    return logits.masked_fill(torch.tensor(masked, device=logits.device), value)


def _picked(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows and columns of a layer's weights, with its channels last in memory where the layer has them so."""
    found = weight.index_select(0, rows).index_select(1, columns)
    if has_channels_last(weight):
        # `contiguous` leaves a single channel's strides as they are, and convolutions go by strides.
        return torch.empty_like(found, memory_format=torch.channels_last).copy_(found)
    return found


def has_channels_last(kernels: Tensor) -> bool:
    """Whether kernels [out, in, h, w] lie in memory with their channels last, which also one input channel tells."""
    return kernels.ndim == 4 and kernels.stride(1) == 1 and kernels.stride(3) == kernels.shape[1]


class ReducedLayer(nn.Module):
    """A linear layer or a convolution: [B, constant inputs, ...] and [B, other inputs, ...] -> the same of outputs.

    Of each pair, what has no channel is None, and what is given is a tensor alone where there is one.

    Args:
        layer: the whole one, for its geometry.
        weight, bias: of the whole layer, [out, in, ...] and [out].
        inputs, outputs: what arrives and what is given.
        fixed: bool [kept inputs], columns that are constant in trainable rows too (what earlier tasks use of a shared
            output layer); None for none.
        through: whether gradients go through constant units.

    Attributes:
        from_constant, from_others, bias: the trainable weights: of columns of constant inputs, of other columns.
        answers: what its constant rows give for each of N images, [N, constant outputs]; None to compute it.
        positions: which of the N images make up the batch at hand, int64 [B]; None if it holds others.
        mask: bool [kept inputs], which inputs count; None for all.
        given: its latest input, while `notes` is set: the constant part and the other.
        held: outputs by batch, of a layer that always gives the same; None to compute.
    """

    def __init__(
        self,
        layer: nn.Module,
        weight: Tensor,
        bias: Tensor | None,
        inputs: Channels,
        outputs: Channels,
        fixed: Tensor | None = None,
        *,
        through: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self._operation = _operation(layer)
        self._geometry = _geometry(layer)
        self.n_inputs = inputs.counts
        self._through = through
        constant, others = outputs.order[outputs.constant], outputs.order[~outputs.constant]
        self.n_constant, self.n_others = len(constant), len(others)
        self.from_constant: nn.Parameter | None = None
        self.from_others: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        self._fixed: Tensor | None = None
        self._open = None if fixed is None else ~fixed[inputs.constant]
        if self.n_others and self.n_inputs[0]:
            columns = _picked(weight, others, inputs.order[inputs.constant])
            if self._open is not None:
                beside = self._open.view(1, -1, *[1] * (weight.ndim - 2))
                self._fixed, columns, self._open = columns * ~beside, columns * beside, beside
            # Without a bias, a full network would leave the loss nothing to be differentiated by.
            if self._open is None or bool(self._open.any()) or bias is None:
                self.from_constant = nn.Parameter(columns)
        if self.n_others and self.n_inputs[1]:
            self.from_others = nn.Parameter(_picked(weight, others, inputs.order[~inputs.constant]))
        if self.n_others and bias is not None:
            self.bias = nn.Parameter(bias.index_select(0, others))
        # Constant rows read constant inputs only; of the others they would read zeros.
        self._constant = (
            _picked(weight, constant, inputs.order[inputs.constant]),
            None if bias is None else bias.index_select(0, constant),
        )
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}
        self._whole_bias = bias
        self.answers: Tensor | None = None
        self.positions: Tensor | None = None
        self.mask: Tensor | None = None
        self.notes = False
        self.given: tuple[Tensor | None, Tensor | None] = (None, None)
        self.held: dict[int, Tensor] | None = None
        self.batch = 0

    @property
    def weights(self) -> list[nn.Parameter]:
        """The trainable weights, without the bias."""
        return [part for part in (self.from_constant, self.from_others) if part is not None]

    def forward(self, constant: Tensor | None, others: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """What the kept rows give: of constant ones, of others, or both."""
        if self.held is not None:
            if self.batch not in self.held:
                self.held[self.batch] = self._computed(constant, others)  # type: ignore[assignment]
            # A copy, because an activation function may work in place.
            return self.held[self.batch].clone()
        return self._computed(constant, others)

    def _computed(self, constant: Tensor | None, others: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        if self.mask is not None:
            constant, others = (
                self._masked(constant, self.mask[: self.n_inputs[0]]),
                self._masked(others, self.mask[self.n_inputs[0] :]),
            )
        if self.notes:
            self.given = constant, others
        if not self.n_others:
            return self._frozen(constant, others)
        if constant is not None and not self._through:
            constant = constant.detach()
        y: Tensor | None = None
        if self.from_others is not None and others is not None:
            y = self._operation(others, self.from_others, self.bias)
        weight = self._weight_from_constant()
        if weight is not None and constant is not None:
            part = self._operation(constant, weight, self.bias if y is None else None)
            y = part if y is None else y + part
        if y is None:
            y = self._nothing(_there(constant, others), self.n_others, self.bias)
        return (self._frozen(constant, others), y) if self.n_constant else y

    @staticmethod
    def _masked(x: Tensor | None, mask: Tensor) -> Tensor | None:
        return None if x is None else x * mask.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))

    def _frozen(self, constant: Tensor | None, others: Tensor | None) -> Tensor:
        """What the constant rows give, [B, constant outputs, ...]."""
        if self.answers is not None and self.positions is not None:
            return self.answers[self.positions]
        with torch.set_grad_enabled(self._through and torch.is_grad_enabled()):
            x = _there(constant, others)
            weight, bias = self._constant_in(x)
            if constant is None or not weight.shape[1]:
                return self._nothing(x, self.n_constant, bias)
            return self._operation(constant, weight, bias)

    def _nothing(self, x: Tensor, n: int, bias: Tensor | None) -> Tensor:
        """What rows without inputs give: their biases, at every position."""
        # One input of 0 in the place of none.
        blank = x.new_zeros(len(x), 1, *x.shape[2:])
        shape = (n, 1, *self._constant[0].shape[2:])
        return self._operation(blank, blank.new_zeros(shape), None if bias is None else bias.to(blank.dtype))

    def _weight_from_constant(self) -> Tensor | None:
        if self._fixed is None or self._open is None:
            return self.from_constant
        return self._fixed if self.from_constant is None else self._fixed + self.from_constant * self._open

    def _constant_in(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The constant rows in the type that will be computed with; autocast would cast them at every step."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self._constant[0].dtype
        if dtype not in self._cast:
            weight, bias = self._constant
            self._cast[dtype] = weight.to(dtype), None if bias is None else bias.to(dtype)
        return self._cast[dtype]

    def dense(self) -> nn.Linear | nn.Conv2d:
        """The plain layer of its constant rows, for a network in which nothing trains."""
        assert not self.n_others
        weight, bias = self._constant
        kind = nn.Conv2d if self._geometry else nn.Linear
        made = kind(weight.shape[1], len(weight), **self._geometry, bias=bias is not None, device="meta")
        made.weight = nn.Parameter(weight.detach())
        made.bias = None if bias is None else nn.Parameter(bias.detach())
        return made

    @torch.no_grad()
    def write_back(self, weight: Tensor, bias: Tensor | None) -> None:
        """Copies what was trained into the whole layer; constant weights are not touched."""
        rows = self.outputs.order[~self.outputs.constant][:, None]
        if self.from_constant is not None:
            columns, values = self.inputs.order[self.inputs.constant], self.from_constant
            if self._open is not None:
                of_open = self._open.flatten()
                weight[rows, columns[of_open][None, :]] = values[:, of_open]
            else:
                weight[rows, columns[None, :]] = values
        if self.from_others is not None:
            weight[rows, self.inputs.order[~self.inputs.constant][None, :]] = self.from_others
        if self.bias is not None and bias is not None:
            bias[rows[:, 0]] = self.bias


class ReducedPerChannel(nn.Module):
    """A batch norm or a depthwise convolution: what each channel becomes depends on that channel alone.

    Args:
        layer: the whole one, for its geometry.
        tensors: `weight`, `bias`, `running_mean`, `running_var` of the whole layer, [C, ...], those that there are.
        inputs: what arrives, in its order.
        times: how many channels it gives for each, in a row.
        all_train: whether constant channels train as well.
        through: whether gradients go through constant channels.

    """

    def __init__(
        self, layer: Any, tensors: dict[str, Tensor], inputs: Channels, times: int, *, all_train: bool, through: bool
    ) -> None:
        super().__init__()
        channels = inputs.repeated(times)
        self._through = through
        constant, others = channels.order[channels.constant], channels.order[~channels.constant]
        # Rows of the whole layer, and the layer of these alone: of constant channels and of others.
        self._rows = constant, others
        self.of_constant = _narrowed(
            layer, {name: tensor.index_select(0, constant) for name, tensor in tensors.items()}
        )
        self.of_others = _narrowed(layer, {name: tensor.index_select(0, others) for name, tensor in tensors.items()})
        self._constant_trains = all_train
        if not all_train:
            self.of_constant.requires_grad_(False).eval()

    @property
    def trained(self) -> list[nn.Module]:
        """The layers of the channels that train."""
        layers = [self.of_constant] if self._constant_trains and len(self._rows[0]) else []
        return [*layers, self.of_others] if len(self._rows[1]) else layers

    def forward(self, constant: Tensor | None, others: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """[B, constant, ...] and [B, others, ...] -> the same, or the one that there is."""
        found = []
        if constant is not None:
            with torch.set_grad_enabled(self._through and torch.is_grad_enabled()):
                found.append(self.of_constant(constant))
        if others is not None:
            found.append(self.of_others(others))
        return found[0] if len(found) == 1 else (found[0], found[1])

    def dense(self) -> nn.Module:
        """The plain layer of its constant channels, for a network in which nothing trains."""
        assert not len(self._rows[1])
        return self.of_constant

    def train(self, mode: bool = True) -> "ReducedPerChannel":
        """Sets the mode of what trains; constant channels keep to their stored statistics."""
        super().train(mode)
        if not self._constant_trains:
            self.of_constant.eval()
        return self

    @property
    def batches_seen(self) -> Tensor:
        """`num_batches_tracked` of what trains."""
        return (self.trained or [self.of_constant])[-1].get_buffer("num_batches_tracked")

    @torch.no_grad()
    def write_back(self, tensors: dict[str, Tensor]) -> None:
        """Copies what was trained, and its statistics, into the whole layer."""
        for rows, layer in zip(self._rows, (self.of_constant, self.of_others), strict=True):
            if layer in self.trained:
                for name, tensor in tensors.items():
                    tensor[rows] = getattr(layer, name)


def _narrowed(layer: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """A layer like this one, with other weights and as many channels as these have."""
    n = len(next(iter(tensors.values())))
    made: Any
    if isinstance(layer, nn.Conv2d):
        made = copy.copy(layer)
        made._parameters = dict(layer._parameters)
        made.in_channels = made.groups = n // (layer.out_channels // layer.in_channels)
        made.out_channels = n
    else:
        made = type(layer)(n, eps=layer.eps, momentum=layer.momentum, affine=layer.affine, device="meta")
    for name, tensor in tensors.items():
        if name in ("weight", "bias"):
            setattr(made, name, nn.Parameter(tensor))
        else:
            setattr(made, name, tensor)
    if getattr(layer, "num_batches_tracked", None) is not None:
        made.num_batches_tracked = layer.num_batches_tracked.clone()
    return made


def _geometry(layer: Any) -> dict[str, Any]:
    """Of a convolution; nothing of a linear layer."""
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return {name: getattr(layer, name) for name in names} if isinstance(layer, nn.Conv2d) else {}


def _operation(layer: Any) -> Operation:
    """What a layer does with its input, weights and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear
    if layer.padding_mode != "zeros":
        padding, mode = layer._reversed_padding_repeated_twice, layer.padding_mode
        geometry = layer.stride, 0, layer.dilation
        return lambda x, weight, bias: F.conv2d(F.pad(x, padding, mode), weight, bias, *geometry)
    geometry = layer.stride, layer.padding, layer.dilation
    return lambda x, weight, bias: F.conv2d(x, weight, bias, *geometry)


def _there(constant: Tensor | None, others: Tensor | None) -> Tensor:
    """The part that there is."""
    found = others if constant is None else constant
    assert found is not None
    return found
