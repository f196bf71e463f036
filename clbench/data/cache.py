"""Decoded images on disk, so that a folder of images is decoded once and later mapped into memory.

One entry is a folder below `clbench/decoded` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache):

    train.npy, test.npy   the images, uint8 [N, C, H, W]
    header.json           the digest of the image set, sizes and times of the two files, and a digest of itself

An entry appears whole or not at all, since it is written in a folder of another name and renamed. What is damaged,
cut short or altered is noticed by the header, and decoded anew. The time of the header's last change is when the
entry was last used: the entries that were not used for longest make room for new ones.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clbench.data.images import Images
from clbench.errors import DataError, SettingError

DEFAULT_LIMIT = 20 * 10**9
# The share of what the disk leaves that the cache may take at most.
_MOST_OF_DISK = 0.9
_UNFINISHED = ".unfinished-"
_SECONDS_UNTIL_ABANDONED = 86_400
_HEADER = "header.json"
_IMAGES = ("train.npy", "test.npy")


class DataWarning(UserWarning):
    """Images are used, but not in the way that their user may expect."""


@dataclass(frozen=True)
class CacheEntry:
    """One set of decoded images on disk.

    Attributes:
        path: the entry's folder.
        source: the folder of images that it was decoded from; empty where the header cannot be read.
        n_bytes: its size.
        last_used: in seconds since 1970.
    """

    path: Path
    source: str
    n_bytes: int
    last_used: float


@dataclass(frozen=True)
class Decoded:
    """Decoded images [N, C, H, W] and [M, C, H, W], perhaps mapped from a file, and the image set's digest."""

    train: Images
    test: Images
    sha256: str


class Rows:
    """Images that are written one after another, into a file or, without one, into memory.

    Args:
        shape: [N, C, H, W] of all of them.
        path: of the .npy file.
    """

    def __init__(self, shape: Sequence[int], path: Path | None = None) -> None:
        self._shape, self._path, self._written = tuple(shape), path, 0
        self._images: Images | None = np.empty(shape, np.uint8) if path is None else None
        self._file: BinaryIO | None = None if path is None else path.open("wb")

    def add(self, images: Images) -> None:
        """Writes the next images [B, C, H, W]."""
        if self._images is not None:
            self._images[self._written : self._written + len(images)] = images
        elif self._file is not None:
            if not self._written:
                header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
                np.lib.format.write_array_header_1_0(self._file, header)
            self._file.write(np.ascontiguousarray(images).data)
        self._written += len(images)

    def finish(self) -> Images:
        """All images [N, C, H, W]; from a file they are mapped, read-only."""
        self.close()
        if self._images is not None:
            return self._images
        return np.load(str(self._path), mmap_mode="r")

    def close(self) -> None:
        """Closes the file, whole or not; otherwise its buffer might yet be written when others write there."""
        if self._file is not None:
            self._file.close()

    @contextmanager
    def aside(self, count: int) -> Iterator["Rows"]:
        """Place for that many images of the same shape, which is gone afterwards."""
        path = None if self._path is None else self._path.with_suffix(".aside")
        rows = Rows((count, *self._shape[1:]), path)
        try:
            yield rows
        finally:
            rows.close()
            if path is not None:
                path.unlink(missing_ok=True)


# (shape of the training images, shape of the test images) -> where to write them.
OpenRows = Callable[[Sequence[int], Sequence[int]], tuple[Rows, Rows]]


class _NoRoom(Exception):
    """Why an entry cannot be written, in words."""


