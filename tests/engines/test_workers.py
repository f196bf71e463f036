"""What workers tell of themselves, and what follows from it."""

import pytest

from clbench.events import Began, Ended, Learned
from clbench.execution.workers import Logbook, all_submitted, refuses, submitted, told
from clbench.records.folder import RunFolder
from clbench.records.format import FORMAT

RUN = "0123456789abcdef"
CONFIG = {
    "format": FORMAT,
    "run_id": RUN,
    "suite": "s",
    "method": "m",
    "seed": 0,
    "modified": False,
    "suite_settings": {"n_tasks": 2},
}


class Known:
    def __init__(self, learned):
        self.learned = learned


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / ".workers" / "slurm-1"
    found.mkdir(parents=True)
    return found


@pytest.fixture
def log(folder):
    """(name of a worker, (run, tasks learned)...) -> its log, which ends with a kill at the last of them."""

    def write(name, *runs):
        log = Logbook(folder, name)
        log.begin()
        for run, learned in runs:
            log.hear(Began(run, {}, Known(learned)))
        return log

    return write


@pytest.fixture
def run(tmp_path):
    """(status) -> the folder of a run that stands so."""

    def make(status):
        found = RunFolder(tmp_path, RUN)
        found.begin(CONFIG, "python: 3.11\n")
        found.set_status(status)
        return found

    return make


def test_a_log_tells_how_a_worker_stands_and_what_it_was_killed_at(folder, log):
    first = log("1_0", (RUN, 0))
    first.hear(Learned(RUN, Known(1)))
    (worker,) = told(folder)
    assert (worker.run, worker.learned, worker.ended) == (RUN, 1, "")
    # Slurm begins it anew.
    again = log("1_0")
    (worker,) = told(folder)
    assert (worker.run, worker.cut_off) == ("", {RUN: [1]})
    assert not again.has_learned
    again.hear(Began(RUN, {}, Known(1)))
    again.hear(Learned(RUN, Known(2)))
    again.hear(Ended(RUN, "failed", "no room"))
    again.hear(Ended("f" * 16, "recorded before"))
    again.end("stopped", "cancelled")
    (worker,) = told(folder)
    assert again.has_learned
    assert (worker.run, worker.ended, worker.reason) == ("", "stopped", "cancelled")
    assert worker.failed == {RUN: "no room"}


def test_a_log_that_was_cut_off_in_a_line_is_read_so_far(folder, log):
    log("1_0", (RUN, 3))
    with (folder / "1_0.jsonl").open("a") as file:
        file.write('{"at": "2026-01-01", "run')
    (worker,) = told(folder)
    assert (worker.run, worker.learned) == (RUN, 3)


def test_a_run_that_killed_two_workers_in_one_task_is_given_up(folder, log, run):
    found = run("running")
    log("1_0", (RUN, 2))
    assert refuses(folder, "1_2", found) == ""
    log("1_1", (RUN, 2))
    assert "killed twice in task 3 (1_0, 1_1), perhaps for want of memory" in refuses(folder, "1_2", found)


@pytest.mark.parametrize("again", [True, False], ids=["the same worker", "another"])
def test_a_run_that_came_further_in_between_may_go_on(again, folder, log, run):
    log("1_0", (RUN, 2))
    log("1_0" if again else "1_1", (RUN, 3))
    assert refuses(folder, "1_0" if again else "1_2", run("running")) == ""


def test_a_run_that_failed_is_not_tried_by_every_worker_but_by_a_new_command(folder, log, run, tmp_path):
    found = run("failed")
    log("1_0", (RUN, 0)).hear(Ended(RUN, "failed", "it diverged"))
    assert refuses(folder, "1_1", found) == "it diverged"
    later = tmp_path / ".workers" / "slurm-2"
    later.mkdir()
    assert refuses(later, "2_0", found) == ""


def test_a_run_that_stopped_goes_on(folder, log, run):
    log("1_0", (RUN, 0)).hear(Ended(RUN, "stopped"))
    assert refuses(folder, "1_1", run("stopped")) == ""


def test_what_was_asked_of_workers_is_kept(tmp_path):
    folder = tmp_path / ".workers" / "slurm-2"
    folder.mkdir(parents=True)
    submitted(folder, {"engine": "slurm", "workers": ["2_0"]})
    (folder.parent / "slurm-3").mkdir()
    (folder.parent / "slurm-3" / "submitted.json").write_text("{")
    ((place, what),) = all_submitted(tmp_path)
    assert (place, what["engine"], what["workers"]) == (folder, "slurm", ["2_0"])
