r"""HAT: Hard Attention to the Task.

Source: Serrà, Surís, Miron and Karatzoglou 2018, "Overcoming catastrophic forgetting with hard attention to the task"
(arXiv 1801.01423) and the authors' published settings. Every task has an embedding e of every unit, and a unit's
output is multiplied by the gate sigmoid(s e). Within an epoch s rises from 1 / s_max to s_max, and tests have s_max.
With a the largest gates of earlier tasks, the gradient of the weight from unit j to unit i is multiplied by

.. math:: 1 - \min(a_i, a_j)

and the loss has c times the share of what is left that the gates take, sum g (1 - a) / sum (1 - a). The gradient of
embeddings is multiplied so that it does not depend on s.

Departs from it: s rises with the batches and reaches s_max, as in the paper. In the code it rises with the images and
does not. Batch norms are every task's own and kept for it. The rate's schedule and the initial weights are the suite's:
only `plateau` goes back to the best weights. Nothing is dropped unless it is asked for. Published gates are neither
open nor shut near 0, so old tasks may drift. With `binarise` they are 0 or 1 once a task is learned. What it reads is
then held, and nothing drifts.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from clbench.baselines.holding import Held
from clbench.baselines.parts import PartsMethod, PerTask, weight_of
from clbench.data.streams import Task
from clbench.errors import MethodError, MethodWarning
from clbench.methods.method import Plugin, answering
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.methods.space import Between
from clbench.networks.units import Group, Units, find_units
from clbench.suites.optimizers import Optimizer
from clbench.suites.suite import Suite

_MOST = 6.0
"""Of an embedding's size, in the authors' code."""
_MOST_EXPONENT = 50.0
_LONGEST_GRADIENT = 10_000.0
# Below this share of units that no task has taken, one is told that the next may not fit.
_SCARCE = 0.05
# Training images of each earlier task that drift is measured on.
_MEASURED = 256


class HATSettings(MethodSettings):
    """Hyper-parameters of HAT.

    Attributes:
        strength: c, the weight of what the gates take.
        steepest: s_max.
        binarise: whether gates are 0 or 1 once a task is learned, so that nothing is forgotten.
        output_weights: a single head too gets weights of its own for every task.
        dropout_inputs, dropout: shares of the network's inputs and of its units' outputs that are dropped in training,
            for a network that drops nothing itself.
    """

    optimizer: Optimizer | None = "sgd"
    learning_rate: float | None = Field(default=0.05, gt=0, le=10, allow_inf_nan=False)
    strength: float = Field(default=0.75, ge=0, allow_inf_nan=False)
    steepest: float = Field(default=400.0, gt=1, allow_inf_nan=False)
    binarise: bool = False
    dropout_inputs: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    output_weights: PerTask = "per-task"
    reset_optimizer: AlwaysNew = True


class Gates(nn.Module):
    """The embeddings of every task, and what multiplies the inputs of layers by the present task's gates.

    Args:
        units: of the network.
        n_tasks: T.
        steepest: s_max.
        dropouts: shares of the inputs and of units' outputs that are dropped in training.
        generator: draws the embeddings from N(0, 1).

    Attributes:
        embeddings: T times [U].
        task: the present one.
        slope: s in training.
    """

    def __init__(
        self, units: Units, n_tasks: int, steepest: float, dropouts: tuple[float, float], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.embeddings = nn.ParameterList(torch.randn(units.n_units, generator=generator) for _ in range(n_tasks))
        self.steepest, self.dropouts = steepest, dropouts
        self.task, self.slope = 0, steepest

    def forward(self, x: Tensor) -> Tensor:
        """Its input: an `nn.Sequential` calls all that is put into it."""
        return x

    def now(self) -> Tensor:
        """The present task's gates, [U]: in training with its slope, else with the largest."""
        return (self.embeddings[self.task] * (self.slope if self.training else self.steepest)).sigmoid()

    def multiply(self, reads: Tensor, x: Tensor) -> Tensor:
        """Inputs [B, C, ...] of a layer times the gates of the units that they are, int64 [C] on the same device."""
        gates = self.now()[reads].to(x.dtype)
        return self.drop(x, self.dropouts[1]) * gates.view(1, -1, *[1] * (x.ndim - 2))

    def drop(self, x: Tensor, share: float) -> Tensor:
        """x with this share of it at 0 in training, drawn at random, and the rest larger for it."""
        if not share or not self.training:
            return x
        # As F.dropout, which takes twice as long on a CPU of Intel and many times as long on one of AMD.
        kept = torch.rand(x.shape, device=x.device) >= share
        return x * kept.to(x.dtype).div_(1 - share)


