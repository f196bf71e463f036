"""How the runs of a folder stand: behind `clbench status`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.naming import Name, names, natural, overridden
from clbench.records.reading import read_run, run_paths

if TYPE_CHECKING:
    from rich.table import Table

NAMELESS = Name("")  # a run that cannot be read


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        run_id, suite, method, seed: which run.
        config: what its config.json says; empty if damaged.
        started: when the run began; empty if damaged.
        measured_on: the images that accuracy is measured on, `test` or `validation`; empty where it is not known.
        status: `finished`, `failed` or `stopped`, as recorded; `running` while a process works on it, `cut off` if
            that process is gone; `damaged` if its files cannot be read.
        learned, n_tasks: tasks learned so far, of how many.
        detail: the reason, or who works on it where a file says so.
        name: what it is called among the runs of its suite there.
    """

    run_id: str
    suite: str
    method: str
    seed: str
    config: Mapping[str, Any]
    started: str
    measured_on: str
    status: str
    learned: int
    n_tasks: int
    detail: str
    name: Name = NAMELESS


def standings(root: Path) -> list[Standing]:
    """Every run below a folder of run folders, by suite, name and seed; attempts set aside do not count."""
    by_suite: dict[str, list[Standing]] = {}
    for path in run_paths(root) if root.is_dir() else ():
        item = _standing(root, path)
        by_suite.setdefault(item.suite, []).append(item)
    found = []
    for suite, alike in sorted(by_suite.items()):
        # As the report names them, so that a run added later leaves the letters as they are.
        alike.sort(key=lambda item: (item.started, item.run_id))
        called = names([item.config for item in alike]) if suite else [NAMELESS] * len(alike)
        of_suite = [replace(item, name=name) for item, name in zip(alike, called, strict=True)]
        found += sorted(of_suite, key=lambda item: (natural(item.name.label), natural(item.seed), item.run_id))
    return found


def _standing(root: Path, path: Path) -> Standing:
    try:
        run = read_run(path)
    except RecordError as error:
        return Standing(path.name, "", "", "", {}, "", "", "damaged", 0, 0, str(error))
    status, detail = run.status, run.reason
    if status == "running":
        folder = RunFolder(root, path.name)
        with folder.lease() as is_free:
            status, detail = ("cut off", detail) if is_free else ("running", folder.holder)
    n_tasks = run.accuracy_matrix.shape[1]
    who = (path.name, run.suite, run.method, str(run.seed), run.config, run.started, run.measured_on)
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
        mark = " (on validation images)" if item.measured_on == "validation" else ""
        row = [item.run_id, item.suite, item.name.label + mark, item.seed, tasks, item.status]
        # Text, not str: a name like [red] is a name, not markup.
        table.add_row(*map(Text, row))
    notes = [f"{item.suite}: {item.name.label} has {item.name.differs}" for item in found if item.name.differs]
    for suite in dict.fromkeys(item.suite for item in found if item.config):
        of_suite = [item for item in found if item.suite == suite]
        if said := overridden([item.config for item in of_suite], [item.name.label for item in of_suite]):
            notes.append(f"{suite}: {said}")
    if notes:
        table.caption = Text("\n".join(dict.fromkeys(notes)))
        table.caption_justify = "left"
    return table
