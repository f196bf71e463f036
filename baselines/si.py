r"""SI: Synaptic Intelligence.

Source: Zenke, Poole and Ganguli 2017, "Continual learning through synaptic intelligence" (arXiv 1703.04200) and
the authors' published settings.

Along the training of a task every parameter collects how much it lowered that task's loss,

.. math:: \omega_i \mathrel{-}= g_i \, \Delta\theta_i

with g the gradient of the task's loss alone (without the penalty) and Delta theta the change that the optimiser
made. After the task

.. math:: \Omega_i \leftarrow \max\left(0, \Omega_i + \frac{\omega_i}{(\theta_i - \theta^{ref}_i)^2 + \xi}\right)

and the later loss is L + c sum_i Omega_i (theta_i - theta_ref_i)^2 over all parameters, biases and output layer
included. As in the authors' code it is the sum that is kept from turning negative; a task's own term may be.

The weights start as in the authors' code: as Keras's do, from Glorot's uniform distribution, biases 0.

Departs from it: the paper's sum is kept from turning negative by nothing. The first task's drift is taken from the
initial weights, as in the authors' code for CIFAR. In that for permuted MNIST it is taken from 0, which is little
beside xi. A new optimiser counts its steps from 0, where Adam goes on counting in the authors' code for CIFAR. Unless
`train_on_validation` is set, some images are held out, where the authors train on all. (Avalanche's plugin, kept as
`avalanche-si`, follows a later variant: gradient of the total loss, importances capped at 0.001 and free to turn
negative.)
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.data.streams import Task
from clbench.methods.method import Method, Phase, Plugin
from clbench.methods.optimizers import PiecewiseAdam, piece_of
from clbench.methods.settings import MethodSettings
from clbench.methods.space import Between
from clbench.suites.suite import Suite


class SISettings(MethodSettings):
    """Hyper-parameters of SI; the authors keep Adam's state across tasks on permuted MNIST.

    Attributes:
        strength: c, the weight of the penalty.
        damping: xi, which bounds the importance of parameters that hardly moved.
        initial_weights: `glorot`, as in the authors' code.
        train_on_validation: whether the validation images are trained on too. SI looks at them for nothing, and its
            authors hold none out; but then no accuracy on them means anything.
    """

    added_later: ClassVar[Mapping[str, Any]] = {"train_on_validation": False}
    always_recorded: ClassVar[frozenset[str]] = frozenset({"initial_weights"})

    strength: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    initial_weights: Literal["glorot", "pytorch"] = "glorot"
    train_on_validation: bool = False
    reset_optimizer: bool = False


class SIPlugin:
    """SI for any Avalanche strategy.

    Args:
        strength: c.
        damping: xi.
    """

    def __init__(self, strength: float = 0.1, damping: float = 0.1) -> None:
        self.strength = strength
        self.damping = damping
        self.importance: dict[str, Tensor] = {}  # Omega, by parameter, shaped like it
        self.reference: dict[str, Tensor] = {}  # theta_ref

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the path integral of the task at 0."""
        parameters = dict(strategy.model.named_parameters())
        for name, parameter in parameters.items():
            if name not in self.importance:
                self.importance[name] = torch.zeros_like(parameter)
                self.reference[name] = parameter.detach().clone()
        self._path = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        self._name_of = {parameter: name for name, parameter in parameters.items()}
        self._is_penalised = any(bool(importance.any()) for importance in self.importance.values())
        self._whole_steps = ExitStack()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Lets the optimiser step with the penalty's gradient, and notes where the weights are."""
        if isinstance(strategy.optimizer, PiecewiseAdam):
            strategy.optimizer.around = self.around_step
            return
        for parameter in self._name_of:
            if parameter.grad is not None:
                parameter.grad = self._whole_steps.enter_context(self.around_step(parameter))

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the step to the path integral, if the optimiser has not had it done piece by piece."""
        self._whole_steps.close()

    @contextmanager
    def around_step(self, parameter: nn.Parameter, part: slice | None = None) -> Iterator[Tensor]:
        """Within, a piece of a parameter is stepped, and what the step did goes into the path integral.

        The task's gradient is what lies in `parameter.grad` when the piece's turn comes.

        Args:
            parameter: of the model, with a gradient.
            part: of the flat parameter; None for all of it.

        Yields:
            Gradient for the step, shaped like the piece: the task's and the penalty's.
        """
        assert parameter.grad is not None
        gradient = piece_of(parameter.grad, part)
        name = self._name_of.get(parameter)
        if name is None:
            # The optimiser's, but not the model's.
            yield gradient
            return
        kept = (self.importance[name], self.reference[name], self._path[name])
        weights, importance, reference, path = (piece_of(t, part) for t in (parameter.detach(), *kept))
        before = weights.clone()
        if self._is_penalised:
            pull = before - reference
            yield torch.addcmul(gradient, pull, importance, value=2 * self.strength, out=pull)
        else:
            yield gradient
        path.addcmul_(before.sub_(weights), gradient)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Turns the path integral into importance, anchored at the weights just learned."""
        for name, parameter in strategy.model.named_parameters():
            drift = (parameter - self.reference[name]).square_().add_(self.damping)
            self.importance[name].add_(self._path[name] / drift).clamp_(min=0)
            self.reference[name].copy_(parameter)
        del self._path, self._name_of


class SI(Method):
    """SI on a suite."""

    Settings = SISettings
    resumes = True
    searched = {"strength": Between(1e-3, 1e3)}
    stability = ("strength", 400.0)

    @classmethod
    def refuses(cls, suite: Suite, settings: SISettings) -> str:
        """Where the images that training is stopped by would be trained on."""
        if settings.train_on_validation and settings.learning_rate_schedule == "plateau":
            return (
                "train_on_validation would train on the images whose loss the learning_rate_schedule plateau goes by; "
                "give it false, or another schedule"
            )
        return ""

    def phases(self, task: Task) -> list[Phase]:
        """The task's training images, with its validation images where the settings say so."""
        if self.settings.train_on_validation:
            return [Phase([task.train.with_those_of(task.validation)], self.settings.epochs)]
        return super().phases(task)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser that the settings name; Adam piece by piece, which saves time and two copies of the weights."""
        settings = self.settings
        if settings.optimizer != "adam" or settings.power_alpha != 1:
            return super().build_optimizer(model)
        return PiecewiseAdam(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def plugins(self) -> list[Plugin]:
        """The SI plugin."""
        self.si = SIPlugin(self.settings.strength, self.settings.damping)
        return [self.si]

    def extra_state(self) -> Mapping[str, Tensor]:
        """Importance and reference: two copies of the weights (the path integral is 0 between tasks)."""
        return {
            **{f"importance.{name}": tensor for name, tensor in self.si.importance.items()},
            **{f"reference.{name}": tensor for name, tensor in self.si.reference.items()},
        }

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes importance and reference back."""
        for key, tensor in extra.items():
            kind, _, name = key.partition(".")
            getattr(self.si, kind)[name] = tensor.to(self.workplace.device, copy=True)
