"""MLflow: the only module that imports it. What lies in a run folder goes there, and comes back for reports.

Experiment = suite; one parent run per invocation, one child per (method, seed). Metrics have the number of tasks
learned as their step. If the store fails, at the start or later, training goes on, one warning says so, and
`clbench sync` (or the next `clbench run` with the same arguments) brings it up to date from the run folders.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import queue
import re
import shlex
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.errors import RecordError, TrackingError
from clbench.records import RecordedRun, RunFolder, read_run, run_paths

if TYPE_CHECKING:
    import pandas as pd

    from clbench.runner import RunResult

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "running": "RUNNING"}
# Limits of MLflow's batch call.
_MOST_METRICS, _MOST_PARAMS = 1000, 100
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
# Making a new SQLite store takes MLflow 5 s of computing, and other processes may be at it.
_SECONDS_TO_CREATE = 120.0

Synced = Literal["added", "completed", "up to date"]


def tracking_uri(given: str | None) -> str:
    """The store to use: the option, then MLFLOW_TRACKING_URI, then `mlflow.db` in the working directory.

    Always absolute: MLflow would otherwise prefer a leftover `./mlruns` folder and then refuse it, and the command
    that we print would work in one folder only.

    Raises:
        TrackingError: for a SQLite file whose path cannot stand in a URI, or that is something else.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if not uri.startswith("sqlite:///"):
        return uri
    path = Path.cwd() / uri.removeprefix("sqlite:///")
    if any(letter in str(path) for letter in "%?#"):
        raise TrackingError(
            f"the MLflow store cannot lie at {path}, because a path with %, ? or # does not survive in a URI; work in "
            "another folder, or name a store with --tracking-uri"
        )
    if not os.access(path.parent, os.W_OK):
        raise TrackingError(
            f"the MLflow store {path} cannot be written, because its folder is not there or not yours to write; "
            "name another with --tracking-uri"
        )
    return f"sqlite:///{path}"


def _patience() -> float:
    """Seconds that one delivery to the store may hold up training."""
    return float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])