def decoded_folder() -> Path:
    """The folder of the entries, whether it exists or not.

    Raises:
        DataError: if the user's home is unknown.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "clbench", "decoded")
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise DataError(f"the cache folder {folder} cannot be found ({error}); set XDG_CACHE_HOME") from None


def cache_entries() -> list[CacheEntry]:
    """The entries of the cache, the one last used first."""
    try:
        paths = [path for path in decoded_folder().iterdir() if path.is_dir() and not path.name.startswith(".")]
    except (OSError, DataError):
        return []
    return sorted(map(_entry, paths), key=lambda entry: -entry.last_used)


def _entry(path: Path) -> CacheEntry:
    header, n_bytes, last_used = _read_header(path), 0, 0.0
    # Another process may be removing it.
    with suppress(OSError):
        n_bytes = sum(file.stat().st_size for file in path.iterdir())
        last_used = (path / _HEADER).stat().st_mtime
    return CacheEntry(path, str(header.get("source", "")), n_bytes, last_used)


def clear_cache() -> int:
    """Removes every entry, and what interrupted commands left; returns the bytes that this frees.

    Runs that use an entry go on, since a mapped file stays until it is let go.

    Raises:
        DataError: if an entry cannot be removed.
    """
    folder, freed = decoded_folder(), sum(entry.n_bytes for entry in cache_entries())
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise DataError(
            f"the cache cannot be cleared ({error.filename}: {error.strerror}); remove {folder} by hand"
        ) from None
    return freed


def cache_limit() -> int:
    """How many bytes the cache may hold: CLBENCH_CACHE_LIMIT, else 20 GB, or most of what the disk leaves if less.

    Raises:
        SettingError: if CLBENCH_CACHE_LIMIT is no number of bytes.
    """
    given = os.environ.get("CLBENCH_CACHE_LIMIT")
    if given:
        if not given.isdecimal():
            raise SettingError(f"CLBENCH_CACHE_LIMIT must be a number of bytes such as 20000000000, but is '{given}'")
        return int(given)
    used = sum(entry.n_bytes for entry in cache_entries())
    folder = decoded_folder()
    while not folder.exists():
        folder = folder.parent
    return min(DEFAULT_LIMIT, int(_MOST_OF_DISK * (shutil.disk_usage(folder).free + used)))


def cached(key: str, source: str, decode: Callable[[OpenRows], Decoded]) -> Decoded:
    """The decoded images of this key: from the cache, else decoded and put there, else decoded into memory.

    Args:
        key: the entry's name, which changes with anything that the images depend on.
        source: the folder of images, for people.
        decode: decodes the images into what the function that it is given opens. It may open them more than once;
            what was written before is then dropped.

    Raises:
        DataError: as `decode` does, or if neither disk nor memory can hold the images.
        SettingError: if CLBENCH_CACHE_LIMIT is no number of bytes.
    """
    try:
        entry = decoded_folder() / key
    except DataError as error:
        why = str(error)
    else:
        try:
            return _read(entry) or _write(entry, source, decode)
        except _NoRoom as error:
            why = str(error)
        except OSError as error:
            why = f"the cache folder {entry.parent} cannot be written ({error.strerror or error})"
    warnings.warn(
        f"the decoded images of {source} are kept in memory, and decoded anew by the next command, because {why}",
        DataWarning,
        stacklevel=2,
    )
    return decode(lambda *shapes: _in_memory(source, shapes))


def _in_memory(source: str, shapes: Sequence[Sequence[int]]) -> tuple[Rows, Rows]:
    needed = sum(map(_bytes_of, shapes))
    if hasattr(os, "sysconf") and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise DataError(
            f"the decoded images of {source} take {_in_words(needed)}, more than this machine's memory; give the cache "
            "room with XDG_CACHE_HOME and CLBENCH_CACHE_LIMIT, or make them smaller with --set image_size=32"
        )
    return Rows(shapes[0]), Rows(shapes[1])


def _bytes_of(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= int(length)
    return product


def _in_words(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.3g} MB"


def _write(entry: Path, source: str, decode: Callable[[OpenRows], Decoded]) -> Decoded:
    """Decodes into a folder of its own, which then becomes the entry unless another process was quicker."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=_UNFINISHED, ignore_cleanup_errors=True) as name:
        folder = Path(name, "entry")
        folder.mkdir()

        def open_rows(*shapes: Sequence[int]) -> tuple[Rows, Rows]:
            _make_room(sum(map(_bytes_of, shapes)))
            train, test = (Rows(shape, folder / file) for shape, file in zip(shapes, _IMAGES, strict=True))
            return train, test

        # Mapped here, the files stay even if another process removes the entry at once.
        decoded = decode(open_rows)
        for file in _IMAGES:
            _to_disk(folder / file)
        _write_header(folder, {"source": source, "sha256": decoded.sha256})
        # What stands there is damaged, or as good as ours.
        with suppress(OSError):
            entry.rename(Path(name, "damaged"))
        with suppress(OSError):
            folder.rename(entry)
    # Another process may have filled the room meanwhile.
    _make_room(0, spared=entry)
    return decoded


def _make_room(needed: int, spared: Path | None = None) -> None:
    """Removes the entries that were not used for longest until the new one fits.

    Args:
        needed: bytes of the new one.
        spared: an entry that stays.

    Raises:
        _NoRoom: if it never will.
    """
    limit = cache_limit()
    if needed > limit:
        raise _NoRoom(
            f"they take {_in_words(needed)} and the cache's limit is {_in_words(limit)}; see CLBENCH_CACHE_LIMIT"
        )
    entries = cache_entries()
    total = needed + sum(entry.n_bytes for entry in entries)
    for entry in reversed(entries):
        if total > limit and entry.path != spared:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.n_bytes
    for path in decoded_folder().glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _SECONDS_UNTIL_ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _write_header(folder: Path, content: Mapping[str, Any]) -> None:
    files = {name: _size_and_time(folder / name) for name in _IMAGES}
    text = json.dumps({**content, "files": files}, sort_keys=True)
    whole = {"content": text, "digest": hashlib.sha256(text.encode()).hexdigest()}
    with (folder / _HEADER).open("w", encoding="utf-8") as file:
        json.dump(whole, file)
    _to_disk(folder / _HEADER)


def _to_disk(path: Path) -> None:
    # Else a machine that loses power may later find a file of the right size without its content.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_header(entry: Path) -> dict[str, Any]:
    """The content of a header; empty if there is none or it is damaged."""
    try:
        whole = json.loads((entry / _HEADER).read_text(encoding="utf-8"))
        if hashlib.sha256(whole["content"].encode()).hexdigest() == whole["digest"]:
            return dict(json.loads(whole["content"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read(entry: Path) -> Decoded | None:
    """An entry; None if there is none that is whole."""
    header = _read_header(entry)
    if not header:
        return None
    try:
        # Hashing the pixels would take as long as all the rest; a file that anyone wrote to has another time.
        if any(_size_and_time(entry / name) != header["files"][name] for name in _IMAGES):
            return None
        train, test = (np.load(entry / name, mmap_mode="r") for name in _IMAGES)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    with suppress(OSError):
        os.utime(entry / _HEADER)
    return Decoded(train, test, header["sha256"])
