"""A command that trains several runs at once: it or one of its processes is killed, stopped, or no longer heard."""

import json
import os
import pty
import runpy
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from clbench.execution import processes as executor
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths

GRIDS = runpy.run_path(str(Path(__file__).with_name("grids.py")))
start, points, wait_for, statuses = (GRIDS[name] for name in ("start", "points", "wait_for", "statuses"))


def workers_of(process):
    """The processes that train for a command; they hang below the one that makes them. In the order of their runs."""
    found = [worker for child in psutil.Process(process.pid).children() for worker in child.children()]
    return sorted(found, key=lambda worker: worker.pid)


def drain(handle):
    while os.read(handle, 65536):
        pass


@pytest.mark.long
def test_of_runs_at_once_a_failed_one_is_tried_once(command, make_store, tmp_path):
    place = make_store(tmp_path / "place")
    wild = ["--set", "ewc.optimizer=sgd", "--set", "ewc.learning_rate=10", "--set", "ewc.weight_decay=1"]
    process = command(place, "naive,ewc,psp", "--jobs", "2", *wild)
    process.join()
    said = (place / "said.txt").read_text()
    assert process.exitcode == 1, said
    assert said.count("ewc seed 0: failed: the loss of task") == 1
    assert "Traceback" not in said
    found = {method: status["status"] for method, status in statuses(place).items()}
    assert found == {"naive": "finished", "psp": "finished", "ewc": "failed"}


@pytest.fixture(scope="module")
def undisturbed(processes, make_store, tmp_path_factory):
    """The folder of a grid of three methods that nothing happened to."""
    place = make_store(tmp_path_factory.mktemp("undisturbed"))
    process = start(processes, place, "clnp,si,naive")
    process.join()
    assert process.exitcode == 0, (place / "said.txt").read_text()
    return place


@pytest.mark.slow
def test_what_a_run_learns_depends_on_nothing_around_it(command, outcomes, undisturbed, make_store, tmp_path):
    """Neither on other runs before or beside it, nor on MLflow, nor on the terminal."""
    others, in_terminal = make_store(tmp_path / "others"), make_store(tmp_path / "terminal")
    # Nothing answers there.
    process = command(others, "naive,si,psp,clnp", "--jobs", "3", "--tracking-uri", "http://127.0.0.1:9")
    process.join()
    assert process.exitcode == 0, (others / "said.txt").read_text()
    screen, terminal = pty.openpty()
    threading.Thread(target=drain, args=(screen,), daemon=True).start()
    process = command(in_terminal, "si", output=os.ttyname(terminal))
    process.join()
    assert process.exitcode == 0
    expected = outcomes(undisturbed)
    assert expected.keys() == {"clnp", "si", "naive"}
    assert {name: found for name, found in outcomes(others).items() if name != "psp"} == expected
    assert outcomes(in_terminal) == {"si": expected["si"]}
    assert {read_run(path).config["jobs"] for path in run_paths(others / "clbench-runs")} == {3}


def kill_while_training(process, place, method, resumed=0):
    """Kills the process that trains this method, once it has learned a task and was resumed that often.

    Its own records tell when: what the first process says of it comes late, when a short run may have ended.
    """

    def is_under_way():
        for checkpoint in place.glob("clbench-runs/*/checkpoint.pt"):
            folder = RunFolder(checkpoint.parent.parent, checkpoint.parent.name)
            if folder.config()["method"] == method:
                status = json.loads((folder.path / "status.json").read_text())
                return len(status.get("resumed", [])) == resumed
        return False

    while not is_under_way():
        process.join(0.005)
        assert process.is_alive(), (place / "said.txt").read_text()
    worker, *others = workers_of(process)
    # The second time it goes on alone.
    assert not (resumed and others)
    worker.kill()


@pytest.mark.long
def test_a_killed_process_of_several_costs_nothing_recorded(command, outcomes, place, make_store, tmp_path):
    # Many tasks, so that the first run is under way long enough to be killed.
    whole = make_store(tmp_path / "whole")
    process = command(whole, "clnp,si,naive", tasks=10)
    process.join()
    assert process.exitcode == 0, (whole / "said.txt").read_text()
    process = command(place, "clnp,si,naive", "--jobs", "2", tasks=10)
    kill_while_training(process, place, "clnp")
    process.join()
    said = (place / "said.txt").read_text()
    assert process.exitcode == 0, said
    assert "clnp seed 0: its process was killed, perhaps for want of memory; going on with 1 at once" in said
    assert len(statuses(place)["clnp"]["resumed"]) == 1
    assert "resumed" not in statuses(place)["si"]
    assert outcomes(place) == outcomes(whole)
    assert points(place) == points(whole)


