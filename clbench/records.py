"""The run folder: the files a run leaves behind, and how they are read back.

One folder per run, `clbench-runs/<run_id>/`, is the source of truth; MLflow receives the same files as
artifacts and can be rebuilt from them. The run id is a hash of the resolved configuration, so the same question
always lands in the same folder.

    config.json           what was run: suite, method, seed, every setting, data digest, versions, commit, command
    environment.txt       the machine and the installed packages
    accuracy_matrix.csv   tasks_learned, task_01 ... task_T; accuracy in [0, 1], empty where not measured
    tasks.csv             per task: seconds, images per second, memory
    capacity.csv          per task and layer: neurons, free, new, reused, threshold, margin_spent (where it applies)
    status.json           running, finished, stopped or failed; when; and why
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError

if TYPE_CHECKING:
    import pandas as pd

    from clbench.metrics import Matrix

CAPACITY_COLUMNS = ("task", "layer", "neurons", "free", "new", "reused", "threshold", "margin_spent")
TASK_COLUMNS = (
    "task",
    "train_seconds",
    "train_images_per_second",
    "eval_seconds",
    "peak_memory_bytes",
    "extra_state_bytes",
)
REQUIRED_FILES = ("config.json", "environment.txt", "accuracy_matrix.csv", "tasks.csv", "status.json")
OPTIONAL_FILES = ("capacity.csv",)


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


def run_id_of(identity: Mapping[str, Any]) -> str:
    """The run's id: 16 hexadecimal digits of the SHA-256 of its identity as canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """Writes one run's folder, every file whole or not at all.

    Args:
        root: the folder that holds all runs, usually `clbench-runs`.
        run_id: see `run_id_of`.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self.path = root / run_id

    @property
    def status(self) -> str:
        """What status.json says, or `absent`."""
        try:
            return str(json.loads((self.path / "status.json").read_text(encoding="utf-8"))["status"])
        except FileNotFoundError:
            return "absent"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{self.path / 'status.json'} cannot be read ({error}); move the folder away to run it again"
            ) from None

    def begin(self, config: Mapping[str, Any], environment: str) -> None:
        """Creates the folder. What an earlier unfinished attempt left is kept beside it, never overwritten."""
        try:
            if self.path.exists():
                stamp = now().replace(":", "").replace("+0000", "Z")
                aside = self.path.with_name(f"{self.path.name}.unfinished-{stamp}")
                number = 1
                while aside.exists():
                    number += 1
                    aside = aside.with_name(f"{self.path.name}.unfinished-{stamp}-{number}")
                self.path.rename(aside)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise RecordError(
                f"the run folder {self.path} cannot be created ({error.strerror}); "
                "give a folder you may write to with --output"
            ) from None
        self._started = now()
        self.write("config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        self.write("environment.txt", environment)
        self.set_status("running")

    def set_status(self, status: str, reason: str = "") -> None:
        """Records how the run stands; `reason` is one sentence for `failed` and `stopped`."""
        ended = "" if status == "running" else now()
        content = {"status": status, "started": self._started, "ended": ended, "reason": reason}
        self.write("status.json", json.dumps(content, indent=2) + "\n")

    def write_tables(self, matrix: "Matrix", tasks: list[dict[str, Any]], capacity: list[dict[str, Any]]) -> None:
        """Writes the three tables as they stand after the last task learned."""
        import pandas as pd

        from clbench.metrics import task_columns

        frame = pd.DataFrame(matrix, columns=list(task_columns(matrix.shape[1])))
        frame.insert(0, "tasks_learned", range(matrix.shape[0]))
        self.write("accuracy_matrix.csv", frame.to_csv(index=False))
        self.write("tasks.csv", pd.DataFrame(tasks, columns=list(TASK_COLUMNS)).to_csv(index=False))
        if capacity:
            self.write("capacity.csv", pd.DataFrame(capacity, columns=list(CAPACITY_COLUMNS)).to_csv(index=False))

    def write(self, name: str, text: str) -> None:
        """Writes one file atomically: a reader sees the old content or the new, never a part."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, self.path / name)
            except OSError:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise RecordError(f"{self.path / name} cannot be written ({error.strerror})") from None

    def files(self) -> list[Path]:
        """The recorded files that exist, in a fixed order."""
        return [self.path / name for name in (*REQUIRED_FILES, *OPTIONAL_FILES) if (self.path / name).is_file()]


def read_run(folder: Path) -> RecordedRun:
    """Reads a run back from a folder that holds its files.

    Raises:
        RecordError: if a file is missing or does not hold what it should, naming the file.
    """
    import pandas as pd

    from clbench.metrics import check_matrix, task_columns

    def content(name: str) -> str:
        try:
            return (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(folder / name, error) from None

    try:
        name = "config.json"
        config = json.loads(content(name))
        n_tasks = int(config["suite_settings"]["n_tasks"])
        for key in ("suite", "method", "seed", "modified", "run_id"):
            config[key]
        name = "status.json"
        status = json.loads(content(name))
        standing = {key: str(status[key]) for key in ("status", "started", "ended", "reason")}
        name = "accuracy_matrix.csv"
        content(name)
        frame = pd.read_csv(folder / name)
        expected = ["tasks_learned", *task_columns(n_tasks)]
        if list(frame.columns) != expected or list(frame["tasks_learned"]) != list(range(n_tasks + 1)):
            raise ValueError(f"expected the columns {', '.join(expected)} and {n_tasks + 1} rows")
        matrix = check_matrix(frame[expected[1:]].to_numpy(dtype=float))
        name = "tasks.csv"
        tasks = _read_table(folder / name, TASK_COLUMNS)
        name = "capacity.csv"
        capacity = (
            _read_table(folder / name, CAPACITY_COLUMNS)
            if (folder / name).is_file()
            else pd.DataFrame(columns=list(CAPACITY_COLUMNS))
        )
        return RecordedRun(
            run_id=str(config["run_id"]),
            config=config,
            environment=content("environment.txt"),
            accuracy_matrix=matrix,
            tasks=tasks,
            capacity=capacity,
            **standing,
        )
    except (ValueError, KeyError, TypeError) as error:
        said = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise RecordError(f"{folder / name} is not a record that clbench wrote ({said})") from None


def run_paths(root: Path) -> list[Path]:
    """Every run folder below a folder of run folders, by name; attempts that were set aside do not count.

    Raises:
        RecordError: if there is no such folder.
    """
    if not root.is_dir():
        raise RecordError(f"there is no folder {root}; expected one that holds a folder per run, such as clbench-runs")
    folders = [file.parent for file in sorted(root.glob("*/status.json"))]
    return [folder for folder in folders if ".unfinished-" not in folder.name]


def read_runs(root: Path) -> list[RecordedRun]:
    """Every run below a folder of run folders, by name; attempts that were set aside do not count.

    Raises:
        RecordError: if there is no such folder, or a run's files are missing or damaged.
    """
    return [read_run(folder) for folder in run_paths(root)]


def _unreadable(path: Path, error: Exception) -> RecordError:
    said = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
    return RecordError(f"{path} cannot be read ({said}); move its folder away to run it again")


def _read_table(path: Path, columns: tuple[str, ...]) -> "pd.DataFrame":
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")
    frame = pd.read_csv(io.StringIO(text))
    if tuple(frame.columns) != columns:
        raise ValueError(f"expected the columns {', '.join(columns)}, but got {', '.join(frame.columns)}")
    for column in columns:
        if len(frame) and (frame[column].dtype.kind not in "iuf" or frame[column].isna().any()):
            raise ValueError(f"the column {column} holds something that is no number")
    return frame


def check_writable(root: Path, option: str) -> None:
    """Makes sure, before hours of work, that files can be created under `root`, which `option` names.

    Raises:
        RecordError: naming the folder and what the system said.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        trial = tempfile.mkdtemp(dir=root, prefix=".writable-")
        shutil.rmtree(trial)
    except OSError as error:
        raise RecordError(
            f"the folder {root} cannot be written ({error.strerror}); give another with {option}"
        ) from None
