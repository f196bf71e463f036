"""Files that are written whole or not at all, and read from the folder that they belong to."""

import os
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from clbench.errors import RecordError, why_unreadable


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_whole(path: Path, *parts: bytes | memoryview, to_disk: bool = True) -> None:
    """Writes a file, part after part, whole or not at all: what was there before stays until the new one is on disk.

    Args:
        path: of the file.
        parts: of its content.
        to_disk: whether it must survive a power cut; if not, the system writes it when it likes.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
    # Who else may read and write it is the user's to say, by the umask.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            if to_disk:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_disk(path: Path) -> None:
    """Makes what was written to a file survive a power cut.

    Raises:
        OSError: if it cannot be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def content_of(folder: Path, name: str) -> bytes:
    """A recorded file, which lies in the run's own folder and nowhere else.

    Args:
        folder: of the run.
        name: of the file, relative to the folder.

    Raises:
        RecordError: if it cannot be read, or is or lies below a symbolic link.
    """
    path = folder / name
    for part in (folder, *(folder / above for above in reversed(Path(name).parents)), path):
        if part.is_symlink():
            raise RecordError(f"{part} is a symbolic link, and a run's record holds none; put what it leads to there")
    try:
        # Reading from a pipe or a device would never end.
        if path.exists() and not path.is_file():
            raise OSError(0, "not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def files_below(folder: Path, name: str) -> list[str]:
    """What lies in a folder of a run's folder, however deep, by its path in the run's: all but folders, in order.

    Symbolic links are among it and are not followed, so that `content_of` can refuse them.
    """
    if (folder / name).is_symlink() or (folder / name).is_file():
        return [name]
    found = [path for path in (folder / name).rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> RecordError:
    """The error for a file that cannot be read."""
    return RecordError(f"{path} cannot be read ({why_unreadable(error)}); move its folder away to run it again")


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 letters."""
    return " ".join(str(error).split())[:300]


def check_writable(root: Path, option: str) -> None:
    """Makes sure, before hours of work, that files can be created under `root`, which `option` names.

    Raises:
        RecordError: naming the folder and what the system said.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".writable-") as trial:
            trial.write(b"x" * 4096)
    except OSError as error:
        raise RecordError(
            f"the folder {root} cannot be written ({error.strerror}); give another with {option}"
        ) from None
