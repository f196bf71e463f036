"""What is refused before any cluster is asked."""

import shutil

import pytest

import clbench as clbench_package
from clbench.cli.options import chosen_executor
from clbench.errors import SettingError
from clbench.execution.on_ray import Ray
from clbench.execution.on_slurm import Slurm
from clbench.execution.place import device_for


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "sge"], "unknown executor 'sge': expected slurm or ray"),
        (["--workers", "2"], "--workers needs --executor slurm or ray"),
        (["--slurm", "partition=gpu"], "--slurm needs --executor slurm\n"),
        (["--ray-address", "auto"], "--ray-address needs --executor ray\n"),
        (["--executor", "slurm", "--threads", "1", "--slurm", "partiton=gpu"], "did you mean partition?"),
        (["--executor", "ray", "--threads", "1", "--device", "cuda"], "ask for one with --gpus-per-run\n"),
        (["--executor", "ray", "--slurm", "partition=gpu"], "--slurm is not for --executor ray"),
        (["--executor", "slurm", "--gpus-per-run", "1"], "--gpus-per-run is not for --executor slurm"),
        (["--executor", "slurm", "--jobs", "2", "--threads", "1"], "--jobs is for this machine"),
        (["--executor", "slurm"], "on a cluster every run needs --threads"),
        (["--executor", "slurm", "--threads", "1", "--slurm", "partition"], "--slurm takes NAME=VALUE"),
        (
            ["--executor", "slurm", "--threads", "1", "--slurm", "array=3"],
            "the option array of Slurm is set by clbench",
        ),
        (["--executor", "slurm", "--threads", "1", "--slurm", "cpus_per_task=4"], "set by clbench; give --threads"),
        (["--executor", "slurm", "--threads", "1", "--slurm", "timeout_min=4h"], "timeout_min=4h is not understood"),
        (["--executor", "slurm", "--threads", "1", "--slurm", "mem_gb=16GB"], "mem_gb=16GB is not understood"),
        (["--executor", "slurm", "--threads", "1", "--slurm", "timeout_min=0"], "timeout_min=0 is not understood"),
        (["--executor", "slurm", "--threads", "1", "--device", "cuda"], "the device cuda needs a GPU for each worker"),
        (["--executor", "slurm", "--threads", "1", "--device", "cuda:1"], "another machine's to choose"),
        (["--executor", "ray", "--threads", "1", "--gpus-per-run", "1.5"], "a run cannot have 1.5 GPUs"),
        (
            ["--executor", "slurm", "--threads", "1", "--slurm", "gpus_per_node=1", "--device", "cpu"],
            "leaves the GPUs idle that are asked for",
        ),
    ],
)
def test_a_command_refuses_in_one_sentence_what_does_not_go_together(options, said, clbench, assert_refused, tmp_path):
    assert_refused(clbench(tmp_path, "run", "--suite", "permuted-digits", *options), said)
    assert not (tmp_path / "clbench-runs").exists()


def test_without_slurm_on_this_machine_it_says_where_to_give_the_command(
    clbench, assert_refused, tmp_path, monkeypatch
):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = clbench(tmp_path, "run", "--suite", "permuted-digits", "--executor", "slurm", "--threads", "1")
    assert_refused(found, "this machine has no sbatch and srun of Slurm")


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed")
def test_without_a_cluster_that_answers_it_says_so_and_leaves_nothing(clbench, assert_refused, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    options = ["--methods", "naive", "--seeds", "0", "--executor", "slurm", "--threads", "1"]
    found = clbench(tmp_path, "run", "--suite", "permuted-digits", *options)
    assert_refused(found, "no cluster of Slurm answers here")
    assert not list((tmp_path / "clbench-runs" / ".workers").iterdir())


@pytest.mark.parametrize("executor", ["ray", clbench_package.Ray])
def test_from_python_an_executor_is_an_object(executor, tmp_path):
    with pytest.raises(SettingError, match=r"is no executor; give clbench\.Slurm\(\.\.\.\) or clbench\.Ray"):
        clbench_package.run("permuted-digits", ["naive"], output=tmp_path, executor=executor)


@pytest.mark.parametrize(("executor", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_executor_that_is_not_installed_is_named_with_its_command(
    executor, package, clbench, assert_refused, tmp_path, monkeypatch
):
    # As if it were not: Python then fails to import it.
    monkeypatch.setitem(__import__("sys").modules, package, None)
    found = clbench(tmp_path, "run", "--suite", "permuted-digits", "--executor", executor, "--threads", "1")
    assert_refused(found, f"pip install 'clbench[{executor}]'")


def test_options_of_slurm_may_hold_commas_and_are_numbers_where_they_look_so():
    slurm = chosen_executor("slurm", 3, ["partition=a,b,timeout_min=30", "nodelist=n1"], None, None, 1)
    assert isinstance(slurm, Slurm)
    assert slurm.options == {"partition": "a,b", "timeout_min": 30, "nodelist": "n1"}
    assert slurm.workers == 3


def test_options_reach_submitit_and_what_it_does_not_know_reaches_sbatch():
    pytest.importorskip("submitit")
    slurm = Slurm(2, gpus_per_node="a100:1", setup="module load cuda", reservation="mine", mem_gb=7.5, qos="high")
    found = slurm._parameters(threads=4)
    assert found["slurm_setup"] == ["module load cuda"]
    assert found["slurm_additional_parameters"] == {"requeue": True, "gpus-per-node": "a100:1", "reservation": "mine"}
    assert (found["mem_gb"], found["slurm_qos"], found["cpus_per_task"]) == (7.5, "high", 4)


@pytest.mark.parametrize(
    ("executor", "gpus"),
    [
        (Slurm(1), None),
        (Slurm(1, gpus_per_node=2), 2.0),
        (Slurm(1, gpus_per_node="a100:1"), 1.0),
        (Ray(), None),
        (Ray(gpus_per_run=0.25), 0.25),
        (Ray(gpus_per_run=2), 2.0),
    ],
)
def test_an_executor_says_how_much_of_a_gpu_a_run_has(executor, gpus):
    assert executor.gpus == gpus


@pytest.mark.parametrize(
    ("executor", "kind"),
    [
        (Slurm(1), "cpu"),
        (Slurm(1, gpus_per_node=1), "cuda"),
        (Slurm(1, gres="gpu:a100:1"), "cuda"),
        (Slurm(1, gpus_per_node=0), "cpu"),
        (Ray(), "cpu"),
        (Ray(gpus_per_run=0.25), "cuda"),
    ],
)
def test_runs_train_on_a_gpu_where_one_is_asked_for_whatever_this_machine_has(executor, kind):
    assert device_for("auto", executor).type == kind


@pytest.mark.parametrize(
    "wrong", [lambda: Slurm(0), lambda: Slurm(2.5), lambda: Ray(workers=0), lambda: Slurm(1, idle_min=-1)]
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingError):
        wrong()


def test_the_plan_says_what_a_cluster_makes_of_it(clbench, tmp_path):
    options = ["--executor", "slurm", "--workers", "2", "--threads", "1", "--slurm", "gpus_per_node=1", "--dry-run"]
    said = clbench(tmp_path, "run", "--suite", "permuted-digits", "--methods", "naive", "--seeds", "0-3", *options)
    assert said.code == 0
    assert "On Slurm, 2 at once: " in said.out
    assert "GPU-hours" in said.out
