"""What lies in the MLflow store: runs, points and files, each once."""

import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.errors import TrackingError
from clbench.records.folder import RunFolder
from clbench.records.reading import RecordedRun, read_run
from clbench.records.result import result_of
from clbench.tracking.connection import artifact_location, open_client
from clbench.tracking.words import (
    TABLE_HEAD,
    as_metric,
    as_param,
    as_tag,
    experiment_note,
    experiment_of,
    invocation_note,
    invocation_table,
    run_name,
    run_note,
    tags_of,
)

if TYPE_CHECKING:
    from clbench.records.result import RunResult

STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "running": "RUNNING"}
# Limits of MLflow's batch call.
_MOST_METRICS, _MOST_PARAMS = 1000, 100

Synced = Literal["added", "completed", "up to date"]


@dataclass(frozen=True)
class Point:
    """One value of one metric; `seconds` is how long the run had been at work when it was measured."""

    name: str
    step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Copy:
    """A run of ours as the store holds it: MLflow's entity and (metric, step) -> the values there."""

    run: Any
    points: Mapping[tuple[str, int], Sequence[float]]

    def tag(self, name: str) -> str:
        """The run's tag of that name, below `clbench.`; empty where it has none."""
        return str(self.run.data.tags.get(f"clbench.{name}", ""))

    def is_part_of(self, points: Sequence[Point], place: str) -> bool:
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


