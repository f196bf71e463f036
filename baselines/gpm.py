r"""GPM: Gradient Projection Memory.

Source: Saha, Garg and Roy 2021, "Gradient projection memory for continual learning" (arXiv 2103.09762) and the authors'
published settings. For every layer a basis B spans most of what earlier tasks give it as input. Gradients of a new task
lose their part in that space,

.. math:: G \leftarrow G - G B B^\top

with a layer's inputs as columns, for a convolution the patches under its kernel. After a task the basis grows by as few
directions as are needed to hold the share epsilon of the energy of the inputs of some training images.

Departs from it: a bias is the weight of an input that is always 1, where theirs have no biases. Batch norms keep their
statistics for the test, where theirs normalise by the test's batches. From the second task on they stay as they are.
Every layer is measured with as many images, where theirs have fewer for convolutions.
Other layers with weights, such as layer norms, are not protected.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.baselines.parts import computed, frozen, groups_of
from clbench.data.streams import Task
from clbench.methods.method import Method, Plugin
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.methods.space import Among
from clbench.networks.answer import answer, batch_norms, evaluating, layers_called
from clbench.suites.optimizers import Optimizer
from clbench.suites.suite import Suite

Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
_IMAGES_AT_ONCE = 50
# Linear layers of so many weights are projected by what a batch reads, which has far fewer rows than their gradient.
_LARGE = 2**20


def _listed(value: Any) -> Any:
    return [float(value)] if isinstance(value, int | float) else list(value) if isinstance(value, tuple) else value


class GPMSettings(MethodSettings):
    """Hyper-parameters of GPM.

    Attributes:
        energy: epsilon, of each layer. One stands for all, and the last for those that follow.
        energy_step: what is added to epsilon with every task.
        images: training images whose inputs are looked at after a task.
    """

    optimizer: Optimizer | None = "sgd"
    learning_rate: float | None = Field(default=0.01, gt=0, le=10, allow_inf_nan=False)
    energy: Annotated[Shares, BeforeValidator(_listed)] = [0.95, 0.99]
    energy_step: float = Field(default=0.0, ge=0, le=1)
    images: int = Field(default=300, ge=1)
    reset_optimizer: AlwaysNew = True


class GPM(Method):
    """GPM on a suite.

    Attributes:
        bases: by layer, [inputs, directions], orthonormal columns. The last input is that of the bias.
    """

    Settings = GPMSettings
    resumes = True
    searched = {"images": Among((125, 300, 1000)), "energy": Among((0.9, 0.95, 0.97, 0.99))}

    @classmethod
    def refuses(cls, suite: Suite, settings: GPMSettings) -> str:
        """What moves weights in other directions than their gradients'."""
        plain = {"optimizer": "sgd", "weight_decay": 0, "power_alpha": 1}
        others = [key for key, value in plain.items() if getattr(settings, key) != value]
        if others:
            return (
                "gpm keeps gradients out of earlier inputs' space, which only plain sgd follows; leave "
                f"{' and '.join(others)} out"
            )
        return ""

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: GPMSettings) -> str:
        """Refuses weights that are frozen or computed, and convolutions in groups, whose rows read different inputs."""
        if reason := frozen(network):
            return reason
        layers = dict(network.named_modules())
        names = layers_called(network, image)
        if reason := computed(network, names):
            return reason
        if len({id(layers[name].weight) for name in names}) < len(names):
            return "gpm projects a layer's gradient by what the layer reads, but here layers share their weights"
        grouped = [name for name in names if getattr(layers[name], "groups", 1) > 1]
        return f"in gpm all outputs of a layer read the same inputs, but '{grouped[0]}' has groups" if grouped else ""

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network as it is; which of its layers are projected is noted: all but the heads of single tasks."""
        called = layers_called(network, torch.zeros(1, *self.workplace.stream.image_shape))
        # With outputs of its own, a task's do not touch those of others.
        self.projected = called[:-1] if self.workplace.suite.head == "multi" else called
        self.bases: dict[str, Tensor] = {}
        self.heard: dict[str, list[tuple[Tensor, Tensor]]] = {}
        return network

    def plugins(self) -> list[Plugin]:
        """What projects gradients."""
        return [_Projecting(self)]

    def layers(self) -> dict[str, Any]:
        """The layers whose gradients are projected, by name."""
        found = dict(self.model.named_modules())
        return {name: found[name] for name in self.projected}

    def listen(self) -> list[Any]:
        """Notes in `heard` what large linear layers read in a step, and the loss's gradient by what they give."""

        def hear(inputs: tuple[Tensor], output: Tensor, name: str) -> None:
            if output.requires_grad:
                x = inputs[0].detach()
                output.register_hook(lambda gradient: self.heard.setdefault(name, []).append((x, gradient)))

        return [
            layer.register_forward_hook(lambda _, inputs, output, name=name: hear(inputs, output, name))
            for name, layer in self.layers().items()
            if isinstance(layer, nn.Linear) and layer.weight.numel() >= _LARGE
        ]

    @torch.no_grad()
    def project(self) -> None:
        """Takes out of the gradients what would change answers for earlier inputs."""
        for name, layer in self.layers().items():
            if name in self.bases and layer.weight.grad is not None:
                gradient = self._outside(name, layer)
                n = layer.weight[0].numel()
                layer.weight.grad.copy_(gradient[:, :n].view_as(layer.weight))
                if layer.bias is not None:
                    layer.bias.grad.copy_(gradient[:, n])

    def _outside(self, name: str, layer: Any) -> Tensor:
        """The gradient of a layer [outputs, inputs] outside the space of earlier inputs."""
        basis = self.bases[name]
        if name in self.heard:
            # The gradient is a sum over what was read. To project that first is the same.
            first, *others = (
                by_output.flatten(0, -2).float().T @ _less(columns_of(layer, x).float(), basis)
                for x, by_output in self.heard[name]
            )
            return sum(others, first)
        parts = [layer.weight.grad.flatten(1), *([] if layer.bias is None else [layer.bias.grad[:, None]])]
        return _less(torch.cat(parts, 1), basis)

    @torch.no_grad()
    def remember(self, task: Task) -> None:
        """Lets the bases grow by the directions of a learned task."""
        positions = torch.randperm(len(task.train))[: self.settings.images]
        settings = self.settings
        for place, (name, gram) in enumerate(self.grams(task, positions).items()):
            share = settings.energy[min(place, len(settings.energy) - 1)] + settings.energy_step * task.index
            self.bases[name] = grown(self.bases.get(name), gram, min(share, 1.0))

    def grams(self, task: Task, positions: Tensor) -> dict[str, Tensor]:
        """By layer, the sum over its inputs of their products with one another, float64 [inputs, inputs]."""
        found: dict[str, Tensor] = {}
        with evaluating(self.model), self._heard(found):
            for part in positions.split(_IMAGES_AT_ONCE):
                x, _ = task.train.batch(part, device=self.workplace.device)
                answer(self.model, x, task.index)
        return found

    @contextmanager
    def _heard(self, found: dict[str, Tensor]) -> Iterator[None]:
        def hear(layer: Any, inputs: tuple[Tensor], name: str) -> None:
            columns = columns_of(layer, inputs[0]).double()
            found[name] = found.get(name, 0) + columns.T @ columns

        handles = [
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: hear(layer, inputs, name))
            for name, layer in self.layers().items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def measures(self) -> Mapping[str, float]:
        """Of each layer the share of its inputs' space in which gradients of later tasks may still lie."""
        shapes = {name: basis.shape for name, basis in self.bases.items()}
        groups = groups_of(self.model, list(shapes))
        return {f"gradient_space_left_{group}": 1 - shapes[name][1] / shapes[name][0] for group, name in groups}

    def extra_state(self) -> Mapping[str, Tensor]:
        """The bases."""
        return self.bases

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        self.bases = {name: basis.to(self.workplace.device, copy=True) for name, basis in extra.items()}


