"""Residual networks for small images."""

from collections import OrderedDict

from torch import Tensor, nn

from clbench.networks.network import ImageShape, Network
from clbench.networks.settings import ResNetSettings


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, added to their input.

    Where height and width are halved or the channels change, a 1 x 1 convolution of every `stride`-th position brings
    the input to the same shape.

    Args:
        n_inputs, n_outputs: channels.
        stride: of the first convolution; 2 halves height and width.
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_outputs)
        self.conv2 = nn.Conv2d(n_outputs, n_outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_outputs)
        self.relu = nn.ReLU()
        # The 1 x 1 convolution below has no stride of its own: with one and fewer channels than a vector register
        # holds, oneDNN writes past its memory (github.com/uxlfoundation/oneDNN, issue 6035).
        self.sample = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        self.shortcut = nn.Sequential()
        if stride != 1 or n_inputs != n_outputs:
            self.shortcut.append(nn.Conv2d(n_inputs, n_outputs, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_inputs, H, W] -> [B, n_outputs, H / stride, W / stride], rounded up."""
        inner = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(inner)) + self.shortcut(self.sample(x)))


def resnet18(settings: ResNetSettings, image_shape: ImageShape) -> nn.Sequential:
    """ResNet-18 in its form for CIFAR: 3 x 3 stem without pooling, four stages of two blocks, mean over positions.

    Source: He et al. 2016; reduced as in Lopez-Paz and Ranzato 2017, github.com/facebookresearch/
    GradientEpisodicMemory, model/common.py (20, 40, 80, 160 channels), as A-GEM has it too.

    Returns:
        A trunk, images [B, C, H, W] of any size -> features [B, 8 * width].
    """
    width = settings.width
    layers = OrderedDict[str, nn.Module](
        stem=nn.Sequential(nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    )
    before = width
    for number, after in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        stride = 1 if number == 1 else 2
        layers[f"stage{number}"] = nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1))
        before = after
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


RESNET18 = Network(ResNetSettings, resnet18, channels_last=True)
