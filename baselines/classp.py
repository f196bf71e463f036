r"""CLASSP: an optimiser that lets a weight move less the more it has moved, and not at all for small gradients.

Source: Ludwig 2024, "CLASSP: a biologically-inspired approach to continual learning through adjustment suppression and
sparsity promotion" (arXiv 2405.09637). Every weight has a sum s that lives across tasks. Where the square of its
gradient g exceeds a threshold,

.. math:: s \leftarrow s + |g|^p, \qquad w \leftarrow w - \frac{\eta \, g}{(\epsilon + s)^{1/p}}

and elsewhere neither changes. With p = 2 and no threshold it is AdaGrad.

Departs from it: in nothing that its text says. Our choices, which it leaves open: the rate, the threshold, p, epsilon.
The public code tests a whole tensor, so that its gate never shuts, and divides by epsilon + s. `reference` does the
same, so that the difference can be shown.
"""

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import nn

from clbench.methods.method import Method
from clbench.methods.settings import TrainingSettings
from clbench.methods.space import Between
from clbench.suites.suite import Suite


class CLASSPSettings(TrainingSettings):
    """Hyper-parameters of CLASSP.

    Attributes:
        threshold: of the square of a gradient, up to which its weight stays.
        power: p.
        epsilon: what the sum starts from.
        reference: whether to do what the public code does.
        reset_optimizer: whether a new task starts with sums of 0.
    """

    threshold: float = Field(default=1e-8, ge=0, allow_inf_nan=False)
    power: float = Field(default=1.0, gt=0, le=10)
    epsilon: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    reference: bool = False
    reset_optimizer: bool = False
    learning_rate: float | None = Field(default=0.05, gt=0, le=10, allow_inf_nan=False)


class Suppressing(torch.optim.Optimizer):
    """CLASSP's optimiser.

    Args:
        params: what it steps.
        lr: eta.
        threshold, power, epsilon, reference: as in `CLASSPSettings`.

    Example:
        optimizer = Suppressing(model.parameters(), lr=0.05, power=2.0, threshold=0.0)
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        threshold: float = 1e-8,
        power: float = 1.0,
        epsilon: float = 1e-2,
        *,
        reference: bool = False,
    ) -> None:
        options = {"lr": lr, "threshold": threshold, "power": power, "epsilon": epsilon, "reference": reference}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["sum"] = torch.zeros_like(parameter)
                gradient = parameter.grad
                if not group["reference"]:
                    # What is 0 adds nothing to the sum and moves nothing.
                    gradient = gradient * (gradient.square() > group["threshold"])
                state["sum"].add_(gradient.abs().pow_(group["power"]))
                root = 1.0 if group["reference"] else 1 / group["power"]
                parameter.addcdiv_(gradient, (state["sum"] + group["epsilon"]).pow_(root), value=-group["lr"])
        return loss


class CLASSP(Method):
    """CLASSP on a suite."""

    Settings = CLASSPSettings
    resumes = True
    searched = {"threshold": Between(1e-10, 1e-3), "power": Between(0.5, 4.0, log=False)}

    @classmethod
    def refuses(cls, suite: Suite, settings: CLASSPSettings) -> str:
        """A threshold of a gate that never shuts."""
        if settings.reference and settings.threshold != CLASSPSettings().threshold:
            return "with classp.reference there is no gate, so a threshold would change nothing; leave it out"
        return ""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """CLASSP's own."""
        s = self.settings
        return Suppressing(model.parameters(), s.learning_rate, s.threshold, s.power, s.epsilon, reference=s.reference)
