"""Real faults: a locked SQLite file, a full disk, a killed clbench, damaged and doubled entries, many at once."""

import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clbench.baselines.naive import Naive
from clbench.errors import Interrupted
from clbench.records.reading import run_paths

STORES = runpy.run_path(str(Path(__file__).with_name("stores.py")))
SUITE = STORES["SUITE"]
SETTINGS = STORES["SETTINGS"]
uri_of = STORES["uri_of"]
recorded = STORES["recorded"]
points = STORES["points"]
wanted_points = STORES["wanted_points"]
assert_mirrored = STORES["assert_mirrored"]
assert_synced = STORES["assert_synced"]
assert_held_up_once = STORES["assert_held_up_once"]
wait_for_late_contacts = STORES["wait_for_late_contacts"]
assert_trained_with_one_warning = STORES["assert_trained_with_one_warning"]


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
        wait_for_late_contacts()


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
