"""Sources of images, handed out as checked tensors.

Letters used throughout: N training images, M test images, C channels, H height, W width.

`digits` comes with scikit-learn and needs no file. The others are looked for in one folder, in torchvision's
layout, and torchvision downloads them when they are absent. Whatever is read is checked first:

    source          where below the folder      what is compared
    mnist           MNIST/raw                   SHA-256 of the four files, unpacked
    fashion-mnist   FashionMNIST/raw            MD5 of the .gz that torchvision publishes; see below
    kmnist          KMNIST/raw                  as fashion-mnist
    cifar10         cifar-10-batches-py         MD5 that torchvision publishes, before anything is unpickled
    cifar100        cifar-100-python            as cifar10

For fashion-mnist and kmnist no digest of the unpacked files is published. Where the .gz lies beside an
unpacked file, its MD5 is checked and the unpacked file must equal its content; a .gz alone is read as it is.
Where only the unpacked file lies there, its header, its exact size and the labels' range are checked, and
altered pixels go unnoticed; the digest of what was read (`ImageSet.sha256`) still tells two such files apart.
"""

import gzip
import hashlib
import os
import socket
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from clbench.errors import DataError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

DIGITS_SPLIT_SEED = 0
CONNECTION_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images and labels of one source.

    Attributes:
        source: its name, a key of `SOURCES`.
        train_images: uint8 [N, C, H, W], 0 to 255.
        train_labels: int64 [N], 0 to the number of classes - 1.
        test_images: uint8 [M, C, H, W].
        test_labels: int64 [M].
        class_names: what label k stands for, at position k.
        sha256: digest over the four arrays with their shapes and types, the same on every machine.
    """

    source: str
    train_images: "Tensor"
    train_labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    class_names: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Source:
    """What a source must look like, and how it is read.

    Attributes:
        name: its name.
        form: `package` for scikit-learn's digits, `idx` for the files of MNIST's family, `cifar` for CIFAR's.
        image_shape: (C, H, W).
        train_count, test_count: N and M.
        class_count: how many classes there are; each occurs in both parts.
        torchvision_class: the class of `torchvision.datasets` that downloads it; empty for `package`.
        sha256: digest of each unpacked file by name, where it is pinned.
    """

    name: str
    form: Literal["package", "idx", "cifar"]
    image_shape: tuple[int, int, int]
    train_count: int
    test_count: int
    class_count: int
    torchvision_class: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)


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
    )
}


@dataclass(frozen=True)
class _Part:
    """Images [N, C, H, W] and labels [N] of the training or the test part, and the file to blame for them."""

    images: Images
    labels: Labels
    origin: str


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


def load_images(source: str, data_root: Path | None = None, *, offline: bool = False) -> ImageSet:
    """Reads a source, after downloading it if it is absent.

    A folder in which the source is complete is only read, never written.

    Args:
        source: a key of `SOURCES`.
        data_root: see `data_folder`.
        offline: never download.

    Raises:
        SettingError: if there is no such source.
        DataError: if it is absent and cannot be downloaded, or if a file is not what it must be.
    """
    if source not in SOURCES:
        raise unknown_name("source of images", source, SOURCES)
    wanted = SOURCES[source]
    if wanted.form == "package":
        train, test, class_names = _read_digits()
    else:
        folder = data_folder(data_root)
        try:
            _check_folder(folder, data_root)
            if _missing_files(wanted, folder):
                _download(wanted, folder, offline=offline)
            read = _read_idx_files if wanted.form == "idx" else _read_cifar_files
            train, test, class_names = read(wanted, folder)
        except OSError as error:
            raise DataError(
                f"{error.filename or folder} cannot be read ({error.strerror or error}); "
                "make it readable, or give another folder with --data-root"
            ) from None
    _check_part(wanted, train, wanted.train_count)
    _check_part(wanted, test, wanted.test_count)
    return _as_image_set(source, train, test, class_names)


def _check_folder(folder: Path, data_root: Path | None) -> None:
    # Only the cache folder is ours to create: a folder that was named and is not there is a slip of the pen.
    was_named = data_root is not None or bool(os.environ.get("CLBENCH_DATA"))
    if folder.exists() and not folder.is_dir():
        raise DataError(f"the data folder {folder} is no folder; name another with --data-root or CLBENCH_DATA")
    if was_named and not folder.exists():
        raise DataError(
            f"there is no data folder {folder}; create it, or name another with --data-root or CLBENCH_DATA"
        )


def _torchvision_class(source: Source) -> Any:
    # Not at import: torchvision takes seconds, and `digits` does without it.
    import torchvision.datasets

    return getattr(torchvision.datasets, source.torchvision_class)


def _subfolder(source: Source) -> Path:
    if source.form == "idx":
        return Path(source.torchvision_class, "raw")
    return Path(_torchvision_class(source).base_folder)


def _file_names(source: Source) -> list[str]:
    """The files that a source consists of, unpacked."""
    dataset = _torchvision_class(source)
    if source.form == "idx":
        return [archive.removesuffix(".gz") for archive, _ in dataset.resources]
    return list(_cifar_md5(dataset))


def _missing_files(source: Source, folder: Path) -> list[Path]:
    """The files that are absent, relative to `folder`; one of MNIST's family may also lie there as .gz."""
    missing = []
    for name in _file_names(source):
        path = _subfolder(source) / name
        packed = folder / f"{path}.gz"
        if not (folder / path).is_file() and not (source.form == "idx" and packed.is_file()):
            missing.append(path)
    return missing


