"""The MLflow store brought up to date from run folders, and runs read back from it."""

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from clbench.errors import NewerRecordError, RecordError, TrackingError, first_line
from clbench.records.folder import RunFolder
from clbench.records.reading import RecordedRun, read_run, run_paths
from clbench.tracking.connection import _sqlite_file
from clbench.tracking.store import Store, invocation_of


def sync(root: Path, uri: str, suite: str | None, warn: Callable[[str], None]) -> dict[str, int]:
    """Brings an MLflow store up to date from run folders: every run and every point is there once.

    Args:
        root: the folder of run folders.
        uri: of the store.
        suite: bring only this suite's runs.
        warn: told of every folder that does not hold a whole run.

    Returns:
        How many runs were `added`, `completed`, `up to date` and `unreadable`.

    Raises:
        RecordError: if there is no such folder.
        TrackingError: if the store does not answer, or stops to.
    """
    done = {"added": 0, "completed": 0, "up to date": 0, "unreadable": 0}
    recorded: list[tuple[RunFolder, RecordedRun]] = []
    for path in run_paths(root):
        try:
            run = read_run(path)
            # It becomes part of a query.
            if not re.fullmatch(r"[\w-]+", run.run_id):
                raise RecordError(f"{path / 'config.json'} is not a record that clbench wrote (its run_id is odd)")
        except RecordError as error:
            done["unreadable"] += 1
            warn(str(error))
            continue
        if suite in (None, run.suite):
            recorded.append((RunFolder(root, path.name), run))

    try:
        store = Store(uri)
        parents = set()
        for folder, run in recorded:
            alike = [other for _, other in recorded if invocation_of(other) == invocation_of(run)]
            outcome, parent = store.bring_up_to_date(folder, partial(store.parent_of, alike))
            done[outcome] += 1
            parents.add(parent)
        for parent in sorted(parents - {""}):
            store.close_parent(parent)
    except (TrackingError, RecordError):
        raise
    except Exception as error:
        raise TrackingError(
            f"the MLflow store {uri} does not answer ({first_line(error)}); start it, or give another with "
            "--tracking-uri; the same command again goes on"
        ) from None
    return done


def forget(run_ids: Sequence[str], uri: str) -> int:
    """Marks every entry of these runs as deleted, which MLflow can undo; returns how many there were.

    Raises:
        TrackingError: if the store does not answer.
    """
    path = _sqlite_file(uri)
    if path is not None and not path.exists():
        return 0
    try:
        store = Store(uri)
        experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
        entries = [
            entry.info.run_id
            for run_id in run_ids
            for entry in store.search(experiments, f"tags.`clbench.run_id` = '{run_id}'")
        ]
        for entry in entries:
            store.client.delete_run(entry)
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"the MLflow store {uri} does not answer ({first_line(error)}); start it, or give another with "
            "--tracking-uri; nothing was removed"
        ) from None
    return len(entries)


def load_runs(suite: str, uri: str) -> list[RecordedRun]:
    """Every run of a suite that MLflow holds, one per run id (a finished one, then the newest), by method and seed.

    Raises:
        TrackingError: if the store does not answer.
        RecordError: if a run's files are missing or damaged, naming the run.
    """
    import pandas as pd

    path = _sqlite_file(uri)
    if path is not None and not path.exists():
        # Whoever reads leaves nothing behind.
        return []
    try:
        store = Store(uri)
        experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
        condition = f"tags.`clbench.suite` = '{suite}' and tags.`clbench.complete` = 'true'"
        found = [
            {
                "mlflow_id": run.info.run_id,
                "run_id": run.data.tags["clbench.run_id"],
                "finished": run.info.status == "FINISHED",
                "start": run.info.start_time,
            }
            for run in store.search(experiments, condition)
            # Trials of a search are no results.
            if run.data.tags.get("clbench.measured_on", "test") == "test"
        ]
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"the MLflow store {uri} does not answer ({first_line(error)}); start it, or give another with "
            "--tracking-uri (without it, mlflow.db in the working directory is used)"
        ) from None
    table = pd.DataFrame(found, columns=["mlflow_id", "run_id", "finished", "start"])
    best = table.sort_values(["finished", "start"], ascending=False).drop_duplicates("run_id")
    runs = []
    for mlflow_id in best["mlflow_id"]:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                runs.append(read_run(Path(store.client.download_artifacts(mlflow_id, "", temporary))))
            except NewerRecordError as error:
                raise RecordError(f"MLflow run {mlflow_id}: {_within(temporary, error)}") from None
            except Exception as error:
                said = _within(temporary, error)
                raise RecordError(
                    f"the files of the MLflow run {mlflow_id} cannot be read ({said}); delete that run in MLflow, and "
                    "`clbench sync` will restore it from its run folder, or read run folders with --runs clbench-runs"
                ) from None
    return sorted(runs, key=lambda run: (run.method, run.seed, run.run_id))


def _within(folder: str, error: Exception) -> str:
    """What an error says, without the folder that a run's files were fetched to."""
    return first_line(error).replace(folder, "").lstrip("/")
