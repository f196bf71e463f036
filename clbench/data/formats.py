"""The files in which the known sources are published, checked before they are believed.

    source          where below the folder      what is compared
    mnist           MNIST/raw                   SHA-256 of the four files, unpacked, whoever packed them
    fashion-mnist   FashionMNIST/raw            MD5 of the .gz that torchvision publishes; see below
    kmnist          KMNIST/raw                  as fashion-mnist
    cifar10         cifar-10-batches-py         MD5 that torchvision publishes, before anything is unpickled
    cifar100        cifar-100-python            as cifar10

For fashion-mnist and kmnist no digest of the unpacked files is published. Where the .gz lies beside an
unpacked file, its MD5 is checked and the unpacked file must equal its content; a .gz alone is read as it is.
Where only the unpacked file lies there, its header, its exact size and the labels' range are checked, and
altered pixels go unnoticed; the digest of what was read (`ImageSet.sha256`) still tells two such files apart.

`digits` comes with scikit-learn and needs no file.
"""

import gzip
import hashlib
import importlib.util
import socket
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clbench.data.images import Images, Part, is_for_testing
from clbench.errors import AbsentDataError, DataError

CONNECTION_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Source:
    """What a source must look like, and how it is read.

    Attributes:
        name: its name.
        form: `package` for scikit-learn's digits, `idx` for the files of MNIST's family, `cifar` for CIFAR's, `folder`
            for folders of images by class.
        image_shape: (C, H, W); this and the three counts are 0 for a folder of the user's own.
        train_count, test_count: N and M.
        class_count: how many classes there are; each occurs in both parts.
        torchvision_class: the class of `torchvision.datasets` that downloads it; empty where none does.
        sha256: digest of each unpacked file by name, where it is pinned.
    """

    name: str
    form: Literal["package", "idx", "cifar", "folder"]
    image_shape: tuple[int, int, int] = (0, 0, 0)
    train_count: int = 0
    test_count: int = 0
    class_count: int = 0
    torchvision_class: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)


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


def missing_files(source: Source, folder: Path) -> list[Path]:
    """The files that are absent, relative to `folder`; one of MNIST's family may also lie there as .gz."""
    missing = []
    for name in _file_names(source):
        path = _subfolder(source) / name
        packed = folder / f"{path}.gz"
        if not (folder / path).is_file() and not (source.form == "idx" and packed.is_file()):
            missing.append(path)
    return missing


def download(source: Source, folder: Path, *, offline: bool) -> None:
    """Adds the missing files to `folder`, each whole or not at all; files that are there stay untouched."""
    missing = missing_files(source, folder)
    or_folders = f" or folders of images, {source.name}/{{train,test}}/<class>/*," if source.form == "cifar" else ""
    advice = (
        f"run {'without them ' if offline else ''}on a machine with network, or copy these files{or_folders} "
        "there and pass --data-root DIR or set CLBENCH_DATA; the suite permuted-digits needs no files"
    )
    names = ", ".join(map(str, missing))
    absent = f"the data set {source.name} is not complete in {folder} (missing: {names})"
    if offline:
        raise AbsentDataError(f"{absent}, and nothing is downloaded with --offline or --dry-run; {advice}")
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
        raise AbsentDataError(f"{absent} and could not be downloaded ({reason}); {advice}") from None
    finally:
        socket.setdefaulttimeout(timeout)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"the data file {path} is damaged: {what}; delete it and let clbench download it again, or copy it anew"
    )


