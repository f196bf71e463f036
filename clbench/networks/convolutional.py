"""Convolutional networks: plain chains of convolutions, poolings and linear layers.

Each function builds a trunk, images [B, C, H, W] -> features [B, F], of any image size that survives its poolings.
Dropout that is switched off stays as a layer that does nothing, so that weights keep their names.
"""

import itertools
from collections.abc import Sequence
from math import prod

from torch import nn

from clbench.errors import SettingError
from clbench.networks.network import ImageShape, Network
from clbench.networks.settings import AlexNetSettings, ConvSettings, ConvZenkeSettings, VGGSettings


def conv(settings: ConvSettings, image_shape: ImageShape) -> nn.Sequential:
    """3 x 3 convolutions without padding, one 2 x 2 pooling, linear layers; ReLU after each layer.

    Source: with its defaults the network that CLASSP's author trains on MNIST and Fashion-MNIST,
    github.com/oswaldoludwig/CLASSP, experiment_CV.py. There it has dropout, in testing as well.

    Raises:
        SettingError: if nothing would be left of the image.
    """
    positions = _positions_left("conv", image_shape, [2 * len(settings.channels)])
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([image_shape[0], *settings.channels]):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Dropout2d(0.25 if settings.dropout else 0.0), nn.Flatten()]
    for before, after in itertools.pairwise([settings.channels[-1] * positions, *settings.hidden_sizes]):
        layers += [nn.Linear(before, after), nn.ReLU(), _dropout(0.5, settings.dropout)]
    return nn.Sequential(*layers)


def conv_zenke(settings: ConvZenkeSettings, image_shape: ImageShape) -> nn.Sequential:
    """The CIFAR network of SI, which CLNP takes over: 32-32-pool-64-64-pool-512, its second and fourth without padding.

    Source: Zenke, Poole, Ganguli 2017, and the authors' code, github.com/ganguli-lab/pathint,
    fig_transfer_cifar/train.py: dropout 0.25, 0.25, 0.5, and an output layer that starts at 0.

    Raises:
        SettingError: for images below 10 x 10 pixels.
    """
    positions = _positions_left("conv-zenke", image_shape, [2, 2])
    layers: list[nn.Module] = []
    for before, after in ((image_shape[0], 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2), _dropout(0.25, settings.dropout)]
    layers += [nn.Flatten(), nn.Linear(64 * positions, 512), nn.ReLU(), _dropout(0.5, settings.dropout)]
    return nn.Sequential(*layers)


def alexnet_hat(settings: AlexNetSettings, image_shape: ImageShape) -> nn.Sequential:
    """The AlexNet of HAT: convolutions 4 x 4, 3 x 3 and 2 x 2, each with ReLU, dropout, pooling; twice 2048.

    Source: Serrà et al. 2018, and the authors' code, github.com/joansj/hat, src/networks/alexnet.py.
    Batch norms stand where Saha et al. 2021 (GPM) have them.
    Departs from it: theirs has kernels of an eighth and a tenth of the image's side. Here they are those of 32 pixels
    at every size, so that the weights of the convolutions are the same.

    Raises:
        SettingError: for images below 19 x 19 pixels.
    """
    positions = _positions_left("alexnet-hat", image_shape, [3, 2, 1])
    bias = settings.bias
    layers: list[nn.Module] = []
    for before, after, kernel, share in ((image_shape[0], 64, 4, 0.2), (64, 128, 3, 0.2), (128, 256, 2, 0.5)):
        layers.append(nn.Conv2d(before, after, kernel, bias=bias))
        layers += [nn.BatchNorm2d(after)] if settings.batch_norm else []
        layers += [nn.ReLU(), _dropout(share, settings.dropout), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    for n_inputs in (256 * positions, 2048):
        layers.append(nn.Linear(n_inputs, 2048, bias=bias))
        layers += [nn.BatchNorm1d(2048)] if settings.batch_norm else []
        layers += [nn.ReLU(), _dropout(0.5, settings.dropout)]
    return nn.Sequential(*layers)


# By size: the channels of each convolution between two poolings, and the neurons of the two linear layers.
_VGG9 = {
    "small": (((64,), (64,), (64, 64), (128, 128)), (128, 128)),
    "base": (((64,), (64,), (128, 128), (256, 256)), (512, 512)),
    "wide": (((64,), (128,), (256, 256), (512, 512)), (512, 512)),
}


def vgg9(settings: VGGSettings, image_shape: ImageShape) -> nn.Sequential:
    """The VGG9 that De Lange et al. train on Tiny ImageNet: six padded 3 x 3 convolutions, four maximum poolings.

    Source: De Lange et al., "A continual learning survey" (2021), and the authors' code,
    github.com/Mattdl/CLsurvey, src/models/VGGSlim.py (channels) and net.py (linear layers). Initial weights as there,
    where they are those of torchvision's VGG; the output layer is drawn as PyTorch does.

    Raises:
        SettingError: for images below 16 x 16 pixels.
    """
    positions = _positions_left("vgg9", image_shape, [0, 0, 0, 0])
    groups, hidden_sizes = _VGG9[settings.size]
    layers: list[nn.Module] = []
    before = image_shape[0]
    for group in groups:
        for after in group:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            before = after
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for n_inputs, n_outputs in itertools.pairwise([before * positions, *hidden_sizes]):
        layers += [nn.Linear(n_inputs, n_outputs), nn.ReLU(), _dropout(0.5, settings.dropout)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


CONV = Network(ConvSettings, conv, channels_last=True)
CONV_ZENKE = Network(ConvZenkeSettings, conv_zenke, channels_last=True)
ALEXNET_HAT = Network(AlexNetSettings, alexnet_hat, channels_last=True)
VGG9 = Network(VGGSettings, vgg9, channels_last=True)


def _dropout(share: float, switched_on: bool) -> nn.Dropout:
    return nn.Dropout(share if switched_on else 0.0)


def _positions_left(name: str, image_shape: ImageShape, trimmed: Sequence[int]) -> int:
    """Height times width after the last 2 x 2 pooling, before each of which convolutions trim so many pixels.

    Raises:
        SettingError: if that would be 0, with the least side that is not.
    """
    least = 1
    for pixels in reversed(trimmed):
        least = 2 * least + pixels
    _, *sides = image_shape
    if min(sides) < least:
        height, width = sides
        raise SettingError(
            f"the network {name} needs images of at least {least} x {least} pixels, but these have {height} x {width}; "
            "take larger images or another network"
        )
    for pixels in trimmed:
        sides = [(side - pixels) // 2 for side in sides]
    return prod(sides)
