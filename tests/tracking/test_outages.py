"""Life without MLflow: a store that fails at the start or in the midst of a run, which goes on without it."""

import json
import runpy
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clbench import metrics
from clbench.baselines.naive import Naive
from clbench.errors import Interrupted, TrackingError
from clbench.records.reading import read_run, run_paths
from clbench.tracking.sync import load_runs

STORES = runpy.run_path(str(Path(__file__).with_name("stores.py")))
SUITE = STORES["SUITE"]
uri_of = STORES["uri_of"]
recorded = STORES["recorded"]
points = STORES["points"]
wanted_points = STORES["wanted_points"]
assert_same_runs = STORES["assert_same_runs"]
assert_complete = STORES["assert_complete"]


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


@pytest.mark.slow
def test_a_process_of_its_own_says_no_more_than_the_one_warning(place, closed_port):
    small = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64", "--no-report"]
    command = [sys.executable, "-m", "clbench", "run", "--suite", SUITE, "--methods", "naive", "--seeds", "0", *small]
    ended = subprocess.run([*command, "--tracking-uri", closed_port], cwd=place, capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stderr.startswith(f"clbench: warning: the MLflow store {closed_port} does not answer (")
    assert ended.stderr.count("\n") == 1


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
