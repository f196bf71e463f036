"""How the runs of a folder stand: behind `clbench status`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        run_id, suite, method, seed: which run.
        is_modified: whether it overrides the suite's or the method's own setting.
        measured_on: the images that accuracy is measured on, `test` or `validation`; empty where it is not known.
        status: `finished`, `failed` or `stopped`, as recorded; `running` while a process works on it, `cut off` if
            that process is gone; `damaged` if its files cannot be read.
        learned, n_tasks: tasks learned so far, of how many.
        detail: the reason, or who works on it where a file says so.
    """

    run_id: str
    suite: str
    method: str
    seed: str
    is_modified: bool
    measured_on: str
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
        return Standing(path.name, "", "", "", False, "", "damaged", 0, 0, str(error))
    status, detail = run.status, run.reason
    if status == "running":
        folder = RunFolder(root, path.name)
        with folder.lease() as is_free:
            status, detail = ("cut off", detail) if is_free else ("running", folder.holder)
    n_tasks = run.accuracy_matrix.shape[1]
    who = (path.name, run.suite, run.method, str(run.seed), run.is_modified, run.measured_on)
    return Standing(*who, status, len(run.tasks), n_tasks, detail)


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
        marks = ["modified"] if item.is_modified else []
        if item.measured_on == "validation":
            marks.append("on validation images")
        method = item.method + (f" ({', '.join(marks)})" if marks else "")
        row = [item.run_id, item.suite, method, item.seed, tasks, item.status]
        # Text, not str: a name like [red] is a name, not markup.
        table.add_row(*map(Text, row))
    return table