class _BeforeLayer:
    """A hook of a layer. An object, so that a copied network has one of its own, with its own gates."""

    def __init__(self, gates: Gates, reads: Tensor) -> None:
        self.gates, self.reads = gates, reads
        self.of_images = bool(reads[0] < 0)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        if self.of_images:
            return (self.gates.drop(x, self.gates.dropouts[0]),)
        self.reads = self.reads.to(x.device)
        return (self.gates.multiply(self.reads, x),)


class HAT(PartsMethod):
    """HAT on a suite.

    Attributes:
        units: of the network.
        taken: [U], the largest gates of the tasks so far.
        gates: task -> [U], its gates once it was learned.
        drift: largest change of a logit of earlier tasks by the last one; None in the first.
    """

    Settings = HATSettings
    resumes = True
    searched = {"strength": Between(1e-3, 4.0), "steepest": Between(50.0, 800.0)}
    stability = ("strength", 2.5)

    @classmethod
    def refuses(cls, suite: Suite, settings: HATSettings) -> str:
        """What moves weights although gates between 0 and 1 let little of their gradient through."""
        moving = "weight_decay" if settings.weight_decay else f"optimizer={settings.optimizer}"
        if not settings.binarise and (settings.weight_decay or settings.optimizer not in ("sgd", None)):
            return f"{moving} moves what hat protects by gates between 0 and 1; leave it out, or give binarise=true"
        return ""

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: HATSettings) -> str:
        """Refuses networks whose units cannot be found, or read in part."""
        if reason := super().unfit(network, image, settings):
            return reason
        try:
            units = find_units(network, image)
        except MethodError as error:
            return str(error)
        depthwise = [name for name, layer in units.layers.items() if layer.kind == "depthwise"]
        if depthwise:
            return f"hat has no gate before a depthwise convolution, which '{depthwise[0]}' is"
        drops = [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]
        if drops and (settings.dropout or settings.dropout_inputs):
            return "hat's dropout is for a network that drops nothing itself; leave it out"
        mixed = [name for name, layer in units.layers.items() if (layer.reads < 0).any() and (layer.reads >= 0).any()]
        return f"HAT gates all inputs of a layer or none, but '{mixed[0]}' reads images beside units" if mixed else ""

    def plugins(self) -> list[Plugin]:
        """What trains the gates and protects the weights."""
        return [_Attending(self)]

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network, with gates behind its units."""
        network = super().adapt(network)
        settings, suite = self.settings, self.workplace.suite
        image = torch.zeros(1, *self.workplace.stream.image_shape)
        self.units = find_units(network, image)
        generator = self.workplace.seeds.generator("gates")
        dropouts = settings.dropout_inputs, settings.dropout
        made = Gates(self.units, suite.n_tasks, settings.steepest, dropouts, generator)
        layers = dict(network.named_modules())
        for name in [*self.shared, *self._outputs_of(network)]:
            layers[name].register_forward_pre_hook(_BeforeLayer(made, self._reads(name)))
        network.add_module("gates_of_tasks", made)
        self.taken = torch.zeros(self.units.n_units, device=self.workplace.device)
        self.gates: dict[int, Tensor] = {}
        self.drift: float | None = None
        return network

    @property
    def of_tasks(self) -> Gates:
        """The gates in the network."""
        found = self.model.get_submodule("gates_of_tasks")
        assert isinstance(found, Gates)
        return found

    def is_own(self, name: str) -> bool:
        """As ever, but that biases of gated units are shared."""
        layer, _, kind = name.rpartition(".")
        return super().is_own(name) and not (kind == "bias" and layer in self.shared)

    def read_by(self, task: int) -> dict[str, Tensor]:
        """Weights times the gates of the units that they read."""
        tensors, found = {**self.model.state_dict(), **self.own[task]}, {}
        for name in self._readers():
            weight = tensors[f"{name}.weight"]
            reads = self._reads(name).to(weight.device)
            gates = self.gates[task][reads]
            found[f"{name}.weight"] = weight * gates.view(1, -1, *[1] * (weight.ndim - 2))
        return found

    def _readers(self) -> list[str]:
        names = [*self.shared, *self._outputs_of(self.model)]
        return [name for name in names if bool((self._reads(name) >= 0).all())]

    def _reads(self, name: str) -> Tensor:
        # All output layers read the same.
        (output,) = self.units.outputs
        return self.units.layers[name if name in self.units.layers else output].reads

    def left(self) -> dict[str, Tensor]:
        """By the name of a parameter, what its gradient is multiplied by: 1 where no task's units are at both ends."""
        found = {}
        for name in self.shared:
            layer = self.units.layers[name]
            device = self.taken.device
            rows, reads = self.taken[layer.writes.to(device)], layer.reads.to(device)
            columns = torch.where(reads < 0, torch.ones_like(rows[:1]), self.taken[reads.clamp(min=0)])
            weight = self.model.get_parameter(f"{name}.weight")
            beside = torch.minimum(rows[:, None], columns[None, :])
            found[f"{name}.weight"] = 1 - beside.view(*beside.shape, *[1] * (weight.ndim - 2))
            if f"{name}.bias" in self.model.state_dict():
                found[f"{name}.bias"] = 1 - rows
        return found

    def keep(self, task: int) -> None:
        """Notes the gates, which from here on are earlier ones, and what is the task's alone."""
        super().keep(task)
        embedding = self.of_tasks.embeddings[task].detach()
        gates = (embedding > 0).float() if self.settings.binarise else (embedding * self.settings.steepest).sigmoid()
        self.gates[task] = gates
        self.taken = torch.maximum(self.taken, gates)

    def units_of(self, task: Task) -> tuple[Units, Tensor]:
        """The units whose gates are more than half open."""
        return self.units, self.gates[task.index] > 0.5

    def capacity(self) -> list[dict[str, Any]]:
        """Free, new and reused units of each group: a unit is a task's whose gate is more than half open."""
        if not self.gates:
            return []
        task = self.tasks_learned - 1
        now = self.gates[task] > 0.5
        earlier = [gates > 0.5 for number, gates in self.gates.items() if number < task]
        before = torch.stack(earlier).any(0) if earlier else torch.zeros_like(now)
        rows = []
        for group in self.units.groups:
            part = slice(group.start, group.start + group.size)
            rows.append(
                {
                    **self._weights_of(group, now | before),
                    "task": task + 1,
                    "group": group.name,
                    "unit": group.unit,
                    "units": group.size,
                    "free": int((~(now | before)[part]).sum()),
                    "new": int((now & ~before)[part].sum()),
                    "reused": int((now & before)[part].sum()),
                }
            )
        return rows

    def _weights_of(self, group: Group, used: Tensor) -> dict[str, Any]:
        """How many weights lead to a group, and the share of them between used units, with the gates."""
        layers, there, between = dict(self.model.named_modules()), 0, 0
        for name in group.writers:
            layer, weight = self.units.layers[name], weight_of(layers[name])
            each, reads = weight[0, 0].numel(), layer.reads.to(used.device)
            rows = used[layer.writes.to(used.device)]
            columns = (reads < 0) | used[reads.clamp(min=0)]
            there += weight.numel()
            between += each * int(rows.sum()) * int(columns.sum())
        bits = len(self.gates) * group.size * (1 if self.settings.binarise else 32)
        return {"weights_used": (between + bits / 32) / there, "weights": there}

    def warn_if_full(self) -> None:
        """Says which groups have next to no units left whose gates are shut in all tasks so far."""
        for group in self.units.groups:
            free = int((self.taken[group.start : group.start + group.size] <= 0.5).sum())
            if free < _SCARCE * group.size:
                warnings.warn(
                    f"HAT has only {free} of {group.size} {group.unit}s of {group.name} left for the next task; a "
                    "larger strength or a wider network leaves more",
                    MethodWarning,
                    stacklevel=2,
                )

    @torch.inference_mode()
    def answers_of_earlier(self) -> list[Tensor]:
        """Logits [N, C] for some training images of each learned task, to see how far they drift."""
        found = []
        for task in self.workplace.stream.tasks[: len(self.gates)]:
            x, _ = task.train.batch(torch.arange(min(len(task.train), _MEASURED)), device=self.workplace.device)
            with answering(self.view(task.index), task) as network:
                found.append(network(x).float())
        return found

    def measures(self) -> Mapping[str, float]:
        """The largest change, by the task just learned, of a logit of earlier tasks."""
        return {} if self.drift is None else {"drift_of_earlier_logits": self.drift}

    def extra_state(self) -> Mapping[str, Tensor]:
        """Gates, a bit each where they are 0 or 1, and what is each task's alone."""
        gates = {
            f"gates/{task}": found.bool() if self.settings.binarise else found for task, found in self.gates.items()
        }
        return {**super().extra_state(), **gates}

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        super().load_extra_state({key: tensor for key, tensor in extra.items() if key.startswith("own/")})
        for key, tensor in extra.items():
            if key.startswith("gates/"):
                gates = tensor.to(self.workplace.device).float()
                self.gates[int(key.removeprefix("gates/"))] = gates
                self.taken = torch.maximum(self.taken, gates)


