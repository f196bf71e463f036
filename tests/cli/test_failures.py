"""Runs that fail and commands that are stopped: runs that go on, exit codes that tell the truth."""

import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench.baselines.joint import Joint
from clbench.baselines.naive import Naive
from clbench.errors import Interrupted, MethodError
from clbench.records.reading import read_run
from clbench.tracking.sync import load_runs

RUN_FOLDERS = runpy.run_path(str(Path(__file__).with_name("run_folders.py")))
SUITE, folders, status_of = (RUN_FOLDERS[name] for name in ("SUITE", "folders", "status_of"))


# Runs that fail


def test_an_unexpected_failure_is_recorded_with_its_traceback_and_the_others_go_on(run, place, monkeypatch):
    def fail(method, task):
        raise RuntimeError("out of luck [bold]")

    monkeypatch.setattr(Naive, "learn", fail)
    outcome = run(place, "--no-report", methods="naive,joint", seeds="0-1")
    assert outcome.code == 1
    found = folders(place)
    assert {key: status_of(path)["status"] for key, path in found.items()} == {
        ("naive", 0): "failed",
        ("naive", 1): "failed",
        ("joint", 0): "finished",
        ("joint", 1): "finished",
    }
    for seed in (0, 1):
        folder = found["naive", seed]
        assert status_of(folder)["reason"] == "RuntimeError: out of luck [bold]"
        assert 'raise RuntimeError("out of luck [bold]")' in (folder / "traceback.txt").read_text()
        assert f"naive seed {seed}: failed: RuntimeError: out of luck [bold] (see " in outcome.err
    assert not (found["joint", 0] / "traceback.txt").exists()
    assert outcome.err.endswith(
        "clbench: warning: some runs failed, for the reasons above; the same command tries them again\n"
    )


def test_an_expected_failure_is_recorded_without_a_traceback(run, place, monkeypatch):
    def refuse(method, observers=()):
        raise MethodError("this method needs a single head; take another suite")

    monkeypatch.setattr(Naive, "prepare", refuse)
    outcome = run(place, "--no-report", methods="naive,joint")
    assert outcome.code == 1
    found = folders(place)
    status = status_of(found["naive", 0])
    assert status["status"] == "failed"
    assert status["reason"] == "MethodError: this method needs a single head; take another suite"
    assert not (found["naive", 0] / "traceback.txt").exists()
    assert "naive seed 0: failed: this method needs a single head; take another suite\n" in outcome.err
    assert status_of(found["joint", 0])["status"] == "finished"


def test_a_run_that_failed_before_it_began_does_not_prevent_the_report_on_the_others(run, place, monkeypatch):
    def refuse(method, observers=()):
        raise MethodError("no")

    monkeypatch.setattr(Naive, "prepare", refuse)
    outcome = run(place, methods="naive,joint")
    assert outcome.code == 1
    assert "no report" not in outcome.err
    assert len(list((place / "clbench-reports").iterdir())) == 4


def test_a_loss_that_is_no_longer_finite_fails_the_run_with_a_reason(run, place):
    wild = ["--set", "naive.optimizer=sgd", "--set", "naive.learning_rate=10", "--set", "naive.weight_decay=1"]
    outcome = run(place, "--no-report", *wild, methods="naive,joint")
    assert outcome.code == 1
    found = folders(place)
    assert status_of(found["naive", 0])["status"] == "failed"
    assert "loss of task 1 is no longer finite" in status_of(found["naive", 0])["reason"]
    assert status_of(found["joint", 0])["status"] == "finished"


def test_the_reason_of_a_failure_is_said_even_when_quiet(run, place, monkeypatch):
    def fail(method, task):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Naive, "learn", fail)
    outcome = run(place, "--no-report", "-q")
    assert outcome.out == ""
    assert "out of luck" in outcome.err


