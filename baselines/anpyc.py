r"""ANPyC: prune what matters least, retrain, and hold on to what is left.

Source: Peng, Tang, Jiang, Li, Lei, Lin and Li 2021, "Overcoming long-term catastrophic forgetting through adversarial
neural pruning and synaptic consolidation" (arXiv 1912.09091) and the authors' published settings. With H the entropy of
the network's softmax and g its gradient by a parameter, the importance after a task is

.. math:: I = \max(0, g \theta + g^2 \theta^2 / 2)

averaged over small batches, without labels. While later tasks are learned, the loss has lambda times the sum of
Omega (theta - theta_old)^2, with Omega the sum of importances. After the epochs of a task, the hidden weights of
smallest importance become 0, a step at a time, and the others are trained on after each step. From the second task on,
only weights that an earlier pruning left empty can be pruned.

Departs from it: importances decide within each layer, and the share is of the layer's weights. Five epochs follow each
step of pruning unless a suite says otherwise, where theirs are 30. A rate that falls does so over all of them together.
As theirs, output layers of single tasks are neither pruned nor held. One that serves all tasks is held.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.baselines.holding import Held
from clbench.baselines.parts import computed, frozen, groups_of
from clbench.data.loading import TensorLoader
from clbench.data.streams import Task
from clbench.methods.method import Method, Phase, Plugin
from clbench.methods.settings import MethodSettings
from clbench.methods.space import Between
from clbench.networks.answer import answer, evaluating, layers_called
from clbench.networks.heads import heads_of
from clbench.suites.suite import Suite

_BATCH = 100


class ANPyCSettings(MethodSettings):
    """Hyper-parameters of ANPyC.

    Attributes:
        strength: lambda.
        target: share of each layer's weights that is empty after the first task. 0 is without pruning.
        target_kept: what of that share is left after each further task.
        step: share of the weights that is pruned at a time.
        retrain_epochs: epochs after each step, beside the task's own.
    """

    strength: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    target: float = Field(default=0.5, ge=0, lt=1)
    target_kept: float = Field(default=0.8, ge=0, le=1)
    step: float = Field(default=0.1, gt=0, le=1)
    retrain_epochs: int = Field(default=5, ge=0, le=100_000)


class ANPyC(Method):
    """ANPyC on a suite.

    Attributes:
        importance, reference: by parameter, Omega and theta_old.
        empty: by layer, bool: weights that pruning left empty.
    """

    Settings = ANPyCSettings
    resumes = True
    numbers = 1
    searched = {"strength": Between(0.1, 1e5), "target": Between(0.2, 0.9, log=False)}
    stability = ("strength", 3000.0)

    @classmethod
    def refuses(cls, suite: Suite, settings: ANPyCSettings) -> str:
        """A rate that falls by putting pruned weights back, and pruning that weights of 0 would not recover from."""
        if settings.learning_rate_schedule == "plateau":
            return (
                "anpyc prunes within a task, which the learning_rate_schedule plateau would undo; give it linear or "
                "constant"
            )
        if settings.power_alpha != 1 and settings.target > 0:
            return "with power_alpha the weights that anpyc prunes stay at 0 for ever; give target=0 with it"
        return ""

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: ANPyCSettings) -> str:
        """Refuses frozen weights, those that are computed, and layers that share one."""
        layers, called = dict(network.named_modules()), layers_called(network, image)
        if reason := computed(network, called):
            return reason
        weights = [layers[name].weight for name in called]
        if len({id(weight) for weight in weights}) < len(weights):
            return "anpyc prunes each layer by itself, but two layers of the network share their weights"
        return frozen(network)

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network, of whose layers those to prune are noted, which are all but output layers."""
        self.pruned = layers_called(network, torch.zeros(1, *self.workplace.stream.image_shape))[:-1]
        self.importance: dict[str, Tensor] = {}
        self.reference: dict[str, Tensor] = {}
        self.empty: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}
        return network

    def plugins(self) -> list[Plugin]:
        """What prunes and holds."""
        return [_Pruning(self)]

    def steps(self, task: int) -> int:
        """How often the task prunes."""
        return math.ceil(self.target(task) / self.settings.step - 1e-9)

    def target(self, task: int) -> float:
        """Share of each layer's weights that is empty after the task."""
        return float(self.settings.target * self.settings.target_kept**task)

    def phases(self, task: Task) -> list[Phase]:
        """All epochs, those after each step of pruning included."""
        return [Phase([task.train], self.settings.epochs + self.steps(task.index) * self.settings.retrain_epochs)]

    def held(self) -> dict[str, nn.Parameter]:
        """The parameters that are held, by name: all but output layers of single tasks."""
        heads = tuple(f"{name}." for name in heads_of(self.model))
        return {name: value for name, value in self.model.named_parameters() if not name.startswith(heads)}

    def measured(self, task: Task) -> dict[str, Tensor]:
        """The importance of each parameter for a task, by name, from its training images."""
        parameters = self.held()
        sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
        batches = TensorLoader([task.train], _BATCH, self.workplace.device)
        with evaluating(self.model), torch.enable_grad():
            for x, _, labels in batches:
                log_p = answer(self.model, x, labels).log_softmax(1)
                entropy = -(log_p.exp() * log_p).sum(1).mean()
                gradients = torch.autograd.grad(entropy, list(parameters.values()), allow_unused=True)
                for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
                    if gradient is not None:
                        moved = gradient * value.detach()
                        sums[name] += (moved + moved.square() / 2).clamp(min=0)
        return {name: total / len(batches) for name, total in sums.items()}

    @torch.no_grad()
    def prune(self, task: Task, candidates: Mapping[str, Tensor], share: float) -> None:
        """Makes a share of each layer's weights empty, of the candidates those of least importance."""
        importance, parameters = self.measured(task), dict(self.model.named_parameters())
        for layer, allowed in candidates.items():
            name = f"{layer}.weight"
            count = min(round(share * allowed.numel()), int(allowed.sum()))
            # Of many weights the importance is 0. Among those the smallest go first.
            by_size = parameters[name].abs().flatten().argsort(stable=True)
            ranked = by_size[importance[name].masked_fill(~allowed, torch.inf).flatten()[by_size].argsort(stable=True)]
            empty = torch.zeros_like(allowed).flatten()
            empty[ranked[:count]] = True
            self.empty[layer] = empty.view_as(allowed)
            parameters[name].masked_fill_(self.empty[layer], 0)

    @torch.no_grad()
    def hold_on(self, task: Task) -> None:
        """Adds the task's importances, around the weights that it leaves."""
        parameters = self.held()
        for name, importance in self.measured(task).items():
            self.importance[name] = self.importance.get(name, 0) + importance
            self.reference[name] = parameters[name].detach().clone()

    def capacity(self) -> list[dict[str, Any]]:
        """Weights of each layer that are empty, and those that this task filled."""
        rows = []
        for group, name in groups_of(self.model, self.pruned) if self.empty else []:
            units, free = self.empty[name].numel(), int(self.empty[name].sum())
            new = int(self.before[name].sum()) - free
            row = {"task": self.tasks_learned, "group": group, "unit": "weight", "units": units, "free": free}
            used = {"weights_used": (units - free) / units, "weights": units}
            rows.append({**row, "new": new, "reused": units - free - new, **used})
        return rows

    def extra_state(self) -> Mapping[str, Tensor]:
        """Importances, the weights that they hold on to, and which weights are empty."""
        kinds = {"importance": self.importance, "reference": self.reference, "empty": self.empty}
        return {f"{kind}/{name}": tensor for kind, kept in kinds.items() for name, tensor in kept.items()}

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        for key, tensor in extra.items():
            kind, name = key.split("/", 1)
            getattr(self, kind)[name] = tensor.to(self.workplace.device, copy=True)


