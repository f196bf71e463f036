r"""LwF: Learning without Forgetting.

Source: Li and Hoiem 2016, "Learning without forgetting" (arXiv 1606.09282). While a task is learned, the network shall
answer for the earlier ones as it did before, on the new task's images,

.. math:: L_t + \lambda \sum_{k < t} KL(softmax(z_k^{old} / T) \,\|\, softmax(z_k / T))

with z_k the logits of task k's output layer. A single output layer gives one such term. The temperature T is 2 there.
Theirs is the cross-entropy, whose gradient is the same. Neither has the T^2 of knowledge distillation.

Departs from it: all weights train from the beginning, where theirs first trains the new output layer alone. The two
answers are those of evaluation, so without dropout.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.data.streams import Task
from clbench.methods.method import Method, Plugin
from clbench.methods.settings import MethodSettings
from clbench.methods.space import Between
from clbench.networks.answer import answer, evaluating


class LwFSettings(MethodSettings):
    """Hyper-parameters of LwF.

    Attributes:
        strength: lambda, the weight of each earlier task's answers.
        temperature: T.
    """

    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)


class LwFPlugin:
    """LwF for any Avalanche strategy.

    Args:
        strength: lambda.
        temperature: T.
        several_heads: whether every task has an output layer of its own.

    Attributes:
        n_learned: tasks learned so far.
        before: the network as it was before the task at hand. None before the second.
        classes: int64, the classes of earlier tasks where one output layer is over all classes. Else None.
    """

    def __init__(self, strength: float = 1.0, temperature: float = 2.0, *, several_heads: bool = False) -> None:
        self.strength, self.temperature, self.several_heads = strength, temperature, several_heads
        self.n_learned = 0
        self.before: nn.Module | None = None
        self.classes: Tensor | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Remembers the network as it is."""
        if self.n_learned:
            self.before = copy.deepcopy(strategy.model).eval().requires_grad_(False)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds what the answers for earlier tasks have changed."""
        if self.before is None:
            return
        labels = range(self.n_learned) if self.several_heads else [0]
        with strategy.autocast() if hasattr(strategy, "autocast") else torch.enable_grad():
            with torch.no_grad():
                old = answers(self.before, strategy.mb_x, labels)
            # With dropout here, the network grows surer than what it matches, task by task, until each old output layer
            # gives one class alone.
            with evaluating(strategy.model):
                new = answers(strategy.model, strategy.mb_x, labels)
        for then, now in zip(old, new, strict=True):
            if self.classes is not None:
                then, now = then[:, self.classes], now[:, self.classes]
            strategy.loss = strategy.loss + self.strength * self.distilled(then.float(), now.float())

    def distilled(self, then: Tensor, now: Tensor) -> Tensor:
        """The divergence of softened logits [B, C] from earlier ones, mean over the batch."""
        t = self.temperature
        softened = F.log_softmax(now / t, 1), F.log_softmax(then / t, 1)
        return F.kl_div(*softened, reduction="batchmean", log_target=True)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Forgets the old network."""
        self.n_learned += 1
        self.before = None


def answers(network: nn.Module, x: Tensor, labels: Any) -> list[Tensor]:
    """Logits [B, C] for images [B, ...] through the output layers of tasks; what these share is computed once."""
    heads, trunk, whole = (getattr(network, name, None) for name in ("heads", "trunk", "network"))
    if isinstance(heads, nn.ModuleList) and isinstance(trunk, nn.Module):
        features = trunk(x)
        return [heads[label](features) for label in labels]
    if isinstance(whole, nn.Module) and hasattr(network, "n_outputs"):
        logits = whole(x).unflatten(1, (-1, network.n_outputs))
        return [logits[:, label] for label in labels]
    return [answer(network, x, label) for label in labels]


class LwF(Method):
    """LwF on a suite."""

    Settings = LwFSettings
    resumes = True
    numbers = 2
    searched = {"strength": Between(0.1, 30.0), "temperature": Between(1.0, 4.0, log=False)}
    stability = ("strength", 10.0)

    def plugins(self) -> list[Plugin]:
        """The LwF plugin."""
        several = self.workplace.suite.head == "multi"
        self.lwf = LwFPlugin(self.settings.strength, self.settings.temperature, several_heads=several)
        return [self.lwf]

    def learn(self, task: Task) -> None:
        """Trains on the task. Of one output layer over all classes, those not seen yet have no old answer."""
        if self.workplace.suite.head == "classes" and task.index:
            tasks = self.workplace.stream.tasks[: task.index]
            self.lwf.classes = torch.cat([each.train.labels for each in tasks]).unique().to(self.workplace.device)
        super().learn(task)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the state back."""
        super().load_state_dict(state)
        self.lwf.n_learned = self.tasks_learned
