"""SupSup: a task is a choice among weights that never change, the task given at test.

Source: Wortsman et al. 2020, "Supermasks in superposition" (arXiv 2006.14769) and the authors' published settings.
Every weight is a constant of its layer with a random sign, and there are no biases. A task trains scores alone. Each
layer, the output layer as well, computes with the share of its weights whose scores are largest in size. They are drawn
anew for every task, which keeps a bit for every weight and its own statistics of batch norms.

Departs from it: weights of other layers, such as layer norms, are constant too. With `output_layer=trained` the output
layer is every task's own and trains as usual, as WSN's is. In the setting of Kang et al. 2022 that is worth two points.
With `scores=carry` a task goes on from the scores of the one before it. Theirs start from the mean of all earlier ones
where they transfer.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.baselines.parts import PerTask, weight_of
from clbench.baselines.wsn import NO_POWERS, ScoredMethod, chosen_in
from clbench.methods.method import Plugin
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.methods.space import Between
from clbench.suites.suite import Suite


class SupSupSettings(MethodSettings):
    """Hyper-parameters of SupSup.

    Attributes:
        share: of a layer's weights, that a task reads.
        output_layer: "masked", of constants that a task chooses among like all others, or "trained".
        scores: "redraw" draws them anew for every task, "carry" keeps those of the task before.
        output_weights: a single head too gets weights of its own for every task.
    """

    added_later: ClassVar[Mapping[str, Any]] = {"output_layer": "masked", "scores": "redraw"}

    share: float = Field(default=0.5, gt=0, le=1)
    output_layer: Literal["masked", "trained"] = "masked"
    scores: Literal["redraw", "carry"] = "redraw"
    output_weights: PerTask = "per-task"
    reset_optimizer: AlwaysNew = True


class SupSup(ScoredMethod):
    """SupSup on a suite."""

    Settings = SupSupSettings
    resumes = True
    numbers = 1
    searched = {"share": Between(0.1, 0.9, log=False)}
    # The published tables count SupSup's masks as they are.
    mask_bits = 1.0

    @property
    def masks_outputs(self) -> bool:
        """Whether a task chooses among the weights of its output layer too."""
        return bool(self.settings.output_layer == "masked")

    @torch.no_grad()
    def adapt(self, network: nn.Module) -> nn.Module:
        """The network with constant weights, biases of 0, and batch norms without weights of their own."""
        network = super().adapt(network)
        layers, generator = dict(network.named_modules()), self.workplace.seeds.generator("signs")
        for name in self.shared:
            weight = weight_of(layers[name])
            signs = torch.randint(2, weight.shape, generator=generator).mul_(2).sub_(1)
            weight.copy_(signs * (2 / weight[0].numel()) ** 0.5)
        scores = {id(made.scores) for made in chosen_in(network, self.shared).values()}
        for name, parameter in network.named_parameters():
            if self._trains_as_usual(name):
                continue
            if name.endswith("bias"):
                parameter.zero_()
            parameter.requires_grad_(id(parameter) in scores)
        return network

    def _trains_as_usual(self, name: str) -> bool:
        outputs = tuple(f"{layer}." for layer in self._outputs_of(self._plain))
        return not self.masks_outputs and name.startswith(outputs)

    @classmethod
    def refuses(cls, suite: Suite, settings: SupSupSettings) -> str:
        """What is about weights that never change."""
        if settings.initial_weights != "pytorch":
            return "supsup has constants of its own for weights, so initial_weights would change nothing; leave it out"
        return NO_POWERS if settings.power_alpha != 1 else ""

    def is_own(self, name: str) -> bool:
        """Statistics of batch norms and a trained output layer: what else would be a task's own is the same for all."""
        of_task = name in dict(self._plain.named_buffers()) or self._trains_as_usual(name)
        return super().is_own(name) and of_task

    def carried(self) -> list[Tensor]:
        """Scores, where they are not drawn anew."""
        return super().carried() if self.settings.scores == "carry" else []

    def plugins(self) -> list[Plugin]:
        """What starts scores before a task and keeps the choice after it."""
        return [_Choosing(self)]


class _Choosing:
    def __init__(self, method: SupSup) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if self.method.masks:
            if not self.method.masks_outputs:
                self.method.start_outputs()
            if self.method.settings.scores == "redraw":
                for made in self.method.chosen().values():
                    made.draw()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.method.keep(strategy.experience.current_experience)
