"""Pixels with mean 0 and standard deviation 1, channel by channel, over all training images of a source."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Pixels that are counted at a time, so that images on disk need not fit into memory.
_PIXELS_AT_A_TIME = 2**24


@dataclass(frozen=True)
class Normalisation:
    """Pixels x in [0, 1] become (x - mean) / std.

    Attributes:
        mean, std: of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply_(self, images: Tensor) -> Tensor:
        """Changes float images [N, C, H, W] in place, and returns them."""
        return images.sub_(_by_channel(self.mean, images.device)).div_(_by_channel(self.std, images.device))


def normalisation_of(images: Tensor) -> Normalisation:
    """The normalisation that these images ask for; a channel without any contrast keeps a std of 1.

    The pixels of each value are counted, so the numbers depend neither on the order of the images nor on rounding.
    Images in a memory-mapped file are read piece by piece.

    Args:
        images: uint8 [N, C, H, W].
    """
    n_images, n_channels, height, width = images.shape
    counts = torch.zeros(n_channels, 256, dtype=torch.int64)
    for piece in images.split(max(1, _PIXELS_AT_A_TIME // (n_channels * height * width))):
        for channel in range(n_channels):
            counts[channel] += torch.bincount(piece[:, channel].flatten(), minlength=256)
    n_pixels = n_images * height * width
    mean, std = [], []
    # In Python's integers, which have no end: sums of squares of large sets leave the 53 bits of a float.
    for of_channel in counts.tolist():
        total = sum(value * count for value, count in enumerate(of_channel))
        squares = sum(value * value * count for value, count in enumerate(of_channel))
        spread = n_pixels * squares - total * total
        mean.append(total / (255 * n_pixels))
        std.append((spread / (255 * n_pixels) ** 2) ** 0.5 if spread else 1.0)
    return Normalisation(tuple(mean), tuple(std))


@lru_cache(maxsize=16)
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept, because a new tensor for every batch would make a GPU wait.
    return torch.tensor(values, device=device).view(-1, 1, 1)
