r"""PSP: parameter superposition.

Source: Cheung, Terekhov, Chen, Agrawal and Olshausen 2019, "Superposition of many models into one"
(arXiv 1902.05522), and the authors' published settings.

All tasks share the same weights W; task k reads them through a context o_k per layer, of the layer's input size,

.. math:: y = W (o_k \odot x)

so that the weights of other tasks appear as noise, the smaller the wider the layer. Every layer has a context,
the output layer too. Three kinds:

- `binary`: entries +1 or -1; no biases.
- `complex`: entries exp(i phi), phi uniform; complex weights, ReLU on real and imaginary part, logits are the
  real part; no biases.
- `rotation`: a Haar-random orthogonal matrix in place of the element-wise product; biases.

A context is drawn from (seed, task, layer) alone when it is needed and is not stored: what a task costs is its
number. The task is known at test time.

Departs from it: in what the suite has otherwise than the authors (1000 steps of 128 images per task at a constant rate,
three hidden layers), all of which `superposition-mnist-50` has as they do; and in that contexts are not learned.
RMSprop 0.0001 with its state kept across tasks is theirs.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from avalanche.models import MultiTaskModule
from pydantic import Field
from torch import Tensor, nn

from clbench.methods.method import Method
from clbench.methods.settings import MethodSettings
from clbench.networks.initial import initialise
from clbench.suites.optimizers import Optimizer
from clbench.suites.suite import Suite

Kind = Literal["binary", "complex", "rotation"]
ContextSeed = Callable[[int, int], int]


class PSPSettings(MethodSettings):
    """Hyper-parameters of PSP.

    Attributes:
        kind: of context: `binary`, `complex` or `rotation`.
        input_mean, input_std: pixels x in [0, 1] enter as (x - input_mean) / input_std.
    """

    kind: Kind = "binary"
    input_mean: float = Field(default=0.1307, ge=0, le=1)
    input_std: float = Field(default=0.3081, gt=0, le=10)
    optimizer: Optimizer | None = "rmsprop"
    learning_rate: float | None = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    reset_optimizer: bool = False


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


class PSP(Method):
    """PSP on a suite."""

    Settings = PSPSettings
    resumes = True
    task_known_at_test = True

    @classmethod
    def refuses(cls, suite: Suite, settings: PSPSettings) -> str:
        """Any network but an MLP, and pixels that would be normalised twice."""
        if suite.network != "mlp":
            return f"psp superposes linear layers so far, but the network is {suite.network}; give --set network=mlp"
        if not suite.normalise or (settings.input_mean, settings.input_std) == (0, 1):
            return ""
        return (
            "the suite normalises the pixels, and psp would do it once more; give input_mean=0 and input_std=1, or "
            "normalise=false"
        )

    def adapt(self, network: nn.Module) -> nn.Module:
        """A network of the same layers in superposition, its weights drawn anew: most kinds have no biases."""
        suite, stream, seeds = self.workplace.suite, self.workplace.stream, self.workplace.seeds
        channels, height, width = stream.image_shape
        return initialise(
            SuperposedMLP,
            (channels * height * width, *suite.network_settings["hidden_sizes"], stream.n_outputs),
            suite.n_tasks if suite.head == "multi" else 1,
            self.settings.kind,
            lambda task, layer: seeds.derive("context", task, layer),
            self.settings.input_mean,
            self.settings.input_std,
            seed=seeds.derive("weights"),
        )
