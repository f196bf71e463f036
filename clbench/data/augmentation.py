"""Random crops and flips of training images, for a whole batch at once.

Sources: pad and crop as in Lee et al. 2015 (arXiv 1409.5185), flips as in Krizhevsky et al. 2012. An image is
augmented as it lies on disk. What the task does to it (a permutation, a rotation) and the normalisation come after.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """What is done to every training image whenever it is used.

    Attributes:
        crop_padding: so many black pixels are added on every side, and a window of the image's size is cut out of the
            result, each as likely as any other; 0 for no crop.
        flip: whether left and right are exchanged with probability 1/2.

    Example:
        Augmentation(crop_padding=4, flip=True)(images, torch.Generator().manual_seed(0))
    """

    crop_padding: int
    flip: bool

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augments every image on its own.

        Args:
            images: uint8 [B, C, H, W], on any device; they stay as they are.
            generator: on the CPU, so that every device sees the same.
        """
        if self.crop_padding:
            images = self._cropped(images, generator)
        if self.flip:
            turned = _drawn(2, (len(images), 1, 1, 1), generator, images.device).bool()
            images = torch.where(turned, images.flip(3), images)
        return images

    def _cropped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        size, padding = len(images), self.crop_padding
        top, left = _drawn(2 * padding + 1, (2, size), generator, images.device)
        padded = F.pad(images, (padding, padding, padding, padding))
        # A view of all windows [B, C, top, left, H, W]; only the chosen ones are copied.
        windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
        return windows[torch.arange(size, device=images.device), :, top, left]


def _drawn(end: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Random whole numbers from 0 to `end` - 1, int64."""
    # Not blocking, because a GPU would have to finish its step first.
    return torch.randint(end, shape, generator=generator).to(device, non_blocking=True)
