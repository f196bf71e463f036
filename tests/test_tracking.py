"""What MLflow is given, checked against real SQLite stores and against the run folders; and life without MLflow."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from clbench import metrics
from clbench.baselines.naive import Naive
from clbench.errors import Interrupted, RecordError, TrackingError
from clbench.records.folder import RunFolder
from clbench.records.format import CAPACITY_COLUMNS, TASK_COLUMNS
from clbench.records.reading import read_run, run_paths
from clbench.suites.files import SUITES, find_suite
from clbench.tracking import connection, tracker
from clbench.tracking.connection import tracking_uri
from clbench.tracking.sync import load_runs, sync
from clbench.tracking.tracker import Tracker

SUITE = "permuted-digits"
SETTINGS = {"n_tasks": 2, "scenario": "permuted", "head": "single", "hidden_sizes": [20, 20], "epochs": 5}
OF_EVERY_TASK = (
    *("train_seconds", "train_images_per_second", "eval_seconds", "peak_memory_bytes"),
    *("extra_state_bytes", "optimizer_state_bytes"),
)


@pytest.fixture(autouse=True)
def _own_environment(own_environment):
    pass


@pytest.fixture(scope="session")
def run(run):
    """As everywhere, but without a report unless asked for."""

    def execute(folder, *arguments, reported=False, **how):
        return run(folder, *([] if reported else ["--no-report"]), *arguments, **how)

    return execute


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
    if (folder / "capacity.csv").is_file():
        capacity = pd.read_csv(folder / "capacity.csv")
        for kind in ("free", "reused", "new"):
            wanted[f"{kind}_neurons"] = list(capacity.groupby("task")[kind].sum().items())
            for group, rows in capacity.groupby("group"):
                wanted[f"{kind}_neurons/{group}"] = list(zip(rows["task"], rows[kind], strict=True))
        wanted["capacity_used"] = [
            (task, (rows["weights_used"] * rows["weights"]).sum() / rows["weights"].sum())
            for task, rows in capacity.groupby("task")
        ]
    return {name: values for name, values in wanted.items() if values}


# One real invocation


@pytest.fixture(scope="module")
def ran(tmp_path_factory, make_store, clean_environment, run):
    """Two methods with two seeds, recorded in a folder with spaces beside a leftover ./mlruns."""
    folder = make_store(tmp_path_factory.mktemp("ran") / "my runs & more")
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\nexperiment_id: '0'\n")
    with clean_environment():
        outcome = run(folder, methods="clnp,naive", seeds="0-1")
    assert outcome.code == 0, outcome.err
    return SimpleNamespace(folder=folder, outcome=outcome, **vars(recorded(folder)))


def folder_of(ran, child):
    return ran.folder / "clbench-runs" / child.data.tags["clbench.run_id"]


def test_the_experiment_is_the_suite_and_its_files_lie_beside_the_store(ran):
    assert ran.experiment.name == SUITE
    assert len(list((ran.folder / "mlartifacts").iterdir())) == 4
    assert ran.experiment.artifact_location == (ran.folder / "mlartifacts").as_uri()


def test_there_is_a_parent_and_a_child_per_method_and_seed(ran):
    assert len(ran.parents) == 1
    assert ran.parents[0].info.status == "FINISHED"
    assert ran.parents[0].data.tags["clbench.suite"] == SUITE
    grid = [(c.data.tags["clbench.method"], c.data.tags["clbench.seed"]) for c in ran.children]
    assert sorted(grid) == [("clnp", "0"), ("clnp", "1"), ("naive", "0"), ("naive", "1")]
    for child in ran.children:
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == ran.parents[0].info.run_id


def test_every_child_carries_the_tags_that_say_what_it_is(ran):
    for child in ran.children:
        config = json.loads((folder_of(ran, child) / "config.json").read_text())
        tags = child.data.tags
        assert tags["clbench.run_id"] == config["run_id"]
        assert tags["clbench.suite"] == SUITE
        assert tags["clbench.scenario"] == "permuted"
        assert tags["clbench.head"] == "single"
        # CLNP chooses the mask by the task's label; a plain network needs none.
        assert tags["clbench.task_known_at_test"] == ("true" if config["method"] == "clnp" else "false")
        assert tags["clbench.modified"] == "true"
        assert tags["clbench.git_commit"] == config["git_commit"]
        assert tags["clbench.data_sha256"] == config["data"]["sha256"]
        for package in ("python", "clbench", "torch", "avalanche-lib", "mlflow"):
            assert tags[f"clbench.version.{package}"] == config["versions"][package]


def test_every_hyper_parameter_is_a_param(ran):
    for child in ran.children:
        config = json.loads((folder_of(ran, child) / "config.json").read_text())
        params = child.data.params
        assert {"method": config["method"], "seed": str(config["seed"]), "suite": SUITE}.items() <= params.items()
        assert config["method_settings"].keys() <= params.keys()
        assert params["epochs"] == "1"
        assert params["learning_rate"] == str(find_suite(SUITE).learning_rate)
        assert params["optimizer"] == "adam"
        assert params["reset_optimizer"] == "true"
        assert params["suite.n_tasks"] == "2"
        assert params["suite.hidden_sizes"] == "[64, 64]"
        assert ("margin" in params) == (config["method"] == "clnp")


def test_an_invocation_lists_its_runs_and_a_run_says_how_it_ended(ran):
    note = ran.parents[0].data.tags["mlflow.note.content"]
    assert "4 runs of the suite **permuted-digits** by one command" in note
    for child in ran.children:
        reached = f"{100 * child.data.metrics['average_accuracy']:.2f}"
        method, seed = child.data.tags["clbench.method"], child.data.tags["clbench.seed"]
        assert child.info.run_name == f"{method} epochs=1 hidden_sizes=64-64 n_tasks=2 · seed {seed}"
        (row,) = [
            line for line in note.splitlines() if line.startswith(f"| {method} epochs=1 ") and f"seed {seed} " in line
        ]
        assert f"| finished | {reached} |" in row
        assert f"Finished after 2 of 2 tasks. Average accuracy {reached} %" in child.data.tags["mlflow.note.content"]
    assert "list every run" in ran.experiment.tags["mlflow.note.content"].splitlines()[0]


def test_the_data_set_is_recorded_as_an_input(ran):
    for child in ran.children:
        dataset = ran.client.get_run(child.info.run_id).inputs.dataset_inputs[0].dataset
        assert dataset.name == SUITE
        assert json.loads(dataset.source)["source"] == "digits"
        assert json.loads(dataset.profile)["tasks"] == 2
        assert child.data.tags["clbench.data_sha256"].startswith(dataset.digest)


def test_the_metrics_are_those_of_the_tables_with_the_tasks_learned_as_step(ran):
    for child in ran.children:
        assert points(ran.client, child) == wanted_points(folder_of(ran, child))


def test_every_promised_metric_is_there_and_none_where_it_is_undefined(ran):
    for child in ran.children:
        found = points(ran.client, child)
        assert {step for step, _ in found["accuracy/task_01"]} == {0, 1, 2}
        assert {step for step, _ in found["average_accuracy"]} == {1, 2}
        # Undefined after one task.
        for name in ("backward_transfer", "forgetting", "forward_transfer"):
            assert [step for step, _ in found[name]] == [2]
        for name in ("average_incremental_accuracy", "learning_accuracy", *OF_EVERY_TASK):
            assert [step for step, _ in found[name]] == [1, 2]
        counted = {name for name in found if "neurons" in name}
        kinds = [f"{kind}_neurons" for kind in ("free", "reused", "new")]
        layers = [f"{kind}/layer_{layer}" for kind in kinds for layer in (1, 2)]
        assert counted == ({*kinds, *layers} if child.data.tags["clbench.method"] == "clnp" else set())


def test_the_artifacts_are_the_files_of_the_run_folder(ran, tmp_path):
    for child in ran.children:
        names = {"accuracy_matrix.csv", "config.json", "environment.txt", "samples.png", "tasks.csv", "status.json"}
        if child.data.tags["clbench.method"] == "clnp":
            names |= {"capacity.csv", "pruning.csv"}
        fetched = Path(ran.client.download_artifacts(child.info.run_id, "", str(tmp_path)))
        for name in names:
            assert (fetched / name).read_bytes() == (folder_of(ran, child) / name).read_bytes()
        assert {item.path for item in ran.client.list_artifacts(child.info.run_id)} == names


def test_the_invocation_has_the_report_and_its_figures(run, place, tmp_path):
    assert run(place, reported=True).code == 0
    found = recorded(place)
    fetched = Path(found.client.download_artifacts(found.parents[0].info.run_id, "", str(tmp_path)))
    page = place / "clbench-reports" / f"{SUITE}.html"
    assert (fetched / page.name).read_bytes() == page.read_bytes()
    written = {path.name: path.read_bytes() for path in page.with_suffix("").glob("figures/*")}
    assert "average-accuracy.svg" in written
    assert {path.name: path.read_bytes() for path in (fetched / "figures").iterdir()} == written


def test_the_files_have_the_documented_columns(ran):
    for child in ran.children:
        folder = folder_of(ran, child)
        assert list(pd.read_csv(folder / "accuracy_matrix.csv")) == ["tasks_learned", "task_01", "task_02"]
        assert list(pd.read_csv(folder / "tasks.csv")) == list(TASK_COLUMNS)
        if (folder / "capacity.csv").exists():
            assert list(pd.read_csv(folder / "capacity.csv")) == list(CAPACITY_COLUMNS)


def assert_same_runs(got, wanted):
    assert [item.run_id for item in got] == [item.run_id for item in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert (one.config, one.environment, one.status) == (other.config, other.environment, other.status)
        assert (one.started, one.ended, one.reason) == (other.started, other.ended, other.reason)
        np.testing.assert_array_equal(one.accuracy_matrix, other.accuracy_matrix)
        pd.testing.assert_frame_equal(one.tasks, other.tasks)
        pd.testing.assert_frame_equal(one.capacity, other.capacity)


def test_what_is_loaded_is_what_the_folders_hold(ran):
    held = [read_run(path) for path in run_paths(ran.folder / "clbench-runs")]
    assert_same_runs(load_runs(SUITE, uri_of(ran.folder)), sorted(held, key=lambda item: (item.method, item.seed)))
    assert load_runs("split-mnist", uri_of(ran.folder)) == []


def test_files_sample_images_and_groups_of_other_units_go_there_and_come_back(place, recorded_run, write_run, counted):
    rows = [
        (task, group, unit, 16, 16 - 4 * task, 4, 0)
        for task in (1, 2)
        for group, unit in (("conv1+conv2", "filter"), ("conv3", "filter"), ("linear", "neuron"))
    ]
    run = replace(
        recorded_run(suite=SUITE, suite_settings=SETTINGS),
        files={"net.py": b"raise SystemExit\n", "helpers/blocks.py": b"\xff"},
        samples=b"\x89PNG",
        capacity=counted(rows),
    )
    folder = write_run(place / "clbench-runs", run)
    said = []
    assert sync(place / "clbench-runs", uri_of(place), None, said.append)["added"] == 1
    assert sync(place / "clbench-runs", uri_of(place), None, said.append)["up to date"] == 1
    assert said == []
    (loaded,) = load_runs(SUITE, uri_of(place))
    assert_same_runs([loaded], [read_run(folder)])
    assert (loaded.files, loaded.samples, loaded.seal) == (run.files, run.samples, read_run(folder).seal)
    found = recorded(place)
    values = points(found.client, found.children[0])
    assert values["free_filters"] == [(1, 24.0), (2, 16.0)]
    assert values["free_filters/conv1-conv2"] == [(1, 12.0), (2, 8.0)]
    assert values["free_neurons"] == values["free_neurons/linear"] == [(1, 12.0), (2, 8.0)]
    # A copy there that is another now is not taken for what was recorded.
    (copy,) = (place / "mlartifacts").rglob("blocks.py")
    copy.write_bytes(b"other")
    with pytest.raises(RecordError, match=r"files/helpers/blocks\.py is not as clbench recorded it"):
        load_runs(SUITE, uri_of(place))


def test_a_leftover_mlruns_folder_is_left_alone(ran):
    files = [path for path in (ran.folder / "mlruns").rglob("*") if path.is_file()]
    assert [path.read_text() for path in files] == ["name: Default\nexperiment_id: '0'\n"]


def test_the_same_command_again_trains_nothing_and_adds_no_child(run, ran, monkeypatch):
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("trained again"))
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in _files(ran.folder / "clbench-runs")}
    again = run(ran.folder, methods="naive", seeds="0-1")
    assert again.code == 0
    assert again.out.count("recorded before") == 2
    assert [c.info.run_id for c in recorded(ran.folder).children] == [c.info.run_id for c in ran.children]
    assert files == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in _files(ran.folder / "clbench-runs")}


def _files(root):
    """What was recorded: without what the latest invocation leaves beside it."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))


