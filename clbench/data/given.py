"""Images that are given as Python objects: arrays, tensors, or two data sets of torch.

They are held to what a file of arrays is held to (`clbench.data.arrays`), and are known by their content alone.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clbench.data.arrays import Array, parts_of
from clbench.data.images import ImageSet, Part, as_image_set
from clbench.errors import DataError
from clbench.own.code import said_by

ARRAYS = "arrays"
"""What a record calls the source of such images."""

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_EXPECTED = (
    "data= expects (x_train, y_train, x_test, y_test), two data sets of pairs (image, label), or the name or path of a "
    "source"
)


@dataclass(frozen=True)
class GivenImages:
    """Images and labels that were given as Python objects. They can be pickled.

    Attributes:
        train, test: the two parts.
        class_names: the numbers that the labels were given as, in their order.
    """

    train: Part
    test: Part
    class_names: tuple[str, ...]

    def image_set(self, image_size: int | None = None) -> ImageSet:
        """The images, scaled to that height and width in pixels; None leaves theirs."""
        train, test = self.train.resized(image_size), self.test.resized(image_size)
        return as_image_set(ARRAYS, train, test, self.class_names, origin="given from Python")


def given_images(data: Any) -> GivenImages:
    """Checked copies of images and labels.

    Args:
        data: `(x_train, y_train, x_test, y_test)`, arrays or tensors: images uint8 [N, H, W], [N, H, W, C] or
            [N, C, H, W] with C = 1 or 3, or floats from 0 to 1, and labels of whole numbers [N]. Or `(train, test)`,
            data sets of torch whose items are pairs of such an image and its label.

    Raises:
        DataError: for anything else.

    Example:
        given_images((TensorDataset(x, y), TensorDataset(x_test, y_test))).image_set()
    """
    if not isinstance(data, Sequence) or isinstance(data, str) or len(data) not in (2, 4):
        raise DataError(f"{_EXPECTED}, but got {_described(data)}")
    if len(data) == 2:
        data = [*_of_data_set("training", data[0]), *_of_data_set("test", data[1])]
    arrays = [_array(name, each) for name, each in zip(_NAMES, data, strict=True)]
    return GivenImages(*parts_of(arrays, "", "the arrays", channels_first=True))


def _array(name: str, value: Any) -> Array:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # NumPy has no such type.
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        raise DataError(f"{name} is a {type(value).__name__}; expected a NumPy array or a tensor")
    return np.asarray(value)


def _of_data_set(part: str, data: Any) -> tuple[Any, Any]:
    """The images and the labels of a data set of torch, [N, ...] and [N]."""
    from torch.utils.data import TensorDataset

    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return data.tensors[0], data.tensors[1]
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(f"{_EXPECTED}, but the {part} data set is a {type(data).__name__}")
    images, labels = [], []
    for position in range(len(data)):
        try:
            image, label = data[position]
            images.append(_array("its image", image))
            labels.append(operator.index(label))
        except Exception as error:
            raise DataError(
                f"item {position} of the {part} data set is no pair of an image and a whole number ({said_by(error)}); "
                "give images as tensors, arrays or of Pillow"
            ) from error
    if not images:
        raise DataError(f"the {part} data set is empty; give some images")
    if len({(image.shape, image.dtype) for image in images}) != 1:
        raise DataError(f"the images of the {part} data set must have one shape and type; make them alike")
    return np.stack(images), np.asarray(labels)


def _described(data: Any) -> str:
    is_sized = isinstance(data, Sequence) and not isinstance(data, str)
    return f"a {type(data).__name__}" + (f" of {len(data)}" if is_sized else "")
