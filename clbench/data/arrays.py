"""Images in a file of NumPy arrays, as `numpy.savez("photos.npz", x_train=..., ...)` writes it.

    x_train, x_test   uint8 [N, H, W] or [N, H, W, C] with C = 1 or 3, or floats of which none is below 0 or above 1
    y_train, y_test   whole numbers [N] or [N, 1]

Label k stands for the k-th smallest of the numbers. The images keep their order.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clbench.data.images import Images, Labels, Part
from clbench.errors import DataError

Array = np.ndarray[Any, Any]

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_IMAGES_AT_ONCE = 4096


def read_arrays(path: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """The training part, the test part and the names of the classes, which are the numbers in the file.

    Raises:
        DataError: if the file is damaged or its arrays are not as above.
        OSError: if it cannot be read.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is one array; expected a .npz file with {', '.join(_NAMES)}")
        with file:
            if missing := [name for name in _NAMES if name not in file]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}; write it with numpy.savez and all of {', '.join(_NAMES)}"
                )
            arrays = [file[name] for name in _NAMES]
    # An array of objects is refused as ValueError: reading one runs what the file says.
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        said = (
            "it is no .npz file"
            if "pickle" in str(error) and not zipfile.is_zipfile(path)
            else " ".join(str(error).split())
        )
        raise DataError(f"the file of arrays {path} cannot be read ({said}); write it anew with numpy.savez") from None
    return parts_of(arrays, f" in {path}", str(path))


def parts_of(
    arrays: Sequence[Array], where: str, origin: str, *, channels_first: bool = False
) -> tuple[Part, Part, tuple[str, ...]]:
    """The training part, the test part and the names of the classes, which are the numbers in `y_train`.

    Args:
        arrays: x_train, y_train, x_test and y_test, as above.
        where: what stands behind their names in messages.
        origin: the file to blame for them.
        channels_first: whether images may be [N, C, H, W] as well.

    Raises:
        DataError: if they are not as above.
    """
    x_train, y_train, x_test, y_test = arrays
    train_images, test_images = (
        _images(name, where, array, channels_first=channels_first)
        for name, array in (("x_train", x_train), ("x_test", x_test))
    )
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"x_train and x_test{where} must hold images of one shape, but hold {list(x_train.shape[1:])} and "
            f"{list(x_test.shape[1:])}; make them alike"
        )
    train_numbers = _numbers("y_train", where, y_train, len(train_images))
    test_numbers = _numbers("y_test", where, y_test, len(test_images))
    classes = np.unique(train_numbers)
    if not np.array_equal(classes, np.unique(test_numbers)):
        odd = np.setxor1d(classes, np.unique(test_numbers))[0]
        raise DataError(
            f"the class {odd}{where} is in only one of y_train and y_test; every class needs images in both"
        )
    if len(classes) < 2:
        raise DataError(f"y_train{where} holds one class alone, {classes[0]}; give at least two")
    train = Part(train_images, np.searchsorted(classes, train_numbers), origin)
    test = Part(test_images, np.searchsorted(classes, test_numbers), origin)
    return train, test, tuple(map(str, classes.tolist()))


def _images(name: str, where: str, array: Array, *, channels_first: bool) -> Images:
    """The array as uint8 [N, C, H, W]."""
    shapes = "[N, H, W], [N, H, W, C] or [N, C, H, W]" if channels_first else "[N, H, W] or [N, H, W, C]"
    said = (
        f"{name}{where} is {array.dtype} {list(array.shape)}; expected uint8 {shapes} with C = 1 or 3, or floats from "
        "0 to 1"
    )
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(said)
    if array.ndim == 3:
        array = array[..., np.newaxis]
    elif channels_first and array.ndim == 4 and array.shape[1] in (1, 3):
        if array.shape[3] in (1, 3):
            raise DataError(
                f"{name}{where} is {list(array.shape)}, which may be [N, H, W, C] as well as [N, C, H, W]; save it as "
                "[N, H, W, C] with numpy.savez, and give the path of that file"
            )
        array = np.moveaxis(array, 1, 3)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise DataError(said)
    result = np.empty((len(array), array.shape[3], *array.shape[1:3]), np.uint8)
    for start in range(0, len(array), _IMAGES_AT_ONCE):
        chosen = array[start : start + _IMAGES_AT_ONCE]
        if array.dtype != np.uint8:
            # Turned around, because nothing holds for what is not a number.
            if not (chosen.min() >= 0 and chosen.max() <= 1):
                raise DataError(
                    f"{name}{where} holds floats from {chosen.min():g} to {chosen.max():g}; floats must lie between "
                    "0 and 1, so divide by 255 or store uint8"
                )
            chosen = np.rint(chosen.astype(np.float64) * 255).astype(np.uint8)
        result[start : start + _IMAGES_AT_ONCE] = chosen.transpose(0, 3, 1, 2)
    return result


def _numbers(name: str, where: str, array: Array, count: int) -> Labels:
    """The array as int64 [N]."""
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{name}{where} is {array.dtype} {list(array.shape)}; expected {count} whole numbers, one for each image"
        )
    return array.reshape(count).astype(np.int64)