def _less(rows: Tensor, basis: Tensor) -> Tensor:
    return rows - (rows @ basis) @ basis.T


def columns_of(layer: Any, x: Tensor) -> Tensor:
    """What each output of a layer reads, [N, inputs]: images, or patches of all; a 1 more where there is a bias."""
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
        patches = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
        x = patches.transpose(1, 2)
    x = x.flatten(0, -2)
    return x if layer.bias is None else torch.cat([x, x.new_ones(len(x), 1)], 1)


def grown(basis: Tensor | None, gram: Tensor, share: float) -> Tensor:
    """A basis with as few new directions as hold this share of the energy.

    Args:
        basis: orthonormal columns [inputs, directions]; None for none.
        gram: sum over inputs r of r r^T, [inputs, inputs].
        share: epsilon.
    """
    total, left = float(gram.trace()), gram
    held = 0.0
    if basis is not None:
        wide = basis.double()
        outside = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) - wide @ wide.T
        left = outside @ gram @ outside
        held = total - float(left.trace())
    if held >= share * total:
        return torch.zeros(len(gram), 0, device=gram.device) if basis is None else basis
    energies, directions = torch.linalg.eigh((left + left.T) / 2)
    energies, directions = energies.flip(0).clamp(min=0), directions.flip(1)
    enough = int((held + energies.cumsum(0) < share * total).sum()) + 1
    room = len(gram) - (0 if basis is None else basis.shape[1])
    new = directions[:, : min(enough, room)].float()
    return new if basis is None else torch.linalg.qr(torch.cat([basis, new], 1)).Q


class _Projecting:
    def __init__(self, method: GPM) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.listening = self.method.listen() if self.method.bases else []

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.method.heard.clear()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if self.method.bases:
            for norm in batch_norms(self.method.model):
                norm.eval()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.method.bases:
            self.method.project()
            for norm in batch_norms(self.method.model):
                for parameter in norm.parameters():
                    parameter.grad = None

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        for handle in self.listening:
            handle.remove()
        self.method.heard.clear()
        self.method.remember(self.method.workplace.stream.tasks[strategy.experience.current_experience])
