"""The lease of a run: it lets one process at a time work on it, and ends with that process, however that ends.

It is a lock of the kernel where the file system hands locks on to all machines. Some of clusters have none, and some
are mounted so that a lock holds on one machine only. There a file stands for the lock. It names a process, and that
process touches it every 20 seconds. A file that nobody touches for a minute, by the watcher's own clock, is taken over.
"""

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

from filelock import SoftFileLease, Timeout

from clbench.errors import RecordError

# What file systems without locks say.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
# By type of file system, the options of a mount whose locks do not leave the machine.
_LOCAL_LOCKS = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock"),
    "nfs4": ("nolock", "local_lock=all", "local_lock=flock"),
    "lustre": ("localflock",),
    "fuse.sshfs": ("",),
}
_SECONDS_BETWEEN_TRIES = 0.05
_SECONDS_BETWEEN_TOUCHES = 20.0
_SECONDS_WITHOUT_TOUCH = 60.0


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
        self._file: SoftFileLease | None = None

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
            is_file = why_files(self._lock.parent)
            release = self._owned(patience) if is_file else _flock(self._lock, patience)
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
        if not self._owner.exists():
            return ""
        owner = _file_of(self._owner).owner
        if owner is None:
            return f"the file {self._owner} stands for its lock, but does not say whose; remove it if nobody trains it"
        return (
            f"the file {self._owner} says that process {owner.pid} of the machine {owner.hostname} trains it; it is "
            f"taken over once that process has not touched it for {_SECONDS_WITHOUT_TOUCH:.0f} seconds"
        )

    def _owned(self, patience: float) -> Callable[[], None] | None:
        """What releases the file that stands for the lock; None if it is another process's."""
        lease = _file_of(self._owner)
        if lease.is_locked:
            return None
        try:
            lease.acquire(timeout=patience, poll_interval=_SECONDS_BETWEEN_TRIES)
        except Timeout:
            return None
        self._file = lease
        return lease.release

    @property
    def is_lost(self) -> bool:
        """Whether another process took it over, because this one did not touch its file for long."""
        return self._file is not None and self._file.compromise is not None


@cache
def _file_of(path: Path) -> SoftFileLease:
    """What takes a file as a lease. A process has one of it, which remembers since when nobody has touched the file."""
    return SoftFileLease(
        path,
        lease_duration=_SECONDS_WITHOUT_TOUCH,
        heartbeat_interval=_SECONDS_BETWEEN_TOUCHES,
        thread_local=False,
    )


def without_locks(folder: Path) -> str:
    """What to know of a folder where files stand for locks, in a sentence; empty for others."""
    with suppress(OSError):
        if why := why_files(folder):
            return (
                f"{why}, so files in {folder / '.leases'} stand for locks; a run that a killed command leaves on "
                f"another machine is free after {_SECONDS_WITHOUT_TOUCH:.0f} seconds"
            )
    return ""


def why_files(folder: Path) -> str:
    """Why files stand for locks in a folder, as half a sentence; empty where the kernel's locks hold.

    Raises:
        OSError: if nothing can be written there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return f"the file system of {folder} has no locks"
            raise
    kind, options = mount_of(folder)
    for option in _LOCAL_LOCKS.get(kind, ()):
        if not option or option in options:
            return f"the file system of {folder} ({kind}{', ' * bool(option)}{option}) keeps locks on one machine"
    return ""


def mount_of(folder: Path, table: Path = Path("/proc/self/mounts")) -> tuple[str, list[str]]:
    """Type and options of the mounted file system that a folder lies in; empty where the system does not say.

    Args:
        folder: which.
        table: the system's, see proc(5).
    """
    place, found, depth = os.path.realpath(folder), ("", list[str]()), -1
    with suppress(OSError):
        for line in table.read_text(errors="replace").splitlines():
            _, point, kind, options, *_ = [*line.split(), "", "", "", ""]
            # Spaces and the like stand there as octal numbers.
            point = point.encode().decode("unicode_escape", errors="replace")
            inside = place == point or place.startswith(f"{point.rstrip('/')}/")
            # Of two at the same point, the later one hides the other.
            if inside and len(point) >= depth:
                found, depth = (kind, options.split(",")), len(point)
    return found


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
