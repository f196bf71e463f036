"""Folders of images by class.

Two layouts, told apart by whether there are folders `train` and `test`:

    photos/train/<class>/*  and  photos/test/<class>/*
    photos/<class>/*              one fifth of each class is for testing, always the same files

The classes are the folders' names, sorted; label k is the class at position k. What lies deeper within the folder of
a class belongs to it. Hidden files and files of another kind are passed over. Tiny ImageNet has a layout of its own.
"""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clbench.data.cache import Decoded, OpenRows, cached
from clbench.data.images import Digest, Images, Labels, Part, is_for_testing, pixel_order
from clbench.errors import DataError

# Changes whenever the same files would give other pixels or another order.
FORMAT = 1
# Below this the interpreter, which runs one thread at a time, takes longer than Pillow's own code, which does not.
_PIXELS_WORTH_THREADS = 100 * 100
_IMAGES_PER_THREAD = 4
_BYTES_AT_A_TIME = 2**25


class ImageFile(NamedTuple):
    """An image file: its path, its size in bytes, and when it and its entry in the folder last changed, in ns."""

    path: str
    size: int
    changed: int
    entry_changed: int


@dataclass(frozen=True)
class ClassFolders:
    """The image files of a data set.

    Attributes:
        folder: the folder of all of them.
        class_names: in the order of their labels.
        train, test: of each class its files, sorted by path; none is empty.
        passed_over: how many files were hidden or of another kind.
    """

    folder: Path
    class_names: tuple[str, ...]
    train: list[list[ImageFile]]
    test: list[list[ImageFile]]
    passed_over: int


def class_folders(folder: Path) -> ClassFolders:
    """Finds the images of a folder by class.

    Raises:
        DataError: if there are fewer than two classes, or one without images for training or for testing.
        OSError: if a folder cannot be read.
    """
    parts = [folder / name for name in ("train", "test")]
    present = [part for part in parts if part.is_dir()]
    if not present:
        return _split(folder)
    if len(present) == 1:
        raise DataError(f"{folder} holds {present[0].name} alone; expected the two folders train and test in it")
    (train, passed_over), (test, passed_over_too) = map(_by_class, parts)
    return _checked(folder, train, test, passed_over + passed_over_too)


def tiny_imagenet_folders(folder: Path) -> ClassFolders:
    """Finds the images of `tiny-imagenet-200` as it is published; its validation images are for testing.

    Raises:
        DataError: if the table of the validation images is damaged, or an image that it names is absent.
        OSError: if a folder or the table cannot be read.
    """
    train, passed_over = _by_class(folder / "train")
    table = folder / "val" / "val_annotations.txt"
    files, passed_over_too = _files(folder / "val" / "images")
    by_name = {os.path.basename(file.path): file for file in files}
    test: dict[str, list[ImageFile]] = {}
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition("\t")
        if name not in by_name or not rest:
            raise DataError(f"{table} names '{name}', which is no image in {table.parent / 'images'}; unpack both anew")
        test.setdefault(rest.partition("\t")[0], []).append(by_name[name])
    return _checked(folder, train, test, passed_over + passed_over_too)


def _split(folder: Path) -> ClassFolders:
    found, passed_over = _by_class(folder)
    if not found:
        raise DataError(
            f"{folder} holds no folder of a class; expected images in {folder}/<class>/, or in "
            f"{folder}/train/<class>/ and {folder}/test/<class>/"
        )
    for name, files in found.items():
        if len(files) < 2:
            raise DataError(
                f"the class '{name}' in {folder} has {len(files) or 'no'} image, but needs one for "
                "training and one for testing; add some, or take the folder away"
            )
    labels = np.repeat(np.arange(len(found)), [len(files) for files in found.values()])
    marks = iter(is_for_testing(labels).tolist())
    train: dict[str, list[ImageFile]] = {name: [] for name in found}
    test: dict[str, list[ImageFile]] = {name: [] for name in found}
    for name, files in found.items():
        for file in files:
            (test if next(marks) else train)[name].append(file)
    return _checked(folder, train, test, passed_over)


def _by_class(folder: Path) -> tuple[dict[str, list[ImageFile]], int]:
    """The image files of each class in a folder, the classes in sorted order, and how many files were passed over."""
    found, passed_over = {}, 0
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        found[name], others = _files(folder / name)
        passed_over += others
    return found, passed_over


