"""clbench from Python: what a notebook calls, and what it gets."""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import clbench
from clbench.baselines.naive import Naive
from clbench.errors import RunError, SettingError
from clbench.records.reading import read_runs
from clbench.tracking.connection import open_client

SMALL = {"n_tasks": 2, "epochs": 1, "hidden_sizes": [16, 16]}
# As a notebook would have it: a class that names a function, which names a constant.
FASTER = """
from clbench.baselines.naive import Naive

STRENGTH = 2.0

def doubled(value):
    return STRENGTH * value

class Faster(Naive):
    def build_optimizer(self, model):
        optimizer = super().build_optimizer(model)
        for group in optimizer.param_groups:
            group["lr"] = doubled(group["lr"])
        return optimizer
"""

pytestmark = pytest.mark.usefixtures("own_environment", "no_method_is_left")


@pytest.fixture
def small_run(tmp_path):
    """(methods, options) -> the runs of a small suite below the test's folder."""

    def run(methods=("naive",), suite="permuted-digits", **options):
        options = {"seeds": [0], "overrides": SMALL, "threads": 1, "output": tmp_path / "runs", **options}
        return clbench.run(suite, methods=list(methods), quiet=True, **options)

    return run


def test_importing_clbench_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'mlflow', 'matplotlib', 'pydantic'}"
    code = f"import sys, clbench; print(sorted({heavy} & set(sys.modules))); print(clbench.run.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split("\n")[:2] == [
        "[]",
        "run",
    ]


def test_runs_come_back_as_tables(small_run, tmp_path):
    runs = small_run(["naive", "ewc"], seeds=range(2))
    table = runs.table()
    assert list(zip(table["method"], table["seed"], strict=True)) == [
        ("naive", 0),
        ("ewc", 0),
        ("naive", 1),
        ("ewc", 1),
    ]
    assert table["average_accuracy"].tolist() == [float(np.mean(run.accuracy_matrix[2])) for run in runs]
    assert (table["train_seconds"] > 0).all()
    accuracy = runs.accuracy()
    first = accuracy.query("method == 'ewc' and seed == 1 and tasks_learned == 2 and task == 1")["accuracy"]
    assert first.tolist() == [runs[3].accuracy_matrix[2, 0]]
    assert accuracy["task"].min() == 1
    assert not runs.failed
    assert {run.run_id for run in clbench.load(tmp_path / "runs")} == set(table["run_id"])
    assert [run.seed for run in runs[2:]] == [1, 1]
    assert not list(tmp_path.glob("mlflow.db"))


def test_runs_are_plotted_and_reported(small_run, tmp_path):
    runs = small_run(["naive", "psp"])
    (axes,) = runs.plot().axes
    assert [line.get_label() for line in axes.lines] == ["naive", "psp"]
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(100 * runs.table()["average_accuracy"][0])
    paths = runs.report(tmp_path / "out")
    assert (tmp_path / "out" / "permuted-digits.html") in paths
    assert all(path.exists() for path in paths)


def test_the_command_line_and_python_make_the_same_run(small_run, clbench, place):
    arguments = [f"--set={key}={','.join(map(str, v)) if isinstance(v, list) else v}" for key, v in SMALL.items()]
    done = clbench(place, "run", "--suite", "permuted-digits", "--methods", "si", "--seeds", "3", *arguments)
    assert done.code == 0, done.err
    (theirs,) = read_runs(place / "clbench-runs")
    (ours,) = small_run(["si"], seeds=[3])
    assert ours.run_id == theirs.run_id
    assert np.array_equal(ours.accuracy_matrix, theirs.accuracy_matrix, equal_nan=True)
    assert ours.config["command"].startswith("clbench.run('permuted-digits', methods=['si']")


def test_what_is_recorded_is_not_trained_again(small_run, monkeypatch):
    first = small_run()
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("it was trained again"))
    assert small_run()[0].ended == first[0].ended


def test_a_class_of_a_notebook_is_told_by_its_source_and_all_that_it_names(small_run, cell):
    (first,) = small_run([cell(FASTER).Faster])
    assert first.method == "Faster"
    source = first.files["Faster.py"].decode()
    assert "class Faster(Naive)" in source
    assert "def doubled(value)" in source
    assert "STRENGTH = 2.0" in source
    (second,) = small_run([cell("STRENGTH = 3.0").Faster])
    assert second.run_id != first.run_id
    (third,) = small_run([cell("STRENGTH = 2.0").Faster])
    assert third.run_id == first.run_id