def test_a_store_that_was_lost_is_restored_from_the_folders_without_training(run, ran, place, monkeypatch):
    shutil.copytree(ran.folder / "clbench-runs", place / "clbench-runs")
    monkeypatch.setattr("clbench.runs.runner.train", lambda *args: pytest.fail("trained again"))
    outcome = run(place, methods="clnp,naive", seeds="0-1")
    assert outcome.code == 0
    assert outcome.err == ""
    found = recorded(place)
    first = {child.data.tags["clbench.run_id"]: child for child in ran.children}
    assert {child.data.tags["clbench.run_id"] for child in found.children} == first.keys()
    assert len(found.children) == 4
    for child in found.children:
        before = first[child.data.tags["clbench.run_id"]]
        # The lists are equal point by point, so none is there twice.
        assert points(found.client, child) == points(ran.client, before)
        assert child.data.params == before.data.params
        tags, tags_before = child.data.tags, before.data.tags
        assert tags["clbench.folder"].endswith(str(place / "clbench-runs" / tags["clbench.run_id"]))
        elsewhere = ("clbench.folder", "mlflow.note.content", "mlflow.parentRunId")
        assert {key: value for key, value in tags.items() if key not in elsewhere} == {
            key: value for key, value in tags_before.items() if key not in elsewhere
        }
        assert child.info.status == "FINISHED"
    assert_same_runs(load_runs(SUITE, uri_of(place)), load_runs(SUITE, uri_of(ran.folder)))