def _download(source: Source, folder: Path, *, offline: bool) -> None:
    """Adds the missing files to `folder`, each whole or not at all; files that are there stay untouched."""
    missing = _missing_files(source, folder)
    advice = (
        f"run {'without --offline ' if offline else ''}on a machine with network, or copy these files there and pass "
        "--data-root DIR or set CLBENCH_DATA; the suite permuted-digits needs no files"
    )
    names = ", ".join(map(str, missing))
    absent = f"the data set {source.name} is not complete in {folder} (missing: {names})"
    if offline:
        raise DataError(f"{absent} and --offline forbids the download; {advice}")
    timeout = socket.getdefaulttimeout()
    try:
        # torchvision sets no timeout: behind a firewall that drops packets it would wait for minutes.
        socket.setdefaulttimeout(CONNECTION_TIMEOUT_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)
        # torchvision writes under the final name from the first byte on, and unpacks without checking the
        # result; from a folder of their own, files are moved once all are there.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            _torchvision_class(source)(temporary, download=True)
            target = folder / _subfolder(source)
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted((Path(temporary) / _subfolder(source)).iterdir()):
                if not (target / path.name).exists():
                    path.rename(target / path.name)
    except (OSError, RuntimeError, HTTPException, EOFError, zlib.error, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{absent} and could not be downloaded ({reason}); {advice}") from None
    finally:
        socket.setdefaulttimeout(timeout)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"the data file {path} is damaged: {what}; delete it and let clbench download it again, or copy it anew"
    )


