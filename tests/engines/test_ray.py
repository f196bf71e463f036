"""A real Ray cluster of two nodes on this machine: a task is killed, a node is lost, and the grid ends complete."""

import csv
import os
import signal
import threading
from pathlib import Path

import pytest

import clbench
from clbench.errors import SettingError

pytest.importorskip("ray", reason="Ray is not installed; pip install 'clbench[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one processor each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Ray's workers are 15 nicer than others. Beside other tests they would get a few hundredths of a processor.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.second = made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def of_task(run):
    """Process ids of Ray's workers that hold the lease of a run, or of any run, on this machine."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                opened = [os.readlink(f"/proc/{entry}/fd/{each}") for each in os.listdir(f"/proc/{entry}/fd")]
            except OSError:
                continue
            if line.startswith(b"ray::") and any(".leases" in name and run in name for name in opened):
                found.append(int(entry))
    return found


def test_a_killed_task_and_a_lost_node_leave_a_complete_grid_with_the_same_bits(
    cluster, until, command, grid, digests, one_after_the_other, tmp_path
):
    ended = []
    arguments = [*grid, "--executor", "ray", "--ray-address", cluster.address]
    place = str(tmp_path)

    def work():
        ended.append(command(*arguments))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: of_task(place), 300, "a run on Ray")
    os.kill(of_task(place)[0], signal.SIGKILL)
    until(lambda: len(list((tmp_path / "clbench-runs").glob("*/status.json"))) > 4, 300, "some runs")
    cluster.remove_node(cluster.second)
    thread.join(900)
    assert not thread.is_alive()
    (said,) = ended
    assert "was lost; it goes on elsewhere" in said.stderr
    assert digests(tmp_path / "clbench-runs") == one_after_the_other


def test_what_no_node_has_room_for_is_said_before_anything_is_trained(cluster, tmp_path):
    with pytest.raises(
        SettingError, match=r"needs 1 CPUs .* and 0.5 GPUs .*; its nodes have 1 CPUs and 0 GPUs; 1 CPUs"
    ):
        clbench.run(
            "permuted-digits",
            ["naive"],
            output=tmp_path / "runs",
            threads=1,
            quiet=True,
            executor=clbench.Ray(cluster.address, gpus_per_run=0.5),
        )
    assert not list((tmp_path / "runs").glob("*/config.json"))


def test_from_python_runs_come_back_trained_and_an_own_class_must_be_in_a_file(cluster, tmp_path):
    options = {"output": tmp_path / "runs", "threads": 1, "quiet": True, "executor": clbench.Ray(cluster.address)}
    options |= {"overrides": {"n_tasks": 2, "epochs": 1, "hidden_sizes": [8]}}
    runs = clbench.run("permuted-digits", ["naive"], [0, 1], **options)
    assert len(runs) == 2

    class Here(clbench.methods.Method):
        pass

    with pytest.raises(SettingError, match="which other processes cannot load"):
        clbench.run("permuted-digits", [Here], [0], **options)


@pytest.mark.long
def test_a_search_on_a_cluster_asks_and_finds_what_it_does_on_this_machine(cluster, command, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed; pip install 'clbench[search]'")
    asked = ["tune", "--suite", "permuted-digits", "--methods", "ewc", "--protocol", "first-k", "--trials", "4"]
    asked += ["--tasks", "2", "--threads", "1", "--offline"]
    on_ray = ["--executor", "ray", "--ray-address", cluster.address, "--workers", "2"]
    logs = []
    for where, options in (("ray", on_ray), ("here", ["--jobs", "2"])):
        said = command(*asked, *options, "--log", tmp_path / where / "log.csv").stdout
        assert "ewc: " in said.splitlines()[-3]
        with (tmp_path / where / "log.csv").open() as file:
            logs.append({(row["run_id"], row["validation_accuracy"]) for row in csv.DictReader(file)})
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4


def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path):
    with pytest.raises(SettingError, match=r"cannot be used: .*ray start --head"):
        clbench.run(
            "permuted-digits", ["naive"], output=tmp_path, threads=1, executor=clbench.Ray("127.0.0.1:9"), quiet=True
        )
