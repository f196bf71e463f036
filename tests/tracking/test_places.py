"""Where MLflow's store is, what is refused as one, and what is loaded from it."""

import os
import runpy
import shutil
from pathlib import Path

import pytest

from clbench.baselines.naive import Naive
from clbench.errors import RecordError, TrackingError
from clbench.records.folder import RunFolder
from clbench.records.reading import run_paths
from clbench.tracking.connection import tracking_uri
from clbench.tracking.sync import load_runs
from clbench.tracking.tracker import Tracker

STORES = runpy.run_path(str(Path(__file__).with_name("stores.py")))
SUITE = STORES["SUITE"]
uri_of = STORES["uri_of"]
recorded = STORES["recorded"]
points = STORES["points"]
wanted_points = STORES["wanted_points"]


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


def test_a_file_that_is_no_store_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "mlflow.db").write_text("my thesis, do not delete\n" * 100)
    outcome = run(tmp_path)
    assert outcome.code == 2
    assert outcome.err.startswith("clbench: error: the MLflow store sqlite:///")
    assert outcome.err.count("\n") == 1
    assert (tmp_path / "mlflow.db").read_text() == "my thesis, do not delete\n" * 100
    assert list((tmp_path / "clbench-runs").iterdir()) == []


# Loading


def test_a_run_that_failed_before_its_first_measurement_does_not_hide_the_others(run, place, monkeypatch):
    def refuse(method, observers=()):
        raise RuntimeError("before anything was measured")

    assert run(place, seeds="0").code == 0
    monkeypatch.setattr(Naive, "prepare", refuse)
    assert run(place, seeds="1").code == 1
    assert 0 in [item.seed for item in load_runs(SUITE, uri_of(place)) if item.status == "finished"]


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
