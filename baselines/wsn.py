r"""WSN: Winning SubNetworks.

Source: Kang et al. 2022, "Forget-free continual learning with winning subnetworks" (ICML; arXiv 2303.14962 has the
longer form) and the authors' published settings. Every hidden weight has a score. In every step a layer computes with
the share c of its weights whose scores are largest in size. The chosen ones learn unless an earlier task reads them.
The scores of all learn, by the straight-through estimator,

.. math:: \frac{\partial L}{\partial s} = \frac{\partial L}{\partial \theta} \, \theta \, \mathrm{sign}(s)

and go on from task to task. A task keeps a bit for every weight.

Departs from it: biases and batch norms are every task's own and kept for it, where theirs have none. A task's mask is
read from the scores that are kept, where their code takes that of the last batch.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from clbench.baselines.holding import Held
from clbench.baselines.parts import MaskedMethod, PerTask
from clbench.baselines.scores import Chosen, choose
from clbench.methods.method import Plugin
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.methods.space import Between
from clbench.networks.heads import heads_of
from clbench.suites.suite import Suite


class WSNSettings(MethodSettings):
    """Hyper-parameters of WSN.

    Attributes:
        share: c, of a layer's weights, that a task reads.
        output_weights: a single head too gets weights of its own for every task.
    """

    share: float = Field(default=0.5, gt=0, le=1)
    output_weights: PerTask = "per-task"
    reset_optimizer: AlwaysNew = True


NO_POWERS = "the scores of weights would train as powers as well; leave power_alpha out"


class ScoredMethod(MaskedMethod):
    """A method whose tasks read the weights of highest score.

    Attributes:
        masks: task -> by layer, bool: the weights that it reads.
    """

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network, whose shared weights have scores."""
        network = super().adapt(network)
        self.masks: dict[int, dict[str, Tensor]] = {}
        return self.scored(network)

    def scored(self, network: nn.Module) -> nn.Module:
        """The network, whose shared weights have scores."""
        layers, generator = dict(network.named_modules()), self.workplace.seeds.generator("scores")
        for name in self.shared:
            choose(layers[name], self.settings.share).draw(generator)
        return network

    def chosen(self) -> dict[str, Chosen]:
        """By layer, what chooses its weights."""
        return chosen_in(self.model, self.shared)

    def mask_of(self, task: int, layer: str) -> Tensor:
        """What the scores chose when the task was learned."""
        return self.masks[task][layer]

    def used(self) -> dict[str, Tensor]:
        """By layer, the weights that any task so far reads."""
        found: dict[str, Tensor] = {}
        for masks in self.masks.values():
            for name, mask in masks.items():
                found[name] = found[name] | mask if name in found else mask
        return found

    def keep(self, task: int) -> None:
        """Notes what the scores choose, and what else is the task's alone."""
        super().keep(task)
        heads = heads_of(self.model)
        read = [name for name in self.shared if name not in heads or name == heads[task]]
        chosen = self.chosen()
        self.masks[task] = {name: chosen[name].mask() for name in read}

    def extra_state(self) -> Mapping[str, Tensor]:
        """Masks, and what else is each task's alone."""
        masks = {f"mask/{task}/{name}": mask for task, found in self.masks.items() for name, mask in found.items()}
        return {**super().extra_state(), **masks}

    def carried(self) -> list[Tensor]:
        """What scores are made of, from which the next task goes on."""
        return [tensor for name, tensor in self.model.state_dict().items() if ".parametrizations.weight.0." in name]

    def extra_state_bytes(self) -> int | None:
        """As of every method, and what scores are made of."""
        found = super().extra_state_bytes()
        return None if found is None else found + sum(tensor.nbytes for tensor in self.carried())

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        super().load_extra_state(extra)
        for key, tensor in extra.items():
            kind, task, name = key.split("/", 2)
            if kind == "mask":
                self.masks.setdefault(int(task), {})[name] = tensor.to(self.workplace.device, copy=True)


def chosen_in(network: nn.Module, names: list[str]) -> dict[str, Chosen]:
    """What chooses the weights of these layers, by their names."""
    layers: dict[str, Any] = dict(network.named_modules())
    return {name: layers[name].parametrizations.weight[0] for name in names}


class WSN(ScoredMethod):
    """WSN on a suite."""

    Settings = WSNSettings
    resumes = True
    searched = {"share": Between(0.03, 0.7)}

    @classmethod
    def refuses(cls, suite: Suite, settings: WSNSettings) -> str:
        """Powers, which would be of the scores too."""
        return NO_POWERS if settings.power_alpha != 1 else ""

    def plugins(self) -> list[Plugin]:
        """What holds the weights of earlier tasks."""
        return [_Holding(self)]


class _Holding:
    def __init__(self, method: WSN) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        first = not self.method.masks
        self.held = Held(self.method.weights(), {} if first else self.method.used())
        if not first:
            self.method.start_outputs()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.held.zero_gradients()

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.held.put_back()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.method.keep(strategy.experience.current_experience)
        del self.held
