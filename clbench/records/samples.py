"""Sample images of the tasks as one picture, which a run folder keeps as `samples.png`.

Letters: T tasks, n images of each, C channels (1 or 3), H and W height and width in pixels.
"""

import io
from typing import TYPE_CHECKING

from clbench.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

GAP = 1
"""Pixels of white between two images."""


def sample_strip(images: "Tensor") -> bytes:
    """The picture of sample images: a row for each task, one white pixel between images.

    Args:
        images: uint8 [T, n, C, H, W], on any device.

    Returns:
        A PNG of T (H + 1) - 1 rows and n (W + 1) - 1 columns; the same images give the same bytes.

    Raises:
        DataError: for images of another type or shape.

    Example:
        folder.write_bytes("samples.png", sample_strip(torch.stack([task_1[:8], task_2[:8]])))
    """
    import numpy as np
    from PIL import Image

    if str(images.dtype) != "torch.uint8" or images.ndim != 5 or images.shape[2] not in (1, 3) or not images.numel():
        raise DataError(
            f"sample images need the type uint8 and the shape [tasks, images, channels (1 or 3), height, width], but "
            f"got {images.dtype} {list(images.shape)}"
        )
    n_tasks, n_images, channels, height, width = images.shape
    shape = (n_tasks * (height + GAP) - GAP, n_images * (width + GAP) - GAP, channels)
    picture: npt.NDArray[np.uint8] = np.full(shape, 255, dtype=np.uint8)
    for row, of_task in enumerate(images.cpu().numpy()):
        for column, image in enumerate(of_task):
            top, left = row * (height + GAP), column * (width + GAP)
            picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(picture if channels == 3 else picture[:, :, 0]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