def test_forward_transfer_is_absent_where_no_head_was_trained_before(clbench, place, monkeypatch, split_digits):
    monkeypatch.setitem(SUITES, "split-digits", split_digits)
    command = ["run", "--suite", "split-digits", "--methods", "naive", "--seeds", "0", "--no-report"]
    outcome = clbench(place, *command, "--set", "epochs=1", "--set", "hidden_sizes=64,64")
    assert outcome.code == 0, outcome.err
    found = recorded(place, "split-digits")
    (child,) = found.children
    assert "forward_transfer" not in child.data.metrics
    assert "backward_transfer" in child.data.metrics
    assert child.data.tags["clbench.head"] == "multi"
    assert child.data.tags["clbench.task_known_at_test"] == "true"
    folder = place / "clbench-runs" / child.data.tags["clbench.run_id"]
    assert points(found.client, child) == wanted_points(folder)


# Where the store is


def test_the_option_comes_before_the_environment_and_that_before_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert tracking_uri("http://here") == "http://here"
    # Absolute, or the `mlflow ui` command that we print would work in this folder only.
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("letter", "%?#")
def test_a_folder_whose_name_does_not_survive_in_a_uri_is_refused_at_once(letter, monkeypatch, tmp_path):
    folder = tmp_path / f"a{letter}20b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match="does not survive in a URI; work in another folder"):
        tracking_uri(None)


