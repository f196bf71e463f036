"""Commands in processes of their own: killed, told to stop, many at once, and one that trains several runs at once."""

import json
import multiprocessing
import os
import pty
import random
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from clbench.execution import processes as executor
from clbench.methods.table import METHODS
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths


@pytest.fixture(scope="module")
def processes():
    """Makes processes in which everything is imported already, and nothing was computed yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["clbench.cli.running", "clbench.runs.runner", "clbench.tracking", "mlflow", "sklearn.datasets"]
    )
    return context


HOLDER = """
import signal, sys
from pathlib import Path
from clbench.records.folder import RunFolder
with RunFolder(Path(sys.argv[1]), sys.argv[2]).lease() as is_ours:
    print(is_ours, flush=True)
    signal.pause()
"""


def test_a_lease_is_held_by_one_process_and_ends_with_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path, "abc"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with RunFolder(tmp_path, "abc").lease() as is_ours:
            assert not is_ours
        with RunFolder(tmp_path, "another").lease() as is_ours:
            assert is_ours
        holder.kill()
    with RunFolder(tmp_path, "abc").lease() as is_ours:
        assert is_ours


GRID = ["run", "--suite", "permuted-digits", "--seeds", "0", "--no-report", "--threads", "1"]
GRID += ["--set", "epochs=2", "--set", "hidden_sizes=24,24"]


def start(processes, place, methods, *arguments, tasks=4, output=None):
    grid = [*GRID, "--set", f"n_tasks={tasks}", "--methods", methods, *arguments]
    return begin(processes, place, grid, output)


def begin(processes, place, arguments, output=None):
    given = {"folder": place, "arguments": arguments, "output": output or place / "said.txt"}
    # A script, because the other process cannot import a test module.
    script = Path(__file__).parent / "processes" / "clbench.py"
    process = processes.Process(target=runpy.run_path, args=(str(script), given))
    process.start()
    return process


@pytest.fixture
def command(processes):
    """(folder, methods, more arguments, tasks, output) -> a process that runs the grid of these methods in the folder.

    What it says goes to the output, said.txt in the folder if none is given.
    """
    return partial(start, processes)


@pytest.fixture
def outcomes(outcome_of):
    """(folder) -> by method, the outcome of its run there."""

    def read(place):
        paths = run_paths(place / "clbench-runs")
        return {read_run(path).method: outcome_of(RunFolder(path.parent, path.name)) for path in paths}

    return read


def points(place):
    """By method, every accuracy that MLflow holds, as (metric, step, value), sorted."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    (experiment,) = (item.experiment_id for item in client.search_experiments() if item.name == "permuted-digits")
    found = {}
    for run in client.search_runs([experiment]):
        # Whoever begins a command ends it, or the next one does.
        assert run.info.status != "RUNNING"
        if run.data.tags["clbench.kind"] == "invocation" or run.info.status == "KILLED":
            continue
        # One run for each of ours, and no second one left behind.
        assert run.data.tags["clbench.method"] not in found
        assert run.info.status == "FINISHED"
        found[run.data.tags["clbench.method"]] = sorted(
            (point.key, point.step, point.value)
            for name in run.data.metrics
            if "accuracy" in name or "neurons" in name
            for point in client.get_metric_history(run.info.run_id, name)
        )
    return found


@pytest.fixture
def killed_at_random_instants(command, outcomes, make_store, tmp_path):
    """(methods, kills) -> passes if runs killed that often end like uninterrupted ones, bit for bit."""

    def check(methods, kills):
        whole, parts = make_store(tmp_path / "whole"), make_store(tmp_path / "parts")
        began = time.monotonic()
        process = command(whole, methods)
        process.join()
        assert process.exitcode == 0, (whole / "said.txt").read_text()
        seconds = time.monotonic() - began
        draw = random.Random(1)
        for _ in range(kills):
            process = command(parts, methods)
            # Short enough that the last kill still finds something to interrupt.
            process.join(draw.uniform(0, 2 * seconds / kills))
            process.kill()
            process.join()
        process = command(parts, methods)
        process.join()
        assert process.exitcode == 0, (parts / "said.txt").read_text()
        assert outcomes(parts) == outcomes(whole)
        assert set(outcomes(parts)) == set(methods.split(","))
        assert points(parts) == points(whole)
        assert set(points(parts)) == set(methods.split(","))

    return check