def _import_mlflow() -> None:
    # To be set before the first import: one retry and ten seconds keep a run alive when a server is gone;
    # the client's own defaults block for minutes per call. Usage telemetry is the user's to switch on.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    if "DO_NOT_TRACK" not in os.environ:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # It logs a traceback for what it raises as well; we say it in one sentence.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` gives, or an error once the time is up; `work` is then left to itself.

    The only bound that holds for every store: a server may answer each of many requests late, and MLflow waits
    20 s for a lock on SQLite and tries for 100 s to open it, whatever it is told.

    Raises:
        TimeoutError: if it takes longer.
        Exception: whatever `work` raised.
    """
    outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except Exception as error:
            outcome.put((None, error))

    # A daemon, so that a store that hangs does not keep the process from ending either.
    threading.Thread(target=run, name="mlflow", daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return value


def _open(uri: str, seconds: float) -> Any:
    """A client of a store that has answered within this time.

    Raises:
        TrackingError: for a URI that no store can ever answer at.
        Exception: whatever the client raises if the store does not answer now.
    """
    _import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import InvalidUrlException
    from sqlalchemy.exc import ArgumentError

    def connect() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client

    path = _sqlite_file(uri)
    try:
        if path is not None and not path.exists():
            _within(_SECONDS_TO_CREATE, lambda: _create_sqlite(path))
        if path is not None and not _is_sqlite(path):
            raise ValueError("the file is no SQLite database")
        return _within(seconds, connect)
    except Exception as error:
        scheme = uri.partition(":")[0].partition("+")[0]
        if scheme in _SCHEMES and not isinstance(error, ImportError | ValueError | ArgumentError | InvalidUrlException):
            raise
        raise TrackingError(
            f"the MLflow store {uri} cannot be used ({_first_line(error)}); give another with --tracking-uri, such as "
            "http://HOST:PORT or sqlite:///FILE (without it, mlflow.db in the working directory is used)"
        ) from None


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) in (b"", b"SQLite format 3\0")


def _create_sqlite(path: Path) -> None:
    """Creates an empty store, whole or not at all, unless there is one.

    MLflow's migrations are no transaction: processes that meet in them, a full disk or a kill leave a file that
    MLflow refuses for ever. So the store is made under another name and then linked to its own.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _alone_in(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-new-") as folder:
        if path.exists():
            return
        made = Path(folder) / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = SqlAlchemyStore(f"sqlite:///{made}", _artifact_location(f"sqlite:///{path}"))
        store.engine.dispose()
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:
            # A file system without hard links.
            os.replace(made, path)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Within, other processes that ask for the same folder wait; where locks do not work, all go on at once."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Not a lock on a file of its own: it would have to stay there for ever.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True)
class _Point:
    """One value of one metric; `seconds` is how long the run had been at work when it was measured."""

    name: str
    step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class _Copy:
    """A run of ours as the store holds it: MLflow's entity and (metric, step) -> the values there."""

    run: Any
    points: Mapping[tuple[str, int], Sequence[float]]

    def tag(self, name: str) -> str:
        return str(self.run.data.tags.get(f"clbench.{name}", ""))

    def is_part_of(self, points: Sequence[_Point], place: str) -> bool:
        """Whether this is the attempt that measured these points, and holds nothing else and none twice.

        Two attempts of the same configuration agree in every accuracy; the seconds of a task tell them apart. Before
        the first task only a run of the same folder that nobody has closed can be the same attempt.
        """
        values = {(point.name, point.step): point.value for point in points}
        fits = all(
            len(held) == 1 and key in values and math.isclose(held[0], values[key], rel_tol=1e-9)
            for key, held in self.points.items()
        )
        has_learned = any(step > 0 for _, step in self.points)
        return fits and (has_learned or (self.tag("folder") == place and self.tag("complete") != "true"))


class _Store:
    """What clbench does with an MLflow store. Every call may raise whatever MLflow's client raises.

    Args:
        uri: of the store.
        seconds: how long it may take to answer. By default more than while training waits.

    Raises:
        TrackingError: for a URI that no store can ever answer at.
    """

    def __init__(self, uri: str, seconds: float = 30.0) -> None:
        self.uri = uri
        self.client = _open(uri, seconds)
        self._experiments: dict[str, str] = {}

    def experiment(self, suite: str, title: str) -> str:
        """The id of the suite's experiment, created if need be.

        Raises:
            TrackingError: if it was deleted.
        """
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
        if name in self._experiments:
            return self._experiments[name]
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                made = self.client.create_experiment(
                    name,
                    artifact_location=_artifact_location(self.uri),
                    tags={
                        "mlflow.note.content": _experiment_note(suite, title),
                        # MLflow's word for training models, rather than calling language models.
                        "mlflow.experimentKind": "custom_model_development",
                    },
                )
                self._experiments[name] = made
                return str(made)
            except Exception:
                # Another process may have been faster.
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise TrackingError(f"the MLflow experiment '{name}' was deleted; restore it or set MLFLOW_EXPERIMENT_NAME")
        self._experiments[name] = found.experiment_id
        return str(found.experiment_id)

    def search(self, experiments: list[str], condition: str) -> list[Any]:
        """All runs that meet the condition."""
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(experiments, filter_string=condition, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def held(self, experiment: str, run_id: str) -> list[_Copy]:
        """Every run that stands for this run id, oldest first."""
        found = []
        for run in self.search([experiment], f"tags.`clbench.run_id` = '{run_id}'"):
            points: dict[tuple[str, int], list[float]] = {}
            for name in run.data.metrics:
                for metric in self.client.get_metric_history(run.info.run_id, name):
                    points.setdefault((name, metric.step), []).append(metric.value)
            found.append(_Copy(run, points))
        return sorted(found, key=lambda copy: (copy.run.info.start_time, copy.run.info.run_id))

    def choose(self, copies: Sequence[_Copy], points: Sequence[_Point], place: str, digest: str | None) -> _Copy | None:
        """The copy to go on with: the whole one, else the one with the most points.

        Whatever else was left of this attempt, or left open by an earlier one in the same folder, is deleted, which
        MLflow can undo. Other attempts that were closed stay.

        Args:
            copies: every run of this run id.
            points: what the attempt has measured.
            place: its folder.
            digest: of its folder, which a whole copy has; None while it is trained.
        """

        def is_whole(copy: _Copy) -> bool:
            return digest is not None and copy.tag("folder_sha256") == digest

        same = [copy for copy in copies if is_whole(copy) or copy.is_part_of(points, place)]
        same.sort(key=lambda copy: (not is_whole(copy), -len(copy.points)))
        for copy in copies:
            left_open = copy.run.info.status == "RUNNING" and copy.tag("folder") == place
            if copy in same[1:] or (left_open and copy not in same):
                self.client.delete_run(copy.run.info.run_id)
        return same[0] if same else None

    def create_parent(self, experiment: str, suite: str, command: str, n_runs: int, begun: float) -> str:
        """The run that an invocation's runs hang below."""
        runs = "1 run" if n_runs == 1 else f"{n_runs} runs"
        run = self.client.create_run(
            experiment,
            start_time=int(begun * 1000),
            run_name=time.strftime(f"{runs} %Y-%m-%d %H:%M", time.localtime(begun)),
            tags={
                "clbench.suite": suite,
                "clbench.command": _tag(command),
                "clbench.kind": "invocation",
                "mlflow.source.name": "clbench",
                "mlflow.source.type": "LOCAL",
                "mlflow.note.content": _invocation_note(runs, suite, command),
            },
        )
        return str(run.info.run_id)

    def invocations(self, experiment: str, command: str) -> list[Any]:
        """Every invocation of this command."""
        found = self.search([experiment], "tags.`clbench.kind` = 'invocation'")
        return [run for run in found if run.data.tags["clbench.command"] == _tag(command)]

    def parent_of(self, runs: Sequence[RecordedRun], experiment: str) -> str:
        """The newest invocation with the command of these recorded runs, created if there is none."""
        suite, command = _invocation_of(runs[0])
        if same := self.invocations(experiment, command):
            return str(max(same, key=lambda run: run.info.start_time).info.run_id)
        return self.create_parent(experiment, suite, command, len(runs), min(_seconds(run.started) for run in runs))

    def create(self, experiment: str, parent: str, config: Mapping[str, Any], begun: float, place: str) -> Any:
        """A run without points, with all that its configuration says."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        tags = {"mlflow.parentRunId": parent, **_tags(config, place)}
        run = self.client.create_run(experiment, start_time=int(begun * 1000), run_name=_run_name(config), tags=tags)
        settings = {
            **{f"suite.{k}": v for k, v in config["suite_settings"].items() if k not in ("title", "source", "name")},
            **config["method_settings"],
            "seed": config["seed"],
            "method": config["method"],
            "suite": config["suite"],
        }
        params = [Param(key, _param(value)) for key, value in settings.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self.client.log_batch(run.info.run_id, params=params[start : start + _MOST_PARAMS])
        data = config["data"]
        facts = {key: value for key, value in data.items() if isinstance(value, int)}
        dataset = Dataset(
            name=config["suite"],
            # MLflow's own column for the digest is short; the whole of it is in the tag.
            digest=data["sha256"][:32],
            source_type="code",
            source=json.dumps({"source": data["source"], "suite": config["suite"]}),
            profile=json.dumps({"data": data["source"], "tasks": config["suite_settings"]["n_tasks"], **facts}),
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training and test")])]
        try:
            self.client.log_inputs(run.info.run_id, datasets=inputs)
        except Exception:
            # MLflow looks for the data set and then adds it; a process that was faster makes the first call fail.
            self.client.log_inputs(run.info.run_id, datasets=inputs)
        return run

    def log(self, run: Any, points: Iterable[_Point]) -> None:
        """Logs points. Their time follows from the run, so that a repeated call finds them there and adds none."""
        from mlflow.entities import Metric

        began = run.info.start_time
        found = [Metric(item.name, item.value, began + int(1000 * item.seconds), item.step) for item in points]
        for start in range(0, len(found), _MOST_METRICS):
            self.client.log_batch(run.info.run_id, metrics=found[start : start + _MOST_METRICS])

    def reopen(self, run: Any, config: Mapping[str, Any], place: str) -> None:
        """Marks a run as going on again."""
        from mlflow.entities import RunTag

        if "clbench.complete" in run.data.tags:
            self.client.delete_tag(run.info.run_id, "clbench.complete")
        self.client.log_batch(run.info.run_id, tags=[RunTag(*item) for item in _tags(config, place).items()])
        self.client.update_run(run.info.run_id, status="RUNNING")

    def finish(self, run: Any, folder: RunFolder, ended: float | None = None) -> None:
        """Uploads a run's files and closes it as its status.json says.

        Raises:
            RecordError: if the folder does not hold a whole run.
        """
        from mlflow.entities import RunTag

        run_id, digest, recorded = run.info.run_id, _digest(folder), read_run(folder.path)
        for path in folder.files():
            self.client.log_artifact(run_id, str(path))
        tags = {
            "mlflow.note.content": _run_note(recorded.config, _place(folder), recorded),
            "clbench.folder_sha256": digest,
        }
        if recorded.reason:
            tags["clbench.reason"] = recorded.reason
        if recorded.status == "running":
            self.client.update_run(run_id, status="RUNNING")
        else:
            end_time = None if ended is None else max(int(1000 * ended), run.info.start_time)
            self.client.set_terminated(run_id, _STATUS[recorded.status], end_time)
            tags["clbench.complete"] = "true"
        # Last, so that an outage at any point leaves a run that does not count.
        self.client.log_batch(run_id, tags=[RunTag(name, _tag(value)) for name, value in tags.items()])

    def bring_up_to_date(self, folder: RunFolder, parent: Callable[[str], str]) -> tuple[Synced, str]:
        """Makes the store hold a recorded run once and completely.

        Args:
            folder: of the run.
            parent: experiment -> the invocation for a run that the store lacks.

        Returns:
            What was done, and the invocation that the run hangs below.

        Raises:
            RecordError: if the folder does not hold a whole run.
        """
        first = read_run(folder.path)
        experiment = self.experiment(first.suite, str(first.config.get("title", first.suite)))
        copies = self.held(experiment, first.run_id)
        # Read again after what the store has, so that a run that is going on is never behind it.
        recorded = read_run(folder.path)
        points, place, digest = _points(_result(recorded)), _place(folder), _digest(folder)
        chosen = self.choose(copies, points, place, digest)
        done: Synced = "completed"
        if chosen is None:
            done = "added"
            begun = _seconds(recorded.started)
            chosen = _Copy(self.create(experiment, parent(experiment), recorded.config, begun, place), {})
        above = str(self.client.get_run(chosen.run.info.run_id).data.tags.get("mlflow.parentRunId", ""))
        if chosen.tag("folder_sha256") == digest:
            return "up to date", above
        self.log(chosen.run, [point for point in points if (point.name, point.step) not in chosen.points])
        self.finish(chosen.run, folder, _seconds(recorded.ended) if recorded.ended else None)
        return done, above

    def close_parent(self, parent: str, status: str | None = None) -> None:
        """Closes an invocation and lists its runs in its description.

        Args:
            parent: its MLflow run.
            status: MLflow's word for how it ended. None: as its runs say, if it was left open and none goes on.
        """
        run = self.client.get_run(parent)
        children = self.search([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
        found = {child.info.status for child in children}
        ended = None
        if status is None:
            if run.info.status != "RUNNING" or "RUNNING" in found:
                return
            status = next((status for status in ("FAILED", "KILLED") if status in found), "FINISHED")
            ended = max((child.info.end_time or 0 for child in children), default=0) or None
        note = run.data.tags.get("mlflow.note.content", "").partition(_TABLE_HEAD)[0]
        self.client.set_tag(parent, "mlflow.note.content", _tag(note + _TABLE_HEAD + _invocation_table(children)))
        self.client.set_terminated(parent, status, ended)


class Tracker:
    """Records one invocation. It may fail, but it never stops training, nor holds it up for more than seconds.

    Args:
        uri: of the store.
        warn: told, once, when the store does not take records.
        output: the folder of run folders.

    Raises:
        TrackingError: for a URI that no store can ever answer at.
    """

    def __init__(self, uri: str, warn: Callable[[str], None], output: Path = Path("clbench-runs")) -> None:
        self.uri = uri
        self.warn = warn
        self.output = output
        self.is_behind = False
        self._parent: str | None = None
        self._open: dict[str, Any] = {}  # run id of ours -> MLflow's run
        _import_mlflow()
        try:
            self._store = _Store(uri, _patience())
        except TrackingError:
            raise
        except Exception as error:
            self._fall_behind("does not answer", error)

    def begin(self, suite: str, command: str, n_runs: int) -> None:
        """Creates the experiment, if need be; the invocation's parent run comes with its first child.

        Raises:
            TrackingError: if the experiment was deleted.
        """
        from clbench.suites import SUITES

        title = SUITES[suite].title if suite in SUITES else suite
        self._invocation = (suite, command, n_runs, time.time())

        def create() -> None:
            self._experiment = self._store.experiment(suite, title)

        self._try(create)

    def end(self, *, status: str) -> None:
        """Closes the parent run as `finished`, `failed` or `stopped`, and those of the same command that was killed."""
        _, command, *_ = self._invocation

        def close() -> None:
            if self._parent is not None:
                self._store.close_parent(self._parent, _STATUS[status])
            for run in self._store.invocations(self._experiment, command):
                if run.info.status == "RUNNING":
                    self._store.close_parent(run.info.run_id)

        self._try(close)

    def keep_report(self, paths: Iterable[Path]) -> None:
        """Uploads a report to the parent run, if this invocation has one: its files, tables and figures."""
        parent = self._parent
        if parent is None:
            return

        def send() -> None:
            for path in paths:
                if path.is_file():
                    self._store.client.log_artifact(parent, str(path))
                else:
                    self._store.client.log_artifacts(parent, str(path))

        self._try(send)

    def log(self, config: Mapping[str, Any], result: "RunResult") -> None:
        """Logs where a run stands after its last task.

        The first call opens its MLflow run, or goes on with the one that an earlier process left of this attempt.
        """

        def send() -> None:
            if config["run_id"] in self._open:
                self._store.log(self._open[config["run_id"]], _points(result, first=result.learned))
                return
            points, place = _points(result), _place(RunFolder(self.output, config["run_id"]))
            chosen = self._store.choose(
                self._store.held(self._experiment, config["run_id"]), points, place, digest=None
            )
            if chosen is None:
                run = self._store.create(self._experiment, self._parent_id(), config, time.time(), place)
                chosen = _Copy(run, {})
            else:
                self._store.reopen(chosen.run, config, place)
            self._open[config["run_id"]] = chosen.run
            self._store.log(chosen.run, [item for item in points if (item.name, item.step) not in chosen.points])

        self._try(send)

    def close(self, config: Mapping[str, Any], folder: RunFolder) -> None:
        """Uploads a run's files and closes it as its status.json says."""

        def send() -> None:
            if config["run_id"] in self._open:
                self._store.finish(self._open[config["run_id"]], folder)
            else:
                self._store.bring_up_to_date(folder, lambda _: self._parent_id())

        try:
            self._try(send)
        except RecordError:
            self.abandon(config)

    def abandon(self, config: Mapping[str, Any]) -> None:
        """Closes a run as failed without its files."""
        if config["run_id"] in self._open:
            run = self._open[config["run_id"]]
            self._try(lambda: self._store.client.set_terminated(run.info.run_id, "FAILED"))

    def complete(self, folder: RunFolder) -> None:
        """Makes sure that the store holds a run that was recorded before, every point once.

        Raises:
            RecordError: if the folder does not hold a whole run.
        """
        condition = f"tags.`clbench.run_id` = '{folder.path.name}' and tags.`clbench.complete` = 'true'"
        # A stopped or failed attempt is recorded whole as well; only a finished one will do.
        condition += " and attributes.status = 'FINISHED'"

        def send() -> None:
            if not self._store.search([self._experiment], condition):
                self._store.bring_up_to_date(folder, lambda _: self._parent_id())

        self._try(send)

    def _parent_id(self) -> str:
        if self._parent is None:
            self._parent = self._store.create_parent(self._experiment, *self._invocation)
        return self._parent

    def _try(self, send: Callable[[], Any]) -> Any:
        """Records lie in the run folder whatever happens here, so a failing store is no reason to stop."""
        if self.is_behind:
            return None
        try:
            return _within(_patience(), send)
        except (TrackingError, RecordError):
            raise
        except Exception as error:
            self._fall_behind("takes no more records", error)
            return None

    def _fall_behind(self, what: str, error: Exception) -> None:
        self.is_behind = True
        command = shlex.join(["clbench", "sync", "--runs", str(self.output), "--tracking-uri", self.uri])
        self.warn(
            f"the MLflow store {self.uri} {what} ({_first_line(error)}); training goes on, everything is kept in "
            f"the run folders, and this will bring MLflow up to date: {command}"
        )


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
        store = _Store(uri)
        parents = set()
        for folder, run in recorded:
            alike = [other for _, other in recorded if _invocation_of(other) == _invocation_of(run)]
            outcome, parent = store.bring_up_to_date(folder, partial(store.parent_of, alike))
            done[outcome] += 1
            parents.add(parent)
        for parent in sorted(parents - {""}):
            store.close_parent(parent)
    except (TrackingError, RecordError):
        raise
    except Exception as error:
        raise TrackingError(
            f"the MLflow store {uri} does not answer ({_first_line(error)}); start it, or give another with "
            "--tracking-uri; the same command again goes on"
        ) from None
    return done


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
        store = _Store(uri)
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
        ]
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"the MLflow store {uri} does not answer ({_first_line(error)}); start it, or give another with "
            "--tracking-uri (without it, mlflow.db in the working directory is used)"
        ) from None
    table = pd.DataFrame(found, columns=["mlflow_id", "run_id", "finished", "start"])
    best = table.sort_values(["finished", "start"], ascending=False).drop_duplicates("run_id")
    runs = []
    for mlflow_id in best["mlflow_id"]:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                runs.append(read_run(Path(store.client.download_artifacts(mlflow_id, "", temporary))))
            except Exception as error:
                said = _first_line(error).replace(temporary, "").lstrip("/")
                raise RecordError(
                    f"the files of the MLflow run {mlflow_id} cannot be read ({said}); delete that run in MLflow, and "
                    "`clbench sync` will restore it from its run folder"
                ) from None
    return sorted(runs, key=lambda run: (run.method, run.seed, run.run_id))