def test_a_failed_run_is_tried_again_and_the_attempt_is_kept(run, place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Naive, "learn", lambda method, task: 1 / 0)
        assert run(place, "--no-report").code == 1
    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    assert status_of(folder)["status"] == "finished"
    (aside,) = (place / "clbench-runs").glob(f"{folder.name}.unfinished-*")
    assert status_of(aside)["reason"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in (aside / "traceback.txt").read_text()


def test_a_status_that_cannot_be_read_is_refused_and_the_invocation_closed(run, place):
    from mlflow import MlflowClient

    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    (folder / "status.json").write_text("{")
    outcome = run(place, "--no-report")
    assert outcome.code == 1
    assert str(folder.relative_to(place) / "status.json") in outcome.err
    assert "move the folder away" in outcome.err
    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    (experiment,) = (item.experiment_id for item in client.search_experiments() if item.name == SUITE)
    assert [item.info.status for item in client.search_runs([experiment], "attributes.status = 'RUNNING'")] == []


def test_a_run_that_lost_its_status_is_not_trained_over(run, place):
    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    (folder / "status.json").unlink()
    outcome = run(place, "--no-report")
    assert outcome.code == 1
    assert f"{folder.relative_to(place) / 'status.json'} cannot be read" in outcome.err
    assert sorted(path.name for path in (place / "clbench-runs").iterdir() if path.is_dir()) == [".leases", folder.name]


# Stopping


def test_a_stop_ends_the_grid_and_keeps_what_is_done(run, place, monkeypatch):
    def stop(method, task):
        raise Interrupted

    monkeypatch.setattr(Joint, "learn", stop)
    outcome = run(place, methods="naive,joint", seeds="0-1")
    assert outcome.code == 130
    found = folders(place)
    assert {key: status_of(path)["status"] for key, path in found.items()} == {
        ("naive", 0): "finished",
        ("joint", 0): "stopped",
    }
    assert status_of(found["joint", 0])["reason"] == "stopped before its end, by the user or a signal"
    assert "The same command goes on" in outcome.err
    assert list((place / "clbench-reports").iterdir()) == []


def test_signal_handlers_are_put_back(run, place):
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    assert run(place, "--no-report").code == 0
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_signal_stops_after_the_batch_and_the_same_command_goes_on(run, place, number):
    # Long enough to be caught in the midst of it, short enough to be finished afterwards.
    small = ["--set", "n_tasks=8", "--set", "epochs=15", "--set", "hidden_sizes=64,64"]
    # Another number of threads would be another run.
    small += ["--threads", str(torch.get_num_threads())]
    arguments = ["run", "--suite", SUITE, "--methods", "naive", "--seeds", "0", "--no-report", *small]
    process = subprocess.Popen(
        [sys.executable, "-m", "clbench", *arguments],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if "task 1/8 learned" in line:
                process.send_signal(number)
                break
        out, err = process.communicate()
    finally:
        watchdog.cancel()
    assert process.returncode == 130
    assert out.splitlines()[-1].endswith("naive seed 0: stopped")
    assert err == (
        "clbench: warning: stopped; tasks that were learned to the end are recorded. The same command goes on after "
        "them\n"
    )
    (folder,) = folders(place).values()
    assert status_of(folder)["status"] == "stopped"
    learned = len(read_run(folder).tasks)
    assert 1 <= learned < 8
    first = read_run(folder).accuracy_matrix[: learned + 1]

    again = run(place, "--no-report", small=small)
    assert (again.code, again.err) == (0, "")
    status = status_of(folder)
    assert status["status"] == "finished"
    assert len(status["resumed"]) == 1
    assert list(folders(place).values()) == [folder]
    assert not list((place / "clbench-runs").glob("*.unfinished-*"))
    np.testing.assert_array_equal(read_run(folder).accuracy_matrix[: learned + 1], first)
    (loaded,) = load_runs(SUITE, f"sqlite:///{place / 'mlflow.db'}")
    assert loaded.status == "finished"
