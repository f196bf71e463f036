"""Recorded runs, read back from their folders."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError
from clbench.records.files import content_of, files_below, one_line, unreadable
from clbench.records.format import (
    CAPACITY_COLUMNS,
    MEASURES_COLUMNS,
    OPTIONAL_FILES,
    OWN_FILES,
    PRUNING_COLUMNS,
    REQUIRED_FILES,
    STATUS_KEYS,
    TABLES,
    check_config,
    check_digest,
    format_of,
    measured_on,
    parse_capacity,
    parse_matrix,
    parse_status,
    parse_table,
)

if TYPE_CHECKING:
    import pandas as pd

    from clbench.metrics import Matrix


@dataclass(frozen=True)
class RecordedRun:
    """One run as it was recorded, from its folder or from MLflow's copy of it.

    Attributes:
        run_id: hash of the resolved configuration.
        status: `running`, `finished`, `stopped` or `failed`.
        config: the content of config.json; `suite`, `method` (names) and `seed` are among its keys.
        environment: the text of environment.txt.
        accuracy_matrix: [T + 1, T], NaN where not measured; row i is after i tasks (see `clbench.metrics`).
        tasks: one row per learned task, columns `format.TASK_COLUMNS`.
        capacity: one row per (task, group of units), columns `format.CAPACITY_COLUMNS`, NaN in those that were not
            recorded; empty for methods without units to count.
        pruning: one row for each look of a search for what to prune, columns `format.PRUNING_COLUMNS`; empty for
            methods that do not search, and in records of formats before 3.
        measures: one row for each further number of the method and task, columns `format.MEASURES_COLUMNS`; empty for
            methods that have none.
        started, ended: ISO 8601 in UTC; `ended` is empty while it runs.
        reason: why it failed or stopped, else empty.
        seal: SHA-256 over status.json, which holds that of every other file; empty for a run recorded without.
        files: copies of the user's own files that the run used, by path. They are kept, never run.
        samples: images of each task as a PNG, as `config["samples"]` says; empty where there are none.
    """

    run_id: str
    status: str
    config: Mapping[str, Any]
    environment: str
    accuracy_matrix: "Matrix"
    tasks: "pd.DataFrame"
    capacity: "pd.DataFrame"
    pruning: "pd.DataFrame"
    measures: "pd.DataFrame"
    started: str
    ended: str
    reason: str = ""
    seal: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    samples: bytes = b""

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.config["suite"])

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def measured_on(self) -> str:
        """The images that accuracy was measured on: `test`, or `validation` for a trial of a search."""
        return measured_on(self.config)

    @property
    def is_modified(self) -> bool:
        """Whether anything was overridden, so that the run does not count as the suite's own."""
        return bool(self.config["modified"])


def read_run(folder: Path) -> RecordedRun:
    """Reads a run back from a folder that holds its files.

    Raises:
        RecordError: if a file is missing, does not hold what it should, or is not the one that was recorded, naming
            the file; or if a newer clbench wrote it.
    """
    import pandas as pd

    from clbench.metrics import check_matrix, task_columns

    with _blaming(folder / "status.json"):
        status = parse_status(content_of(folder, "status.json").decode())
    contents = {
        name: content_of(folder, name)
        for name in (*REQUIRED_FILES, *OPTIONAL_FILES, *files_below(folder, OWN_FILES))
        if name not in OPTIONAL_FILES or (folder / name).is_symlink() or (folder / name).is_file()
    }
    digests = status["sha256"] if "seal" in status and status["status"] != "running" else None
    with _blaming(folder / "config.json"):
        if digests is not None:
            check_digest(contents["config.json"], digests.get("config.json"))
        config = json.loads(contents["config.json"])
        # Before the other files, of which a newer format may have some that are unknown here.
        record_format = format_of(config, folder / "config.json")
        check_config(config)
    if digests is not None:
        for name in sorted((contents.keys() | digests.keys()) - {"status.json"}):
            with _blaming(folder / name):
                check_digest(contents.get(name), digests.get(name))
    with _blaming(folder / "accuracy_matrix.csv"):
        columns = task_columns(config["suite_settings"]["n_tasks"])
        matrix = check_matrix(parse_matrix(contents["accuracy_matrix.csv"], ["tasks_learned", *columns]))
    with _blaming(folder / "tasks.csv"):
        tasks = parse_table(contents["tasks.csv"], TABLES[record_format]["tasks.csv"])
    capacity = pd.DataFrame(columns=list(CAPACITY_COLUMNS))
    if "capacity.csv" in contents:
        with _blaming(folder / "capacity.csv"):
            capacity = parse_capacity(contents["capacity.csv"], record_format)
    further = {}
    for name, names in (("pruning.csv", PRUNING_COLUMNS), ("measures.csv", MEASURES_COLUMNS)):
        further[name] = pd.DataFrame(columns=list(names))
        if name in contents:
            with _blaming(folder / name):
                if name not in TABLES[record_format]:
                    raise ValueError(f"a record of format {record_format} has no such file")
                further[name] = parse_table(contents[name], TABLES[record_format][name])
    with _blaming(folder / "environment.txt"):
        environment = contents["environment.txt"].decode()
    own = {name: content for name, content in contents.items() if name.startswith(f"{OWN_FILES}/")}
    return RecordedRun(
        run_id=config["run_id"],
        config=config,
        environment=environment,
        accuracy_matrix=matrix,
        tasks=tasks,
        capacity=capacity,
        pruning=further["pruning.csv"],
        measures=further["measures.csv"],
        seal=status.get("seal", ""),
        files={name.removeprefix(f"{OWN_FILES}/"): content for name, content in own.items()},
        samples=contents.get("samples.png", b""),
        **{key: status[key] for key in STATUS_KEYS},
    )


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Within, what is wrong is that file's fault."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        said = f"the key {error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise RecordError(f"{path} is not as clbench recorded it ({said})") from None


# What `RunFolder` sets aside.
_ASIDE = re.compile(r"\.(unfinished|replaced)-")


def run_paths(root: Path) -> list[Path]:
    """Every run folder below a folder of run folders, by name; attempts that were set aside do not count.

    Raises:
        RecordError: if there is no such folder.
    """
    if not root.is_dir():
        raise RecordError(f"there is no folder {root}; expected one that holds a folder per run, such as clbench-runs")
    # The tables are written after status.json: where they are without it, it was lost, which is no reason to pass over
    # the run.
    folders = {file.parent for name in ("status.json", "accuracy_matrix.csv") for file in root.glob(f"*/{name}")}
    return sorted(folder for folder in folders if not _ASIDE.search(folder.name))


def replaced_before(root: Path, run_id: str) -> str | None:
    """The name of the folder in which the latest record of before was set aside; None if none was."""
    aside = sorted(root.glob(f"{run_id}.replaced-*"), key=lambda path: (path.stat().st_ctime_ns, path.name))
    return aside[-1].name if aside else None


def read_runs(root: Path) -> list[RecordedRun]:
    """Every run below a folder of run folders, by name; attempts that were set aside do not count.

    Raises:
        RecordError: if there is no such folder, or a run's files are missing or damaged.
    """
    found, damaged = [], []
    for folder in run_paths(root):
        try:
            found.append(read_run(folder))
        except RecordError as error:
            damaged.append(str(error))
    if len(damaged) > 1:
        damaged[0] += f"; {len(damaged) - 1} more there cannot be read either, see clbench verify-run {root}"
    if damaged:
        raise RecordError(damaged[0])
    return found