@pytest.mark.long
def test_a_run_whose_process_is_killed_again_has_failed_and_the_others_have_not(command, place):
    process = command(place, "clnp,naive", "--jobs", "2", tasks=40)
    kill_while_training(process, place, "clnp")
    kill_while_training(process, place, "clnp", resumed=1)
    process.join()
    said = (place / "said.txt").read_text()
    assert process.exitcode == 1, said
    assert "clnp seed 0: failed: its process was killed, perhaps for want of memory" in said
    found = statuses(place)
    assert found["naive"]["status"] == "finished"
    assert (found["clnp"]["status"], found["clnp"]["reason"][:22]) == ("failed", "its process was killed")


@pytest.mark.slow
def test_a_reader_that_goes_away_stops_nothing(command, outcomes, undisturbed, place, tmp_path):
    for jobs in ("1", "2"):
        reading = tmp_path / f"pipe-{jobs}"
        os.mkfifo(reading)
        process = command(place, "clnp,si,naive", "--jobs", jobs, "--output", f"runs-{jobs}", output=reading)
        with reading.open() as lines:
            lines.readline()
        process.join()
        assert process.exitcode == 0
        (place / f"runs-{jobs}").rename(place / "clbench-runs")
        assert outcomes(place) == outcomes(undisturbed)
        (place / "clbench-runs").rename(place / f"seen-{jobs}")


@pytest.mark.long
def test_a_damaged_record_fails_its_run_however_many_run_at_once(command, undisturbed, place):
    shutil.copytree(undisturbed / "clbench-runs", place / "clbench-runs")
    (damaged,) = (path for path in run_paths(place / "clbench-runs") if read_run(path).method == "si")
    content = bytearray((damaged / "accuracy_matrix.csv").read_bytes())
    content[-5] ^= 1
    (damaged / "accuracy_matrix.csv").write_bytes(content)
    for jobs in ("1", "2"):
        # Nothing answers there.
        process = command(place, "clnp,si", "--jobs", jobs, "--tracking-uri", "http://127.0.0.1:9")
        process.join()
        said = (place / "said.txt").read_text()
        assert process.exitcode == 1, said
        assert said.count("si seed 0: failed: ") == int(jobs)
        assert "accuracy_matrix.csv is not as clbench recorded it" in said


@pytest.mark.slow
def test_told_twice_a_command_stops_at_once_with_all_that_it_started(command, place):
    process = command(place, "clnp,si,naive", "--jobs", "2", tasks=500)
    wait_for(place / "said.txt", "task 1/500 learned", process)
    while len(workers := workers_of(process)) < 2:
        # Nothing tells when a process begins.
        process.join(0.01)
        assert process.is_alive()
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 130
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert {found["status"] for found in statuses(place).values()} == {"stopped"}
    assert "Traceback" not in (place / "said.txt").read_text()


@pytest.mark.slow
def test_runs_that_wait_to_be_heard_stop_as_well(command, place):
    process = command(place, "clnp,si,naive", "--jobs", "2", tasks=500)
    wait_for(place / "said.txt", "task 1/500 learned", process)
    os.kill(process.pid, signal.SIGSTOP)
    workers, before = workers_of(process), None
    # Until nobody computes any more, because what they have to say finds no room.
    while before != (before := [sum(worker.cpu_times()[:2]) for worker in workers]):
        time.sleep(1)
    # Both are there when it wakes up: the first tells it to stop, and the second at once.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert {found["status"] for found in statuses(place).values()} == {"stopped"}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_runs_at_once_stop_with_their_command_and_go_on_with_the_next(
    number, code, command, outcomes, undisturbed, place
):
    process = command(place, "clnp,si,naive", "--jobs", "2")
    wait_for(place / "said.txt", "task 1/4 learned", process)
    # One or two: the first may be there before the second.
    workers = workers_of(process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert "running" not in {found["status"] for found in statuses(place).values()}
    # Which of them were under way is a matter of luck; a short one may have ended before the signal came.
    half_done = {
        read_run(path).method for path in run_paths(place / "clbench-runs") if (path / "checkpoint.pt").exists()
    }
    again = command(place, "clnp,si,naive", "--jobs", "2")
    again.join()
    assert again.exitcode == 0, (place / "said.txt").read_text()
    assert {method for method, found in statuses(place).items() if "resumed" in found} == half_done
    assert outcomes(place) == outcomes(undisturbed)
    assert points(place) == points(undisturbed)


def test_a_command_that_is_stopped_while_its_last_run_is_looked_at_ends_with_it():
    stop = threading.Event()

    def look(report, patience):
        stop.set()
        return "finished"

    job = SimpleNamespace(look=look)
    found = executor.processes([job], SimpleNamespace(hear=None), stop, 0.0, at_once=2)
    assert list(found) == [(job, "finished")]
