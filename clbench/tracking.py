"""MLflow: the only module that imports it. What lies in a run folder goes there, and comes back for reports.

Experiment = suite; one parent run per invocation, one child per (method, seed). Metrics have the number of tasks
learned as their step. If the store fails in the midst of a run, training goes on, one warning says so, and the
next `clbench run` with the same arguments brings it up to date from the run folders.
"""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import RecordError, TrackingError
from clbench.records import RecordedRun, RunFolder, read_run

if TYPE_CHECKING:
    import pandas as pd

    from clbench.runner import RunResult

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "running": "RUNNING"}
# Limits of MLflow's batch call.
_MOST_METRICS, _MOST_PARAMS = 1000, 100


def tracking_uri(given: str | None) -> str:
    """The store to use: the option, then MLFLOW_TRACKING_URI, then `mlflow.db` in the working directory.

    Always absolute: MLflow would otherwise prefer a leftover `./mlruns` folder and then refuse it, and the command
    that we print would work in one folder only.

    Raises:
        TrackingError: for a SQLite file whose path cannot stand in a URI.
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


def _client(uri: str) -> Any:
    # To be set before the first import: one retry and ten seconds keep a run alive when a server is gone;
    # the client's own defaults block for minutes per call. Usage telemetry is the user's to switch on.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    if "DO_NOT_TRACK" not in os.environ:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=uri)
            # The first call creates the schema of a new store.
            client.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"the MLflow store {uri} does not answer ({_first_line(error)}); start it, or give another with "
            "--tracking-uri (without it, mlflow.db in the working directory is used)"
        ) from None
    return client


class Tracker:
    """Records one invocation.

    Args:
        uri: of the store.
        warn: told, once, when the store stops taking records.

    Raises:
        TrackingError: if the store does not answer.
    """

    def __init__(self, uri: str, warn: Callable[[str], None]) -> None:
        self.uri = uri
        self.warn = warn
        self._client = _client(uri)
        self._parent: str | None = None
        self._open: dict[str, str] = {}  # run id of ours -> MLflow's
        self.is_behind = False

    def begin(self, suite: str, command: str, n_runs: int) -> None:
        """Creates the experiment, if need be; the invocation's parent run comes with its first child."""

        def create() -> None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                self._experiment = self._client.create_experiment(name, artifact_location=_artifact_location(self.uri))
            elif experiment.lifecycle_stage != "active":
                raise TrackingError(
                    f"the MLflow experiment '{name}' was deleted; restore it or set MLFLOW_EXPERIMENT_NAME"
                )
            else:
                self._experiment = experiment.experiment_id

        self._invocation = {
            "run_name": time.strftime(f"{n_runs} {'run' if n_runs == 1 else 'runs'} %Y-%m-%d %H:%M"),
            "tags": {"clbench.suite": suite, "clbench.command": command, "clbench.kind": "invocation"},
        }
        try:
            create()
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(f"the MLflow store {self.uri} cannot be written ({_first_line(error)})") from None

    def end(self, *, status: str) -> None:
        """Closes the parent run as `finished`, `failed` or `stopped`."""
        if self._parent is not None:
            self._try(lambda: self._client.set_terminated(self._parent, _STATUS[status]))

    def log(self, config: Mapping[str, Any], result: "RunResult") -> None:
        """Logs where a run stands after its last task; opens its MLflow run at the first call."""

        def send() -> None:
            self._log_metrics(self._mlflow_id(config), result.learned, result.metrics())

        self._try(send)

    def close(self, config: Mapping[str, Any], folder: RunFolder) -> None:
        """Uploads a run's files and closes it as its status.json says."""

        def send() -> None:
            self._finish(self._mlflow_id(config), folder)

        self._try(send)

    def abandon(self, config: Mapping[str, Any]) -> None:
        """Closes a run as failed without its files."""
        if config["run_id"] in self._open:
            self._try(lambda: self._client.set_terminated(self._open[config["run_id"]], "FAILED"))

    def has(self, run_id: str) -> bool:
        """Whether the store holds this run completely."""
        found: list[Any] = []

        def ask() -> None:
            condition = f"tags.`clbench.run_id` = '{run_id}' and tags.`clbench.complete` = 'true'"
            # A stopped or failed attempt is recorded whole as well; only a finished one will do.
            condition += " and attributes.status = 'FINISHED'"
            found.extend(self._client.search_runs([self._experiment], filter_string=condition, max_results=1))

        self._try(ask)
        return len(found) > 0

    def restore(self, folder: RunFolder) -> None:
        """Writes a recorded run into the store from its folder, every point once.

        Raises:
            RecordError: if the folder does not hold a whole run.
        """
        recorded = read_run(folder.path)

        def send() -> None:
            from clbench.runner import RunResult

            mlflow_id = self._create(recorded.config)
            tasks, capacity = _rows(recorded.tasks), _rows(recorded.capacity)
            for learned in range(len(tasks) + 1):
                result = RunResult(recorded.accuracy_matrix, tasks[:learned], capacity)
                self._log_metrics(mlflow_id, learned, result.metrics())
            self._finish(mlflow_id, folder)

        self._try(send)

    def _mlflow_id(self, config: Mapping[str, Any]) -> str:
        if config["run_id"] not in self._open:
            self._open[config["run_id"]] = self._create(config)
        return self._open[config["run_id"]]

    def _create(self, config: Mapping[str, Any]) -> str:
        from mlflow.entities import Dataset, DatasetInput, Param

        if self._parent is None:
            self._parent = self._client.create_run(self._experiment, **self._invocation).info.run_id
        tags = {
            "mlflow.parentRunId": self._parent,
            "mlflow.source.git.commit": config["git_commit"],
            **{
                f"clbench.{name}": config[name]
                for name in ("suite", "method", "seed", "run_id", "task_known_at_test", "modified", "precision")
            },
            "clbench.scenario": config["suite_settings"]["scenario"],
            "clbench.head": config["suite_settings"]["head"],
            "clbench.git_commit": config["git_commit"],
            "clbench.data_sha256": config["data"]["sha256"],
            **{f"clbench.version.{name}": number for name, number in config["versions"].items()},
        }
        run = self._client.create_run(
            self._experiment,
            run_name=f"{config['method']} seed {config['seed']}" + (" (modified)" if config["modified"] else ""),
            tags={key: _tag(value) for key, value in tags.items()},
        )
        run_id: str = run.info.run_id
        settings = {
            **{f"suite.{k}": v for k, v in config["suite_settings"].items() if k not in ("title", "source", "name")},
            **config["method_settings"],
            "seed": config["seed"],
            "method": config["method"],
            "suite": config["suite"],
        }
        params = [Param(key, _tag(value)[:6000]) for key, value in settings.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        data = config["data"]
        # MLflow's own column for the digest is short; the whole of it is in the tag.
        dataset = Dataset(data["source"], data["sha256"][:32], "code", json.dumps({"source": data["source"]}))
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset)])
        return run_id

    def _log_metrics(self, mlflow_id: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(points), _MOST_METRICS):
            self._client.log_batch(mlflow_id, metrics=points[start : start + _MOST_METRICS])

    def _finish(self, mlflow_id: str, folder: RunFolder) -> None:
        for path in folder.files():
            self._client.log_artifact(mlflow_id, str(path))
        self._client.set_terminated(mlflow_id, _STATUS[folder.status])
        # Last, so that an outage at any point leaves a run that does not count.
        self._client.set_tag(mlflow_id, "clbench.complete", "true")

    def _try(self, send: Callable[[], None]) -> None:
        """Records lie in the run folder whatever happens here, so a failing store is no reason to stop."""
        if self.is_behind:
            return
        try:
            send()
        except Exception as error:
            self.is_behind = True
            self.warn(
                f"the MLflow store {self.uri} takes no more records ({_first_line(error)}); training goes on, "
                "everything is kept in the run folders, and the same command run again will bring MLflow up to date"
            )


