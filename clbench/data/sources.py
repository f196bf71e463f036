"""Sources of images, handed out as checked tensors.

`digits` comes with scikit-learn and needs no file. The others are looked for in one folder, the data root:

    source                            where below the data root
    mnist, fashion-mnist, kmnist      torchvision's files (`clbench.data.formats`); downloaded where absent
    cifar10, cifar100                 torchvision's files, or <source>/{train,test}/<class>/*; downloaded where absent
    tiny-imagenet                     tiny-imagenet-200 as published, or tiny-imagenet/{train,test}/<class>/*
    image-folder                      image-folder, or the data root itself (`clbench.data.folder`)

A path is a source as well: of a folder of images, or of a .npz file (`clbench.data.arrays`). Sources are joined by +.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clbench.data.arrays import read_arrays
from clbench.data.folder import class_folders, read_folders, tiny_imagenet_folders
from clbench.data.formats import (
    Source,
    download,
    missing_files,
    read_cifar_files,
    read_digits,
    read_idx_files,
)
from clbench.data.images import ImageSet, Part, as_image_set, in_canonical_order
from clbench.errors import AbsentDataError, DataError, SettingError, unknown_name

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("digits", "package", (1, 8, 8), 1438, 359, 10),
        Source("mnist", "idx", (1, 28, 28), 60_000, 10_000, 10, "MNIST", _MNIST_SHA256),
        Source("fashion-mnist", "idx", (1, 28, 28), 60_000, 10_000, 10, "FashionMNIST"),
        Source("kmnist", "idx", (1, 28, 28), 60_000, 10_000, 10, "KMNIST"),
        Source("cifar10", "cifar", (3, 32, 32), 50_000, 10_000, 10, "CIFAR10"),
        Source("cifar100", "cifar", (3, 32, 32), 50_000, 10_000, 100, "CIFAR100"),
        Source("tiny-imagenet", "folder", (3, 64, 64), 100_000, 10_000, 200),
        Source("image-folder", "folder"),
    )
}


def data_folder(data_root: Path | None = None) -> Path:
    """The folder in which data sets are looked for, whether it exists or not.

    That is `data_root` if given, else the environment's CLBENCH_DATA, else `clbench` in the user's cache
    folder (XDG_CACHE_HOME, or ~/.cache). A leading ~ is expanded.

    Raises:
        DataError: if ~ cannot be expanded.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    given = data_root or os.environ.get("CLBENCH_DATA") or Path(cache, "clbench")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise DataError(f"the data folder {given} cannot be found ({error}); give it in full") from None


def is_path(source: str) -> bool:
    """Whether a source is the path of a folder or of a .npz file, and not a name."""
    return "/" in source or os.sep in source or source.endswith(".npz")


def _joined_sources(source: str) -> list[str]:
    # A path may hold a + of its own.
    return [source] if is_path(source) and Path(source).expanduser().exists() else source.split("+")


def load_images(
    source: str, data_root: Path | None = None, *, offline: bool = False, image_size: int | None = None
) -> ImageSet:
    """Reads a source, after downloading it if it is absent.

    A folder in which the source is complete is only read, never written. The images of CIFAR and of folders come in
    one order, by class and then by pixel bytes, so that it does not matter in what files they lie.

        >>> load_images("cifar10+cifar100", Path("sets")).train_images.shape
        torch.Size([100000, 3, 32, 32])

    Args:
        source: a key of `SOURCES`, the path of a folder or of a .npz file, or several of these joined by +. The labels
            of the second then follow those of the first, and grey images get three channels if others are in colour.
        data_root: see `data_folder`.
        offline: never download.
        image_size: height and width to which images are scaled, in pixels; None leaves theirs.

    Raises:
        SettingError: if there is no such source.
        DataError: if it is absent and cannot be downloaded, or if a file is not what it must be.
    """
    sources = _joined_sources(source)
    for one in sources:
        if one not in SOURCES and not is_path(one):
            raise SettingError(f"{unknown_name('source of images', one, SOURCES)}, or a path such as ./photos")
    loaded = [_load_one(one, data_root, offline, image_size) for one in sources]
    return loaded[0] if len(loaded) == 1 else _joined(loaded)


