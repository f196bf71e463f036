"""One invocation, recorded in MLflow while it trains: an observer of what happens to its runs."""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import ClbenchError, RecordError, TrackingError, first_line
from clbench.events import Began, Ended, Event, Learned, Over, Planned
from clbench.records.folder import RunFolder
from clbench.tracking.connection import import_mlflow, patience, within
from clbench.tracking.store import STATUS, Copy, Store, place_of, points_of
from clbench.tracking.words import experiment_of

if TYPE_CHECKING:
    from clbench.records.result import RunResult

_SECONDS_BETWEEN_POINTS = 2.0


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
        self._latest: dict[str, RunResult] = {}
        self._sent: dict[str, tuple[int, float]] = {}  # how many tasks MLflow has, and when it got the last
        self._whole: set[str] | None = None  # run ids of ours that the store holds whole, once it was asked
        import_mlflow()
        try:
            self._store = Store(uri, patience())
        except TrackingError:
            raise
        except Exception as error:
            self._fall_behind("does not answer", error)

    def hear(self, event: Event) -> None:
        """Records an event.

        Raises:
            TrackingError: where a command begins, if the experiment was deleted.
        """
        match event:
            case Planned():
                self.begin(
                    event.suite,
                    event.command,
                    len(event.runs),
                    title=event.title,
                    measured_on=event.measured_on,
                )
            case Over(outcome):
                self.end(status=outcome)
            case Began() | Learned() | Ended():
                try:
                    self._hear_of_run(event)
                except ClbenchError as error:
                    # Nothing that goes wrong here is a fault of the run.
                    self.warn(str(error))

    def _hear_of_run(self, event: Began | Learned | Ended) -> None:
        match event:
            case Began(config=config, result=result):
                self.log(config, result)
            case Learned(result=result):
                self.log_last(event.run_id, result)
            case Ended(status="recorded before"):
                self.complete(RunFolder(self.output, event.run_id))
            case Ended(has_record=True):
                self.close(RunFolder(self.output, event.run_id))
            case Ended():
                self.abandon(event.run_id)

    def begin(self, suite: str, command: str, n_runs: int, *, title: str = "", measured_on: str = "test") -> None:
        """Creates the experiment, if need be; the invocation's parent run comes with its first child.

        Args:
            suite: the suite's name, which the experiment bears.
            command: the command line of the invocation.
            n_runs: how many runs it is about.
            title: the suite's, for the experiment's description. Default: its name.
            measured_on: the images that accuracy is measured on.

        Raises:
            TrackingError: if the experiment was deleted.
        """
        self._invocation = (suite, command, n_runs, time.time())

        def create() -> None:
            self._experiment = self._store.experiment(*experiment_of(suite, title or suite, measured_on))

        self._try(create)

    def end(self, *, status: str) -> None:
        """Closes the parent run as `finished`, `failed` or `stopped`, and those of the same command that was killed."""
        _, command, *_ = self._invocation

        def close() -> None:
            if self._parent is not None:
                self._store.close_parent(self._parent, STATUS[status])
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
        """Opens a run's MLflow run with what it knows so far.

        Or goes on with the one that an earlier process left of this attempt.
        """

        def send() -> None:
            points, place = points_of(result), place_of(RunFolder(self.output, config["run_id"]))
            chosen = self._store.choose(
                self._store.held(self._experiment, config["run_id"]), points, place, digest=None
            )
            if chosen is None:
                run = self._store.create(self._experiment, self._parent_id(), config, time.time(), place)
                chosen = Copy(run, {})
            else:
                self._store.reopen(chosen.run, config, place)
            self._open[config["run_id"]] = chosen.run
            self._store.log(chosen.run, [item for item in points if (item.name, item.step) not in chosen.points])
            self._latest[config["run_id"]] = result
            self._sent[config["run_id"]] = result.learned, time.monotonic()

        self._try(send)

    def log_last(self, run_id: str, result: "RunResult") -> None:
        """Logs where a run stands after its last task; of short tasks, several at once."""
        self._latest[run_id] = result
        if time.monotonic() - self._sent.get(run_id, (0, 0.0))[1] >= _SECONDS_BETWEEN_POINTS:
            self._try(lambda: self._send_points(run_id))

    def _send_points(self, run_id: str) -> None:
        learned, _ = self._sent[run_id]
        result = self._latest[run_id]
        self._store.log(self._open[run_id], points_of(result, first=learned + 1))
        self._sent[run_id] = result.learned, time.monotonic()

    def close(self, folder: RunFolder) -> None:
        """Uploads a run's files and closes it as its status.json says."""

        def send() -> None:
            if folder.path.name in self._open:
                self._send_points(folder.path.name)
                self._store.finish(self._open[folder.path.name], folder)
            else:
                self._store.bring_up_to_date(folder, lambda _: self._parent_id())

        try:
            self._try(send)
        except RecordError:
            self.abandon(folder.path.name)

    def abandon(self, run_id: str) -> None:
        """Closes a run as failed without its files."""
        if run_id in self._open:
            run = self._open[run_id]
            self._try(lambda: self._store.client.set_terminated(run.info.run_id, "FAILED"))

    def complete(self, folder: RunFolder) -> None:
        """Makes sure that the store holds a run that was recorded before, every point once.

        Raises:
            RecordError: if the folder does not hold a whole run.
        """

        def send() -> None:
            if self._whole is None:
                # A stopped or failed attempt is recorded whole as well; only a finished one will do.
                condition = "tags.`clbench.complete` = 'true' and attributes.status = 'FINISHED'"
                found = self._store.search([self._experiment], condition)
                self._whole = {run.data.tags.get("clbench.run_id", "") for run in found}
            if folder.path.name not in self._whole:
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
            return within(patience(), send)
        except (TrackingError, RecordError):
            raise
        except Exception as error:
            self._fall_behind("takes no more records", error)
            return None

    def _fall_behind(self, what: str, error: Exception) -> None:
        self.is_behind = True
        command = shlex.join(["clbench", "sync", "--runs", str(self.output), "--tracking-uri", self.uri])
        self.warn(
            f"the MLflow store {self.uri} {what} ({first_line(error)}); training goes on, everything is kept in "
            f"the run folders, and this will bring MLflow up to date: {command}"
        )
