"""The table of networks: a name, how it is built, and what it is.

Adding one is a function that builds its trunk, its settings, and a line in `NETWORKS`. Others add theirs through the
entry point group `clbench.networks` (name = "package.module:NETWORK", a `clbench.networks.network.Network`).
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from clbench.errors import SettingError, unknown_name
from clbench.networks.network import ImageShape, Network
from clbench.networks.own import OwnNetwork, own_network
from clbench.networks.settings import (
    AlexNetSettings,
    ConvSettings,
    ConvZenkeSettings,
    MLPSettings,
    NetworkSettings,
    ResNetSettings,
    VGGSettings,
)
from clbench.own.code import digest_of, is_own, package_identity
from clbench.own.installed import load_installed

if TYPE_CHECKING:
    from torch import nn

    from clbench.networks.heads import Head


@dataclass(frozen=True)
class Entry:
    """A line of the table: where the `Network` is, its settings and what it is, said without importing torch."""

    target: str
    settings: type[NetworkSettings]
    summary: str


NETWORKS: Mapping[str, Entry] = {
    "mlp": Entry("clbench.networks.mlp:MLP", MLPSettings, "Fully connected ReLU layers"),
    "conv-zenke": Entry(
        "clbench.networks.convolutional:CONV_ZENKE",
        ConvZenkeSettings,
        "SI's and CLNP's network for CIFAR: 32-32-pool-64-64-pool-512, dropout",
    ),
    "alexnet-hat": Entry(
        "clbench.networks.convolutional:ALEXNET_HAT",
        AlexNetSettings,
        "HAT's AlexNet for CIFAR: 64-pool-128-pool-256-pool-2048-2048, dropout",
    ),
    "resnet18": Entry(
        "clbench.networks.resnet:RESNET18",
        ResNetSettings,
        "ResNet-18 for small images, reduced to 20 channels in its first stage unless told otherwise",
    ),
    "vgg9": Entry(
        "clbench.networks.convolutional:VGG9",
        VGGSettings,
        "De Lange et al.'s VGG9 for Tiny ImageNet, small, base or wide",
    ),
    "conv": Entry(
        "clbench.networks.convolutional:CONV",
        ConvSettings,
        "3 x 3 convolutions, one pooling, linear layers: 32-64-pool-128 unless told otherwise",
    ),
}


def network_names() -> list[str]:
    """Every network's name: the table's, then those of installed packages."""
    return [*NETWORKS, *sorted(entry.name for entry in _plugins() if entry.name not in NETWORKS)]


def schema_of(name: str) -> type[NetworkSettings]:
    """The settings that the network of that name has, without importing torch for one of the table.

    Raises:
        SettingError: for an unknown name, or an installed package that does not load.
    """
    return NETWORKS[name].settings if name in NETWORKS else find_network(name).Settings


def find_network(name: str, *, anew: bool = False) -> Network:
    """The network of that name, or the user's of that reference.

    Args:
        name: a name or a reference.
        anew: whether the user's files are looked at again, if they were loaded before.

    Raises:
        SettingError: for an unknown name, listing the right ones, or a package or a file that does not load.
    """
    if is_own(name):
        return own_network(name, anew=anew)
    if name in NETWORKS:
        module, _, attribute = NETWORKS[name].target.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in _plugins():
        if entry.name == name:
            return _loaded(entry)
    raise SettingError(
        f"{unknown_name('network', name, network_names())}, or one of your own as ./file.py:Class or "
        "package.module:Class"
    )


def origin_of(name: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """What a record says of a network that is not ours, in the place of its path, and the files that it is made of.

    Raises:
        SettingError: as `find_network`.
    """
    network = find_network(name)
    if isinstance(network, OwnNetwork):
        return network.named, dict(network.own.files)
    if name in NETWORKS:
        return {}, {}
    module = next(entry.module for entry in _plugins() if entry.name == name)
    version, files = package_identity(module, "network")
    return {"network_version": version} if version else {"network_sha256": digest_of(files)}, files


def build(
    network: Network,
    settings: NetworkSettings,
    image_shape: ImageShape,
    *,
    n_outputs: int,
    head: "Head",
    n_tasks: int,
    seed: int,
) -> "nn.Module":
    """A network on the CPU whose initial weights come from `seed` alone; torch's generators stay as they were.

    Args:
        network: from `find_network`, or one in no table.
        settings: of the network's own kind.
        image_shape: channels, height, width.
        n_outputs: of each output layer.
        head: `single` (one output layer for all tasks), `multi` (one per task) or `classes` (one over all classes).
        n_tasks: how many output layers `multi` has.
        seed: 0 to 2^63 - 1.

    Returns:
        A module that gives logits [B, n_outputs] for images [B, *image_shape], for `multi` with their task labels.

    Raises:
        SettingError: for images that are too small, or an output that does not fit.

    Example:
        build(find_network("resnet18"), ResNetSettings(), (3, 32, 32), n_outputs=10, head="multi", n_tasks=10, seed=0)
    """
    import torch

    from clbench.networks.heads import outputs_of, with_heads
    from clbench.seeding import seeded

    with seeded(seed, torch.device("cpu")):
        if not network.whole:
            trunk = network.build(settings, image_shape)
            model = with_heads(
                trunk,
                outputs_of(trunk, image_shape),
                n_outputs,
                head=head,
                n_tasks=n_tasks,
                bias=settings.head_bias,
                zero_head=settings.zero_head,
            )
            # A quarter to three quarters faster, in either precision (docs/speed.md).
            return model.to(memory_format=torch.channels_last) if network.channels_last else model
        wanted = n_outputs * n_tasks if head == "multi" else n_outputs
        model = network.build(settings, image_shape, wanted)
        found = outputs_of(model, image_shape)
        if found != wanted:
            raise SettingError(
                f"a network for this suite must have {wanted} outputs, but {type(model).__name__} has {found}; take "
                "the number that it is given"
            )
    if head != "multi":
        return model
    from clbench.networks.several_heads import SlicedHeads

    return SlicedHeads(model, n_tasks=n_tasks, n_outputs=n_outputs)


def _plugins() -> list[EntryPoint]:
    return list(entry_points(group="clbench.networks"))


def _loaded(entry: EntryPoint) -> Network:
    found = load_installed(entry, "network")
    if not isinstance(found, Network):
        raise SettingError(
            f"the network '{entry.name}' must be a clbench.networks.network.Network, but {entry.value} is "
            f"{type(found).__name__}; make one of its class or function"
        )
    return found