@pytest.mark.long
def test_a_run_killed_at_random_instants_ends_like_an_uninterrupted_one(killed_at_random_instants):
    killed_at_random_instants("clnp,si", 4)


@pytest.mark.slow
def test_eight_processes_that_start_at_once_share_the_work(command, outcomes, tmp_path):
    # A fresh folder, and a store that none of them finds.
    processes = [command(tmp_path, "clnp,ewc,si,naive") for _ in range(8)]
    for process in processes:
        process.join()
    said = (tmp_path / "said.txt").read_text()
    assert [process.exitcode for process in processes] == [0] * 8, said
    assert set(outcomes(tmp_path)) == {"clnp", "ewc", "si", "naive"}
    # Each task was learned once, by whichever process.
    assert said.count("task 4/4 learned") == 4
    assert not list(tmp_path.glob("clbench-runs/*.unfinished-*"))
    assert set(points(tmp_path)) == {"clnp", "ewc", "si", "naive"}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_killed_at_random_instants_ends_like_an_uninterrupted_one(name, killed_at_random_instants):
    killed_at_random_instants(name, 6)


SMALL_CIFAR = ["run", "--suite", "../small.toml", "--methods", "clnp", "--seeds", "0", "--threads", "1", "--no-report"]
SMALL_CIFAR += ["--precision", "bfloat16", "--set", "clnp.budget=0.4", "--set", "clnp.rank=contribution"]


@pytest.fixture
def small_cifar(tmp_path):
    """A folder with images of two classes, images of ten, and the suite over both."""
    generator = np.random.default_rng(0)
    for name, classes in (("first", 2), ("second", 10)):
        means = generator.integers(60, 190, (classes, 1, 1, 3))

        def drawn(each, means=means, classes=classes):
            labels = np.arange(classes).repeat(each)
            noise = generator.normal(0, 40, (len(labels), 32, 32, 3))
            return (means[labels] + noise).clip(0, 255).astype(np.uint8), labels

        arrays = {}
        for part, each in (("train", 40), ("test", 10)):
            arrays[f"x_{part}"], arrays[f"y_{part}"] = drawn(each)
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "small.toml").write_text(
        'name = "small"\ntitle = "Small"\nsource = "A test."\nextends = "cifar10-cifar100"\n'
        'data = "first.npz+second.npz"\nclasses_per_task = 2\nepochs = 2\nbatch_size = 16\nvalidation_share = 0.1\n'
    )
    return tmp_path


@pytest.mark.slow
def test_cifars_suite_killed_within_a_run_goes_on_to_the_same_bits(processes, small_cifar, make_store, outcomes):
    whole, parts = make_store(small_cifar / "whole"), make_store(small_cifar / "parts")
    undisturbed = begin(processes, whole, SMALL_CIFAR)
    process = begin(processes, parts, SMALL_CIFAR)
    wait_for(parts / "said.txt", "task 2/6 learned", process)
    process.kill()
    process.join()
    again = begin(processes, parts, SMALL_CIFAR)
    for process in (undisturbed, again):
        process.join()
    assert undisturbed.exitcode == 0, (whole / "said.txt").read_text()
    assert again.exitcode == 0, (parts / "said.txt").read_text()
    assert outcomes(parts) == outcomes(whole)
    assert set(outcomes(parts)) == {"clnp"}
    assert len(statuses(parts)["clnp"]["resumed"]) == 1


# Several runs at once


def workers_of(process):
    """The processes that train for a command; they hang below the one that makes them. In the order of their runs."""
    found = [worker for child in psutil.Process(process.pid).children() for worker in child.children()]
    return sorted(found, key=lambda worker: worker.pid)


def wait_for(file, words, process):
    """Returns once the words stand in the file."""
    # Nothing tells when another process has written to a file; it ends in any case.
    while not (file.exists() and words in file.read_text()):
        process.join(0.05)
        assert process.is_alive(), file.read_text()


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


def statuses(place):
    """By method, status.json of its run."""
    paths = run_paths(place / "clbench-runs")
    return {read_run(path).method: json.loads((path / "status.json").read_text()) for path in paths}


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
