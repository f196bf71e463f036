"""Networks of every kind that units can be found in, small enough for brute force.

`NETWORKS` has, by name, functions that give a network and images for it.
"""

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two blocks that add to what they are given, with batch norm or without."""

    def __init__(self, norm=False):
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(5, 4, 3, padding=1, bias=not norm) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(4, 5, 3, padding=1, bias=not norm) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(5) if norm else nn.Identity() for _ in range(2))
        self.inner_norms = nn.ModuleList(nn.BatchNorm2d(4) if norm else nn.Identity() for _ in range(2))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        for inner, outer, norm, inner_norm in zip(self.inner, self.outer, self.norms, self.inner_norms, strict=True):
            h = F.leaky_relu(norm(outer(F.leaky_relu(inner_norm(inner(h))))) + h)
        return self.head(h.mean((2, 3)))


class Concatenation(nn.Module):
    """Three branches, one of them the image itself, laid side by side."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 3, 3, padding=1)
        self.d = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6 * 36, 3)

    def forward(self, x):
        h = torch.sigmoid(self.a(x))
        joined = torch.cat([h, x, torch.sigmoid(self.b(h))], dim=1)
        return self.head(torch.flatten(torch.tanh(self.d(joined)), 1))


class DenseBlocks(nn.Module):
    """As in DenseNet: each layer reads all before it, through a batch norm of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        sizes = (4, 7, 10)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (*sizes, 13))
        self.convs = nn.ModuleList(nn.Conv2d(size, 3, 3, padding=1, bias=False) for size in sizes)
        self.head = nn.Linear(13, 3)

    def forward(self, x):
        h = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            h = torch.cat((h, conv(F.softplus(norm(h)))), 1)
        return self.head(F.adaptive_avg_pool2d(F.softplus(self.norms[3](h)), 1).flatten(1))


class Functional(nn.Module):
    """Calls functions where others call modules."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.hidden = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.1))

    def forward(self, x):
        h = F.elu(self.conv(input=(x - self.mean) / 2))
        h = F.max_pool2d(h, kernel_size=2, stride=1)
        h = h.reshape(h.size(0), h.size(1), -1).sum(-1) / 4
        h = torch.tanh(self.hidden(h)).contiguous().clamp(-0.9, 0.9)
        return F.log_softmax(self.head(h), dim=1)


class WrittenSizes(nn.Module):
    """Sizes written into the code."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.hidden = nn.Linear(4 * 9, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = F.avg_pool2d(torch.tanh(self.conv(x)), 2).view(-1, 4 * 9)
        return self.head(torch.tanh(self.hidden(h)).view(-1, 6))


class DropsByMode(nn.Module):
    """Drops in training only, by a function."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        h = F.dropout2d(torch.tanh(self.conv(x)), 0.3, self.training)
        return self.head(F.dropout(h.flatten(1), p=0.5, training=self.training))


class Gates(nn.Module):
    """Multiplies what one layer gives by what another does, of filters and of neurons."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.squeeze = nn.Linear(4, 2)
        self.excite = nn.Linear(2, 4)
        self.a = nn.Linear(4 * 36, 5)
        self.b = nn.Linear(4 * 36, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = torch.tanh(self.conv(x))
        scale = torch.sigmoid(self.excite(torch.tanh(self.squeeze(h.mean((2, 3))))))
        h = (h * scale[:, :, None, None]).flatten(1)
        return self.head(self.a(h) * torch.sigmoid(self.b(h)))


class AddsToInputs(nn.Module):
    """What layers give is added to the network's inputs."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 6)
        self.b = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x + torch.tanh(self.b(torch.tanh(self.a(x)))))