def test_a_store_in_a_folder_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(TrackingError, match="its folder is not there"):
        tracking_uri(f"sqlite:///{tmp_path}/nowhere/mlflow.db")


def test_the_environments_store_and_experiment_are_respected(run, tmp_path, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(place))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my thesis")
    working = tmp_path / "working"
    working.mkdir()
    assert run(working).code == 0
    assert not (working / "mlflow.db").exists()
    assert recorded(place).experiment is None
    (child,) = recorded(place, "my thesis").children
    assert child.data.tags["clbench.suite"] == SUITE
    assert [item.method for item in load_runs(SUITE, uri_of(place))] == ["naive"]


def test_a_deleted_experiment_is_refused_before_anything_runs(run, place):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri_of(place))
    client.delete_experiment(client.create_experiment(SUITE))
    outcome = run(place)
    assert outcome.code == 2
    assert outcome.err.startswith(f"clbench: error: the MLflow experiment '{SUITE}' was deleted; restore it")
    assert list((place / "clbench-runs").iterdir()) == []


@pytest.mark.parametrize(
    ("user", "telemetry"),
    [
        ({}, "true"),
        ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false"),
        ({"DO_NOT_TRACK": "true"}, None),
        ({"DO_NOT_TRACK": "false"}, None),
    ],
)
def test_telemetry_is_off_unless_the_user_decided(place, monkeypatch, user, telemetry):
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    Tracker(uri_of(place), pytest.fail)
    assert os.environ.get("MLFLOW_DISABLE_TELEMETRY") == telemetry
    assert os.environ.get("DO_NOT_TRACK") == user.get("DO_NOT_TRACK")


# A store that fails at the start


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def silent_server():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def accept():
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for socket_held in held:
        socket_held.close()


@pytest.mark.parametrize("server", ["closed_port", "silent_server"])
@pytest.mark.long
def test_a_server_that_does_not_answer_at_the_start_costs_one_warning(run, place, request, monkeypatch, server):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    uri = request.getfixturevalue(server)
    outcome = run(place, "--tracking-uri", uri, reported=True)
    assert outcome.code == 0
    assert outcome.err.startswith(f"clbench: warning: the MLflow store {uri} does not answer (")
    assert outcome.err.count("\n") == 1
    assert len(assert_complete(place)) == 1
    with pytest.raises(TrackingError, match="does not answer"):
        load_runs(SUITE, uri)


def test_a_file_that_is_no_store_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "mlflow.db").write_text("my thesis, do not delete\n" * 100)
    outcome = run(tmp_path)
    assert outcome.code == 2
    assert outcome.err.startswith("clbench: error: the MLflow store sqlite:///")
    assert outcome.err.count("\n") == 1
    assert (tmp_path / "mlflow.db").read_text() == "my thesis, do not delete\n" * 100
    assert list((tmp_path / "clbench-runs").iterdir()) == []


# A store that fails in the midst of it


class Outage:
    """Makes a call of MLflow's client fail from its n-th time on, for as long as it is on."""

    def __init__(self, monkeypatch, call, after):
        from mlflow import MlflowClient

        self.is_on, self.calls = True, 0
        works = getattr(MlflowClient, call)

        def fails(client, *args, **kwargs):
            self.calls += 1
            if self.is_on and self.calls > after:
                raise ConnectionError("the server has gone\nand said two lines")
            return works(client, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, call, fails)


def assert_complete(folder):
    folders = list(run_paths(folder / "clbench-runs"))
    assert [read_run(path).status for path in folders] == ["finished"] * len(folders)
    return folders


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("create_run", 1),
        ("log_batch", 0),
        ("log_batch", 2),
        ("log_artifact", 2),
        ("set_tag", 0),
        ("set_terminated", 0),
    ],
)
def test_training_goes_on_without_the_store_and_the_next_run_brings_it_up_to_date(run, place, monkeypatch, call, after):
    outage = Outage(monkeypatch, call, after)
    first = run(place, seeds="0-1")
    assert first.code == 0
    assert first.err.count("takes no more records (the server has gone)") == 1
    assert f"clbench sync --runs clbench-runs --tracking-uri {uri_of(place)}" in first.err
    assert all(line.startswith("clbench: warning: ") for line in first.err.splitlines())
    assert len(assert_complete(place)) == 2

    outage.is_on = False
    monkeypatch.setattr("clbench.runs.runner.train", lambda *args: pytest.fail("trained again"))
    second = run(place, seeds="0-1")
    assert (second.code, second.err) == (0, "")
    loaded = load_runs(SUITE, uri_of(place))
    assert_same_runs(loaded, sorted(map(read_run, run_paths(place / "clbench-runs")), key=lambda item: item.seed))
    found = recorded(place)
    complete = [child for child in found.children if child.data.tags.get("clbench.complete") == "true"]
    assert sorted(child.data.tags["clbench.seed"] for child in complete) == ["0", "1"]
    for child in complete:
        folder = place / "clbench-runs" / child.data.tags["clbench.run_id"]
        assert points(found.client, child) == wanted_points(folder)


