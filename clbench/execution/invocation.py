"""What was asked for last: behind `clbench resume`."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from clbench.errors import DataError, RecordError
from clbench.records.files import write_whole

_LAST = ".last-invocation.json"
_RESUMING = ContextVar("resuming", default=False)


def remember(root: Path, arguments: list[str], suite: str, data_sha256: str) -> None:
    """Keeps the arguments of a `clbench run`, the folder that it works in, and its images' digest, beside the runs."""
    content = {"arguments": arguments, "folder": str(Path.cwd()), "suite": suite, "data_sha256": data_sha256}
    try:
        write_whole(root / _LAST, (json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n").encode())
    except OSError as error:
        raise RecordError(
            f"{root / _LAST} cannot be written ({error.strerror}); make room, or give another --output"
        ) from None


@contextmanager
def resuming() -> Iterator[None]:
    """Within, a `clbench run` is the last one again."""
    token = _RESUMING.set(True)
    try:
        yield
    finally:
        _RESUMING.reset(token)


def check_as_before(root: Path, suite: str, data_sha256: str, warn: Callable[[str], None]) -> None:
    """Notices images that have changed since the last `clbench run` of the suite that put its runs there.

    A new command trains anew on them, and says so.

    Raises:
        DataError: if it is to be gone on with.
    """
    try:
        before = json.loads((root / _LAST).read_text(encoding="utf-8"))
        if before["suite"] != suite or before["data_sha256"] == data_sha256:
            return
    except (OSError, ValueError, KeyError, TypeError):
        return
    changed = f"the images of {suite} are not those of the last clbench run in {root}"
    if _RESUMING.get():
        raise DataError(f"{changed}; put those back to go on, or give the clbench run command again to train anew")
    warn(f"{changed}; on these every run begins anew, and those on the others stay")


def last_invocation(root: Path) -> tuple[list[str], Path]:
    """Arguments and working folder of the last `clbench run` that put its runs there.

    Raises:
        RecordError: if there was none, or what was kept of it is not a `clbench run`.
    """
    path = root / _LAST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256", None) != _digest(content):
            raise ValueError("it was changed since, or is of an earlier version")
        arguments, folder = content["arguments"], Path(content["folder"])
        if not all(isinstance(item, str) for item in arguments) or arguments[0] != "run":
            raise ValueError("it is no clbench run")
    except FileNotFoundError:
        raise RecordError(f"nothing was run yet with its runs in {root}; start with clbench run") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RecordError(f"{path} cannot be used ({error}); give the clbench run command again") from None
    if not folder.is_dir():
        raise RecordError(f"the last clbench run worked in {folder}, which is not there any more; give it again")
    return arguments, folder


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