def stand_in(source: str, image_size: int | None = None) -> ImageSet | None:
    """Images without pixels, of the number, size and classes that a source has; None where these are not known.

    They lie on torch's device "meta" and take no memory.
    """
    import torch

    known = [SOURCES.get(one) for one in source.split("+")]
    if not all(one is not None and one.class_count for one in known):
        return None
    parts = [one for one in known if one is not None]
    channels, height, width = max(one.image_shape for one in parts)
    size = (height, width) if image_size is None else (image_size, image_size)
    names = tuple(str(number) for number in range(sum(one.class_count for one in parts)))

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.empty(count, channels, *size, dtype=torch.uint8, device="meta")
        return images, torch.arange(count) % len(names)

    train, test = (sum(counts) for counts in zip(*((one.train_count, one.test_count) for one in parts), strict=True))
    return ImageSet(source, *part(train), *part(test), class_names=names, sha256="")


def _load_one(source: str, data_root: Path | None, offline: bool, image_size: int | None) -> ImageSet:
    folder = Path(source).expanduser() if is_path(source) else data_folder(data_root)
    try:
        if is_path(source):
            return _read_path(folder, image_size)
        wanted = SOURCES[source]
        if wanted.form != "package":
            _check_folder(folder, data_root)
        if wanted.form == "folder":
            return _read_folder(wanted, folder, image_size, named=_is_named(data_root))
        return _read_files(wanted, folder, offline, image_size)
    except OSError as error:
        other = "path" if is_path(source) else "folder with --data-root"
        raise DataError(
            f"{error.filename or folder} cannot be read ({error.strerror or error}); "
            f"make it readable, or give another {other}"
        ) from None


def _read_path(path: Path, image_size: int | None) -> ImageSet:
    if path.suffix != ".npz":
        return _by_class(SOURCES["image-folder"], path, image_size)
    train, test, class_names = read_arrays(path)
    return as_image_set("npz", train.resized(image_size), test.resized(image_size), class_names)


def _read_folder(wanted: Source, folder: Path, image_size: int | None, *, named: bool) -> ImageSet:
    below = folder / wanted.name
    if wanted.name == "image-folder":
        if not named and not below.is_dir():
            raise DataError("image-folder needs a folder of images; name it with --data-root or CLBENCH_DATA")
        return _by_class(wanted, below if below.is_dir() else folder, image_size)
    published = folder / "tiny-imagenet-200"
    for candidate in (below, published):
        if candidate.is_dir():
            return _by_class(wanted, candidate, image_size)
    raise AbsentDataError(
        f"the data set tiny-imagenet is not in {folder}; unpack tiny-imagenet-200.zip there, or lay out folders of "
        "images, tiny-imagenet/{train,test}/<class>/*, and pass --data-root DIR or set CLBENCH_DATA"
    )


def _by_class(wanted: Source, folder: Path, image_size: int | None) -> ImageSet:
    published = (folder / "val" / "val_annotations.txt").is_file()
    found = tiny_imagenet_folders(folder) if published else class_folders(folder)
    train, test, sha256 = read_folders(found, image_size)
    if wanted.class_count:
        _check(wanted, train, test, image_size)
    passed_over = f", {found.passed_over:,} other files passed over" if found.passed_over else ""
    origin = f"folders of images by class{passed_over}"
    return as_image_set(wanted.name, train, test, found.class_names, sha256=sha256, origin=origin)