def test_a_store_file_that_is_lost_in_the_midst_stops_nothing(run, place, monkeypatch):
    learn = Naive.learn

    def lose_the_store(method, task):
        (place / "mlflow.db").write_bytes(b"not a database any more" * 1000)
        learn(method, task)

    monkeypatch.setattr(Naive, "learn", lose_the_store)
    outcome = run(place, seeds="0-1")
    assert outcome.code == 0
    assert outcome.err.count("takes no more records") == 1
    assert len(assert_complete(place)) == 2


def test_an_outage_while_looking_for_recorded_runs_stops_nothing(run, place, monkeypatch):
    assert run(place, seeds="0").code == 0
    Outage(monkeypatch, "search_runs", 0)
    outcome = run(place, seeds="0-1")
    assert outcome.code == 0
    assert outcome.err.count("takes no more records (the server has gone)") == 1
    assert len(assert_complete(place)) == 2


def test_the_report_is_made_of_the_run_folders_where_the_store_lacks_runs(run, place, monkeypatch):
    Outage(monkeypatch, "log_batch", 0)
    outcome = run(place, seeds="0-1", reported=True)
    assert outcome.code == 0
    assert outcome.err.count("\n") == 1
    assert {".html", ".pdf"} <= {path.suffix for path in (place / "clbench-reports").iterdir()}
    assert outcome.out.count("report:") == len(list((place / "clbench-reports").iterdir()))


def test_the_finished_attempt_is_restored_even_if_a_stopped_one_reached_the_store(run, place, monkeypatch):
    learn = Naive.learn

    def stop_at_the_second_task(method, task):
        if task.index == 1:
            raise Interrupted
        learn(method, task)

    with monkeypatch.context() as patch:
        patch.setattr(Naive, "learn", stop_at_the_second_task)
        assert run(place).code == 130
    with monkeypatch.context() as patch:
        Outage(patch, "log_batch", 0)
        assert run(place).code == 0
    assert run(place).code == 0
    (loaded,) = load_runs(SUITE, uri_of(place))
    assert loaded.status == "finished"
    assert metrics.tasks_learned(loaded.accuracy_matrix) == 2


def test_a_stopped_and_a_failed_run_are_closed_as_such(run, place, monkeypatch):
    def stop(method, task):
        raise Interrupted

    def fail(method, task):
        raise RuntimeError("no")

    monkeypatch.setattr(Naive, "learn", stop)
    assert run(place).code == 130
    monkeypatch.setattr(Naive, "learn", fail)
    assert run(place).code == 1
    found = recorded(place)
    assert [child.info.status for child in found.children] == ["KILLED", "FAILED"]
    assert [parent.info.status for parent in found.parents] == ["KILLED", "FAILED"]


def test_a_damaged_run_folder_is_blamed_and_not_the_store(run, place, tmp_path, make_store):
    assert run(place, seeds="0-1").code == 0
    fresh = make_store(tmp_path / "fresh")
    shutil.copytree(place / "clbench-runs", fresh / "clbench-runs")
    configs = {json.loads(path.read_text())["seed"]: path for path in fresh.rglob("config.json")}
    (configs[0].parent / "tasks.csv").unlink()
    outcome = run(fresh, seeds="0-1")
    assert f"{configs[0].parent.relative_to(fresh) / 'tasks.csv'} cannot be read" in outcome.err
    assert "takes no more records" not in outcome.err
    # The other run is restored all the same.
    assert [item.seed for item in load_runs(SUITE, uri_of(fresh))] == [1]


# Loading


def test_a_run_that_failed_before_its_first_measurement_does_not_hide_the_others(run, place, monkeypatch):
    def refuse(method, observers=()):
        raise RuntimeError("before anything was measured")

    assert run(place, seeds="0").code == 0
    monkeypatch.setattr(Naive, "prepare", refuse)
    assert run(place, seeds="1").code == 1
    assert 0 in [item.seed for item in load_runs(SUITE, uri_of(place)) if item.status == "finished"]