# What a person reads in MLflow


def _run_name(config: Mapping[str, Any]) -> str:
    """Method and seed, and what was changed: runs of one method are told apart by it."""
    own = f"{config['method']}."
    changes = sorted(config["overrides"].items(), key=lambda item: (not item[0].startswith(own), item[0]))
    # The method's own first, because MLflow's tables cut a name off after some twenty letters.
    shown = ", ".join(f"{key.removeprefix(own)}={_param(value)}" for key, value in changes)
    name = f"{config['method']} seed {config['seed']}"
    name += f" (modified: {shown})" if shown else " (modified)" if config["modified"] else ""
    return name if len(name) <= 120 else name[:119] + "…"


def _tags(config: Mapping[str, Any], place: str) -> dict[str, str]:
    tags = {
        "mlflow.source.name": "clbench",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": config["git_commit"],
        "mlflow.note.content": _run_note(config, place),
        **{
            f"clbench.{name}": config[name]
            for name in ("suite", "method", "seed", "run_id", "task_known_at_test", "modified", "precision")
        },
        "clbench.kind": "run",
        "clbench.folder": place,
        "clbench.scenario": config["suite_settings"]["scenario"],
        "clbench.head": config["suite_settings"]["head"],
        "clbench.git_commit": config["git_commit"],
        "clbench.data_sha256": config["data"]["sha256"],
        **{f"clbench.version.{name}": number for name, number in config["versions"].items()},
    }
    return {key: _tag(value) for key, value in tags.items()}


