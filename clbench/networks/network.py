"""What a network consists of, for the table of networks and for packages that bring their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.networks.settings import NetworkSettings

if TYPE_CHECKING:
    from torch import nn

# Channels, height, width.
ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class Network:
    """How a network of one kind is built.

    Attributes:
        Settings: what can be varied.
        build: of a trunk: (settings, image_shape) -> module from images [B, C, H, W] to features [B, F], to which
            `clbench.networks.heads` adds the output layers. Of a whole network: (settings, image_shape, n_outputs) ->
            module from images to logits [B, n_outputs]. It draws its weights from torch's global generator.
        whole: whether the network has output layers of its own.
        channels_last: whether it computes with its channels last in memory, which convolutions do faster.
            Not with a 1 x 1 convolution that has a stride and fewer than eight channels. Its backward pass damages
            memory on processors without AVX-512 (oneDNN, issue 6035).

    Example:
        A package offers `tiny = "tiny_networks:TINY"` in the entry point group `clbench.networks`, with

            def trunk(settings: NetworkSettings, image_shape: ImageShape) -> nn.Module:
                return nn.Sequential(nn.Conv2d(image_shape[0], 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

            TINY = Network(NetworkSettings, trunk)
    """

    Settings: type[NetworkSettings]
    build: Callable[..., "nn.Module"]
    whole: bool = False
    channels_last: bool = False