def test_loading_leaves_the_processs_own_choice_of_a_store_alone(ran, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    load_runs(SUITE, uri_of(ran.folder))
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///mine.db"


def test_lost_artifacts_are_reported_by_run(run, place):
    assert run(place).code == 0
    (child,) = recorded(place).children
    shutil.rmtree(place / "mlartifacts" / child.info.run_id)
    with pytest.raises(RecordError, match=child.info.run_id) as error:
        load_runs(SUITE, uri_of(place))
    assert "\n" not in str(error.value)


def test_a_run_that_is_there_is_not_restored_a_second_time(run, place):
    assert run(place).code == 0
    (folder,) = run_paths(place / "clbench-runs")
    tracker = Tracker(uri_of(place), pytest.fail)
    tracker.begin(SUITE, "clbench run", 1)
    tracker.complete(RunFolder(folder.parent, folder.name))
    assert len(recorded(place).children) == 1


def test_one_run_trained_in_two_folders_is_loaded_once(run, place, tmp_path):
    assert run(place).code == 0
    assert run(place, "--output", tmp_path / "second").code == 0
    found = recorded(place)
    assert len(found.children) == 2
    for child, root in zip(found.children, [place / "clbench-runs", tmp_path / "second"], strict=True):
        assert points(found.client, child) == wanted_points(root / child.data.tags["clbench.run_id"])
    assert len(load_runs(SUITE, uri_of(place))) == 1


# Real faults: a server that dies, hangs or is slow; a locked SQLite file; a full disk; a killed clbench; many at once


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


def assert_synced(clbench, place, uri, added, completed, up_to_date):
    """`clbench sync` does that much and makes the store whole; a second one changes nothing."""
    first = clbench(place, "sync", "--suite", SUITE, "--tracking-uri", uri)
    assert (first.code, first.err) == (0, "")
    assert first.out == f"{uri}: runs {added} added, {completed} completed, {up_to_date} up to date\n"
    assert_mirrored(uri, place / "clbench-runs")
    before = everything_in(uri)
    again = clbench(place, "sync", "--output", "clbench-runs", "--tracking-uri", uri)
    assert again.out == f"{uri}: runs 0 added, 0 completed, {added + completed + up_to_date} up to date\n"
    assert str(everything_in(uri)) == str(before)


class Server:
    """A real `mlflow server` on loopback, with its SQLite file in a folder."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", uri_of(self.folder), "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "files")]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        # A group of its own: its worker is a child.
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment, cwd=self.folder
        )
        for line in self.process.stderr:
            if "Application startup complete" in line:
                # Read on, or a full pipe would stop it.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        pytest.fail("the server did not start")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path, make_store):
    made = Server(make_store(tmp_path / "server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def waits(monkeypatch):
    """How many seconds each contact with the store held the run up."""
    found, within = [], connection.within

    def measured(seconds, work):
        start = time.monotonic()
        try:
            return within(seconds, work)
        finally:
            found.append(time.monotonic() - start)

    for module in (connection, tracker):
        monkeypatch.setattr(module, "within", measured)
    return found


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


@pytest.mark.slow
def test_a_server_killed_in_the_midst_stops_nothing_and_sync_completes_it(
    run, clbench, place, server, during_task, waits
):
    # The second task of the second of three runs.
    during_task(4, server.kill)
    outcome = run(place, "--tracking-uri", server.uri, seeds="0-2", reported=True)
    assert_trained_with_one_warning(outcome, place, 3, "takes no more records")
    assert sum(waits[-1:]) < 5
    refused = clbench(place, "sync", "--tracking-uri", server.uri)
    assert refused.code == 2
    assert refused.err.startswith(f"clbench: error: the MLflow store {server.uri} does not answer (")
    server.start()
    assert_synced(clbench, place, server.uri, added=1, completed=1, up_to_date=1)


@pytest.mark.slow
def test_a_server_that_hangs_costs_one_timeout_and_what_it_does_on_waking_is_not_doubled(
    run, clbench, place, server, during_task, waits, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    during_task(4, lambda: server.signal(signal.SIGSTOP))
    outcome = run(place, "--tracking-uri", server.uri, seeds="0-2")
    assert_trained_with_one_warning(outcome, place, 3, "takes no more records (no answer within 2 seconds)")
    assert_held_up_once(waits, 2)
    # It now does what it was asked while it hung, too late.
    server.signal(signal.SIGCONT)
    assert_synced(clbench, place, server.uri, added=1, completed=1, up_to_date=1)


@pytest.fixture
def delayed(server):
    """(seconds) -> the address of a wire to the server that delays every request by so much."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Delay(BaseHTTPRequestHandler):
        def pass_on(self):
            # Whoever was at the other end may have given up.
            with contextlib.suppress(OSError):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                time.sleep(wire.seconds)
                onward = http.client.HTTPConnection("127.0.0.1", server.port)
                onward.request(self.command, self.path, body, dict(self.headers))
                answer = onward.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *args):
            pass

    wire = ThreadingHTTPServer(("127.0.0.1", 0), Delay)
    thread = threading.Thread(target=wire.serve_forever)
    thread.start()

    def delay(seconds):
        wire.seconds = seconds
        return f"http://127.0.0.1:{wire.server_port}"

    yield delay
    wire.shutdown()
    thread.join()
    wire.server_close()