def test_a_class_of_a_module_is_told_by_its_modules(small_run, tmp_path, monkeypatch):
    (tmp_path / "mymethod.py").write_text("from clbench.baselines.naive import Naive\nclass Mine(Naive): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mymethod", raising=False)
    from mymethod import Mine

    (run,) = small_run([Mine])
    assert (run.method, list(run.files)) == ("Mine", ["mymethod.py"])


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_that_fails_raises_after_the_others_ended(small_run, jobs):
    wild = {**SMALL, "ewc.learning_rate": 10.0, "ewc.optimizer": "sgd", "ewc.strength": 1e12}
    with pytest.raises(RunError, match="1 of 2 runs failed: ewc seed 0: ") as error:
        small_run(["ewc", "naive"], overrides=wild, jobs=jobs)
    runs = error.value.runs
    assert [run.method for run in runs.failed] == ["ewc"]
    assert runs.table()["method"].tolist() == ["naive"]


@pytest.mark.parametrize("has_store", [False, True])
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.long)])
def test_it_works_in_a_thread_with_a_running_event_loop_and_without_arguments(
    small_run, place, monkeypatch, has_store, jobs
):
    async def within():
        found.extend(small_run(jobs=jobs, tracking=f"sqlite:///{place}/mlflow.db" if has_store else None))

    found = []
    monkeypatch.setattr(sys, "argv", [])
    thread = threading.Thread(target=lambda: asyncio.run(within()))
    thread.start()
    thread.join()
    assert [run.status for run in found] == ["finished"]


@pytest.mark.long
@pytest.mark.parametrize("data", ["None", pytest.param("arrays", marks=pytest.mark.slow)])
def test_a_script_that_needs_a_guard_is_told_so(tmp_path, data):
    script = f"""
import clbench, numpy
images, labels = numpy.zeros((9000, 28, 28), numpy.uint8), numpy.arange(9000) % 10
arrays = images, labels, images, labels
clbench.run("permuted-digits", ["naive"], [0], overrides={SMALL}, threads=1, jobs=2, data={data})
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1] == (
        "clbench.errors.SettingError: several runs at once need processes, each of which runs this script again from "
        'its start; put what calls clbench below if __name__ == "__main__":, or train one run at a time'
    )


def test_torch_has_its_number_of_threads_again(small_run):
    before = torch.get_num_threads()
    small_run(threads=before + 1)
    assert torch.get_num_threads() == before


def test_a_store_gets_the_runs_where_one_is_named(small_run, place):
    small_run(tracking=f"sqlite:///{place}/mlflow.db")
    client = open_client(f"sqlite:///{place}/mlflow.db", 30.0)
    experiment = client.get_experiment_by_name("permuted-digits")
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "naive"}, "give a list, such as \\['naive'\\]"),
        ({"methods": [dict]}, "must be a subclass of clbench.methods.Method"),
        ({"methods": ["nave"]}, "unknown method 'nave': did you mean 'naive'"),
        ({"methods": ["naive"], "overrides": {"epoch": 2}}, "unknown setting 'epoch'"),
        ({"methods": ["naive"], "jobs": 2}, "jobs=2 on a CPU needs threads"),
        ({"methods": ["naive"], "jobs": 0}, "jobs=0 trains nothing"),
        ({"methods": ["naive"], "precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(tmp_path, options, said):
    with pytest.raises(SettingError, match=said):
        clbench.run("permuted-digits", output=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_class_of_a_notebook_is_for_one_process(small_run, cell):
    with pytest.raises(SettingError, match="the method Faster is of a notebook or a script, which other processes"):
        small_run([cell(FASTER).Faster], jobs=2)


def test_runs_that_were_stopped_are_neither_finished_nor_failed(recorded_run):
    stopped = replace(recorded_run("ewc"), status="stopped")
    runs = clbench.Runs([recorded_run("naive"), stopped])
    assert (len(runs), len(runs.finished), len(runs.failed)) == (2, 1, 0)
    assert repr(runs) == "<2 runs of naive, ewc>"
