"""The lease of a run: it lets one process at a time work on it, and ends with that process, however that ends.

It is a lock of the kernel where the file system hands locks on to all machines. Some of clusters have none, and some
are mounted so that a lock holds on one machine only. There a file stands for the lock. It names a process, and that
process touches it every 20 seconds. Others take over a file that nobody touches for two minutes, by their own clocks.
"""

import errno
import fcntl
import os
import re
import secrets
import socket
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
    "beegfs": ("",),
    "cifs": ("nobrl",),
    "fuse.sshfs": ("",),
}
_SECONDS_BETWEEN_TRIES = 0.05
_SECONDS_BETWEEN_TOUCHES = 20.0
# A file system may show the touch of another machine a minute late.
_SECONDS_WITHOUT_TOUCH = 120.0


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
            # The next look finds it free.
            _remove_if_stale(self._owner)
            return None
        self._file = lease

        def release() -> None:
            self._file = None
            lease.release()

        return release

    def check(self) -> None:
        """Makes sure that no other process took it over, where a file stands for the lock.

        Raises:
            RecordError: if one did.
        """
        if self._file is not None and (self.is_lost or not self._file.is_lock_held_by_us):
            raise RecordError(
                f"the run of {self._lock.stem} is left to another process, which took it over from this one"
            )

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


_SEEN: dict[Path, tuple[tuple[int, int], float]] = {}
"""By file: which it was and when it was touched, as this process first saw it, and when that was by its own clock."""


def _remove_if_stale(path: Path) -> None:
    """Removes the file of a process that is gone, or that nobody has touched for long.

    filelock does so itself where two names can be exchanged. Network file systems cannot do that.
    """
    try:
        # Opening asks the server, where looking might be answered from a cache.
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
    except OSError:
        return
    now, key = time.monotonic(), (found.st_ino, found.st_mtime_ns)
    before = _SEEN.get(path)
    if before is None or before[0] != key:
        _SEEN[path] = before = key, now
    owner = _file_of(path).owner
    is_dead = owner is not None and owner.hostname == socket.gethostname() and not _lives(owner.pid)
    if not is_dead and now - before[1] < 1.5 * _SECONDS_WITHOUT_TOUCH:
        return
    aside = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    with suppress(OSError):
        os.rename(path, aside)
        taken = os.stat(aside)
        if (taken.st_ino, taken.st_mtime_ns) != key:
            # Another process was faster, and this is its file. A link replaces none that came meanwhile.
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
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
