r"""A spiking network with a sparse pathway per task, after SOR-SNN.

Source: Han et al. 2023, "Adaptive reorganization of neural pathways for continual learning with spiking neural
networks" (arXiv 2309.09550). Its equations could not be read. So this is a reconstruction, and no number of it is
theirs.

The neurons are leaky and spike. Images are shown for T steps. Every task has an embedding e. A regulation network makes
scores of all hidden weights of it,

.. math:: S_{ij} = B_{ij} + a_i(e) \, b_j(e)

with B drawn once and a, b linear. A layer computes with the share of its weights whose scores are largest in size: the
task's pathway. Embedding and regulation network learn by the straight-through estimator, and a task keeps a bit for
every weight. Synapses of earlier pathways go on to learn, by the share `plasticity` of each step, so old tasks may get
better or worse.

Departs from it: in what could not be read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from clbench.baselines.parts import PerTask, weight_of
from clbench.baselines.scores import chosen_weight, smallest
from clbench.baselines.spiking import made_spiking, spiking_neurons, unfit_to_spike
from clbench.baselines.wsn import NO_POWERS, ScoredMethod
from clbench.methods.method import Plugin
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.methods.space import Between
from clbench.networks.answer import answer, evaluating
from clbench.suites.suite import Suite

# Picojoules of an addition and of a multiplication with addition in 45 nm, 32 bits (Horowitz 2014).
_ADD, _MULTIPLY = 0.9, 4.6
_MEASURED_ON = 256


class SORSNNSettings(MethodSettings):
    """Hyper-parameters of the reconstruction.

    Attributes:
        share: of a layer's weights, in a pathway.
        time_steps: T, for which an image is shown.
        embedding: numbers in a task's embedding.
        plasticity: share of each step that synapses of earlier pathways take. 0 freezes them.
        output_weights: a single head too gets weights of its own for every task.
    """

    share: float = Field(default=0.3, gt=0, le=1)
    time_steps: int = Field(default=4, ge=1, le=1000)
    embedding: int = Field(default=16, ge=1)
    plasticity: float = Field(default=0.01, ge=0, le=1)
    output_weights: PerTask = "per-task"
    reset_optimizer: AlwaysNew = True


class Regulation(nn.Module):
    """Embeddings of the tasks. `task` is the present one.

    Args:
        n_tasks: T.
        size: numbers of an embedding.
        generator: draws them from N(0, 1).
    """

    def __init__(self, n_tasks: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embeddings = nn.ParameterList(torch.randn(size, generator=generator) for _ in range(n_tasks))
        self.task = 0

    def forward(self, x: Tensor) -> Tensor:
        """Its input: an `nn.Sequential` calls all that is put into it."""
        return x

    def now(self) -> Tensor:
        """The present task's embedding."""
        found: Tensor = self.embeddings[self.task]
        return found


class Pathway(nn.Module):
    """What makes a layer's weight of its weights and the present task's scores: a parametrisation of torch.

    Args:
        weight: the layer's, [out, in, ...].
        share: of the weights, in a pathway.
        regulation: has the embeddings. It is referred to, and its parameters are not this module's.
        generator: draws.
    """

    def __init__(self, weight: Tensor, share: float, regulation: Regulation, generator: torch.Generator) -> None:
        super().__init__()
        size, n = len(regulation.embeddings[0]), weight.numel()
        self._regulation = [regulation]
        self._place = min(n, 1 + round((1 - share) * (n - 1)))
        self._near: Tensor | None = None
        self.register_buffer("base", torch.rand(weight.shape, generator=generator) * 2 - 1)
        self.rows = nn.Parameter(torch.randn(weight.shape[0], size, generator=generator) / size**0.5)
        self.columns = nn.Parameter(torch.randn(weight.shape[1], size, generator=generator) / size**0.5)

    def scores(self) -> Tensor:
        """Of all weights, for the present task."""
        e = self._regulation[0].now()
        outer = torch.outer(self.rows @ e, self.columns @ e)
        base = self.get_buffer("base")
        return base + outer.view(*outer.shape, *[1] * (base.ndim - 2))

    def mask(self, scores: Tensor | None = None) -> Tensor:
        """The pathway, bool."""
        sizes = (self.scores() if scores is None else scores).detach().abs()
        self._near = smallest(sizes.flatten(), self._place, self._near)
        return sizes >= self._near

    def forward(self, weight: Tensor) -> Tensor:
        """The weights of the pathway; 0 in the place of others."""
        scores = self.scores()
        return chosen_weight(weight, scores, self.mask(scores))


