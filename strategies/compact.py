"""A chain of linear layers, for the time of a task reduced to what the task computes with.

Neurons are *constant* (their incoming weights no longer change), *trainable*, or left out. Constant neurons read from
constant ones only, so nothing has to be differentiated through them: of every layer's three products (forward,
gradient of the weights, gradient of the input) the constant rows need the first alone, and what is left out needs
none. The optimiser holds the trainable rows and nothing else, so that no momentum, weight decay or penalty can move a
constant weight.

What constant neurons answer to an image does not change during a task, so it can be computed once per image and looked
up in every epoch (`CompactChain.answers`).

Within the chain a layer's outputs stand in the order [constant | trainable]; slices then serve where masks or indices
would otherwise be applied at every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Neurons:
    """The neurons of one layer that take part: int64 indices of the constant and of the trainable ones."""

    constant: Tensor
    trainable: Tensor


class CompactLayer:
    """One linear layer of the chain, reduced; while it is in force, `linear.forward` is its own.

    Args:
        linear: the whole layer, whose weight and bias keep their place and take no part in the optimisation.
        inputs: the neurons that it reads, in the order in which they arrive.
        outputs: its own neurons.
        fixed_columns: of the constant inputs, bool: where trainable rows too have constant weights (the columns that
            earlier tasks use of a shared output layer); None for nowhere.

    Attributes:
        answers: what its constant neurons give for each of N images, before the activation, [N, constant outputs];
            None to compute it.
        positions: which of the N images make up the batch at hand, int64 [B]; None if it holds others.
    """

    def __init__(
        self, linear: nn.Linear, inputs: Neurons, outputs: Neurons, fixed_columns: Tensor | None = None
    ) -> None:
        self.linear, self.inputs, self.outputs = linear, inputs, outputs
        self.n_constant = len(inputs.constant)
        weight = linear.weight.detach()
        rows = weight.index_select(0, outputs.trainable)
        self.from_constant: nn.Parameter | None = None
        self.from_trainable: nn.Parameter | None = None
        self.fixed: Tensor | None = None
        self.open = None if fixed_columns is None else ~fixed_columns
        if len(rows) and self.n_constant:
            columns = rows.index_select(1, inputs.constant)
            if fixed_columns is not None and self.open is not None:
                self.fixed, columns = columns * fixed_columns, columns * self.open
            # Without a bias, a full network would leave the loss nothing to be differentiated by.
            if self.open is None or bool(self.open.any()) or linear.bias is None:
                self.from_constant = nn.Parameter(columns)
        if len(rows) and len(inputs.trainable):
            self.from_trainable = nn.Parameter(rows.index_select(1, inputs.trainable))
        self.bias: nn.Parameter | None = None
        if len(rows) and linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach()[outputs.trainable].clone())
        constant_rows = weight.index_select(0, outputs.constant).index_select(1, inputs.constant)
        constant_bias = None if linear.bias is None else linear.bias.detach()[outputs.constant].clone()
        self.answers: Tensor | None = None
        self.positions: Tensor | None = None
        self._constant = (constant_rows, constant_bias)
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}

    @property
    def weights(self) -> list[nn.Parameter]:
        """The trainable weights, without the bias."""
        return [part for part in (self.from_constant, self.from_trainable) if part is not None]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that trains."""
        return [*self.weights, *([] if self.bias is None else [self.bias])]

    def forward(self, x: Tensor) -> Tensor:
        """From [B, constant + trainable inputs] to [B, constant + trainable outputs]."""
        constant = x[:, : self.n_constant].detach()
        if not len(self.outputs.trainable):
            return self._frozen(constant)
        y: Tensor | None = None
        if self.from_trainable is not None:
            y = F.linear(x[:, self.n_constant :] if self.n_constant else x, self.from_trainable, self.bias)
        weight = self._weight_from_constant()
        if weight is not None:
            part = F.linear(constant, weight, self.bias if y is None else None)
            y = part if y is None else y + part
        if y is None:
            y = x.new_zeros(len(x), len(self.outputs.trainable)) + (0 if self.bias is None else self.bias)
        if not len(self.outputs.constant):
            return y
        frozen = self._frozen(constant)
        return torch.cat([frozen, y.to(frozen.dtype)], 1)

    @torch.no_grad()
    def _frozen(self, constant: Tensor) -> Tensor:
        """What the constant neurons give, [B, constant outputs]."""
        if self.answers is not None and self.positions is not None:
            return self.answers[self.positions]
        return F.linear(constant, *self._constant_in(constant))

    def _weight_from_constant(self) -> Tensor | None:
        if self.fixed is None or self.open is None:
            return self.from_constant
        return self.fixed if self.from_constant is None else self.fixed + self.from_constant * self.open

    def _constant_in(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The constant rows in the type that will be computed with; autocast would cast them at every step."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self._constant[0].dtype
        if dtype not in self._cast:
            weight, bias = self._constant
            self._cast[dtype] = weight.to(dtype), None if bias is None else bias.to(dtype)
        return self._cast[dtype]

    @torch.no_grad()
    def write_back(self) -> None:
        """Copies what was trained into the whole layer; constant weights are not touched."""
        rows = self.outputs.trainable[:, None]
        if self.from_constant is not None:
            columns, values = self.inputs.constant, self.from_constant.detach()
            if self.open is not None:
                columns, values = columns[self.open], values[:, self.open]
            self.linear.weight[rows, columns[None, :]] = values
        if self.from_trainable is not None:
            self.linear.weight[rows, self.inputs.trainable[None, :]] = self.from_trainable
        if self.bias is not None:
            self.linear.bias[self.outputs.trainable] = self.bias


class CompactChain:
    """The reduced layers of a chain, and their place in an optimiser.

    Args:
        linears: the hidden layers in order and the output layer.
        neurons: per hidden layer, who takes part.
        fixed_columns: see `CompactLayer`; of the output layer.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        neurons: Sequence[Neurons],
        fixed_columns: Tensor | None = None,
    ) -> None:
        device = linears[0].weight.device
        nobody = torch.empty(0, dtype=torch.int64, device=device)
        inputs = [Neurons(torch.arange(linears[0].in_features, device=device), nobody), *neurons]
        outputs = [*neurons, Neurons(nobody, torch.arange(linears[-1].out_features, device=device))]
        fixed = [*[None] * len(neurons), fixed_columns]
        self.layers = [CompactLayer(*parts) for parts in zip(linears, inputs, outputs, fixed, strict=True)]
        self.orders = [torch.cat([layer.constant, layer.trainable]) for layer in neurons]

    @torch.no_grad()
    def answers(
        self, forward: Callable[[Tensor], object], images: Tensor, batch_size: int, budget: int
    ) -> list[Tensor | None]:
        """What the constant neurons of each hidden layer give for every image, for `look_up`.

        Args:
            forward: takes a batch through the whole network; what it does between the layers must be without
                randomness and image by image.
            images: [N, ...].
            batch_size: images at a time.
            budget: bytes; a layer that no longer fits, and one without constant neurons, has None.
        """
        hidden = self.layers[:-1]
        nobody = hidden[0].outputs.constant[:0]
        constant = CompactChain(
            [layer.linear for layer in self.layers], [Neurons(layer.outputs.constant, nobody) for layer in hidden]
        )
        found: list[Tensor | None] = [None] * len(hidden)
        start = 0

        def keep(number: int, output: Tensor) -> None:
            nonlocal budget
            if start == 0 and output.shape[1]:
                needed = len(images) * output.shape[1] * output.element_size()
                if needed <= budget:
                    budget -= needed
                    found[number] = output.new_empty(len(images), output.shape[1])
            kept = found[number]
            if kept is not None:
                kept[start : start + len(output)] = output

        hooks = [
            layer.linear.register_forward_hook(lambda _, __, output, number=number: keep(number, output))
            for number, layer in enumerate(hidden)
        ]
        constant.resume()
        try:
            for start in range(0, len(images), batch_size):
                forward(images[start : start + batch_size])
                if not any(kept is not None for kept in found):
                    break
        finally:
            self.resume()
            for hook in hooks:
                hook.remove()
        return found

    def look_up(self, answers: Sequence[Tensor | None]) -> None:
        """Takes the answers of the constant neurons of each hidden layer from here, wherever `at` has said which."""
        for layer, found in zip(self.layers, answers, strict=False):
            layer.answers = found

    def at(self, positions: Tensor | None) -> None:
        """Says which of the images of `answers` make up the next batch; None for others."""
        for layer in self.layers:
            layer.positions = positions

    @property
    def in_force(self) -> bool:
        """Whether the reduced layers answer."""
        first = self.layers[0]
        return first.linear.__dict__.get("forward") == first.forward

    def enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts the reduced layers in force and hands their parameters to the optimiser, whose state starts anew."""
        self.optimizer = optimizer
        self._whole_groups = [list(group["params"]) for group in optimizer.param_groups]
        parts: dict[Tensor, list[nn.Parameter]] = {}
        for layer in self.layers:
            parts[layer.linear.weight] = layer.weights
            if layer.bias is not None:
                parts[layer.linear.bias] = [layer.bias]
        self.optimizer.state.clear()
        for group, whole in zip(self.optimizer.param_groups, self._whole_groups, strict=True):
            # Parameters outside the chain (other heads) have no part in this task.
            group["params"] = [part for parameter in whole for part in parts.get(parameter, [])]
        self.resume()

    def leave(self) -> None:
        """Back to the whole layers, with what was trained in them."""
        self.suspend()
        self.optimizer.state.clear()
        for group, whole in zip(self.optimizer.param_groups, self._whole_groups, strict=True):
            group["params"] = whole

    def suspend(self) -> None:
        """Lets the whole layers answer for a while, with what was trained so far in them."""
        for layer in self.layers:
            layer.write_back()
        self.release()

    def release(self) -> None:
        """Lets the whole layers answer as they are."""
        for layer in self.layers:
            layer.linear.__dict__.pop("forward", None)

    def resume(self) -> None:
        """Lets the reduced layers answer."""
        for layer in self.layers:
            layer.linear.forward = layer.forward  # type: ignore[method-assign, assignment]
