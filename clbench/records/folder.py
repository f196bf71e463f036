"""The run folder: the files a run leaves behind, and how they are read back.

One folder per run, `clbench-runs/<run_id>/`, is the source of truth; MLflow receives the same files as
artifacts and can be rebuilt from them. The run id is a hash of the resolved configuration, so the same question
always lands in the same folder.

    config.json           what was run: suite, method, seed, every setting, data digest, versions, commit, command
    environment.txt       the machine and the installed packages
    accuracy_matrix.csv   tasks_learned, task_01 ... task_T; accuracy in [0, 1], empty where not measured
    tasks.csv             per task: seconds, images per second, memory
    capacity.csv          per task and group of units: unit, units, free, new, reused, used, and where the method has
                          them threshold, margin_spent, weights_used and weights; absent for methods that count nothing
    pruning.csv           per task, each look of the search for what to prune: group, units kept, accuracy on validation
                          images; absent for methods that do not search
    measures.csv          per task, further numbers of the method by name; absent for methods that have none
    samples.png           images of each task, where there are any
    files/                copies of the user's own files that the run used, such as its network; nothing runs them
    traceback.txt         of a run that failed for a reason that clbench does not know
    status.json           running, finished, stopped or failed; when; why; once it has ended, the SHA-256 of each file
                          above, of what was learned and of networks; and the seal, a SHA-256 over all of this
    networks/             with `--keep-weights` alone: the network of each task (`clbench/export/kept.py`)
    checkpoint.pt         until it is finished: the state after the last task learned (`checkpoint.py`)

Whoever trains a run holds its lease (`lease.py`).

The seal vouches for the whole record: whoever knows it can tell whether a bit of any file has changed since. Runs
recorded before there were seals have none.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError
from clbench.records.files import content_of, files_below, now, one_line, to_disk, write_whole
from clbench.records.format import (
    OPTIONAL_FILES,
    OWN_FILES,
    REQUIRED_FILES,
    TASK_COLUMNS,
    capacity_table,
    check_config,
    check_file_name,
    format_of,
    measures_table,
    parse_status,
    pruning_table,
    status_text,
)
from clbench.records.lease import Lease

if TYPE_CHECKING:
    from clbench.records.result import RunResult


class RunFolder:
    """Writes one run's folder, every file whole or not at all.

    Args:
        root: the folder that holds all runs, usually `clbench-runs`.
        run_id: see `run_id_of`.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self.path = root / run_id
        self.checkpoint = self.path / "checkpoint.pt"
        self._lease = Lease(root / ".leases", run_id)

    def lease(self, patience: float = 0.0) -> AbstractContextManager[bool]:
        """Within, this process alone works on the run, if the value is True; else another process does.

        Args:
            patience: seconds to wait for the other process.

        Raises:
            RecordError: if that cannot be told.
        """
        return self._lease.taken(patience)

    @property
    def holder(self) -> str:
        """A sentence about who works on the run, where a file stands for a lock; empty elsewhere."""
        return self._lease.holder

    def check_held(self) -> None:
        """Makes sure that no other process took the run over.

        Raises:
            RecordError: if one did.
        """
        self._lease.check()

    @property
    def is_lost(self) -> bool:
        """Whether another process took over the lease that this one held; see `Lease`."""
        return self._lease.is_lost

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
            return parse_status(content_of(self.path, path.name).decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{path} cannot be read ({error}); move the folder away to run it again") from None

    @property
    def weights_sha256(self) -> str:
        """The digest of the weights that a finished run ended with; empty where none is recorded.

        Raises:
            RecordError: if status.json cannot be read.
        """
        return str(self._status().get("weights_sha256") or "")

    @property
    def networks(self) -> dict[str, str]:
        """The SHA-256 of the network that a finished run kept for each task, by its file; empty where it kept none.

        Raises:
            RecordError: if status.json cannot be read, or says something else.
        """
        found = self._status().get("networks") or {}
        if not isinstance(found, dict):
            raise RecordError(f"{self.path / 'status.json'} says of networks what clbench does not write")
        return found

    def replace(self) -> None:
        """Sets the record aside, kept beside the one that is to come.

        Raises:
            RecordError: if it cannot be read or renamed.
        """
        try:
            self._set_aside("replaced")
        except OSError as error:
            raise RecordError(f"the run folder {self.path} cannot be renamed ({error.strerror}); see to it") from None

    def _set_aside(self, why: str) -> None:
        stamp = now().replace(":", "").replace("+0000", "Z")
        aside, number = self.path.with_name(f"{self.path.name}.{why}-{stamp}"), 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{self.path.name}.{why}-{stamp}-{number}")
        self.path.rename(aside)

    def begin(self, config: Mapping[str, Any], environment: str, files: Mapping[str, bytes] = {}) -> None:
        """Creates the folder. What an earlier unfinished attempt left is kept beside it, never overwritten.

        Args:
            config: the content of config.json.
            environment: the text of environment.txt.
            files: copies of the user's own files, by path below the folder `files`, such as `helpers/blocks.py`.

        Raises:
            RecordError: if the folder cannot be created, a path leads out of it, or config.json could not be read.
        """
        for name in files:
            check_file_name(name)
        try:
            # What is written can be read.
            check_config(config)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"the run cannot be recorded: {one_line(error)}") from None
        try:
            if self.path.exists():
                self._set_aside("unfinished")
            self.path.mkdir(parents=True)
            for name in files:
                (self.path / OWN_FILES / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(
                f"the run folder {self.path} cannot be created ({error.strerror}); "
                "give a folder you may write to with --output"
            ) from None
        self._started = now()
        self._resumed: list[str] = []
        self.write("config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        self.write("environment.txt", environment)
        for name, content in files.items():
            self.write_bytes(f"{OWN_FILES}/{name}", content)
        self.set_status("running")

    def config(self) -> dict[str, Any]:
        """What config.json of an earlier attempt says."""
        path = self.path / "config.json"
        try:
            config = json.loads(content_of(self.path, path.name))
            format_of(config, path)
            check_config(config)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{path} is not as clbench recorded it ({one_line(error)})") from None
        return dict(config)

    def own_files(self) -> dict[str, bytes]:
        """The copies of the user's own files, by their path below the folder `files`.

        Raises:
            RecordError: if one cannot be read.
        """
        names = files_below(self.path, OWN_FILES)
        return {name.removeprefix(f"{OWN_FILES}/"): content_of(self.path, name) for name in names}

    def resume(self) -> None:
        """Goes on with what an earlier attempt left; status.json keeps when, for all attempts."""
        before = self._status()
        for leftover in self.path.glob(".*"):
            # A file that was being written when the process was killed.
            leftover.unlink()
        self._started = before["started"]
        self._resumed = [*before.get("resumed", []), now()]
        self.set_status("running")

    def set_status(
        self, status: str, reason: str = "", weights_sha256: str = "", networks: Mapping[str, str] = {}
    ) -> None:
        """Records how the run stands, and seals it.

        With the end of a run come the digests of its files, so nothing may be written after that.

        Args:
            status: see `RecordedRun`.
            reason: one sentence for `failed` and `stopped`.
            weights_sha256: of what was learned, for `finished` (`checkpoint.weights_digest`).
            networks: the SHA-256 of each network that was kept, by its file, for `finished`.
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
        if networks:
            content["networks"] = dict(networks)
        # The tables of a run that goes on will change, and not all at the same instant.
        if has_ended:
            self._to_disk()
        content["sha256"] = self._digests() if has_ended else {}
        self.write("status.json", status_text(content))

    def discard_checkpoint(self) -> None:
        """Removes the checkpoint of a run that needs it no more."""
        self.checkpoint.unlink(missing_ok=True)

    def write_tables(self, result: "RunResult") -> None:
        """Writes the tables as they stand after the last task learned."""
        import pandas as pd

        from clbench.metrics import task_columns

        frame = pd.DataFrame(result.matrix, columns=list(task_columns(result.matrix.shape[1])))
        frame.insert(0, "tasks_learned", range(result.matrix.shape[0]))
        tables = {
            "accuracy_matrix.csv": frame,
            "tasks.csv": pd.DataFrame(result.tasks, columns=list(TASK_COLUMNS)),
            **({"capacity.csv": capacity_table(result.capacity)} if result.capacity else {}),
            **({"pruning.csv": pruning_table(result.pruning)} if result.pruning else {}),
            **({"measures.csv": measures_table(result.measures)} if result.measures else {}),
        }
        for name, table in tables.items():
            # A run goes on from its checkpoint. What it shows meanwhile need not survive a power cut.
            self.write_bytes(name, table.to_csv(index=False).encode(), to_disk=False)

    def write(self, name: str, text: str) -> None:
        """Writes one text file as `write_bytes` does."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes, *, to_disk: bool = True) -> None:
        """Writes one file atomically: a reader sees the old content or the new, never a part."""
        self._lease.check()
        try:
            write_whole(self.path / name, content, to_disk=to_disk)
        except OSError as error:
            raise RecordError(f"{self.path / name} cannot be written ({error.strerror})") from None

    def files(self) -> list[Path]:
        """The recorded files that exist, in a fixed order; what a symbolic link leads to is not ours to hand on."""
        paths = [self.path / name for name in (*REQUIRED_FILES, *OPTIONAL_FILES, *files_below(self.path, OWN_FILES))]
        return [path for path in paths if path.is_file() and not path.is_symlink()]

    def _to_disk(self) -> None:
        for path in self.files():
            try:
                to_disk(path)
            except OSError as error:
                raise RecordError(f"{path} cannot be written ({error.strerror})") from None

    def _digests(self) -> dict[str, str]:
        recorded = [path.relative_to(self.path).as_posix() for path in self.files() if path.name != "status.json"]
        return {name: hashlib.sha256(content_of(self.path, name)).hexdigest() for name in recorded}


def all_recorded(root: Path, run_ids: Sequence[str]) -> bool:
    """Whether all of these runs have ended well, as far as their status.json says."""
    try:
        return all(RunFolder(root, run_id).status == "finished" for run_id in run_ids)
    except RecordError:
        return False


def without_networks(root: Path, run_ids: Sequence[str]) -> list[str]:
    """Those of these runs that have ended well and kept no networks."""
    folders = [RunFolder(root, run_id) for run_id in run_ids]
    return [each.path.name for each in folders if each.status == "finished" and not each.networks]
