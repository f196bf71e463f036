"""What was asked for last: behind `clbench resume`."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clbench.errors import RecordError
from clbench.records.files import write_whole

_LAST = ".last-invocation.json"


def remember(root: Path, arguments: list[str]) -> None:
    """Keeps the arguments of a `clbench run`, and the folder that it works in, beside the runs."""
    content = {"arguments": arguments, "folder": str(Path.cwd())}
    try:
        write_whole(root / _LAST, (json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n").encode())
    except OSError as error:
        raise RecordError(
            f"{root / _LAST} cannot be written ({error.strerror}); make room, or give another --output"
        ) from None


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