@pytest.mark.slow
def test_a_server_too_slow_for_its_many_requests_is_given_up_as_a_whole(
    run, clbench, place, server, delayed, waits, monkeypatch
):
    # Every single request is answered in time; a delivery of several is not.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    outcome = run(place, "--tracking-uri", delayed(1), seeds="0-1")
    assert_trained_with_one_warning(outcome, place, 2, "takes no more records (no answer within 3 seconds)")
    assert_held_up_once(waits, 3)
    synced = clbench(place, "sync", "--tracking-uri", server.uri)
    assert synced.code == 0
    assert_mirrored(server.uri, place / "clbench-runs")


@pytest.mark.slow
def test_a_server_that_is_merely_slow_is_waited_for(run, place, server, delayed):
    outcome = run(place, "--tracking-uri", delayed(0.3))
    assert (outcome.code, outcome.err) == (0, "")
    assert_mirrored(server.uri, place / "clbench-runs")


@pytest.mark.slow
def test_a_process_of_its_own_says_no_more_than_the_one_warning(place, closed_port):
    small = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64", "--no-report"]
    command = [sys.executable, "-m", "clbench", "run", "--suite", SUITE, "--methods", "naive", "--seeds", "0", *small]
    ended = subprocess.run([*command, "--tracking-uri", closed_port], cwd=place, capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stderr.startswith(f"clbench: warning: the MLflow store {closed_port} does not answer (")
    assert ended.stderr.count("\n") == 1


class Lock:
    """Another process that holds a SQLite file for itself until it is released."""

    def __init__(self, path):
        self.path = path

    def take(self):
        program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); print('held'); "
        program += "sys.stdout.flush(); sys.stdin.read()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "held\n"

    def release(self):
        self.process.communicate()