class Store:
    """What clbench does with an MLflow store. Every call may raise whatever MLflow's client raises.

    Args:
        uri: of the store.
        seconds: how long it may take to answer. By default more than while training waits.

    Raises:
        TrackingError: for a URI that no store can ever answer at.
    """

    def __init__(self, uri: str, seconds: float = 30.0) -> None:
        self.uri = uri
        self.client = open_client(uri, seconds)
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
                    artifact_location=artifact_location(self.uri),
                    tags={
                        "mlflow.note.content": experiment_note(suite, title),
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

    def held(self, experiment: str, run_id: str) -> list[Copy]:
        """Every run that stands for this run id, oldest first."""
        found = []
        for run in self.search([experiment], f"tags.`clbench.run_id` = '{run_id}'"):
            points: dict[tuple[str, int], list[float]] = {}
            for name in run.data.metrics:
                for metric in self.client.get_metric_history(run.info.run_id, name):
                    points.setdefault((name, metric.step), []).append(metric.value)
            found.append(Copy(run, points))
        return sorted(found, key=lambda copy: (copy.run.info.start_time, copy.run.info.run_id))

    def choose(self, copies: Sequence[Copy], points: Sequence[Point], place: str, digest: str | None) -> Copy | None:
        """The copy to go on with: the whole one, else the one with the most points.

        Whatever else was left of this attempt, or left open by an earlier one in the same folder, is deleted, which
        MLflow can undo. Other attempts that were closed stay.

        Args:
            copies: every run of this run id.
            points: what the attempt has measured.
            place: its folder.
            digest: of its folder, which a whole copy has; None while it is trained.
        """

        def is_whole(copy: Copy) -> bool:
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
                "clbench.command": as_tag(command),
                "clbench.kind": "invocation",
                "mlflow.source.name": "clbench",
                "mlflow.source.type": "LOCAL",
                "mlflow.note.content": invocation_note(runs, suite, command),
            },
        )
        return str(run.info.run_id)

    def invocations(self, experiment: str, command: str) -> list[Any]:
        """Every invocation of this command."""
        found = self.search([experiment], "tags.`clbench.kind` = 'invocation'")
        return [run for run in found if run.data.tags["clbench.command"] == as_tag(command)]

    def parent_of(self, runs: Sequence[RecordedRun], experiment: str) -> str:
        """The newest invocation with the command of these recorded runs, created if there is none."""
        suite, command = invocation_of(runs[0])
        if same := self.invocations(experiment, command):
            return str(max(same, key=lambda run: run.info.start_time).info.run_id)
        return self.create_parent(experiment, suite, command, len(runs), min(seconds_of(run.started) for run in runs))

    def create(self, experiment: str, parent: str, config: Mapping[str, Any], begun: float, place: str) -> Any:
        """A run without points, with all that its configuration says."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        tags = {"mlflow.parentRunId": parent, **tags_of(config, place)}
        run = self.client.create_run(experiment, start_time=int(begun * 1000), run_name=run_name(config), tags=tags)
        settings = {
            **{f"suite.{k}": v for k, v in config["suite_settings"].items() if k not in ("title", "source", "name")},
            **config["method_settings"],
            "seed": config["seed"],
            "method": config["method"],
            "suite": config["suite"],
        }
        params = [Param(key, as_param(value)) for key, value in settings.items()]
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

    def log(self, run: Any, points: Iterable[Point]) -> None:
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
        self.client.log_batch(run.info.run_id, tags=[RunTag(*item) for item in tags_of(config, place).items()])
        self.client.update_run(run.info.run_id, status="RUNNING")

    def finish(self, run: Any, folder: RunFolder, ended: float | None = None) -> None:
        """Uploads a run's files and closes it as its status.json says.

        Raises:
            RecordError: if the folder does not hold a whole run.
        """
        from mlflow.entities import RunTag

        run_id, digest, recorded = run.info.run_id, digest_of(folder), read_run(folder.path)
        for path in folder.files():
            below = path.parent.relative_to(folder.path).as_posix()
            self.client.log_artifact(run_id, str(path), None if below == "." else below)
        tags = {
            "mlflow.note.content": run_note(recorded.config, place_of(folder), recorded),
            "clbench.folder_sha256": digest,
        }
        if recorded.reason:
            tags["clbench.reason"] = recorded.reason
        if recorded.status == "running":
            self.client.update_run(run_id, status="RUNNING")
        else:
            end_time = None if ended is None else max(int(1000 * ended), run.info.start_time)
            self.client.set_terminated(run_id, STATUS[recorded.status], end_time)
            tags["clbench.complete"] = "true"
        # Last, so that an outage at any point leaves a run that does not count.
        self.client.log_batch(run_id, tags=[RunTag(name, as_tag(value)) for name, value in tags.items()])

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
        title = str(first.config.get("title", first.suite))
        experiment = self.experiment(*experiment_of(first.suite, title, first.measured_on))
        copies = self.held(experiment, first.run_id)
        # Read again after what the store has, so that a run that is going on is never behind it.
        recorded = read_run(folder.path)
        points, place, digest = points_of(result_of(recorded)), place_of(folder), digest_of(folder)
        chosen = self.choose(copies, points, place, digest)
        done: Synced = "completed"
        if chosen is None:
            done, above = "added", parent(experiment)
            begun = seconds_of(recorded.started)
            chosen = Copy(self.create(experiment, above, recorded.config, begun, place), {})
        else:
            above = str(chosen.run.data.tags.get("mlflow.parentRunId", ""))
            is_below = bool(self.search([experiment], f"attributes.run_id = '{above}'"))
            if not is_below:
                # The user removed the invocation.
                above = parent(experiment)
                self.client.set_tag(chosen.run.info.run_id, "mlflow.parentRunId", above)
            if chosen.tag("folder_sha256") == digest and self._has_files(chosen.run, folder):
                return "up to date" if is_below else done, above
        self.log(chosen.run, [point for point in points if (point.name, point.step) not in chosen.points])
        self.finish(chosen.run, folder, seconds_of(recorded.ended) if recorded.ended else None)
        return done, above

    def _has_files(self, run: Any, folder: RunFolder) -> bool:
        """Whether the files of a run are where MLflow says they are: they may have been removed or moved."""
        sizes = {path.relative_to(folder.path): path.stat().st_size for path in folder.files()}
        held = {
            item.path: item.file_size
            for below in {name.parent for name in sizes}
            for item in self.client.list_artifacts(run.info.run_id, None if below == Path() else below.as_posix())
        }
        return all(held.get(name.as_posix(), -1) in (size, None) for name, size in sizes.items())

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
        note = run.data.tags.get("mlflow.note.content", "").partition(TABLE_HEAD)[0]
        self.client.set_tag(parent, "mlflow.note.content", as_tag(note + TABLE_HEAD + invocation_table(children)))
        self.client.set_terminated(parent, status, ended)


def points_of(result: "RunResult", first: int = 0) -> list[Point]:
    """The points of a run from `first` tasks learned on."""
    from clbench.records.result import RunResult

    found = []
    for learned in range(first, result.learned + 1):
        so_far = RunResult(result.matrix, result.tasks[:learned], result.capacity)
        seconds = sum(row["train_seconds"] + row["eval_seconds"] for row in so_far.tasks)
        found += [Point(as_metric(name), learned, float(value), seconds) for name, value in so_far.metrics().items()]
    return found


def digest_of(folder: RunFolder) -> str:
    """SHA-256 of the recorded files, names included: the same as long as nothing in the folder changes."""
    found = hashlib.sha256()
    for path in folder.files():
        name = path.relative_to(folder.path).as_posix()
        found.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def place_of(folder: RunFolder) -> str:
    """The machine and the folder that a run lies in."""
    return f"{socket.gethostname()}:{folder.path.absolute()}"


def invocation_of(run: RecordedRun) -> tuple[str, str]:
    """Suite and command of the invocation that a run belongs to."""
    return run.suite, str(run.config["command"])


def seconds_of(stamp: str) -> float:
    """An ISO 8601 time as seconds since 1970; now, where there is none."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return time.time()