class _Pruning:
    def __init__(self, method: ANPyC) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        method = self.method
        self.task = method.workplace.stream.tasks[strategy.experience.current_experience]
        weights = {name: method.model.get_parameter(f"{name}.weight") for name in method.pruned}
        # What this task may prune: all at first, later what is empty.
        self.candidates = {
            name: method.empty.get(name, torch.ones_like(weight, dtype=torch.bool)) for name, weight in weights.items()
        }
        method.before = self.candidates
        # What it does not prune it has filled.
        method.empty = {name: torch.zeros_like(allowed) for name, allowed in self.candidates.items()}
        self.pulls = [
            (value, method.importance[name], method.reference[name])
            for name, value in method.held().items()
            if name in method.importance
        ]
        self.empty = Held({}, {})

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        settings, epoch = self.method.settings, strategy.clock.train_exp_epochs
        after = epoch - settings.epochs
        if settings.retrain_epochs and after >= 0 and after % settings.retrain_epochs == 0:
            self._prune(after // settings.retrain_epochs + 1)

    def _prune(self, number: int) -> None:
        method = self.method
        if number <= method.steps(self.task.index):
            share = min(number * method.settings.step, method.target(self.task.index))
            method.prune(self.task, self.candidates, share)
            parameters = {name: method.model.get_parameter(f"{name}.weight") for name in method.pruned}
            self.empty = Held(parameters, method.empty)

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        for value, importance, reference in self.pulls:
            if value.grad is not None:
                value.grad.addcmul_(importance, value - reference, value=2 * self.method.settings.strength)
        self.empty.zero_gradients()

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.empty.put_back()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if not self.method.settings.retrain_epochs:
            self._prune(self.method.steps(self.task.index))
        self.method.hold_on(self.task)
        del self.pulls, self.empty
