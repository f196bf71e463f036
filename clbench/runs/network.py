"""The network of a suite before anything is trained: whether it fits the images, and what a record says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clbench.data import ImageSet
from clbench.data.streams import outputs_of
from clbench.errors import SettingError
from clbench.networks.own import OwnNetwork
from clbench.networks.table import find_network
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Sample:
    """A network as every run of the suite begins with, but for its weights.

    Attributes:
        model: the network.
        image: one black image [1, C, H, W], on the same device.
        named: what a record has in the place of the path of a user's file.
        described: what a reader wants to know of it.
        files: the user's files that it is made of, by name.
    """

    model: "nn.Module"
    image: "Tensor"
    named: Mapping[str, str]
    described: Mapping[str, Any]
    files: Mapping[str, bytes]


def sample_network(suite: Suite, images: ImageSet) -> Sample:
    """Builds the suite's network once and tries it on an image.

    Raises:
        SettingError: if it cannot be built for these images, or its output does not fit the suite.
    """
    import torch

    channels, height, width = images.train_images.shape[1:]
    shape = (channels, height, width)
    network = find_network(suite.network)
    # Ours are only looked at: no memory is taken and no weight drawn. A user's may do anything when it is built.
    place = torch.device("cpu" if isinstance(network, OwnNetwork) else "meta")
    with place:
        model = suite.build_network(shape, outputs_of(suite, images), seed=0)
        image = torch.zeros(1, *shape)
    described = {
        "name": suite.network,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_shape": list(shape),
    }
    named: dict[str, str] = {}
    files: Mapping[str, bytes] = {}
    if isinstance(network, OwnNetwork):
        named = network.own.named
        files = network.own.files
        described["name"] = network.own.name
    return Sample(model, image, named, described, files)


def check_unchanged(suite: Suite, named: Mapping[str, str]) -> None:
    """Makes sure that a network of the user's is still the one that the run is named after.

    Raises:
        SettingError: if its files were changed since the command began.
    """
    network = find_network(suite.network)
    if isinstance(network, OwnNetwork) and network.own.named != {key: named[key] for key in network.own.named}:
        raise SettingError(f"the network {suite.network} has changed since the command began; give it again")
