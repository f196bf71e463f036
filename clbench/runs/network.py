"""The network of a suite before anything is trained: whether it fits the images, and what a record says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clbench.data import ImageSet
from clbench.data.streams import outputs_of
from clbench.errors import SettingError
from clbench.methods.settings import TrainingSettings
from clbench.networks.table import NETWORKS, origin_of
from clbench.own.code import said_by
from clbench.seeding import seeded
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
    # Ours are only looked at: no memory is taken and no weight drawn. Another may do anything when it is built.
    is_ours = suite.network in NETWORKS
    with torch.device("meta" if is_ours else "cpu"):
        model = suite.build_network(shape, outputs_of(suite, images), seed=0)
        image = torch.zeros(1, *shape)
    named, files = origin_of(suite.network)
    name = named.get("network", suite.network)
    if not is_ours:
        _check_training(model, image, name)
    described = {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_shape": list(shape),
    }
    return Sample(model, image, named, described, files)


def _check_training(model: "nn.Module", image: "Tensor", name: str) -> None:
    """Tries what every step of training does, which shows what no evaluation does.

    Raises:
        SettingError: if the network has no weights to train, or fails at it.
    """
    import torch

    from clbench.networks.answer import answer

    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingError(f"the network {name} has no weights to train; give it some, or do not freeze them all")
    try:
        with seeded(0, torch.device("cpu")):
            answer(model, image.repeat(2, 1, 1, 1), torch.zeros(2, dtype=torch.long)).sum().backward()
    except Exception as error:
        raise SettingError(f"the network {name} cannot be trained: {said_by(error)}") from error
    model.zero_grad()


def reason_against_batches(settings: TrainingSettings, found: Sample) -> str:
    """Why the network cannot train on batches of a method's size, in one sentence; empty where it can.

    Args:
        settings: the method's, complete.
        found: the network.
    """
    ones = [key for key in settings.batches if getattr(settings, key) == 1]
    if ones:
        from clbench.networks.answer import trains_on_one

        if not trains_on_one(found.model, found.image):
            return f"a batch norm behind a linear layer cannot train on one image; give {' and '.join(ones)} 2 or more"
    return ""
