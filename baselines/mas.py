r"""MAS: Memory Aware Synapses.

Source: Aljundi, Babiloni, Elhoseiny, Rohrbach and Tuytelaars 2018, "Memory aware synapses: learning what (not) to
forget" (arXiv 1711.09601), the global form.

The importance of a parameter is how much it moves the squared length of the network's output F(x), per sample and
without labels,

.. math:: \Omega_i = E_x \left| \frac{\partial \lVert F(x) \rVert_2^2}{\partial \theta_i} \right|

measured after every task on its training images and added up over the tasks. While a later task is learned the
loss is

.. math:: L_t(\theta) + \lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2

around the weights theta* after the task before. The penalty's gradient goes straight onto the task's own.

Departs from it: in the optimiser (its state new for every task) and lambda, which the paper gives for other benchmarks
only. F(x) are the logits. `importance_images` may limit the mean over x to that many training images, drawn anew for
every task.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.methods.method import Method, Plugin
from clbench.methods.settings import MethodSettings
from clbench.methods.space import Between
from clbench.networks.per_sample import mean_over_samples, unsupported


class MASSettings(MethodSettings):
    """Hyper-parameters of MAS.

    Attributes:
        strength: lambda, the weight of the penalty.
        importance_images: how many training images the importance is averaged over; None takes all.
    """

    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    importance_images: int | None = Field(default=None, ge=1)


class MASPlugin:
    """MAS for any Avalanche strategy, with a network that `importance_of` can measure.

    Args:
        strength: lambda.
        importance_images: images to average over, or None for all.
    """

    def __init__(self, strength: float = 1.0, importance_images: int | None = None) -> None:
        self.strength = strength
        self.importance_images = importance_images
        self.importance: dict[str, Tensor] = {}  # Omega, by parameter, shaped like it
        self.reference: dict[str, Tensor] = {}  # theta*

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the penalty's gradient to the task's."""
        for name, parameter in strategy.model.named_parameters():
            if name in self.importance and parameter.grad is not None:
                parameter.grad.addcmul_(self.importance[name], parameter, value=2 * self.strength)
                parameter.grad.addcmul_(self.importance[name], self.reference[name], value=-2 * self.strength)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Measures the importance at the weights just learned, and moves the anchor there."""
        found = importance_of(strategy.model, strategy.dataloader, self.importance_images)
        for name, parameter in strategy.model.named_parameters():
            if name in self.importance:
                self.importance[name] += found[name]
            else:
                self.importance[name] = found[name]
            self.reference[name] = parameter.detach().clone()


def importance_of(model: nn.Module, batches: Iterable[list[Tensor]], n_images: int | None = None) -> dict[str, Tensor]:
    """Mean over samples of the size of the gradient of the squared output length, by parameter.

    Args:
        model: parameters in linear layers, convolutions and batch norms (which are seen with their running
            statistics), each called once per forward pass.
        batches: `[x, y, task_labels]` as loaders give them; y is not used.
        n_images: stop after this many; None takes all.

    Raises:
        MethodError: if some parameter belongs to another kind of layer.
    """

    def numbers(logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, None]]:
        yield logits.square().sum(), None

    return mean_over_samples(model, batches, numbers, torch.abs, n_images)


class MAS(Method):
    """MAS on a suite."""

    Settings = MASSettings
    resumes = True
    searched = {"strength": Between(1e-4, 1e2)}
    stability = ("strength", 3.0)

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: MethodSettings) -> str:
        """Refuses layers whose gradients cannot be taken sample by sample."""
        return unsupported(network, image)

    def plugins(self) -> list[Plugin]:
        """The MAS plugin."""
        self.mas = MASPlugin(self.settings.strength, self.settings.importance_images)
        return [self.mas]

    def extra_state(self) -> Mapping[str, Tensor]:
        """Importance and reference: two copies of the weights."""
        return {
            **{f"importance.{name}": tensor for name, tensor in self.mas.importance.items()},
            **{f"reference.{name}": tensor for name, tensor in self.mas.reference.items()},
        }

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes importance and reference back."""
        for key, tensor in extra.items():
            kind, _, name = key.partition(".")
            getattr(self.mas, kind)[name] = tensor.to(self.workplace.device, copy=True)