def _experiment_note(suite: str, title: str) -> str:
    # The page shows the first line until it is unfolded, and invocations until they are.
    return (
        f"**{_plain(title)}**, by clbench. *Sort* by the metric `average_accuracy` to list every run, and see the "
        "charts (the second icon).\n\n"
        f"One run per invocation of the suite {_plain(suite)}; below it one per method and seed. Sorted by time, only "
        "the invocations are listed until they are unfolded; ``tags.`clbench.kind` = 'run'`` leaves them out.\n\n"
        "- A metric's step is the number of **tasks learned**: `average_accuracy` by step is the learning curve, "
        "`accuracy/task_01` by step what is remembered of the first task.\n"
        "- To compare settings, tick runs of one method, choose *Compare*, and in the *Parallel Coordinates Plot* its "
        "hyper-parameters and `average_accuracy`.\n"
        "- The tag `clbench.task_known_at_test` says whether a method is told the task at test time.\n"
        "- Runs whose name says *modified* do not have the suite's own settings."
    )


def _invocation_note(runs: str, suite: str, command: str) -> str:
    return f"{runs} of the suite **{_plain(suite)}** by one command:\n\n{_code(command)}\n\n"


_TABLE_HEAD = "| run | status | average accuracy, % | forgetting, points |\n|---|---|---:|---:|\n"