def _files(folder: Path | str) -> tuple[list[ImageFile], int]:
    from clbench.data.decoding import SUFFIXES

    found, passed_over, inner = [], 0, []
    with os.scandir(folder) as entries:
        for entry in entries:
            # Of folders a link is not followed, since it may lead in a circle.
            if entry.is_dir(follow_symlinks=False):
                inner += [entry.path] * (not entry.name.startswith("."))
            elif entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                passed_over += 1
            elif not entry.is_file():
                if entry.is_symlink() and not os.path.exists(entry.path):
                    raise DataError(
                        f"the image {entry.path} cannot be read (a link to nothing); repair it, or take it out of the "
                        "folder"
                    )
                passed_over += 1
            else:
                status = entry.stat()
                found.append(ImageFile(entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    for path in inner:
        deeper, others = _files(path)
        found, passed_over = found + deeper, passed_over + others
    return sorted(found), passed_over


def _checked(
    folder: Path, train: dict[str, list[ImageFile]], test: dict[str, list[ImageFile]], passed_over: int
) -> ClassFolders:
    names = sorted({*train, *test})
    for part, found in (("train", train), ("test", test)):
        for name in names:
            if not found.get(name):
                others = f" ({passed_over:,} files of other kinds were passed over)" if passed_over else ""
                raise DataError(
                    f"the class '{name}' in {folder} has no image in {part}{others}; every class needs some in both "
                    "train and test"
                )
    if len(names) < 2:
        said = f"one class alone, '{names[0]}'" if names else "no class"
        raise DataError(f"{folder} holds {said}; give a folder with at least two folders of images, one per class")
    of_train, of_test = ([found[name] for name in names] for found in (train, test))
    return ClassFolders(folder, tuple(map(_printable, names)), of_train, of_test, passed_over)


def _printable(name: str) -> str:
    # A folder's name may be no text, or steer a terminal, and neither a terminal nor a record takes that.
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Cs", "Cn") else letter
        for letter in name
    )


def read_folders(found: ClassFolders, image_size: int | None) -> tuple[Part, Part, str]:
    """The training and the test part in canonical order, and the digest of their image set.

    They are grey if every image is, else in colour. Mapped from the cache, they may be larger than memory.

    Args:
        found: the files.
        image_size: see `decode`.

    Raises:
        DataError: if an image cannot be read, or if their sizes differ and `image_size` is None.
    """
    decoded = cached(_key(found, image_size), str(found.folder.absolute()), partial(_decode, found, image_size))
    return (
        Part(decoded.train, _labels(found.train), str(found.folder)),
        Part(decoded.test, _labels(found.test), str(found.folder)),
        decoded.sha256,
    )


def _labels(files: list[list[ImageFile]]) -> Labels:
    return np.repeat(np.arange(len(files)), list(map(len, files)))


def _key(found: ClassFolders, image_size: int | None) -> str:
    """Changes with every file's path, size and times, and with what decodes them and to what size."""
    import PIL

    key = hashlib.sha256(f"{FORMAT} {PIL.__version__} {image_size}\n".encode())
    for part in (found.train, found.test):
        for files in part:
            for path, *status in files:
                key.update(os.fsencode(os.path.abspath(path)) + f"\0{status}\0".encode())
            key.update(b"\n")
    return key.hexdigest()[:32]


class _Coloured(Exception):
    """An image is not grey, though the first one was."""


def _decode(found: ClassFolders, image_size: int | None, open_rows: OpenRows) -> Decoded:
    from clbench.data.decoding import decode

    first = decode(found.train[0][0].path, image_size)
    try:
        return _decode_as(first.shape, found, image_size, open_rows)
    except _Coloured:
        return _decode_as((3, *first.shape[1:]), found, image_size, open_rows)


def _decode_as(shape: tuple[int, ...], found: ClassFolders, image_size: int | None, open_rows: OpenRows) -> Decoded:
    """Decodes all images to this shape, (C, H, W)."""
    parts = found.train, found.test
    labels = [_labels(files) for files in parts]
    rows = open_rows(*((len(of_part), *shape) for of_part in labels))
    fill = partial(_fill, first=found.train[0][0].path, image_size=image_size)
    digest = Digest()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores) if shape[1] * shape[2] >= _PIXELS_WORTH_THREADS else None
    try:
        for name, part, of_part, target in zip(("train", "test"), parts, labels, rows, strict=True):
            digest.begin(f"{name}_images", "uint8", (len(of_part), *shape))
            for files in part:
                with target.aside(len(files)) as aside:
                    for images in _filled(files, shape, fill, pool):
                        aside.add(images)
                    for images in _in_order(aside.finish()):
                        target.add(images)
                        digest.update(images)
            digest.add(f"{name}_labels", of_part)
        train, test = (target.finish() for target in rows)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        for target in rows:
            target.close()
    return Decoded(train, test, digest.hexdigest())


def _filled(
    files: Sequence[ImageFile], shape: tuple[int, ...], fill: Callable[..., None], pool: ThreadPoolExecutor | None
) -> Iterator[Images]:
    """The images of these files in their order, a few at a time."""
    step = _few(shape)
    for start in range(0, len(files), step):
        chosen = files[start : start + step]
        images = np.empty((len(chosen), *shape), np.uint8)
        if pool is None:
            fill(chosen, images)
        else:
            pieces = [slice(at, at + _IMAGES_PER_THREAD) for at in range(0, len(chosen), _IMAGES_PER_THREAD)]
            # Asking for each result raises the error of the first file that has one.
            list(pool.map(fill, [chosen[piece] for piece in pieces], [images[piece] for piece in pieces]))
        yield images


def _in_order(images: Images) -> Iterator[Images]:
    """The images by pixel bytes, a few at a time."""
    order, step = pixel_order(images), _few(images.shape[1:])
    for start in range(0, len(order), step):
        yield images[order[start : start + step]]


def _few(shape: Sequence[int]) -> int:
    """How many images of this shape lie in memory at a time."""
    return max(1, _BYTES_AT_A_TIME // int(np.prod(shape)))


def _fill(files: Sequence[ImageFile], images: Images, *, first: str, image_size: int | None) -> None:
    """Decodes the files into the images [N, C, H, W]."""
    from clbench.data.decoding import decode

    channels, *size = images.shape[1:]
    for position, (path, *_) in enumerate(files):
        pixels = decode(path, image_size)
        if list(pixels.shape[1:]) != size:
            raise DataError(
                f"images must have one size, but {first} has {size[1]} x {size[0]} pixels and {path} has "
                f"{pixels.shape[2]} x {pixels.shape[1]}; give all one with --set image_size=32"
            )
        if len(pixels) > channels:
            raise _Coloured
        # A grey image among coloured ones fills all three channels.
        images[position] = pixels
