"""The picture of sample images holds every image as it was, and nothing but white between them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.errors import DataError
from clbench.records.samples import sample_strip


@pytest.mark.parametrize("shape", [(2, 3, 1, 8, 8), (10, 8, 3, 6, 4), (1, 1, 3, 1, 1)])
def test_every_image_stands_in_the_row_of_its_task_with_white_between(shape):
    images = torch.randint(0, 255, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    n_tasks, n_images, channels, height, width = shape
    shown = Image.open(io.BytesIO(sample_strip(images)))
    assert shown.format == "PNG"
    pixels = np.asarray(shown.convert("RGB"))
    assert pixels.shape == (n_tasks * (height + 1) - 1, n_images * (width + 1) - 1, 3)
    is_gap = np.ones(pixels.shape[:2], dtype=bool)
    for task in range(n_tasks):
        for number in range(n_images):
            rows = slice(task * (height + 1), task * (height + 1) + height)
            columns = slice(number * (width + 1), number * (width + 1) + width)
            expected = images[task, number].expand(3, -1, -1).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(pixels[rows, columns], expected)
            is_gap[rows, columns] = False
    assert (pixels[is_gap] == 255).all()
    assert sample_strip(images) == sample_strip(images.clone())
    assert shown.mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 1, 8, 8),
        torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 2, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 1, 8, 8, dtype=torch.uint8),
    ],
)
def test_what_are_no_images_is_refused_with_type_and_shape(images):
    with pytest.raises(DataError) as error:
        sample_strip(images)
    assert f"got {images.dtype} {list(images.shape)}" in str(error.value)