def _invocation_table(children: Iterable[Any]) -> str:
    rows = []
    for child in sorted(children, key=lambda child: str(child.info.run_name)):
        values = child.data.metrics
        shown = [f"{100 * values[name]:.2f}" if name in values else "" for name in ("average_accuracy", "forgetting")]
        rows.append(f"| {_plain(child.info.run_name)} | {child.info.status.lower()} | {' | '.join(shown)} |\n")
    return "".join(rows)


def _run_note(config: Mapping[str, Any], place: str, recorded: RecordedRun | None = None) -> str:
    """What the run is, and, once its folder is whole, how it ended."""
    settings = config["suite_settings"]
    known = "told" if config["task_known_at_test"] else "not told"
    text = (
        f"**{_plain(config['method'])}**, seed {config['seed']}, on {_plain(config.get('title', config['suite']))}: "
        f"{settings['n_tasks']} tasks, {_plain(settings['scenario'])}, {_plain(settings['head'])} head; "
        f"{known} the task at test time."
    )
    if config["modified"]:
        changes = ", ".join(f"{key} = {_param(value)}" for key, value in config["overrides"].items())
        text += f"\n\nModified, so it does not count as the suite's own: {_plain(changes)}."
    if recorded is not None and recorded.status != "running":
        result = _result(recorded)
        text += f"\n\n{recorded.status.capitalize()} after {result.learned} of {settings['n_tasks']} tasks"
        text += f" ({_plain(recorded.reason)})." if recorded.reason else "."
        values = result.metrics()
        if "average_accuracy" in values:
            text += f" Average accuracy {100 * values['average_accuracy']:.2f} %"
            text += f", forgetting {100 * values['forgetting']:.2f} points." if "forgetting" in values else "."
    return f"{text}\n\nRun folder {_plain(place)}, recorded with\n\n{_code(config['command'])}"


