"""Initial weights of networks."""

import torch
from torch import Tensor, nn

from clbench.seeding import seeded


def initialise(build: "type[nn.Module]", *args: object, seed: int) -> nn.Module:
    """Builds a network whose initial weights come from `seed` alone, leaving the global generator as it was."""
    with seeded(seed, torch.device("cpu")):
        return build(*args)


def fans(weight: Tensor) -> tuple[int, int]:
    """Inputs and outputs of a layer, of a convolution times its kernel's positions."""
    positions = weight[0, 0].numel()
    return weight.shape[1] * positions, weight.shape[0] * positions


def bound_of(weight: Tensor, initial: str) -> float:
    """What a layer's weights are drawn uniformly within, as PyTorch does (`pytorch`) or Keras (`glorot`)."""
    return (6 / sum(fans(weight))) ** 0.5 if initial == "glorot" else fans(weight)[0] ** -0.5


@torch.no_grad()
def glorot(model: nn.Module, generator: torch.Generator) -> None:
    """Draws the weights of every linear layer and convolution anew as Keras does, and sets their biases to 0.

    A layer that starts at 0 stays as it is.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks":
    uniform within sqrt(6 / (inputs + outputs)), of a convolution times its kernel's positions.

    Args:
        model: changed in place, on any device.
        generator: of the CPU, so that every device gets the same weights.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and (layer.weight.is_meta or layer.weight.any()):
            layer.weight.copy_(nn.init.xavier_uniform_(torch.empty(layer.weight.shape), generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()
