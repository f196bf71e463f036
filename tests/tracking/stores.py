"""What a store holds, what it should hold by the run folders, and that the two are the same."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from clbench import metrics
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths

SUITE = "permuted-digits"
SETTINGS = {"n_tasks": 2, "scenario": "permuted", "head": "single", "hidden_sizes": [20, 20], "epochs": 5}
OF_EVERY_TASK = (
    *("train_seconds", "train_images_per_second", "eval_seconds", "peak_memory_bytes"),
    *("extra_state_bytes", "optimizer_state_bytes"),
)


def uri_of(folder):
    return f"sqlite:///{folder / 'mlflow.db'}"


def recorded(folder, experiment=SUITE):
    """The store's client, and the invocations and children of an experiment, oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri_of(folder))
    found = client.get_experiment_by_name(experiment)
    runs = [] if found is None else client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
    parents = [item for item in runs if "mlflow.parentRunId" not in item.data.tags]
    children = [item for item in runs if "mlflow.parentRunId" in item.data.tags]
    return SimpleNamespace(client=client, parents=parents, children=children, experiment=found)


def points(client, child):
    """Every point of a run: name -> [(step, value), ...] in the order of the steps."""
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(child.info.run_id, name))
        for name in child.data.metrics
    }


def wanted_points(folder):
    """The points that a run folder stands for, from its CSV files by the definitions of `clbench.metrics`."""
    matrix = pd.read_csv(folder / "accuracy_matrix.csv").drop(columns="tasks_learned")
    tasks = pd.read_csv(folder / "tasks.csv")
    wanted = {}
    for column in matrix.columns:
        wanted[f"accuracy/{column}"] = [(step, value) for step, value in matrix[column].items() if not np.isnan(value)]
    array = matrix.to_numpy()
    for name, metric in metrics.SUMMARY.items():
        found = [(learned, metric(array, learned)) for learned in range(1, len(tasks) + 1)]
        wanted[name] = [(step, value) for step, value in found if value is not None]
    for name in OF_EVERY_TASK:
        # What a method does not say is not there.
        wanted[name] = [(step, value) for step, value in zip(tasks["task"], tasks[name], strict=True) if value == value]
    trained = (tasks["train_seconds"] * tasks["train_images_per_second"]).round()
    wanted["images_trained"] = list(zip(tasks["task"], trained, strict=True))
    if (folder / "capacity.csv").is_file():
        capacity = pd.read_csv(folder / "capacity.csv")
        for kind in ("used", "free", "reused", "new"):
            wanted[f"{kind}_neurons"] = list(capacity.groupby("task")[kind].sum().items())
            for group, rows in capacity.groupby("group"):
                wanted[f"{kind}_neurons/{group}"] = list(zip(rows["task"], rows[kind], strict=True))
        wanted["capacity_used"] = [
            (task, (rows["weights_used"] * rows["weights"]).sum() / rows["weights"].sum())
            for task, rows in capacity.groupby("task")
        ]
    return {name: values for name, values in wanted.items() if values}


def assert_same_runs(got, wanted):
    assert [item.run_id for item in got] == [item.run_id for item in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert (one.config, one.environment, one.status) == (other.config, other.environment, other.status)
        assert (one.started, one.ended, one.reason) == (other.started, other.ended, other.reason)
        np.testing.assert_array_equal(one.accuracy_matrix, other.accuracy_matrix)
        pd.testing.assert_frame_equal(one.tasks, other.tasks)
        pd.testing.assert_frame_equal(one.capacity, other.capacity)


def assert_complete(folder):
    folders = list(run_paths(folder / "clbench-runs"))
    assert [read_run(path).status for path in folders] == ["finished"] * len(folders)
    return folders


def assert_mirrored(uri, root):
    """The store has every run folder's run once, with its status, its files, and every point once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(SUITE)
    runs = client.search_runs([experiment.experiment_id])
    children = {run.data.tags["clbench.run_id"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    parents = {run.info.run_id: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    folders = {path.name: path for path in run_paths(root)}
    assert children.keys() == folders.keys()
    assert len(runs) == len(children) + len(parents)
    statuses = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "running": "RUNNING"}
    for run_id, child in children.items():
        recorded_run = read_run(folders[run_id])
        assert points(client, child) == wanted_points(folders[run_id])
        assert child.info.status == statuses[recorded_run.status]
        assert child.data.tags["mlflow.parentRunId"] in parents
        fetched = Path(client.download_artifacts(child.info.run_id, ""))
        for path in RunFolder(root, run_id).files():
            assert (fetched / path.name).read_bytes() == path.read_bytes()
    if all(child.info.status != "RUNNING" for child in children.values()):
        assert all(parent.info.status != "RUNNING" for parent in parents.values())


def everything_in(uri):
    """All that a store says of runs, to compare."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    return [
        (run.to_dictionary(), {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics})
        for run in client.search_runs(experiments, run_view_type=ViewType.ALL, order_by=["attributes.run_id ASC"])
    ]


def wait_for_late_contacts():
    """Returns once no contact with a store goes on that came too late; a run's process would soon end it."""
    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join(60)
            assert not thread.is_alive()


def assert_synced(clbench, place, uri, added, completed, up_to_date, *, or_up_to_date=0):
    """`clbench sync` does that much and makes the store whole; a second one changes nothing.

    So many of those to be completed may be up to date.
    """
    first = clbench(place, "sync", "--suite", SUITE, "--tracking-uri", uri)
    assert (first.code, first.err) == (0, "")
    assert first.out in [
        f"{uri}: runs {added} added, {completed - count} completed, {up_to_date + count} up to date\n"
        for count in range(or_up_to_date + 1)
    ]
    assert_mirrored(uri, place / "clbench-runs")
    before = everything_in(uri)
    again = clbench(place, "sync", "--output", "clbench-runs", "--tracking-uri", uri)
    assert again.out == f"{uri}: runs 0 added, 0 completed, {added + completed + up_to_date} up to date\n"
    assert str(everything_in(uri)) == str(before)


def assert_held_up_once(waits, seconds):
    """The last contact took the time limit, and none before it."""
    assert all(wait < seconds for wait in waits[:-1])
    # Generous above: the machine may be busy.
    assert seconds <= waits[-1] < 10 * seconds


def assert_trained_with_one_warning(outcome, place, n_runs, said):
    assert outcome.code == 0
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("clbench: warning: the MLflow store ")
    assert said in outcome.err
    assert len(assert_complete(place)) == n_runs