def load_runs(suite: str, uri: str) -> list[RecordedRun]:
    """Every run of a suite that MLflow holds, one per run id (a finished one, then the newest), by method and seed.

    Raises:
        TrackingError: if the store does not answer.
        RecordError: if a run's files are missing or damaged, naming the run.
    """
    import pandas as pd

    client = _client(uri)
    found: list[dict[str, Any]] = []
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        token = None
        while True:
            page = client.search_runs(
                experiments,
                filter_string=f"tags.`clbench.suite` = '{suite}' and tags.`clbench.complete` = 'true'",
                page_token=token,
            )
            found += [
                {
                    "mlflow_id": run.info.run_id,
                    "run_id": run.data.tags["clbench.run_id"],
                    "finished": run.info.status == "FINISHED",
                    "start": run.info.start_time,
                }
                for run in page
            ]
            token = page.token
            if not token:
                break
    except Exception as error:
        raise TrackingError(f"the MLflow store {uri} cannot be read ({_first_line(error)})") from None
    table = pd.DataFrame(found, columns=["mlflow_id", "run_id", "finished", "start"])
    best = table.sort_values(["finished", "start"], ascending=False).drop_duplicates("run_id")
    runs = []
    for mlflow_id in best["mlflow_id"]:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                runs.append(read_run(Path(client.download_artifacts(mlflow_id, "", temporary))))
            except Exception as error:
                said = _first_line(error).replace(temporary, "").lstrip("/")
                raise RecordError(
                    f"the files of the MLflow run {mlflow_id} cannot be read ({said}); delete that run in MLflow, and "
                    "the same `clbench run` again will restore it from its run folder"
                ) from None
    return sorted(runs, key=lambda run: (run.method, run.seed, run.run_id))


def _artifact_location(uri: str) -> str | None:
    """Beside a SQLite file; a server decides for itself."""
    if uri.startswith("sqlite:///"):
        return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    return None


def _rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    # Not iterrows: it would turn the whole numbers of a row into floats, and layer 1 into layer 1.0.
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]


def _tag(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
