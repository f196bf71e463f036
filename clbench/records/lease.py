"""The lease of a run: a lock that ends with the process that holds it, however that ends.

Where a file system has no locks, as some of clusters do, a file stands for the lock: it says which process of which
machine holds it. One that a killed process left is taken over on the same machine. Nobody can tell from another
machine whether that process still lives, so there the file has to be removed by hand.
"""

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import SoftFileLock, Timeout

from clbench.errors import RecordError

# What file systems without locks say.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
_SECONDS_BETWEEN_TRIES = 0.05


class Lease:
    """What one process at a time can hold.

    Args:
        folder: that keeps the locks of all runs.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._lock = folder / f"{name}.lock"
        # Of another name, because a lock leaves its empty file behind.
        self._owner = folder / f"{name}.owner"

    @contextmanager
    def taken(self, patience: float = 0.0) -> Iterator[bool]:
        """Within, this process holds it, if the value is True; else another process does.

        Args:
            patience: seconds to wait for the other process.

        Raises:
            RecordError: if it cannot be told.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            is_real = has_locks(self._lock.parent)
            release = _flock(self._lock, patience) if is_real else _owned(self._owner, patience)
        except OSError as error:
            raise RecordError(
                f"the lock {self._lock} cannot be taken ({error.strerror}); make its folder writable, or give another "
                "--output"
            ) from None
        try:
            yield release is not None
        finally:
            if release is not None:
                release()

    @property
    def holder(self) -> str:
        """A sentence about the file that stands for the lock; empty where there is none."""
        with suppress(OSError):
            pid, host, *_ = [*self._owner.read_text(errors="replace").split(), "?", "?"]
            return (
                f"the file {self._owner} says that process {pid} of the machine {host} trains it; remove the file if "
                "that process is gone"
            )
        return ""


def without_locks(folder: Path) -> str:
    """What to know of a folder whose file system has no locks, in a sentence; empty for others."""
    with suppress(OSError):
        if not has_locks(folder):
            return (
                f"the file system of {folder} has no locks, so files in {folder / '.leases'} stand for them; if a "
                "command is killed on another machine, its file is to be removed by hand"
            )
    return ""


def has_locks(folder: Path) -> bool:
    """Whether the file system of a folder has locks.

    Raises:
        OSError: if nothing can be written there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
    return True


def _flock(path: Path, patience: float) -> Callable[[], None] | None:
    """What releases the lock on a file, which stays; None if another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + patience
    try:
        while True:
            with suppress(BlockingIOError, PermissionError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return partial(_unlock, handle)
            if time.monotonic() >= until:
                os.close(handle)
                return None
            time.sleep(_SECONDS_BETWEEN_TRIES)
    except BaseException:
        os.close(handle)
        raise


def _unlock(handle: int) -> None:
    # Closing is not enough where a process that was forked meanwhile still has it.
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _owned(path: Path, patience: float) -> Callable[[], None] | None:
    """What releases the file that stands for a lock; None if it is another process's."""
    lock = SoftFileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return None
    return lock.release
