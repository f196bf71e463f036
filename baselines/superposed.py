"""The network of `psp`: linear layers that each task reads through contexts of its own (`psp.py`)."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

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
