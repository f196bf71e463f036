"""The networks.

Letters: B batch, D inputs (C * H * W), C outputs of a head.
"""

import itertools
from collections.abc import Sequence

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from clbench.seeding import seeded


class MLP(nn.Module):
    """A fully connected ReLU network with one output layer.

    Args:
        n_inputs: D.
        hidden_sizes: neurons of each hidden layer.
        n_outputs: C.
    """

    def __init__(self, n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        self.trunk = _trunk(n_inputs, hidden_sizes)
        self.head = nn.Linear(hidden_sizes[-1], n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] for images [B, ...] that flatten to [B, D]."""
        return self.head(self.trunk(x.flatten(1)))


class MultiHeadMLP(MultiTaskModule):
    """The same trunk with an output layer per task.

    All heads exist from the beginning, all of one size: Avalanche's own heads are created when a task is first
    seen, in training or in evaluation, so that evaluating a future task would change the network.

    Args:
        n_inputs: D.
        hidden_sizes: neurons of each hidden layer.
        n_outputs: C, of each head.
        n_tasks: T, the number of heads.
    """

    def __init__(self, n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int, n_tasks: int) -> None:
        super().__init__()
        self.trunk = _trunk(n_inputs, hidden_sizes)
        self.heads = nn.ModuleList([nn.Linear(hidden_sizes[-1], n_outputs) for _ in range(n_tasks)])

    def adaptation(self, experience: object) -> None:
        """Does nothing: the heads are there."""

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits [B, C], each row from the head of its task label (one int for all rows, or int64 [B])."""
        features = self.trunk(x.flatten(1))
        if isinstance(task_labels, int):
            return self.heads[task_labels](features)
        present = task_labels.unique().tolist()
        if len(present) == 1:
            return self.heads[present[0]](features)
        logits = features.new_empty(len(features), self.heads[0].out_features)
        for task in present:
            rows = task_labels == task
            logits[rows] = self.heads[task](features[rows]).to(logits.dtype)
        return logits


def _trunk(n_inputs: int, hidden_sizes: Sequence[int]) -> nn.Sequential:
    sizes = [n_inputs, *hidden_sizes]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers)


def initialise(build: "type[nn.Module]", *args: object, seed: int) -> nn.Module:
    """Builds a network whose initial weights come from `seed` alone, leaving the global generator as it was."""
    with seeded(seed, torch.device("cpu")):
        return build(*args)


@torch.no_grad()
def glorot(model: nn.Module, generator: torch.Generator) -> None:
    """Draws every linear layer's weights anew as Keras does, and sets its biases to 0.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks":
    uniform within sqrt(6 / (inputs + outputs)).

    Args:
        model: changed in place, on any device.
        generator: of the CPU, so that every device gets the same weights.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(nn.init.xavier_uniform_(torch.empty(layer.weight.shape), generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()
