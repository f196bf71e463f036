"""What a source of images gives, and the digest and the order by which two readings of it are the same.

Letters used throughout: N training images, M test images, C channels, H height, W width.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from clbench.data.normalisation import Normalisation

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

TEST_SHARE = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images and labels of one source.

    The images may lie in a read-only file that is mapped into memory. Writing into them ends the process.

    Attributes:
        source: its name, a key of `SOURCES`, `npz` or `arrays`; several are joined by `+`. Never a path.
        train_images: uint8 [N, C, H, W], 0 to 255.
        train_labels: int64 [N], 0 to the number of classes - 1.
        test_images: uint8 [M, C, H, W].
        test_labels: int64 [M].
        class_names: what label k stands for, at position k.
        sha256: digest over the four arrays with their shapes and types, the same on every machine.
        origin: in words, what was read, where that is not plain from the source; no path.
    """

    source: str
    train_images: "Tensor"
    train_labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    class_names: tuple[str, ...]
    sha256: str
    origin: str = ""

    @cached_property
    def normalisation(self) -> "Normalisation":
        """Mean and standard deviation of the training images, counted once."""
        from clbench.data.normalisation import normalisation_of

        return normalisation_of(self.train_images)


@dataclass(frozen=True)
class Part:
    """The training or the test part of a source.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        origin: the file or the folder to blame for them.
    """

    images: Images
    labels: Labels
    origin: str

    def resized(self, image_size: int | None) -> "Part":
        """The same with images of that height and width in pixels; None leaves theirs."""
        from clbench.data.decoding import resized

        return self if image_size is None else Part(resized(self.images, image_size), self.labels, self.origin)


class Digest:
    """SHA-256 over the four arrays of an image set, which may come piece by piece."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def begin(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        """Names the array whose pieces follow."""
        self._sha256.update(f"{name} {dtype} {list(shape)}\n".encode())

    def update(self, piece: Images | Labels) -> None:
        """Adds the next piece of an array."""
        # Least significant byte first, whatever this machine's order is.
        self._sha256.update(np.ascontiguousarray(piece, dtype=piece.dtype.newbyteorder("<")).data)

    def add(self, name: str, array: Images | Labels) -> None:
        """Adds a whole array."""
        self.begin(name, array.dtype.name, array.shape)
        self.update(array)

    def hexdigest(self) -> str:
        """The digest of all that was added."""
        return self._sha256.hexdigest()


def digest_of(train: Part, test: Part) -> str:
    """The digest of an image set of these parts."""
    digest = Digest()
    for name, part in (("train", train), ("test", test)):
        digest.add(f"{name}_images", part.images)
        digest.add(f"{name}_labels", part.labels)
    return digest.hexdigest()


def as_image_set(
    source: str, train: Part, test: Part, class_names: Sequence[str], *, sha256: str = "", origin: str = ""
) -> ImageSet:
    """The image set of these parts; their digest is computed unless it is given."""
    import torch

    with warnings.catch_warnings():
        # A mapped file is read-only on purpose: mapped for writing, a set larger than memory is refused by Linux.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        arrays = (train.images, train.labels, test.images, test.labels)
        x_train, y_train, x_test, y_test = (torch.from_numpy(array) for array in arrays)
    return ImageSet(
        source, x_train, y_train, x_test, y_test, tuple(class_names), sha256 or digest_of(train, test), origin
    )


def pixel_order(images: Images) -> Labels:
    """The order of images [N, C, H, W] by their bytes as they lie in memory, int64 [N]."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return np.argsort(rows.view(f"S{rows.shape[1]}")[:, 0], kind="stable")


def in_canonical_order(part: Part) -> Part:
    """The part by class, and within a class by pixel bytes, so that no order of files tells two readings apart."""
    order = []
    for label in np.unique(part.labels):
        of_class = np.flatnonzero(part.labels == label)
        order.append(of_class[pixel_order(part.images[of_class])])
    chosen = np.concatenate(order)
    return Part(part.images[chosen], part.labels[chosen], part.origin)


def is_for_testing(labels: Labels) -> npt.NDArray[np.bool_]:
    """Which images of a source without a split of its own are for testing: one fifth of each class, bool [N].

    Always the same ones, at least one of each class.
    """
    # RandomState, because numpy promises its stream for ever; the split must not move with an upgrade.
    random = np.random.RandomState(SPLIT_SEED)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == label))
        chosen[of_class[: max(1, round(TEST_SHARE * len(of_class)))]] = True
    return chosen