class SORSNN(ScoredMethod):
    """The reconstruction on a suite."""

    Settings = SORSNNSettings
    resumes = True
    numbers = 2
    has_networks = False
    searched = {"share": Between(0.1, 0.7, log=False), "plasticity": Between(1e-3, 1.0)}

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: SORSNNSettings) -> str:
        """Refuses networks without ReLU modules."""
        return unfit_to_spike(network) or super().unfit(network, image, settings)

    @classmethod
    def refuses(cls, suite: Suite, settings: SORSNNSettings) -> str:
        """Powers, which would be of the regulation network too."""
        return NO_POWERS if settings.power_alpha != 1 else ""

    def scored(self, network: nn.Module) -> nn.Module:
        """The network, whose hidden weights have pathways."""
        generator = self.workplace.seeds.generator("pathways")
        settings = self.settings
        regulation = Regulation(self.workplace.suite.n_tasks, settings.embedding, generator)
        layers = dict(network.named_modules())
        for name in self.shared:
            weight = weight_of(layers[name])
            made = Pathway(weight, settings.share, regulation, generator)
            parametrize.register_parametrization(layers[name], "weight", made, unsafe=True)
        network.add_module("regulation", regulation)
        return network

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network, spiking."""
        return super().adapt(made_spiking(network, self.settings.time_steps))

    def carried(self) -> list[Tensor]:
        """What scores are made of, the tasks' embeddings too."""
        return [*super().carried(), *self.model.get_submodule("regulation").state_dict().values()]

    def plugins(self) -> list[Plugin]:
        """What turns to the task's pathway and slows the synapses of earlier ones."""
        return [_Turning(self)]

    def measures(self) -> Mapping[str, float]:
        """Spikes, share of synapses and energy of an image, by some training images of the task just learned.

        Energy: 0.9 pJ for each addition that a spike causes, 4.6 pJ for each multiplication that an image's pixels
        cause in each step, at 32 bits in 45 nm (Horowitz 2014). The output layer counts as well.
        """
        task = self.tasks_learned - 1
        model = self.view(task)
        x, _ = self.workplace.stream.tasks[task].train.batch(
            torch.arange(min(_MEASURED_ON, len(self.workplace.stream.tasks[task].train))),
            device=self.workplace.device,
        )
        layers = dict(model.named_modules())
        joules = torch.zeros((), dtype=torch.float64, device=x.device)
        operations = torch.zeros_like(joules)

        def count(layer: Any, inputs: tuple[Tensor], first: bool) -> None:
            nonlocal joules, operations
            there = (layer.weight != 0).to(inputs[0].dtype)
            # Pixels are multiplied wherever there is a synapse. A spike is an addition.
            given = torch.ones_like(inputs[0]) if first else inputs[0]
            n = (
                (
                    F.conv2d(given, there, None, layer.stride, layer.padding, layer.dilation, layer.groups)
                    if isinstance(layer, nn.Conv2d)
                    else F.linear(given, there)
                )
                .double()
                .sum()
            )
            joules += n * (_MULTIPLY if first else _ADD)
            operations += n

        handles = [
            layers[name].register_forward_pre_hook(lambda layer, inputs, first=number == 0: count(layer, inputs, first))
            for number, name in enumerate([*self.shared, *self.outputs])
        ]
        with evaluating(model), torch.no_grad():
            answer(model, x, task)
        for handle in handles:
            handle.remove()
        spikes = sum(float(lif.n_spikes) for lif in spiking_neurons(model) if lif.n_spikes is not None)
        masks = [self.mask_of(task, name) for name in self.shared]
        active = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        return {
            "spikes_per_image": spikes / len(x),
            "synapses_active": active,
            "synaptic_operations_per_image": float(operations) / len(x),
            "nanojoules_per_image": float(joules) / len(x) / 1000,
        }


class _Turning:
    def __init__(self, method: SORSNN) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        method = self.method
        regulation = method.model.get_submodule("regulation")
        regulation.task = strategy.experience.current_experience
        self.slow = [(weight, method.used()[name]) for name, weight in method.weights().items()] if method.masks else []
        if method.masks:
            method.start_outputs()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.before = [weight.detach().clone() for weight, _ in self.slow]

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        # The step is made smaller, not the gradient, whose size Adam would divide out.
        plasticity = self.method.settings.plasticity
        for (weight, used), before in zip(self.slow, self.before, strict=True):
            torch.where(used, torch.lerp(before, weight, plasticity), weight, out=weight)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.method.keep(strategy.experience.current_experience)
        del self.slow, self.before