class ReadsInputsAgain(nn.Module):
    """The output layer reads the network's inputs beside neurons."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 6)
        self.head = nn.Linear(14, 3)

    def forward(self, x):
        return self.head(torch.cat([x, torch.tanh(self.a(x))], dim=-1))


def sequential(*layers):
    return lambda: (nn.Sequential(*layers_of(layers)), torch.randn(6, 1, 8, 8))


def layers_of(makers):
    return [maker() for maker in makers]


def of_digits(kind, *arguments):
    return lambda: (kind(*arguments), torch.randn(6, 1, 8, 8))


def layer(kind, *sizes, **settings):
    return lambda: kind(*sizes, **settings)


NETWORKS = {
    "layers": sequential(
        nn.Flatten, layer(nn.Linear, 64, 7), nn.Tanh, layer(nn.Linear, 7, 5), nn.Tanh, layer(nn.Linear, 5, 3)
    ),
    "layers without biases": sequential(
        nn.Flatten, layer(nn.Linear, 64, 7, bias=False), nn.GELU, layer(nn.Linear, 7, 3, bias=False)
    ),
    "layers with batch norm": sequential(
        nn.Flatten, layer(nn.Linear, 64, 7), layer(nn.BatchNorm1d, 7), nn.SiLU, layer(nn.Linear, 7, 3)
    ),
    "convolutions": sequential(
        layer(nn.Conv2d, 1, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh, layer(nn.MaxPool2d, 2),
        layer(nn.Conv2d, 4, 6, 3, padding="same", dilation=2), nn.Hardswish, layer(nn.Dropout2d, 0.2),
        layer(nn.AvgPool2d, 2), nn.Flatten, layer(nn.Linear, 24, 5), nn.Tanh, layer(nn.Dropout, 0.5),
        layer(nn.Linear, 5, 3),
    ),
    "batch norm behind flattening": sequential(
        layer(nn.Conv2d, 1, 4, 3), nn.Tanh, nn.Flatten, layer(nn.BatchNorm1d, 144), layer(nn.Linear, 144, 3)
    ),
    "batch norm and depthwise of the inputs": sequential(
        layer(nn.BatchNorm2d, 1), layer(nn.Conv2d, 1, 4, 3, bias=False), layer(nn.BatchNorm2d, 4, affine=False),
        nn.Tanh, nn.Flatten, layer(nn.Linear, 144, 3),
    ),
    "depthwise": sequential(
        layer(nn.Conv2d, 1, 4, 3), nn.Tanh, layer(nn.Conv2d, 4, 4, 3, groups=4), layer(nn.BatchNorm2d, 4), nn.Tanh,
        layer(nn.Conv2d, 4, 5, 1), nn.Tanh, layer(nn.AdaptiveAvgPool2d, 1), nn.Flatten, layer(nn.Linear, 5, 3),
    ),
    "depthwise behind batch norm": sequential(
        layer(nn.Conv2d, 1, 4, 3), layer(nn.BatchNorm2d, 4), nn.Tanh, layer(nn.Conv2d, 4, 4, 3, groups=4), nn.Tanh,
        nn.Flatten, layer(nn.Linear, 64, 3),
    ),
    "depthwise with a multiplier": sequential(
        layer(nn.Conv2d, 1, 4, 3), nn.Tanh, layer(nn.Conv2d, 4, 12, 3, groups=4, padding=1), nn.Tanh,
        layer(nn.Conv2d, 12, 5, 1), nn.Tanh, nn.Flatten, layer(nn.Linear, 180, 3),
    ),
    "a convolution gives the outputs": sequential(
        layer(nn.Conv2d, 1, 4, 3), nn.Tanh, layer(nn.Conv2d, 4, 3, 1), layer(nn.AdaptiveAvgPool2d, 1), nn.Flatten
    ),
    "residual": of_digits(Residual),
    "residual with batch norm": of_digits(Residual, True),
    "concatenation": of_digits(Concatenation),
    "dense blocks": of_digits(DenseBlocks),
    "functions": of_digits(Functional),
    "written sizes": of_digits(WrittenSizes),
    "drops by mode": of_digits(DropsByMode),
    "gates": of_digits(Gates),
    "added to the inputs": lambda: (AddsToInputs(), torch.randn(6, 8)),
    "inputs beside neurons": lambda: (ReadsInputsAgain(), torch.randn(6, 8)),
    # With a block at each of its four sizes, which is half of resnet18.
    "torchvision's resnet": lambda: (
        torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
        torch.randn(2, 3, 16, 16),
    ),
}  # fmt: skip