class _Attending:
    """Lets s rise, adds the norm of the gates to the loss, and protects the weights of earlier tasks."""

    def __init__(self, method: HAT) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        method = self.method
        self.gates = method.of_tasks
        self.gates.task = strategy.experience.current_experience
        self.embedding = self.gates.embeddings[self.gates.task]
        parameters = dict(method.model.named_parameters())
        self.left = [(parameters[name], factor) for name, factor in method.left().items()] if method.gates else []
        held = {name: (factor == 0).expand_as(parameters[name]) for name, factor in method.left().items()}
        self.held = Held(parameters, held if method.settings.binarise and method.gates else {})
        if method.gates:
            method.warn_if_full()
            method.start_outputs()
        self.answers = method.answers_of_earlier()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.batch = 0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        least, most = 1 / self.gates.steepest, self.gates.steepest
        n_batches = len(strategy.dataloader)
        self.gates.slope = least + (most - least) * self.batch / (n_batches - 1) if n_batches > 1 else most
        self.batch += 1

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        free = 1 - self.method.taken
        strategy.loss += self.method.settings.strength * (self.gates.now() * free).sum() / free.sum().clamp(min=1e-12)

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        for parameter, factor in self.left:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        if self.embedding.grad is not None:
            steep = (self.gates.slope * self.embedding).clamp(-_MOST_EXPONENT, _MOST_EXPONENT)
            flat = self.gates.steepest / self.gates.slope
            self.embedding.grad.mul_(flat * (steep.cosh() + 1) / (self.embedding.cosh() + 1))
        nn.utils.clip_grad_norm_(self.method.model.parameters(), _LONGEST_GRADIENT)

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.held.put_back()
        self.embedding.clamp_(-_MOST, _MOST)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        method = self.method
        changes = [float((a - b).abs().max()) for a, b in zip(method.answers_of_earlier(), self.answers, strict=True)]
        method.drift = max(changes, default=None)
        method.keep(strategy.experience.current_experience)
        del self.held, self.left, self.answers
