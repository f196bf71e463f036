"""The run folder: the files a run leaves behind, and how they are read back.

One folder per run, `clbench-runs/<run_id>/`, is the source of truth; MLflow receives the same files as
artifacts and can be rebuilt from them. The run id is a hash of the resolved configuration, so the same question
always lands in the same folder.

    config.json           what was run: suite, method, seed, every setting, data digest, versions, commit, command
    environment.txt       the machine and the installed packages
    accuracy_matrix.csv   tasks_learned, task_01 ... task_T; accuracy in [0, 1], empty where not measured
    tasks.csv             per task: seconds, images per second, memory
    capacity.csv          per task and layer: neurons, free, new, reused, threshold, margin_spent (where it applies)
    traceback.txt         of a run that failed for a reason that clbench does not know
    status.json           running, finished, stopped or failed; when; why; once it has ended, the SHA-256 of each file
                          above and of what was learned; and the seal, a SHA-256 over all of this
    checkpoint.pt         until it is finished: the state after the last task learned (`checkpoint.py`)

Whoever trains a run holds its lease, a lock that ends with the process that holds it, however that ends.

The seal vouches for the whole record: whoever knows it can tell whether a bit of any file has changed since. Runs
recorded before there were seals have none.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from clbench.errors import RecordError, why_unreadable

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
OPTIONAL_FILES = ("capacity.csv", "traceback.txt")
STATUSES = ("running", "finished", "stopped", "failed")
_MOST_TASKS = 1000
_STATUS_KEYS = ("status", "started", "ended", "reason")


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


def run_id_of(identity: Mapping[str, Any]) -> str:
    """The run's id: 16 hexadecimal digits of the SHA-256 of its identity as canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file, part after part, whole or not at all: what was there before stays until the new one is on disk.

    Raises:
        OSError: if it cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class RunFolder:
    """Writes one run's folder, every file whole or not at all.

    Args:
        root: the folder that holds all runs, usually `clbench-runs`.
        run_id: see `run_id_of`.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self.path = root / run_id
        self.checkpoint = self.path / "checkpoint.pt"
        self._lock_file = root / ".leases" / f"{run_id}.lock"

    @contextmanager
    def lease(self, patience: float = 0.0) -> Iterator[bool]:
        """Within, this process alone works on the run, if the value is True; else another process does.

        Args:
            patience: seconds to wait for the other process.
        """
        lock = FileLock(self._lock_file)
        try:
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise RecordError(f"the lock {self._lock_file} cannot be taken ({error.strerror})") from None
        try:
            yield True
        finally:
            lock.release()

    @property
    def status(self) -> str:
        """What status.json says, or `absent`.

        Raises:
            RecordError: if it cannot be read, or is missing where the tables of a run are.
        """
        path = self.path / "status.json"
        has_run = (self.path / "accuracy_matrix.csv").exists()
        if not (has_run or path.exists() or path.is_symlink() or self.path.is_symlink()):
            return "absent"
        return str(self._status()["status"])

    def _status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        try:
            return _parse_status(_content(self.path, path.name).decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{path} cannot be read ({error}); move the folder away to run it again") from None

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
        self._resumed: list[str] = []
        self.write("config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        self.write("environment.txt", environment)
        self.set_status("running")

    def config(self) -> dict[str, Any]:
        """What config.json of an earlier attempt says."""
        path = self.path / "config.json"
        try:
            config = json.loads(_content(self.path, path.name))
            _check_config(config)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{path} is not as clbench recorded it ({_one_line(error)})") from None
        return dict(config)

    def resume(self) -> None:
        """Goes on with what an earlier attempt left; status.json keeps when, for all attempts."""
        before = self._status()
        for leftover in self.path.glob(".*"):
            # A file that was being written when the process was killed.
            leftover.unlink()
        self._started = before["started"]
        self._resumed = [*before.get("resumed", []), now()]
        self.set_status("running")

    def set_status(self, status: str, reason: str = "", weights_sha256: str = "") -> None:
        """Records how the run stands, and seals it.

        With the end of a run come the digests of its files, so nothing may be written after that.

        Args:
            status: see `RecordedRun`.
            reason: one sentence for `failed` and `stopped`.
            weights_sha256: of what was learned, for `finished` (`checkpoint.weights_digest`).
        """
        has_ended = status != "running"
        content: dict[str, Any] = {
            "status": status,
            "started": self._started,
            "ended": now() if has_ended else "",
            "reason": reason,
        }
        if self._resumed:
            content["resumed"] = self._resumed
        if weights_sha256:
            content["weights_sha256"] = weights_sha256
        # The tables of a run that goes on will change, and not all at the same instant.
        content["sha256"] = self._digests() if has_ended else {}
        self.write("status.json", _status_text(content))

    def discard_checkpoint(self) -> None:
        """Removes the checkpoint of a run that needs it no more."""
        self.checkpoint.unlink(missing_ok=True)

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
            write_whole(self.path / name, text.encode())
        except OSError as error:
            raise RecordError(f"{self.path / name} cannot be written ({error.strerror})") from None

    def files(self) -> list[Path]:
        """The recorded files that exist, in a fixed order; what a symbolic link leads to is not ours to hand on."""
        paths = [self.path / name for name in (*REQUIRED_FILES, *OPTIONAL_FILES)]
        return [path for path in paths if path.is_file() and not path.is_symlink()]

    def _digests(self) -> dict[str, str]:
        recorded = [path.name for path in self.files() if path.name != "status.json"]
        return {name: hashlib.sha256(_content(self.path, name)).hexdigest() for name in recorded}


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
        status = _parse_status(_content(folder, name).decode())
        contents = {}
        for name in (*REQUIRED_FILES, *OPTIONAL_FILES):
            if name in REQUIRED_FILES or (folder / name).is_symlink() or (folder / name).is_file():
                contents[name] = _content(folder, name)
        if "seal" in status and status["status"] != "running":
            for name in sorted((contents.keys() | status["sha256"].keys()) - {"status.json"}):
                _check_digest(contents.get(name), status["sha256"].get(name))
        name = "config.json"
        config = json.loads(contents[name])
        _check_config(config)
        n_tasks = config["suite_settings"]["n_tasks"]
        name = "accuracy_matrix.csv"
        matrix = check_matrix(_matrix(contents[name], ["tasks_learned", *task_columns(n_tasks)]))
        name = "tasks.csv"
        tasks = _checked_table(contents[name], TASK_COLUMNS)
        name = "capacity.csv"
        capacity = (
            _checked_table(contents[name], CAPACITY_COLUMNS)
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
            **{key: status[key] for key in _STATUS_KEYS},
        )
    except UnicodeDecodeError as error:
        raise _unreadable(folder / name, error) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        said = f"the key {error} is missing" if isinstance(error, KeyError) else _one_line(error)
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


def _content(folder: Path, name: str) -> bytes:
    """A recorded file, which lies in the run's own folder and nowhere else."""
    path = folder / name
    for part in (folder, path):
        if part.is_symlink():
            raise RecordError(f"{part} is a symbolic link, and a run's record holds none; put what it leads to there")
    try:
        # Reading from a pipe or a device would never end.
        if path.exists() and not path.is_file():
            raise OSError(0, "not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> RecordError:
    return RecordError(f"{path} cannot be read ({why_unreadable(error)}); move its folder away to run it again")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _status_text(content: Mapping[str, Any]) -> str:
    """status.json: the content with its seal, in the one form that such a content has."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    seal = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**content, "seal": seal}, indent=2) + "\n"


def _parse_status(text: str) -> dict[str, Any]:
    """The content of status.json, checked against its seal where it has one."""
    content = json.loads(text)
    standing = {key: content[key] for key in _STATUS_KEYS}
    if not all(isinstance(value, str) for value in standing.values()):
        raise ValueError(f"expected text for {', '.join(_STATUS_KEYS)}")
    if standing["status"] not in STATUSES:
        raise ValueError(f"expected a status among {', '.join(STATUSES)}, but got {standing['status']!r}")
    if content.keys() == set(_STATUS_KEYS):
        return standing
    # Comparing the whole text finds a changed blank as well.
    if text != _status_text({key: value for key, value in content.items() if key != "seal"}):
        raise ValueError("its seal does not fit: it was changed after it was recorded")
    if not isinstance(content["sha256"], dict):
        raise ValueError("expected a SHA-256 for each file")
    return dict(content)


def _check_digest(content: bytes | None, recorded: object) -> None:
    if content is None:
        raise ValueError("the file is missing, or unknown to this version, but status.json has its SHA-256")
    got = hashlib.sha256(content).hexdigest()
    if got != recorded:
        raise ValueError(f"its SHA-256 is {got}, but status.json has {recorded or 'none'}: it was changed")


def _check_config(config: Any) -> None:
    types = {"suite": str, "method": str, "seed": int, "modified": bool, "run_id": str, "suite_settings": dict}
    found = {key: config[key] for key in types} | {"n_tasks": config["suite_settings"]["n_tasks"]}
    for key, kind in (types | {"n_tasks": int}).items():
        if type(found[key]) is not kind:
            raise ValueError(f"expected {key} to be of type {kind.__name__}, but got {found[key]!r}")
    for key in ("versions", "data", "overrides", "method_settings"):
        if not isinstance(config.get(key) or {}, dict):
            raise ValueError(f"expected {key} to be an object, but got {config[key]!r}")
    settings = [name for key in ("suite_settings", "method_settings", "overrides") for name in config.get(key) or {}]
    for key, text in (
        *((key, config[key]) for key in ("suite", "method", "run_id")),
        *(("settings", s) for s in settings),
    ):
        # They are shown in terminals, which obey control characters, and in drawings, which may not hold any.
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Cn") for letter in text):
            raise ValueError(f"expected {key} without control characters, but got {text!r}")
    if not 1 <= found["n_tasks"] <= _MOST_TASKS:
        raise ValueError(f"expected n_tasks from 1 to {_MOST_TASKS}, but got {found['n_tasks']}")
    # JSON can spell half a character, which no text file can.
    json.dumps(config, ensure_ascii=False).encode()


def _matrix(content: bytes, columns: list[str]) -> "Matrix":
    """The accuracies of a table whose first column counts its rows; float() reads back what was written to the bit."""
    import numpy as np

    header, *lines = _text(content).splitlines()
    rows = [line.split(",") for line in lines]
    # float() would take 1_0, spaces and some words as well.
    strange = re.search(r"[^,]*[^0-9.,e+-][^,]*", ",".join(lines))
    if strange:
        raise ValueError(f"expected accuracies in [0, 1], but got '{strange.group()}'")
    expected = [str(number) for number in range(len(columns))]
    if header.split(",") != columns or [row[0] for row in rows] != expected or {*map(len, rows)} != {len(columns)}:
        raise ValueError(f"expected the columns {', '.join(columns)} and {len(columns)} rows")
    return np.array([[float(entry or "nan") for entry in row[1:]] for row in rows])


def _text(content: bytes) -> str:
    text = content.decode()
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")
    return text


def _frame(content: bytes) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(io.StringIO(_text(content)))


def _checked_table(content: bytes, columns: tuple[str, ...]) -> "pd.DataFrame":
    import numpy as np

    frame = _frame(content)
    if tuple(frame.columns) != columns:
        raise ValueError(f"expected the columns {', '.join(columns)}, but got {', '.join(frame.columns)}")
    kinds = [dtype.kind for dtype in frame.dtypes]
    # All at once, because column by column takes longer than reading the file.
    if len(frame) and (set(kinds) - set("iuf") or not np.isfinite(frame.to_numpy(dtype=float)).all()):
        for column, kind in zip(columns, kinds, strict=True):
            if kind not in "iuf" or not np.isfinite(frame[column]).all():
                raise ValueError(f"the column {column} holds something that is no number")
    return frame


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