def read_digits() -> tuple[Part, Part, tuple[str, ...]]:
    """The training part, the test part and the class names of scikit-learn's digits."""
    try:
        # The file that load_digits reads. Importing scikit-learn for it takes as long as training a small run.
        with gzip.open(_folder_of("sklearn") / "datasets" / "data" / "digits.csv.gz", "rt") as file:
            rows = np.loadtxt(file, delimiter=",")
        images = np.rint(rows[:, :64].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
        labels = rows[:, 64].astype(np.int64)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        said = " ".join(str(error).split())
        raise DataError(f"scikit-learn's digits cannot be read ({said}); install scikit-learn anew") from None
    is_test = is_for_testing(labels)
    origin = "scikit-learn's digits"
    train = Part(images[~is_test], labels[~is_test], origin)
    test = Part(images[is_test], labels[is_test], origin)
    return train, test, tuple(map(str, range(10)))


def _folder_of(package: str) -> Path:
    """The folder of an installed package, which is not imported for it.

    Raises:
        OSError: if there is none.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise OSError(f"there is no package {package}")
    return Path(found.origin).parent


def read_idx_files(source: Source, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """The training part, the test part and the class names of one of MNIST's family."""
    dataset = _torchvision_class(source)
    archive_md5 = dict(dataset.resources)
    raw = folder / _subfolder(source)
    _, height, width = source.image_shape

    def part(prefix: str, count: int) -> Part:
        images_path, labels_path = raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"
        images = _read_idx(source, images_path, (count, height, width), archive_md5)
        labels = _read_idx(source, labels_path, (count,), archive_md5)
        return Part(images[:, np.newaxis], labels.astype(np.int64), str(labels_path))

    train, test = part("train", source.train_count), part("t10k", source.test_count)
    return train, test, tuple(dataset.classes)


def _read_idx(source: Source, path: Path, shape: tuple[int, ...], archive_md5: Mapping[str, str]) -> Images:
    """One file of unsigned bytes in the IDX format, from the unpacked file, its .gz, or both compared."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    archive = path.with_name(f"{path.name}.gz")
    pinned = source.sha256.get(path.name)
    # Who packed a file whose content has a pinned digest does not matter.
    checks_archive = pinned is None and archive.is_file()
    if checks_archive:
        expected, got = archive_md5[archive.name], _md5(archive)
        if got != expected:
            raise _damaged(archive, f"expected the MD5 {expected}, but got {got} (if you packed it anew, unpack it)")
    found = path if path.is_file() else archive
    content = path.read_bytes() if found == path else _unpacked(archive, size)
    if len(content) != size:
        raise _damaged(found, f"expected {size} bytes, but got {len(content)}")
    if content[: len(header)] != header:
        raise _damaged(found, f"expected the IDX header of unsigned bytes of shape {list(shape)}")
    if pinned is not None and (got := hashlib.sha256(content).hexdigest()) != pinned:
        raise _damaged(found, f"expected the SHA-256 {pinned}, but got {got}")
    if checks_archive and found == path and content != _unpacked(archive, size):
        raise _damaged(path, f"it differs from the content of {archive.name} beside it")
    # A copy, because an array over bytes is read-only and torch warns about that.
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()


def _unpacked(archive: Path, size: int) -> bytes:
    """The content of a .gz, of which one byte more than `size` is read at most."""
    try:
        with gzip.open(archive) as file:
            return file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(archive, " ".join(str(error).split())) from None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _cifar_md5(dataset: Any) -> dict[str, str]:
    listed = {name: md5 for name, md5 in (*dataset.train_list, *dataset.test_list)}
    return {**listed, dataset.meta["filename"]: dataset.meta["md5"]}


def read_cifar_files(source: Source, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """The training part, the test part and the class names, sorted, of torchvision's files of CIFAR."""
    dataset = _torchvision_class(source)
    # These files are pickles, and unpickling runs what they say: torchvision compares every MD5 first, but
    # does not say which file is wrong.
    for name, md5 in _cifar_md5(dataset).items():
        path = folder / _subfolder(source) / name
        if (got := _md5(path)) != md5:
            raise _damaged(path, f"expected the MD5 {md5}, but got {got}")

    def part(data: Any) -> Part:
        # A folder by class knows its classes by name alone, so label k is the k-th name here as well.
        place = np.argsort(np.argsort(data.classes))
        images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
        labels = place[np.asarray(data.targets, dtype=np.int64)]
        return Part(images, labels, str(folder / _subfolder(source)))

    train, test = dataset(folder, train=True), dataset(folder, train=False)
    return part(train), part(test), tuple(sorted(train.classes))
