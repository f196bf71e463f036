"""Fully connected networks.

Letters: B batch, D inputs (C * H * W), C outputs of a head.
"""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from clbench.networks.heads import with_heads
from clbench.networks.network import ImageShape, Network
from clbench.networks.settings import MLPSettings


class Layers(nn.Sequential):
    """Linear layers, ReLU and dropout behind each: images [B, ...] that flatten to [B, D] -> [B, last of the sizes]."""

    def __init__(self, n_inputs: int, sizes: Sequence[int], dropout_share: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise([n_inputs, *sizes]):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            if dropout_share:
                layers.append(nn.Dropout(dropout_share))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, ...] of images."""
        return super().forward(x.flatten(1))


def trunk(settings: MLPSettings, image_shape: ImageShape) -> nn.Module:
    """The hidden layers."""
    return Layers(math.prod(image_shape), settings.hidden_sizes, settings.dropout_share)


MLP = Network(MLPSettings, trunk)


def mlp(n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int, n_heads: int | None = None) -> nn.Module:
    """A whole network, its weights from torch's generator.

    Args:
        n_inputs: D.
        hidden_sizes: neurons of each hidden layer.
        n_outputs: C, of each head.
        n_heads: None for a single head.
    """
    return with_heads(
        Layers(n_inputs, hidden_sizes),
        hidden_sizes[-1],
        n_outputs,
        head="single" if n_heads is None else "multi",
        n_tasks=n_heads or 1,
    )