def _read_digits() -> tuple[_Part, _Part, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    try:
        data = load_digits()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        said = " ".join(str(error).split())
        raise DataError(f"scikit-learn's digits cannot be read ({said}); install scikit-learn anew") from None
    images = np.rint(data.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    labels = data.target.astype(np.int64)
    # RandomState, because numpy promises its stream for ever; the split must not move with an upgrade.
    random = np.random.RandomState(DIGITS_SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        of_class = random.permutation(np.flatnonzero(labels == label))
        is_test[of_class[: round(0.2 * len(of_class))]] = True
    origin = "scikit-learn's digits"
    train = _Part(images[~is_test], labels[~is_test], origin)
    test = _Part(images[is_test], labels[is_test], origin)
    return train, test, tuple(str(name) for name in data.target_names)


def _read_idx_files(source: Source, folder: Path) -> tuple[_Part, _Part, tuple[str, ...]]:
    dataset = _torchvision_class(source)
    archive_md5 = dict(dataset.resources)
    raw = folder / _subfolder(source)
    _, height, width = source.image_shape

    def part(prefix: str, count: int) -> _Part:
        images_path, labels_path = raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"
        images = _read_idx(source, images_path, (count, height, width), archive_md5)
        labels = _read_idx(source, labels_path, (count,), archive_md5)
        return _Part(images[:, np.newaxis], labels.astype(np.int64), str(labels_path))

    train, test = part("train", source.train_count), part("t10k", source.test_count)
    return train, test, tuple(dataset.classes)


def _read_idx(source: Source, path: Path, shape: tuple[int, ...], archive_md5: Mapping[str, str]) -> Images:
    """One file of unsigned bytes in the IDX format, from the unpacked file, its .gz, or both compared."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    content = path.read_bytes() if path.is_file() else None
    pinned = source.sha256.get(path.name)
    archive = path.with_name(f"{path.name}.gz")
    if content is not None:
        size = len(header) + int(np.prod(shape))
        if len(content) != size:
            raise _damaged(path, f"expected {size} bytes, but got {len(content)}")
        if content[: len(header)] != header:
            raise _damaged(path, f"expected the IDX header of unsigned bytes of shape {list(shape)}")
    # With a pinned digest the unpacked file speaks for itself, and loading stays quick.
    if content is None or (pinned is None and archive.is_file()):
        packed = archive.read_bytes()
        expected = archive_md5[archive.name]
        got = hashlib.md5(packed, usedforsecurity=False).hexdigest()
        if got != expected:
            raise _damaged(archive, f"expected the MD5 {expected}, but got {got}")
        unpacked = gzip.decompress(packed)
        if content is not None and content != unpacked:
            raise _damaged(path, f"it differs from the content of {archive.name} beside it")
        content = unpacked
    if pinned is not None and (got := hashlib.sha256(content).hexdigest()) != pinned:
        raise _damaged(path, f"expected the SHA-256 {pinned}, but got {got}")
    # A copy, because an array over bytes is read-only and torch warns about that.
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()


def _cifar_md5(dataset: Any) -> dict[str, str]:
    listed = {name: md5 for name, md5 in (*dataset.train_list, *dataset.test_list)}
    return {**listed, dataset.meta["filename"]: dataset.meta["md5"]}


def _read_cifar_files(source: Source, folder: Path) -> tuple[_Part, _Part, tuple[str, ...]]:
    dataset = _torchvision_class(source)
    # These files are pickles, and unpickling runs what they say: torchvision compares every MD5 first, but
    # does not say which file is wrong.
    for name, md5 in _cifar_md5(dataset).items():
        path = folder / _subfolder(source) / name
        with path.open("rb") as file:
            got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if got != md5:
            raise _damaged(path, f"expected the MD5 {md5}, but got {got}")

    def part(data: Any) -> _Part:
        images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
        return _Part(images, np.asarray(data.targets, dtype=np.int64), str(folder / _subfolder(source)))

    train, test = dataset(folder, train=True), dataset(folder, train=False)
    return part(train), part(test), tuple(train.classes)


def _check_part(source: Source, part: _Part, count: int) -> None:
    shape = (count, *source.image_shape)
    if part.images.shape != shape or part.images.dtype != np.uint8 or part.labels.shape != (count,):
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


def _as_image_set(source: str, train: _Part, test: _Part, class_names: tuple[str, ...]) -> ImageSet:
    import torch

    arrays: dict[str, Images | Labels] = {
        "train_images": train.images,
        "train_labels": train.labels,
        "test_images": test.images,
        "test_labels": test.labels,
    }
    digest = hashlib.sha256()
    for name, array in arrays.items():
        # Least significant byte first, whatever this machine's order is.
        canonical = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(canonical.data)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return ImageSet(source, **tensors, class_names=class_names, sha256=digest.hexdigest())
