"""What was asked for last, and how far it got: behind `clbench resume` and `clbench status`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError
from clbench.records import RunFolder, read_run, run_paths, write_whole

if TYPE_CHECKING:
    from rich.table import Table

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


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        run_id, suite, method, seed: which run.
        is_modified: whether it overrides the suite's or the method's own setting.
        status: `finished`, `failed` or `stopped`, as recorded; `running` while a process works on it, `cut off` if
            that process is gone; `damaged` if its files cannot be read.
        learned, n_tasks: tasks learned so far, of how many.
        detail: the reason, where there is one.
    """

    run_id: str
    suite: str
    method: str
    seed: str
    is_modified: bool
    status: str
    learned: int
    n_tasks: int
    detail: str


def standings(root: Path) -> list[Standing]:
    """Every run below a folder of run folders, by suite, method and seed; attempts set aside do not count."""
    found = [_standing(root, path) for path in run_paths(root)] if root.is_dir() else []
    return sorted(found, key=lambda item: (item.suite, item.method, item.seed, item.run_id))


def _standing(root: Path, path: Path) -> Standing:
    try:
        run = read_run(path)
    except RecordError as error:
        return Standing(path.name, "", "", "", False, "damaged", 0, 0, str(error))
    status = run.status
    if status == "running":
        with RunFolder(root, path.name).lease() as is_free:
            status = "cut off" if is_free else "running"
    n_tasks = run.accuracy_matrix.shape[1]
    who = (path.name, run.suite, run.method, str(run.seed), run.is_modified)
    return Standing(*who, status, len(run.tasks), n_tasks, run.reason)


def status_table(found: list[Standing]) -> "Table":
    """The standings as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("run id", no_wrap=True, min_width=16)
    # Where the screen is narrow it is the names that take a second line.
    for name in ("suite", "method"):
        table.add_column(name, overflow="fold")
    for name in ("seed", "tasks", "status"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    for item in found:
        tasks = f"{item.learned}/{item.n_tasks}" if item.n_tasks else ""
        method = item.method + (" (modified)" if item.is_modified else "")
        row = [item.run_id, item.suite, method, item.seed, tasks, item.status]
        # Text, not str: a name like [red] is a name, not markup.
        table.add_row(*map(Text, row))
    return table
