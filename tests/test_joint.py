"""Joint training: a new network on all tasks so far, or once on all of them."""

import json

import numpy as np
import pandas as pd
import torch

from clbench.metrics import summarise
from clbench.records.audit import audit
from clbench.records.reading import read_runs, run_paths
from clbench.reports.analysis.groups import select
from clbench.reports.compose import compose
from clbench.reports.model import Figure
from clbench.runs.runner import train
from clbench.runs.spec import make_specs

CPU = torch.device("cpu")
SMALL = {"n_tasks": 3, "epochs": 2, "hidden_sizes": [16]}


def trained(plain, digits, **settings):
    """The method, and the accuracy matrix after it learned all tasks."""
    overrides = {**SMALL, **{f"joint.{key}": value for key, value in settings.items()}}
    (spec,) = make_specs(plain, ["joint"], [0], overrides, digits, "float32", CPU.type)
    results = []
    method = train(spec, digits, CPU, results.append)
    return method, results[-1].matrix


def test_trained_only_once_it_ends_with_the_network_that_training_after_every_task_ends_with(plain, digits):
    (every, whole), (once, last) = trained(plain, digits), trained(plain, digits, only_last=True)
    for name, weights in every.model.state_dict().items():
        assert torch.equal(weights, once.model.state_dict()[name]), name
    assert np.array_equal(last[[0, 3]], whole[[0, 3]], equal_nan=True)
    assert np.isnan(last[1:3]).all()


def test_trained_only_once_it_has_an_average_accuracy_and_nothing_that_needs_a_history(plain, digits):
    _, last = trained(plain, digits, only_last=True)
    assert summarise(last) == {"average_accuracy": last[3].mean()}


def test_a_run_that_trains_once_is_recorded_reported_and_held_to_be_whole(clbench, run, place):
    arguments = ["--set", "joint.only_last=true", "--set", "n_tasks=3", "--set", "epochs=1"]
    done = run(place, methods="joint,naive", small=[*arguments, "--set", "hidden_sizes=8"])
    assert done.code == 0, done.err
    assert (place / "clbench-reports" / "permuted-digits.html").exists()
    assert clbench(place, "verify-run", "clbench-runs").code == 0
    (joint,) = (each for each in read_runs(place / "clbench-runs") if each.method == "joint")
    assert list(joint.tasks["train_images_per_second"] > 0) == [False, False, True]
    for task in (1, 2, 3):
        assert (
            f"joint seed 0: task {task}/3 {'learned' if task == 3 else 'seen, nothing trained on it yet'}" in done.out
        )


def test_the_costs_of_a_run_that_trains_once_are_of_the_task_that_trained(run, place):
    small = ["--set", "joint.only_last=true", "--set", "n_tasks=3", "--set", "epochs=1", "--set", "hidden_sizes=8"]
    assert run(place, "--no-report", methods="joint,naive", small=small).code == 0
    runs = read_runs(place / "clbench-runs")
    groups = {group.method: group for group in select(runs, "permuted-digits").groups}
    seconds, rates = (list(groups["joint"].runs[0].tasks[f"train_{name}"]) for name in ("seconds", "images_per_second"))
    for over in ("mean", "median", "first", "last"):
        assert groups["joint"].tasks("train_seconds", over).mean == seconds[-1]
        assert groups["joint"].tasks("train_images_per_second", over).mean == rates[-1] > 0
    assert groups["joint"].tasks("train_seconds", "sum").mean == sum(seconds)
    report = compose(select(runs, "permuted-digits"), "permuted-digits")
    shown = {item.name: item for item in report.items if isinstance(item, Figure)}
    assert not [figure.alt for figure in shown.values() if "nan" in figure.alt]
    assert "naive" in shown["forgetting"].alt
    assert "joint" not in shown["forgetting"].alt


def test_a_report_on_nothing_but_a_run_that_trains_once_has_no_figure_of_forgetting(run, place):
    small = ["--set", "joint.only_last=true", "--set", "n_tasks=3", "--set", "epochs=1", "--set", "hidden_sizes=8"]
    assert run(place, "--no-report", methods="joint", small=small).code == 0
    report = compose(select(read_runs(place / "clbench-runs"), "permuted-digits"), "permuted-digits")
    assert "average-accuracy" in [item.name for item in report.items]
    assert "forgetting" not in [item.name for item in report.items]


def test_a_run_recorded_as_finished_was_measured_in_the_end(run, place):
    small = ["--set", "joint.only_last=true", "--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=8"]
    assert run(place, "--no-report", methods="joint", small=small).code == 0
    (folder,) = run_paths(place / "clbench-runs")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(
        json.dumps({key: status[key] for key in ("status", "started", "ended", "reason")})
    )
    assert audit(folder).holds
    table = pd.read_csv(folder / "accuracy_matrix.csv")
    table.loc[1:, table.columns[1:]] = np.nan
    table.to_csv(folder / "accuracy_matrix.csv", index=False)
    assert "it is recorded as finished, but learned 0 of 2 tasks" in audit(folder).faults


def test_a_run_that_trains_once_goes_on_after_an_interruption(
    clbench, run, place, tmp_path, make_store, outcome_of, monkeypatch
):
    from clbench.baselines.joint import Joint
    from clbench.records.folder import RunFolder

    small = ["--set", "joint.only_last=true", "--set", "n_tasks=3", "--set", "epochs=1", "--set", "hidden_sizes=8"]
    learn = Joint.learn

    def interrupted(method, task):
        if task.index == 2:
            raise KeyboardInterrupt
        learn(method, task)

    with monkeypatch.context() as patch:
        patch.setattr(Joint, "learn", interrupted)
        run(place, methods="joint", small=small)
    (stopped,) = read_runs(place / "clbench-runs")
    assert (stopped.status, len(stopped.tasks)) == ("stopped", 2)
    assert clbench(place, "verify-run", "clbench-runs").code == 0
    assert run(place, methods="joint", small=small).code == 0
    whole = make_store(tmp_path / "whole")
    assert run(whole, methods="joint", small=small).code == 0
    assert outcome_of(RunFolder(place / "clbench-runs", stopped.run_id)) == outcome_of(
        RunFolder(whole / "clbench-runs", stopped.run_id)
    )
