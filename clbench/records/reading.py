"""Recorded runs, read back from their folders."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError
from clbench.records.files import content_of, one_line, unreadable
from clbench.records.format import (
    CAPACITY_COLUMNS,
    OPTIONAL_FILES,
    REQUIRED_FILES,
    STATUS_KEYS,
    TASK_COLUMNS,
    check_config,
    check_digest,
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
        tasks: one row per learned task, columns `TASK_COLUMNS`.
        capacity: one row per (task, layer), columns `CAPACITY_COLUMNS`; empty for methods without units to count.
        started, ended: ISO 8601 in UTC; `ended` is empty while it runs.
        reason: why it failed or stopped, else empty.
        seal: SHA-256 over status.json, which holds that of every other file; empty for a run recorded without.
    """

    run_id: str
    status: str
    config: Mapping[str, Any]
    environment: str
    accuracy_matrix: "Matrix"
    tasks: "pd.DataFrame"
    capacity: "pd.DataFrame"
    started: str
    ended: str
    reason: str = ""
    seal: str = ""

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
    def is_modified(self) -> bool:
        """Whether anything was overridden, so that the run does not count as the suite's own."""
        return bool(self.config["modified"])


def read_run(folder: Path) -> RecordedRun:
    """Reads a run back from a folder that holds its files.

    Raises:
        RecordError: if a file is missing, does not hold what it should, or is not the one that was recorded, naming
            the file.
    """
    import pandas as pd

    from clbench.metrics import check_matrix, task_columns

    name = "status.json"
    try:
        status = parse_status(content_of(folder, name).decode())
        contents = {}
        for name in (*REQUIRED_FILES, *OPTIONAL_FILES):
            if name in REQUIRED_FILES or (folder / name).is_symlink() or (folder / name).is_file():
                contents[name] = content_of(folder, name)
        if "seal" in status and status["status"] != "running":
            for name in sorted((contents.keys() | status["sha256"].keys()) - {"status.json"}):
                check_digest(contents.get(name), status["sha256"].get(name))
        name = "config.json"
        config = json.loads(contents[name])
        check_config(config)
        n_tasks = config["suite_settings"]["n_tasks"]
        name = "accuracy_matrix.csv"
        matrix = check_matrix(parse_matrix(contents[name], ["tasks_learned", *task_columns(n_tasks)]))
        name = "tasks.csv"
        tasks = parse_table(contents[name], TASK_COLUMNS)
        name = "capacity.csv"
        capacity = (
            parse_table(contents[name], CAPACITY_COLUMNS)
            if name in contents
            else pd.DataFrame(columns=list(CAPACITY_COLUMNS))
        )
        name = "environment.txt"
        return RecordedRun(
            run_id=config["run_id"],
            config=config,
            environment=contents[name].decode(),
            accuracy_matrix=matrix,
            tasks=tasks,
            capacity=capacity,
            seal=status.get("seal", ""),
            **{key: status[key] for key in STATUS_KEYS},
        )
    except UnicodeDecodeError as error:
        raise unreadable(folder / name, error) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        said = f"the key {error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise RecordError(f"{folder / name} is not as clbench recorded it ({said})") from None


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
    return sorted(folder for folder in folders if ".unfinished-" not in folder.name)


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