def _read_files(wanted: Source, folder: Path, offline: bool, image_size: int | None) -> ImageSet:
    if wanted.form == "package":
        train, test, class_names = read_digits()
    else:
        missing = bool(missing_files(wanted, folder))
        if missing and wanted.form == "cifar" and _has_classes(folder / wanted.name):
            return _by_class(wanted, folder / wanted.name, image_size)
        if missing:
            download(wanted, folder, offline=offline)
        read = read_idx_files if wanted.form == "idx" else read_cifar_files
        train, test, class_names = read(wanted, folder)
    _check(wanted, train, test, None)
    train, test = train.resized(image_size), test.resized(image_size)
    if wanted.form == "cifar":
        train, test = in_canonical_order(train), in_canonical_order(test)
    return as_image_set(wanted.name, train, test, class_names)


def _has_classes(folder: Path) -> bool:
    return all(any(path.is_dir() for path in (folder / part).glob("*")) for part in ("train", "test"))


def _is_named(data_root: Path | None) -> bool:
    return data_root is not None or bool(os.environ.get("CLBENCH_DATA"))


def _check_folder(folder: Path, data_root: Path | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"the data folder {folder} is no folder; name another with --data-root or CLBENCH_DATA")
    # Only the cache folder is ours to create: a folder that was named and is not there is a slip of the pen.
    if _is_named(data_root) and not folder.exists():
        raise DataError(
            f"there is no data folder {folder}; create it, or name another with --data-root or CLBENCH_DATA"
        )


def _check(source: Source, train: Part, test: Part, image_size: int | None) -> None:
    channels, height, width = source.image_shape
    size = (height, width) if image_size is None else (image_size, image_size)
    _check_part(source, train, (source.train_count, channels, *size))
    _check_part(source, test, (source.test_count, channels, *size))


def _check_part(source: Source, part: Part, shape: tuple[int, ...]) -> None:
    if part.images.shape != shape or part.images.dtype != np.uint8 or part.labels.shape != shape[:1]:
        raise DataError(
            f"{part.origin} is not {source.name}: expected uint8 images of shape {list(shape)} and as many "
            f"labels, but got {part.images.dtype} {list(part.images.shape)} and {len(part.labels)} labels"
        )
    classes = np.unique(part.labels)
    if not np.array_equal(classes, np.arange(source.class_count)):
        raise DataError(
            f"{part.origin} is not {source.name}: expected each label from 0 to {source.class_count - 1}, "
            f"but got {len(classes)} different ones from {classes.min()} to {classes.max()}"
        )


def _joined(sets: Sequence[ImageSet]) -> ImageSet:
    """The sources as one, in memory, the classes of each after those of the one before."""
    first = sets[0].train_images.shape[2:]
    for other in sets[1:]:
        size = other.train_images.shape[2:]
        if size != first:
            raise DataError(
                f"joined sources must have images of one size, but {sets[0].source} has {first[1]} x {first[0]} pixels "
                f"and {other.source} has {size[1]} x {size[0]}; give all one with --set image_size={min(first)}"
            )
    channels = max(one.train_images.shape[1] for one in sets)
    starts = np.cumsum([0, *(len(one.class_names) for one in sets)])
    parts = []
    for name in ("train", "test"):
        images = [np.asarray(getattr(one, f"{name}_images")) for one in sets]
        labels = [np.asarray(getattr(one, f"{name}_labels")) for one in sets]
        wide = [np.broadcast_to(x, (len(x), channels, *x.shape[2:])) for x in images]
        shifted = [y + start for y, start in zip(labels, starts[:-1], strict=True)]
        parts.append(Part(np.concatenate(wide), np.concatenate(shifted), name))
    source = "+".join(one.source for one in sets)
    origin = "; ".join(one.origin for one in sets if one.origin)
    return as_image_set(source, parts[0], parts[1], _told_apart(sets), origin=origin)


def _told_apart(sets: Sequence[ImageSet]) -> list[str]:
    """The names of the classes of all sources; a name that several have says of which source it is."""
    names = [name for one in sets for name in one.class_names]
    sources = [one.source for one in sets]
    by = [name if sources.count(name) == 1 else f"{name} {place}" for place, name in enumerate(sources, start=1)]
    return [
        f"{source}: {name}" if names.count(name) > 1 else name
        for source, one in zip(by, sets, strict=True)
        for name in one.class_names
    ]
