r"""EWC: Elastic Weight Consolidation.

Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks" (arXiv 1612.00796);
Huszar 2018 (arXiv 1712.03847) on the single quadratic; Schwarz et al. 2018 (arXiv 1805.06370) for the online form.

While task t is learned, the loss is

.. math:: L_t(\theta) + \frac{\lambda}{2} \sum_{k < t} \sum_i F_{k,i} (\theta_i - \theta^*_{k,i})^2

with F_k the diagonal Fisher information of the model's own predictions at the weights after task k,

.. math:: F_{k,i} = E_x E_{y \sim p(y|x)} [(\partial \log p(y|x) / \partial \theta_i)^2]

per sample, the expectation over y summed over all labels, not sampled. The penalties of all earlier tasks add up
to one quadratic, kept as sum F and sum F theta*: memory and time do not grow with the number of tasks, and the
gradient, lambda (sum F theta - sum F theta*), goes straight onto the task's own.

Departs from it: in the optimiser (the paper has SGD 0.001, dropout and early stopping; here the suite's) and in
lambda, which the paper does not give. `fisher_images` may limit the expectation over x to that many training
images, drawn anew for every task.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from pydantic import Field
from torch import Tensor, nn

from clbench.errors import MethodError
from clbench.methods import Method, MethodSettings


class EWCSettings(MethodSettings):
    """Hyper-parameters of EWC.

    Attributes:
        strength: lambda, the weight of the penalty.
        online_decay: gamma of online EWC, which keeps one running Fisher around the latest weights; None is the
            paper's EWC, with every task's own anchor.
        fisher_images: how many training images the Fisher is averaged over; None takes all.
    """

    strength: float = Field(default=100.0, ge=0, allow_inf_nan=False)
    online_decay: float | None = Field(default=None, ge=0, le=1)
    fisher_images: int | None = Field(default=None, ge=1)


class EWCPlugin(SupervisedPlugin):
    """EWC for any Avalanche strategy whose network keeps its parameters in linear layers.

    Args:
        strength: lambda.
        online_decay: gamma, or None for the paper's EWC.
        fisher_images: images to average over, or None for all.
    """

    def __init__(
        self, strength: float = 100.0, online_decay: float | None = None, fisher_images: int | None = None
    ) -> None:
        super().__init__()
        self.strength = strength
        self.online_decay = online_decay
        self.fisher_images = fisher_images
        self.fisher: dict[str, Tensor] = {}  # sum of F over tasks, by parameter, shaped like it
        self.fisher_anchor: dict[str, Tensor] = {}  # sum of F theta*

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the penalty's gradient to the task's."""
        if not self.fisher:
            return
        names, grads, weights = [], [], []
        for name, parameter in strategy.model.named_parameters():
            if name in self.fisher and parameter.grad is not None:
                names.append(name)
                grads.append(parameter.grad)
                weights.append(parameter.detach())
        pull = torch._foreach_mul([self.fisher[name] for name in names], weights)
        torch._foreach_sub_(pull, [self.fisher_anchor[name] for name in names])
        torch._foreach_add_(grads, pull, alpha=self.strength)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Measures the Fisher at the weights just learned and merges it."""
        fisher = fisher_diagonal(strategy.model, strategy.dataloader, self.fisher_images)
        self.merge(fisher, strategy.model)

    @torch.no_grad()
    def merge(self, fisher: Mapping[str, Tensor], model: nn.Module) -> None:
        """Adds one task's Fisher, anchored at the model's present weights, to the quadratic."""
        for name, parameter in model.named_parameters():
            if self.online_decay is not None and name in self.fisher:
                total = self.fisher[name].mul_(self.online_decay).add_(fisher[name])
                torch.mul(total, parameter, out=self.fisher_anchor[name])
            elif name in self.fisher:
                self.fisher[name].add_(fisher[name])
                self.fisher_anchor[name].addcmul_(fisher[name], parameter)
            else:
                self.fisher[name] = fisher[name].clone()
                self.fisher_anchor[name] = fisher[name] * parameter

    def penalty_up_to_constant(self, model: nn.Module) -> Tensor:
        """lambda / 2 * (theta^2 sum F - 2 theta sum F theta*), a scalar; the constant term is not kept."""
        terms = [
            (self.fisher[name] * p.square() - 2 * self.fisher_anchor[name] * p).sum()
            for name, p in model.named_parameters()
            if name in self.fisher
        ]
        return self.strength / 2 * torch.stack(terms).sum()


def fisher_diagonal(
    model: nn.Module, batches: Iterable[list[Tensor]], n_images: int | None = None
) -> dict[str, Tensor]:
    r"""The exact diagonal Fisher of the model's predictions, per sample, by parameter.

    For a linear layer with input x and delta_y = d log p(y|x) / d output, the squared gradient of its weight is
    the outer product of delta_y^2 and x^2. So with w = sum_y p(y|x) delta_y^2, one product w^T x^2 per layer
    gives the sum over a batch, for all labels together, and no per-sample gradient is ever formed.

    Args:
        model: parameters in `nn.Linear` layers only, each called once per forward pass.
        batches: `[x, y, task_labels]` as loaders give them; y is not used.
        n_images: stop after this many; None takes all.

    Raises:
        MethodError: if some parameter belongs to another kind of layer.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    covered = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in covered:
            raise MethodError(f"EWC's exact Fisher needs linear layers only, but {name} belongs to another kind")

    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            inputs[name], outputs[name] = args[0].detach(), output

        return hook

    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    was_training = model.training
    model.eval()
    hooks = [layer.register_forward_hook(remember(name)) for name, layer in layers.items()]
    seen = 0
    try:
        for x, _, task_labels in batches:
            if n_images is not None:
                x, task_labels = x[: n_images - seen], task_labels[: n_images - seen]
            inputs.clear()
            outputs.clear()
            with torch.enable_grad():
                log_probabilities = avalanche_forward(model, x, task_labels).log_softmax(1)
            used = list(outputs)
            weighted = {name: torch.zeros_like(outputs[name]) for name in used}
            for label in range(log_probabilities.shape[1]):
                deltas = torch.autograd.grad(
                    log_probabilities[:, label].sum(), [outputs[name] for name in used], retain_graph=True
                )
                probability = log_probabilities[:, label : label + 1].detach().exp()
                for name, delta in zip(used, deltas, strict=True):
                    weighted[name].addcmul_(delta.square(), probability)
            for name in used:
                total[f"{name}.weight" if name else "weight"].addmm_(weighted[name].T, inputs[name].square())
                if layers[name].bias is not None:
                    total[f"{name}.bias" if name else "bias"].add_(weighted[name].sum(0))
            seen += len(x)
            if n_images is not None and seen >= n_images:
                break
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return {name: tensor / seen for name, tensor in total.items()}


class EWC(Method):
    """EWC on a suite."""

    Settings = EWCSettings

    def plugins(self) -> list[SupervisedPlugin]:
        """The EWC plugin."""
        s = self.settings
        self.ewc = EWCPlugin(s.strength, s.online_decay, s.fisher_images)
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
            getattr(self.ewc, kind)[name] = tensor.clone()
