"""What happens to a machine in the midst of a grid stops one run, is said in a sentence, and costs nothing recorded."""

import json
import resource
import shutil
import subprocess
import time
from datetime import UTC, datetime

import pytest

from clbench.baselines.ewc import EWC
from clbench.records.reading import read_run, run_paths


@pytest.fixture
def uri(place):
    """A store apart from the run folders."""
    return f"sqlite:///{place / 'mlflow.db'}"


def by_method(root):
    return {(run.method, run.seed): run for run in map(read_run, run_paths(root))}


def assert_said_in_sentences(outcome):
    assert "Traceback" not in outcome.out + outcome.err
    assert all(line.startswith("clbench: warning: ") for line in outcome.err.splitlines())


def test_a_disk_that_fills_up_under_the_runs_fails_them_and_what_was_learned_is_not_lost(
    run, place, uri, small_disk, fill, during_task
):
    during_task(2, fill)
    outcome = run(place, "--output", small_disk / "runs", "--tracking-uri", uri, "--no-report", seeds="0-1")
    assert outcome.code == 1
    assert_said_in_sentences(outcome)
    assert outcome.err.count("No space left on device") >= 2
    (folder, *_) = run_paths(small_disk / "runs")
    learned = (folder / "tasks.csv").read_bytes()
    assert learned.count(b"\n") == 2

    (small_disk / "ballast").unlink()
    again = run(place, "--output", small_disk / "runs", "--tracking-uri", uri, "--no-report", seeds="0-1")
    assert (again.code, again.err) == (0, "")
    # It went on after the task that it had learned.
    assert (folder / "tasks.csv").read_bytes().startswith(learned)
    assert run(place, "--output", place / "undisturbed", "--tracking-uri", uri, "--no-report", seeds="0-1").code == 0
    ours, theirs = by_method(small_disk / "runs"), by_method(place / "undisturbed")
    assert ours.keys() == theirs.keys()
    for key, found in ours.items():
        assert found.status == "finished"
        assert found.accuracy_matrix.tobytes() == theirs[key].accuracy_matrix.tobytes()


def test_a_method_that_runs_out_of_memory_fails_alone_with_its_reason_and_its_traceback(run, place, monkeypatch):
    def exhausted(method, task):
        # What an allocation that cannot be met raises.
        bytearray(1 << 62)

    monkeypatch.setattr(EWC, "learn", exhausted)
    outcome = run(place, "--no-report", methods="ewc,naive")
    assert outcome.code == 1
    assert_said_in_sentences(outcome)
    assert "ewc seed 0: failed: MemoryError" in outcome.err
    found = by_method(place / "clbench-runs")
    assert {key: item.status for key, item in found.items()} == {("ewc", 0): "failed", ("naive", 0): "finished"}
    failed = place / "clbench-runs" / found["ewc", 0].run_id
    assert json.loads((failed / "status.json").read_text())["reason"].startswith("MemoryError")
    assert "bytearray" in (failed / "traceback.txt").read_text()


def test_a_folder_that_vanishes_fails_the_run_and_not_the_others(run, place, uri, during_task):
    output = place / "runs"
    during_task(2, lambda: shutil.rmtree(output))
    outcome = run(place, "--output", output, "--tracking-uri", uri, "--no-report", seeds="0-1")
    assert outcome.code == 1
    assert_said_in_sentences(outcome)
    assert "naive seed 0: failed: " in outcome.err
    assert str(output) in outcome.err
    found = by_method(output)
    assert {key: item.status for key, item in found.items()} == {("naive", 1): "finished"}


def test_a_disk_that_is_read_only_is_refused_before_anything_runs(run, place, uri, small_disk, assert_refused):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    outcome = run(place, "--output", small_disk / "runs", "--tracking-uri", uri)
    assert_refused(outcome, f"the folder {small_disk / 'runs'} cannot be written (Read-only file system)", "--output")
    assert list(small_disk.iterdir()) == []


def test_a_clock_that_goes_backwards_changes_nothing_but_the_times_of_day(
    run, clbench, place, uri, during_task, monkeypatch
):
    real, behind = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() - behind[0])
    monkeypatch.setattr(
        "clbench.records.folder.now", lambda: datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
    )
    during_task(2, lambda: behind.__setitem__(0, 3600.0))
    outcome = run(place, "--tracking-uri", uri, seeds="0-1")
    assert (outcome.code, outcome.err) == (0, "")
    first = by_method(place / "clbench-runs")["naive", 0]
    assert first.ended < first.started
    assert (first.tasks["train_seconds"] > 0).all()
    assert clbench(place, "verify-run", place / "clbench-runs").code == 0
    assert "2 up to date" in clbench(place, "sync", "--tracking-uri", uri).out


def test_a_limit_on_what_may_be_written_fails_the_run_and_not_what_was_recorded(run, place):
    wide = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=200,200"]
    # Nothing answers there; the store's own file would be over the limit as well.
    arguments = [place, "--no-report", "--tracking-uri", "http://127.0.0.1:9"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The tables are smaller, a checkpoint is not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        outcome = run(*arguments, small=wide)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 1
    assert_said_in_sentences(outcome)
    assert "checkpoint.pt cannot be written (File too large)" in outcome.err
    ((_, failed),) = by_method(place / "clbench-runs").items()
    assert failed.status == "failed"
    assert run(*arguments, small=wide).code == 0
    ((_, again),) = by_method(place / "clbench-runs").items()
    assert again.status == "finished"
