r"""PSP: parameter superposition.

Source: Cheung, Terekhov, Chen, Agrawal and Olshausen 2019, "Superposition of many models into one"
(arXiv 1902.05522), and the authors' published settings.

All tasks share the same weights W; task k reads them through a context o_k per layer, of the layer's input size,

.. math:: y = W (o_k \odot x)

so that the weights of other tasks appear as noise, the smaller the wider the layer. Every layer has a context,
the output layer too. Three kinds:

- `binary`: entries +1 or -1; no biases.
- `complex`: entries exp(i phi), phi uniform; complex weights, ReLU on real and imaginary part, logits are the
  real part; no biases.
- `rotation`: a Haar-random orthogonal matrix in place of the element-wise product; biases.

That is `mlp`. Of any other network, binary contexts multiply the kernels of convolutions and the weights of linear
layers, a sign for each weight of one filter or neuron; not in the first layer where it is a convolution, as the
authors' code has it for its ResNet. The layers lose their biases. Batch norms and the like are shared.

A context is drawn from (seed, task, layer) alone when it is needed and is not stored: what a task costs is its
number. The task is known at test time.

Departs from it: in what the suite has otherwise than the authors (1000 steps of 128 images per task at a constant rate,
three hidden layers), all of which `superposition-mnist-50` has as they do; and in that contexts are not learned.
RMSprop 0.0001 with its state kept across tasks is theirs. The network is in `superposed.py`.
"""

from functools import partial
from math import prod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.methods.method import Method
from clbench.methods.settings import MethodSettings
from clbench.networks.initial import initialise
from clbench.suites.optimizers import Optimizer
from clbench.suites.suite import Suite

Kind = Literal["binary", "complex", "rotation"]


class PSPSettings(MethodSettings):
    """Hyper-parameters of PSP.

    Attributes:
        kind: of context: `binary`, `complex` or `rotation`.
        input_mean, input_std: pixels x in [0, 1] enter as (x - input_mean) / input_std.
    """

    kind: Kind = "binary"
    input_mean: float = Field(default=0.1307, ge=0, le=1)
    input_std: float = Field(default=0.3081, gt=0, le=10)
    optimizer: Optimizer | None = "rmsprop"
    learning_rate: float | None = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    reset_optimizer: bool = False


class PSP(Method):
    """PSP on a suite."""

    Settings = PSPSettings
    resumes = True
    task_known_at_test = True
    has_networks = False

    @classmethod
    def refuses(cls, suite: Suite, settings: PSPSettings) -> str:
        """Contexts that only an MLP has, weights that nothing would draw, and pixels normalised twice."""
        if suite.network != "mlp" and settings.kind != "binary":
            return f"psp has {settings.kind} contexts for the network mlp alone; give kind=binary"
        if suite.network == "mlp" and suite.network_settings.get("dropout_share"):
            return "psp has a network mlp of its own, which drops nothing; give dropout_share=0"
        if suite.network == "mlp" and settings.initial_weights != "pytorch":
            return (
                "psp draws the weights of the network mlp itself, and "
                f"initial_weights={settings.initial_weights} would change nothing; leave it out"
            )
        if not suite.normalise or (settings.input_mean, settings.input_std) == (0, 1):
            return ""
        return (
            "the suite normalises the pixels, and psp would do it once more; give input_mean=0 and input_std=1, or "
            "normalise=false"
        )

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: PSPSettings) -> str:
        """Refuses a network without anything to superpose."""
        if any(isinstance(layer, nn.Linear | nn.Conv2d) for layer in network.modules()):
            return ""
        return "psp superposes linear layers and convolutions, but the network has none"

    def adapt(self, network: nn.Module) -> nn.Module:
        """The network in superposition. An MLP's weights are drawn anew, for most kinds have no biases."""
        # It brings Avalanche along, whose import takes seconds that a command with nothing to train can spare.
        from clbench.baselines.superposed import SuperposedMLP, SuperposedNetwork

        suite, stream, seeds = self.workplace.suite, self.workplace.stream, self.workplace.seeds
        reading = partial(seeds.derive, "context"), self.settings.input_mean, self.settings.input_std
        if suite.network != "mlp":
            return SuperposedNetwork(network, torch.zeros(1, *stream.image_shape), *reading)
        return initialise(
            SuperposedMLP,
            (prod(stream.image_shape), *suite.network_settings["hidden_sizes"], stream.n_outputs),
            suite.n_tasks if suite.head == "multi" else 1,
            self.settings.kind,
            *reading,
            seed=seeds.derive("weights"),
        )
