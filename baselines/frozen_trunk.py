"""The first task's features for all: the hidden layers stay as the first task left them, and output layers train.

Source: standard. The code of ANPyC (Peng et al. 2021) has it as a lower reference. Nothing is forgotten.
Departs from it: in nothing.
"""

from typing import Any

from torch import Tensor

from clbench.baselines.parts import PartsMethod, PerTask
from clbench.methods.method import Plugin
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.networks.answer import batch_norms


class FrozenTrunkSettings(MethodSettings):
    """Hyper-parameters of every method.

    Attributes:
        output_weights: a single head too gets weights of its own for every task.
    """

    output_weights: PerTask = "per-task"
    reset_optimizer: AlwaysNew = True


class FrozenTrunk(PartsMethod):
    """The hidden layers of the first task on a suite."""

    Settings = FrozenTrunkSettings
    resumes = True

    def plugins(self) -> list[Plugin]:
        """What freezes the hidden layers."""
        return [_Freezing(self)]

    def is_own(self, name: str) -> bool:
        """What is of the output layer alone: biases and batch norms of the hidden layers stay as they are."""
        return super().is_own(name) and name.rpartition(".")[0] in self.outputs

    def read_by(self, task: int) -> dict[str, Tensor]:
        """All shared weights, as they are."""
        return {}

    def capacity(self) -> list[dict[str, Any]]:
        """Nothing: no unit is ever free."""
        return []


class _Freezing:
    def __init__(self, method: FrozenTrunk) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.is_first = not self.method.own
        if not self.is_first:
            outputs = tuple(f"{name}." for name in self.method.outputs)
            for name, parameter in self.method.model.named_parameters():
                parameter.requires_grad_(name.startswith(outputs))
            self.method.start_outputs()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if not self.is_first:
            for layer in batch_norms(self.method.model):
                layer.eval()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.method.keep(strategy.experience.current_experience)