def test_a_store_locked_from_the_start_holds_a_run_up_for_one_timeout(run, clbench, place, waits, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    lock = Lock(place / "mlflow.db")
    lock.take()
    outcome = run(place, seeds="0-1")
    assert_trained_with_one_warning(outcome, place, 2, "does not answer (no answer within 2 seconds)")
    assert_held_up_once(waits, 2)
    lock.release()
    assert_synced(clbench, place, uri_of(place), added=2, completed=0, up_to_date=0)


def test_a_store_that_is_locked_in_the_midst_holds_a_run_up_for_one_timeout(
    run, clbench, place, during_task, waits, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    lock = Lock(place / "mlflow.db")
    during_task(2, lock.take)
    outcome = run(place, seeds="0-1")
    assert_trained_with_one_warning(outcome, place, 2, "takes no more records (no answer within 2 seconds)")
    assert_held_up_once(waits, 2)
    lock.release()
    assert_synced(clbench, place, uri_of(place), added=1, completed=1, up_to_date=0)


def test_a_store_that_is_locked_for_a_moment_is_waited_for(run, place, during_task):
    lock = Lock(place / "mlflow.db")

    def lock_for_a_moment():
        lock.take()
        timer = threading.Timer(1, lock.release)
        timer.start()

    during_task(2, lock_for_a_moment)
    outcome = run(place)
    assert (outcome.code, outcome.err) == (0, "")
    assert_mirrored(uri_of(place), place / "clbench-runs")


def test_a_disk_that_fills_up_under_the_store_stops_nothing(
    run, clbench, place, make_store, small_disk, fill, during_task
):
    uri = uri_of(make_store(small_disk))
    during_task(2, fill)
    outcome = run(place, "--tracking-uri", uri, seeds="0-1")
    assert_trained_with_one_warning(outcome, place, 2, "takes no more records (")
    (small_disk / "ballast").unlink()
    assert_synced(clbench, place, uri, added=1, completed=1, up_to_date=0)


def test_a_disk_that_is_full_at_the_start_leaves_no_broken_store(run, clbench, place, small_disk, fill):
    fill()
    uri = uri_of(small_disk)
    outcome = run(place, "--tracking-uri", uri)
    assert_trained_with_one_warning(outcome, place, 1, "does not answer (")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    (small_disk / "ballast").unlink()
    assert_synced(clbench, place, uri, added=1, completed=0, up_to_date=0)


@pytest.mark.slow
def test_a_killed_run_is_shown_as_running_and_its_repetition_replaces_it(run, clbench, place):
    program = """
import os, signal, sys
from clbench import cli
from clbench.baselines.naive import Naive
learn = Naive.learn
def die(method, task):
    if task.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    learn(method, task)
Naive.learn = die
sys.argv = ["clbench", *sys.argv[1:]]
cli.main()
"""
    small = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64", "--no-report"]
    arguments = ["run", "--suite", SUITE, "--methods", "naive", "--seeds", "0", *small]
    killed = subprocess.run([sys.executable, "-c", program, *arguments], cwd=place, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert_synced(clbench, place, uri_of(place), added=0, completed=1, up_to_date=0)
    assert run(place).code == 0
    found = recorded(place)
    (child,) = found.children
    assert child.info.status == "FINISHED"
    assert points(found.client, child) == wanted_points(place / "clbench-runs" / child.data.tags["clbench.run_id"])


def test_failed_and_stopped_runs_are_synced_as_such(run, clbench, place, tmp_path, make_store, monkeypatch):
    def fail_and_stop(method, task):
        if task.index == 1:
            raise Interrupted if method.workplace.seeds.seed else RuntimeError("<b>no</b> [reason](http://elsewhere)")
        learn(method, task)

    learn = Naive.learn
    monkeypatch.setattr(Naive, "learn", fail_and_stop)
    assert run(place, seeds="0-1").code == 130
    fresh = uri_of(make_store(tmp_path / "fresh"))
    assert_synced(clbench, place, fresh, added=2, completed=0, up_to_date=0)
    found = recorded(tmp_path / "fresh")
    notes = {child.info.status: child.data.tags["mlflow.note.content"] for child in found.children}
    assert "Stopped after 1 of 2 tasks" in notes["KILLED"]
    # As text, not as markup.
    assert r"RuntimeError: \<b\>no\</b\> \[reason\]\(http://elsewhere\)" in notes["FAILED"]
    assert [parent.info.status for parent in found.parents] == ["FAILED"]


def test_a_damaged_folder_is_named_and_the_others_are_synced(run, clbench, place, tmp_path, make_store):
    assert run(place, seeds="0-1").code == 0
    fresh = uri_of(make_store(tmp_path / "fresh"))
    damaged, _ = sorted(run_paths(place / "clbench-runs"))
    (damaged / "tasks.csv").write_text("nonsense\n")
    outcome = clbench(place, "sync", "--tracking-uri", fresh)
    assert outcome.code == 1
    assert outcome.out == f"{fresh}: runs 1 added, 0 completed, 0 up to date, 1 unreadable\n"
    assert outcome.err.startswith(
        f"clbench: warning: clbench-runs/{damaged.name}/tasks.csv is not as clbench recorded it"
    )


def test_a_point_or_a_run_that_is_there_twice_is_there_once_after_a_sync(run, clbench, place):
    assert run(place, seeds="0-1").code == 0
    found = recorded(place)
    spoiled, copied = found.children
    # A point again at another time, as a client that logs with the time of day does on a second attempt.
    found.client.log_metric(spoiled.info.run_id, "average_accuracy", 0.5, timestamp=1, step=1)
    found.client.delete_tag(spoiled.info.run_id, "clbench.folder_sha256")
    # A run created by a request whose answer was lost.
    tags = {key: value for key, value in copied.data.tags.items() if not key.startswith("mlflow.")}
    for name in ("clbench.complete", "clbench.folder_sha256"):
        tags.pop(name)
    tags["mlflow.parentRunId"] = copied.data.tags["mlflow.parentRunId"]
    found.client.create_run(found.experiment.experiment_id, tags=tags)
    synced = clbench(place, "sync")
    assert synced.code == 0
    children = recorded(place).children
    assert spoiled.info.run_id in [child.info.run_id for child in children], "closed attempts stay"
    found.client.delete_run(spoiled.info.run_id)
    assert_mirrored(uri_of(place), place / "clbench-runs")


EIGHT_AT_ONCE = """
import multiprocessing, sys
from pathlib import Path
import clbench.runs.runner
from clbench.records.folder import RunFolder
from clbench.tracking.tracker import Tracker
from clbench.tracking.connection import import_mlflow

def restore(barrier, folder):
    barrier.wait()
    tracker = Tracker(sys.argv[1], lambda text: print(text, flush=True))
    tracker.begin(sys.argv[2], f"clbench run {folder.name}", 1)
    tracker.complete(RunFolder(folder.parent, folder.name))
    tracker.end(status="finished")

import_mlflow()
fork = multiprocessing.get_context("fork")
barrier = fork.Barrier(8)
processes = [fork.Process(target=restore, args=(barrier, Path(folder))) for folder in sys.argv[3:]]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(sum(process.exitcode != 0 for process in processes))
"""


@pytest.mark.slow
def test_eight_processes_on_a_store_that_is_not_there_yet_lose_nothing(tmp_path, recorded_run, write_run):
    runs = [recorded_run(seed=seed, suite=SUITE, suite_settings=SETTINGS) for seed in range(8)]
    folders = [write_run(tmp_path / "clbench-runs", one) for one in runs]
    # Forked from a process of its own: here, threads that a test has left may hold locks.
    command = [sys.executable, "-c", EIGHT_AT_ONCE, uri_of(tmp_path), SUITE, *folders]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert_mirrored(uri_of(tmp_path), tmp_path / "clbench-runs")
    assert len(recorded(tmp_path).parents) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clbench-runs", "mlartifacts", "mlflow.db"]


@pytest.mark.slow
def test_eight_commands_at_once_on_a_fresh_store_lose_nothing(tmp_path):
    small = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64", "--no-report"]
    command = [sys.executable, "-m", "clbench", "run", "--suite", SUITE, "--methods", "naive", *small]
    processes = [
        # Two folders have the same four runs, as two people with one store would.
        subprocess.Popen(
            [*command, "--seeds", str(i % 4), "--output", f"runs-{i // 4}"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for i in range(8)
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert said == [b""] * 8
    found = recorded(tmp_path)
    assert len(found.children) == 8
    for child in found.children:
        assert points(found.client, child) == wanted_points(Path(child.data.tags["clbench.folder"].partition(":")[2]))