def _plain(text: Any) -> str:
    """Text that Markdown shows as it is: a name is a name, not a link or an image."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|~&])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    return "    " + " ".join(text.split())


# Small conversions


def _result(recorded: RecordedRun) -> "RunResult":
    from clbench.runner import RunResult

    return RunResult(recorded.accuracy_matrix, _rows(recorded.tasks), _rows(recorded.capacity))


def _points(result: "RunResult", first: int = 0) -> list[_Point]:
    """The points of a run from `first` tasks learned on."""
    from clbench.runner import RunResult

    found = []
    for learned in range(first, result.learned + 1):
        so_far = RunResult(result.matrix, result.tasks[:learned], result.capacity)
        seconds = sum(row["train_seconds"] + row["eval_seconds"] for row in so_far.tasks)
        found += [_Point(name, learned, float(value), seconds) for name, value in so_far.metrics().items()]
    return found


def _rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    # Not iterrows: it would turn the whole numbers of a row into floats, and layer 1 into layer 1.0.
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]


def _digest(folder: RunFolder) -> str:
    """SHA-256 of the recorded files, names included: the same as long as nothing in the folder changes."""
    found = hashlib.sha256()
    for path in folder.files():
        found.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _place(folder: RunFolder) -> str:
    return f"{socket.gethostname()}:{folder.path.absolute()}"


def _invocation_of(run: RecordedRun) -> tuple[str, str]:
    return run.suite, str(run.config["command"])


def _seconds(stamp: str) -> float:
    """An ISO 8601 time as seconds since 1970; now, where there is none."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return time.time()


def _artifact_location(uri: str) -> str | None:
    """Beside a SQLite file; a server decides for itself."""
    path = _sqlite_file(uri)
    return None if path is None else (path.absolute().parent / "mlartifacts").as_uri()


def _tag(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # MLflow's limit.
    return (value if isinstance(value, str) else json.dumps(value))[:8000]


def _param(value: Any) -> str:
    """A setting as MLflow's plots read it: a number where it is one, also for a list of one."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return "none" if value is None else _tag(value)[:6000]


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
