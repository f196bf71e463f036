"""The networks of `psp`: layers that each task reads through contexts of its own (`psp.py`)."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn
from torch.func import functional_call

from clbench.networks.answer import layers_called
from clbench.networks.tracing import tensor_name

Kind = Literal["binary", "complex", "rotation"]
ContextSeed = Callable[[int, int], int]


def draw_context(kind: Kind, size: int, seed: int) -> Tensor:
    """The context of one layer for one task.

    Returns:
        float32 [size] of +1 and -1 (`binary`), complex64 [size] of modulus 1 (`complex`), or an orthogonal
        float32 [size, size] (`rotation`; Haar measure through QR with the signs of R's diagonal).
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "binary":
        return torch.randint(0, 2, (size,), generator=generator).mul(2).sub(1).to(torch.float32)
    if kind == "complex":
        phase = (torch.rand(size, generator=generator) * 2 - 1) * torch.pi
        return torch.polar(torch.ones(size), phase)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator))
    return q * r.diagonal().sign()


class SuperposedMLP(MultiTaskModule):
    """A fully connected ReLU network whose layers are read through the context of the task at hand.

    Args:
        sizes: inputs, hidden layers and outputs, in their order.
        n_heads: output layers: 1, or one per task.
        kind: of context.
        context_seed: (task, layer) -> seed of that context.
        mean, std: normalisation of the pixels.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        n_heads: int,
        kind: Kind,
        context_seed: ContextSeed,
        mean: float,
        std: float,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.context_seed = context_seed
        self.mean = mean
        self.std = std
        pairs = list(itertools.pairwise(sizes))
        self.hidden = nn.ModuleList([self._layer(*pair) for pair in pairs[:-1]])
        self.heads = nn.ModuleList([self._layer(*pairs[-1]) for _ in range(n_heads)])
        self._contexts: tuple[int, list[Tensor]] | None = None

    def _layer(self, fan_in: int, fan_out: int) -> nn.Module:
        if self.kind == "complex":
            return ComplexLinear(fan_in, fan_out)
        return nn.Linear(fan_in, fan_out, bias=self.kind == "rotation")

    def adaptation(self, experience: object) -> None:
        """Does nothing: every head is there."""

    def contexts(self, task: int) -> list[Tensor]:
        """The contexts of a task, one per layer; only the last task asked for is kept."""
        if self._contexts is None or self._contexts[0] != task:
            layers = [*self.hidden, self.heads[0]]
            # What is drawn while evaluating may be trained with next; inference tensors could not.
            with torch.inference_mode(False):
                drawn = [
                    draw_context(self.kind, layer.in_features, self.context_seed(task, number)).to(layer.weight.device)
                    for number, layer in enumerate(layers)
                ]
            self._contexts = task, drawn
        return self._contexts[1]

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits [B, C] for images [B, ...] that all belong to one task."""
        task = task_labels if isinstance(task_labels, int) else int(task_labels[0])
        contexts = self.contexts(task)
        x = (x.flatten(1) - self.mean) / self.std
        for layer, context in zip(self.hidden, contexts, strict=False):
            x = self._activate(layer(self._superpose(x, context)))
        head = self.heads[task if len(self.heads) > 1 else 0]
        logits = head(self._superpose(x, contexts[-1]))
        return logits.real if self.kind == "complex" else logits

    def _superpose(self, x: Tensor, context: Tensor) -> Tensor:
        return x @ context if self.kind == "rotation" else x * context

    def _activate(self, x: Tensor) -> Tensor:
        return torch.complex(x.real.relu(), x.imag.relu()) if self.kind == "complex" else x.relu()


class ComplexLinear(nn.Module):
    """A linear map with complex weights and no bias, stored as one real [2 * out, in] matrix.

    Optimisers, autocast and checkpoints know real tensors best; rows 0 to out - 1 are the real part.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        # Real and imaginary part share the variance that a real layer's weights would have.
        self.weight = nn.Parameter(nn.Linear(in_features, 2 * out_features, bias=False).weight.detach() / 2**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Complex [B, out] for complex or real [B, in]."""
        parts = nn.functional.linear(torch.cat([x.real, x.imag]), self.weight).float()
        of_real, of_imag = parts.chunk(2)
        real_real, imag_real = of_real.chunk(2, dim=1)
        real_imag, imag_imag = of_imag.chunk(2, dim=1)
        return torch.complex(real_real - imag_imag, imag_real + real_imag)


class SuperposedNetwork(MultiTaskModule):
    """Any network whose linear layers and convolutions are read through binary contexts of the task at hand.

    A context has a sign for each weight of one filter or neuron, w[o, i, u, v] -> w[o, i, u, v] c[i, u, v]. The first
    layer has none where it is a convolution. Biases of these layers are taken away. What other layers have, such as a
    batch norm, all tasks share.

    Args:
        network: changed; [B, ...] -> logits [B, C].
        image: one that it takes, [1, ...].
        context_seed, mean, std: as for `SuperposedMLP`.
    """

    def __init__(self, network: nn.Module, image: Tensor, context_seed: ContextSeed, mean: float, std: float) -> None:
        super().__init__()
        self.network = network
        self.context_seed = context_seed
        self.mean = mean
        self.std = std
        layers = superposable(network)
        for layer in layers.values():
            layer.bias = None
        first = next((layers[name] for name in layers_called(network, image) if name in layers), None)
        self.weights = [
            tensor_name(name, "weight")
            for name, layer in layers.items()
            if layer is not first or not isinstance(layer, nn.Conv2d)
        ]
        self._contexts: tuple[int, dict[str, Tensor]] | None = None

    def adaptation(self, experience: object) -> None:
        """Does nothing: what the network has for each task is there."""

    def contexts(self, task: int) -> dict[str, Tensor]:
        """The contexts of a task by the names of weights, each [I, ...]; only the last task asked for is kept."""
        if self._contexts is None or self._contexts[0] != task:
            drawn = {}
            # What is drawn while evaluating may be trained with next; inference tensors could not.
            with torch.inference_mode(False):
                for number, name in enumerate(self.weights):
                    weight = self.network.get_parameter(name)
                    context = draw_context("binary", weight[0].numel(), self.context_seed(task, number))
                    drawn[name] = context.view(weight.shape[1:]).to(weight.device)
            self._contexts = task, drawn
        return self._contexts[1]

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits [B, C] for images [B, ...] that all belong to one task."""
        task = task_labels if isinstance(task_labels, int) else int(task_labels[0])
        found = {name: self.network.get_parameter(name) * context for name, context in self.contexts(task).items()}
        given = (x - self.mean) / self.std
        takes_labels = isinstance(self.network, MultiTaskModule)
        logits: Tensor = functional_call(self.network, found, (given, task_labels) if takes_labels else (given,))
        return logits


def superposable(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and convolutions of a network, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
