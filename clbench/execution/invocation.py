"""What was asked for last: behind `clbench resume`."""

import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import DataError, RecordError
from clbench.events import Event, Planned
from clbench.own.code import digest_of
from clbench.records.files import write_whole

if TYPE_CHECKING:
    from clbench.runs.spec import RunSpec

_LAST = ".last-invocation.json"
_IN = " in "
_RESUMING: ContextVar[list[str] | None] = ContextVar("resuming", default=None)


def materials(specs: "Sequence[RunSpec]", folder: Path, suite_files: Mapping[str, bytes]) -> dict[str, str]:
    """What a command finds under the names that it was given, in words, and the digest of each.

    Args:
        specs: of the runs.
        folder: in which the images were looked for; it stands behind their digest.
        suite_files: of the user, that the suite was read from.
    """
    first = specs[0]
    suite = first.suite
    size = "" if suite.image_size is None else f" at {suite.image_size} pixels"
    found = {f"the images {suite.data} of {suite.name}{size}": f"{first.data['sha256']}{_IN}{folder.resolve()}"}
    if suite_files:
        found[f"the suite {suite.name}"] = digest_of(suite_files)
    for spec in specs:
        if own := spec.named.get("network_sha256") or spec.named.get("network_version"):
            found[f"the network {spec.suite.network}"] = str(own)
        if spec.reference:
            found[f"the method {spec.reference}"] = "".join(spec.of_method.values())
    return found


def remember(root: Path, arguments: list[str], found: Mapping[str, str]) -> None:
    """Keeps the arguments of a `clbench run`, its working folder, and what it found (`materials`), beside the runs."""
    content = {"arguments": arguments, "folder": str(Path.cwd()), "found": {**_found_before(root), **found}}
    try:
        write_whole(root / _LAST, (json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n").encode())
    except OSError as error:
        raise RecordError(
            f"{root / _LAST} cannot be written ({error.strerror}); make room, or give another --output"
        ) from None


class Remembering:
    """An observer that remembers a command once nothing refuses it any more.

    Args:
        root, arguments, found: see `remember`.
    """

    def __init__(self, root: Path, arguments: list[str], found: Mapping[str, str]) -> None:
        self._given = root, arguments, found

    def hear(self, event: Event) -> None:
        """Remembers the command when its runs begin."""
        if isinstance(event, Planned):
            self.remember()

    def remember(self) -> None:
        """Remembers it now."""
        remember(*self._given)


@contextmanager
def resuming(arguments: list[str]) -> Iterator[None]:
    """Within, a `clbench run` is the last one again, with these arguments."""
    token = _RESUMING.set(arguments)
    try:
        yield
    finally:
        _RESUMING.reset(token)


def is_resuming() -> bool:
    """Whether a command is gone on with."""
    return _RESUMING.get() is not None


def arguments_given() -> list[str]:
    """The arguments of the command that works."""
    resumed = _RESUMING.get()
    return sys.argv[1:] if resumed is None else resumed


def command_line(arguments: Sequence[str]) -> str:
    """A command for a shell; bytes of it that are no text are written as escapes."""
    return shlex.join(["clbench", *arguments]).encode("utf-8", "backslashreplace").decode()


def check_as_before(root: Path, found: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """Notices what has changed since a `clbench run` that put its runs there found it.

    A new command trains anew on it, and says so.

    Args:
        root: the folder of run folders.
        found: see `materials`.
        warn: told of what has changed.

    Raises:
        DataError: for any change where a run is to be gone on with.
    """
    before = _found_before(root)
    for what, now in found.items():
        (digest, _, folder), (earlier, _, earlier_folder) = (
            text.partition(_IN) for text in (now, before.get(what, now))
        )
        if digest == earlier:
            continue
        changed = f"{what} changed since the last clbench run in {root}"
        if _RESUMING.get() is not None:
            raise DataError(
                f"{changed}; put back what was there to go on, or give the clbench run command again to train anew"
            )
        # Images of another folder were asked for, and a suite is there to be edited.
        if folder == earlier_folder and not what.startswith("the suite"):
            warn(
                f"{changed}; what is there now is trained anew where no run with it is recorded, and those before stay"
            )


def last_invocation(root: Path) -> tuple[list[str], Path]:
    """Arguments and working folder of the last `clbench run` that put its runs there.

    Raises:
        RecordError: if there was none, or what was kept of it is not a `clbench run`.
    """
    path = root / _LAST
    try:
        content = _read(path)
        arguments, folder = content["arguments"], Path(content["folder"])
        if not all(isinstance(item, str) for item in arguments) or arguments[0] != "run":
            raise ValueError("it is no clbench run")
    except FileNotFoundError:
        if any(root.glob("*/config.json")):
            raise RecordError(
                f"no clbench run put the runs into {root}; to go on with what Python asked for, give the call of "
                "clbench.run again"
            ) from None
        raise RecordError(f"nothing was run yet with its runs in {root}; start with clbench run") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path} cannot be used ({error}); give the clbench run command again") from None
    if not folder.is_dir():
        raise RecordError(f"the last clbench run worked in {folder}, which is not there any more; give it again")
    return arguments, folder


def _found_before(root: Path) -> dict[str, str]:
    try:
        return dict(_read(root / _LAST)["found"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("sha256", None) != _digest(content):
        raise ValueError("it was changed since, or is of an earlier version")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
