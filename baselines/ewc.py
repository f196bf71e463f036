r"""EWC: Elastic Weight Consolidation.

Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks" (arXiv 1612.00796);
Huszar 2018 (arXiv 1712.03847) on the single quadratic; Schwarz et al. 2018 (arXiv 1805.06370) for the online form.

While task t is learned, the loss is

.. math:: L_t(\theta) + \frac{\lambda}{2} \sum_{k < t} \sum_i F_{k,i} (\theta_i - \theta^*_{k,i})^2

with F_k the diagonal Fisher information of the model's own predictions at the weights after task k,

.. math:: F_{k,i} = E_x E_{y \sim p(y|x)} [(\partial \log p(y|x) / \partial \theta_i)^2]

per sample, the expectation over y summed over all labels, not sampled (`fisher` has the other two forms in use, for
comparison). The penalties of all earlier tasks add up to one quadratic, kept as sum F and sum F theta*: memory and
time do not grow with the number of tasks, and the gradient, lambda (sum F theta - sum F theta*), goes straight onto
the task's own.

Online EWC (`online-ewc`) keeps one running Fisher, F <- gamma F + F_t, around the latest weights.

Departs from it: in the optimiser (the paper has SGD 0.001, dropout and early stopping; here the suite's, its state new
for every task, of which the paper says nothing) and in lambda, which the paper does not give. `fisher_images` may limit
the expectation over x to that many training images, drawn anew for every task. Online EWC's gamma of 0.95 is our
choice. Schwarz et al. normalise each task's Fisher before they add it; here it is added as it is. Their penalty weighs
with gamma F, ours with F, so our lambda stands for one that is 1 / gamma times as large. The paper has 20 epochs in
figure 3A and up to 100 in 3B; a suite says how many there are (`ewc:20-epochs` in `permuted-mnist`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.methods.method import Method, Plugin
from clbench.methods.settings import MethodSettings
from clbench.methods.space import Between
from clbench.networks.per_sample import mean_over_samples, unsupported


class EWCSettings(MethodSettings):
    """Hyper-parameters of EWC.

    Attributes:
        strength: lambda, the weight of the penalty.
        fisher: the labels that the Fisher takes: `exact` weighs all of them by p(y|x), `sample` draws one from p(y|x)
            for each image, `empirical` takes the true one (which is not the Fisher, but widely used as such).
        fisher_images: how many training images the Fisher is averaged over; None takes all.
    """

    strength: float = Field(default=100.0, ge=0, allow_inf_nan=False)
    fisher: Literal["exact", "sample", "empirical"] = "exact"
    fisher_images: int | None = Field(default=None, ge=1)


class OnlineEWCSettings(EWCSettings):
    """Hyper-parameters of online EWC.

    Attributes:
        decay: gamma, what is kept of the running Fisher when a task's own is added.
    """

    decay: float = Field(default=0.95, ge=0, le=1)


class EWCPlugin:
    """EWC for any Avalanche strategy, with a network that `fisher_diagonal` can measure.

    Args:
        strength: lambda.
        decay: gamma of online EWC; None keeps every task's own anchor, as in the paper.
        fisher, fisher_images: see `EWCSettings`.
    """

    def __init__(
        self,
        strength: float = 100.0,
        *,
        decay: float | None = None,
        fisher: Literal["exact", "sample", "empirical"] = "exact",
        fisher_images: int | None = None,
    ) -> None:
        self.strength = strength
        self.decay = decay
        self.fisher_labels = fisher
        self.fisher_images = fisher_images
        self.fisher: dict[str, Tensor] = {}  # sum of F over tasks, by parameter, shaped like it
        self.fisher_anchor: dict[str, Tensor] = {}  # sum of F theta*

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the penalty's gradient to the task's."""
        for name, parameter in strategy.model.named_parameters():
            if name in self.fisher and parameter.grad is not None:
                parameter.grad.addcmul_(self.fisher[name], parameter, value=self.strength)
                parameter.grad.sub_(self.fisher_anchor[name], alpha=self.strength)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Measures the Fisher at the weights just learned and merges it."""
        fisher = fisher_diagonal(strategy.model, strategy.dataloader, self.fisher_images, self.fisher_labels)
        self.merge(fisher, strategy.model)

    @torch.no_grad()
    def merge(self, fisher: Mapping[str, Tensor], model: nn.Module) -> None:
        """Adds one task's Fisher, anchored at the model's present weights, to the quadratic."""
        for name, parameter in model.named_parameters():
            if self.decay is not None and name in self.fisher:
                total = self.fisher[name].mul_(self.decay).add_(fisher[name])
                torch.mul(total, parameter, out=self.fisher_anchor[name])
            elif name in self.fisher:
                self.fisher[name].add_(fisher[name])
                self.fisher_anchor[name].addcmul_(fisher[name], parameter)
            else:
                self.fisher[name] = fisher[name].clone()
                self.fisher_anchor[name] = fisher[name] * parameter


def fisher_diagonal(
    model: nn.Module,
    batches: Iterable[list[Tensor]],
    n_images: int | None = None,
    labels: Literal["exact", "sample", "empirical"] = "exact",
) -> dict[str, Tensor]:
    r"""The diagonal Fisher of the model's predictions, per sample, by parameter.

    Args:
        model: parameters in linear layers, convolutions and batch norms (which are seen with their running
            statistics), each called once per forward pass.
        batches: `[x, y, task_labels]` as loaders give them.
        n_images: stop after this many; None takes all.
        labels: see `EWCSettings.fisher`.

    Raises:
        MethodError: if some parameter belongs to another kind of layer.
    """

    def numbers(logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        log_probabilities = logits.log_softmax(1)
        probabilities = log_probabilities.detach().exp()
        if labels == "exact":
            for label in range(logits.shape[1]):
                yield log_probabilities[:, label].sum(), probabilities[:, label : label + 1]
            return
        given = y if labels == "empirical" else probabilities.multinomial(1).squeeze(1)
        yield log_probabilities.gather(1, given[:, None]).sum(), None

    return mean_over_samples(model, batches, numbers, torch.square, n_images)


class EWC(Method):
    """EWC on a suite."""

    Settings = EWCSettings
    resumes = True
    searched = {"strength": Between(1.0, 1e5)}
    stability = ("strength", 400.0)

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: MethodSettings) -> str:
        """Refuses layers whose gradients cannot be taken sample by sample."""
        return unsupported(network, image)

    def plugins(self) -> list[Plugin]:
        """The EWC plugin."""
        s = self.settings
        self.ewc = EWCPlugin(
            s.strength, decay=getattr(s, "decay", None), fisher=s.fisher, fisher_images=s.fisher_images
        )
        return [self.ewc]

    def extra_state(self) -> Mapping[str, Tensor]:
        """The two sums: two copies of the weights, however many tasks."""
        return {
            **{f"fisher.{name}": tensor for name, tensor in self.ewc.fisher.items()},
            **{f"fisher_anchor.{name}": tensor for name, tensor in self.ewc.fisher_anchor.items()},
        }

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes the two sums back."""
        for key, tensor in extra.items():
            kind, _, name = key.partition(".")
            getattr(self.ewc, kind)[name] = tensor.to(self.workplace.device, copy=True)


class OnlineEWC(EWC):
    """Online EWC on a suite: one running Fisher around the latest weights."""

    Settings = OnlineEWCSettings
    resumes = True
    searched = {"strength": Between(1.0, 1e5), "decay": Between(0.5, 1.0, log=False)}
    stability = ("strength", 400.0)
