"""What `clbench verify-run` promises: a record that holds is said to hold, anything altered is found and said."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from clbench.data.streams import make_stream
from clbench.metrics import summarise
from clbench.records.audit import audit
from clbench.records.environment import package_versions
from clbench.records.identity import recorded_identity, run_id_of
from clbench.records.reading import read_run
from clbench.runs.config import config_of
from clbench.runs.spec import make_specs
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

RECORDED_BEFORE = Path(__file__).resolve().parents[1] / "docs" / "results" / "permuted-mnist"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, make_store, run, clean_environment):
    """The run folders of CLNP and naive, recorded by a real `clbench run`, by method."""
    with clean_environment():
        place = make_store(tmp_path_factory.mktemp("audit") / "place")
        assert run(place, "--no-report", methods="clnp,naive").code == 0
    folders = [path.parent for path in (place / "clbench-runs").glob("*/status.json")]
    return {json.loads((folder / "config.json").read_text())["method"]: folder for folder in folders}


@pytest.fixture
def copied(recorded, tmp_path):
    """(method) -> a copy of the run folder to spoil, as a version without digests recorded it."""

    def copy(method, *, sealed=False):
        folder = shutil.copytree(recorded[method], tmp_path / recorded[method].name)
        if not sealed:
            path = folder / "status.json"
            content = json.loads(path.read_text())
            path.write_text(json.dumps({key: content[key] for key in ("status", "started", "ended", "reason")}))
        return folder

    return copy


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        (config["suite_settings"] if key in config["suite_settings"] else config)[key] = value
    path.write_text(json.dumps(config))


def edit_table(folder, name, row, column, value):
    frame = pd.read_csv(folder / name)
    frame.loc[row, column] = value
    frame.to_csv(folder / name, index=False)


# What holds


def test_a_run_that_was_just_recorded_holds_with_its_seal_and_every_metric_in_one_line(clbench, recorded):
    outcome = clbench(recorded["clnp"].parent, "verify-run", *sorted(recorded.values()))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines.pop() == "2 of 2 runs hold"
    for line, folder in zip(lines, sorted(recorded.values()), strict=True):
        run = read_run(folder)
        assert line.startswith(f"{folder}: permuted-digits, {run.method} seed 0, finished: holds; seal {run.seal}; ")
        assert re.fullmatch("[0-9a-f]{64}", run.seal)
        for name, value in summarise(run.accuracy_matrix).items():
            assert f"{name}={value:.6g}" in line


def test_a_folder_of_run_folders_stands_for_all_of_them(clbench, recorded):
    root = recorded["clnp"].parent
    outcome = clbench(root.parent, "verify-run", "clbench-runs")
    assert outcome.code == 0
    assert [line.split(":")[0] for line in outcome.out.splitlines()[:-1]] == sorted(
        f"clbench-runs/{path.name}" for path in recorded.values()
    )


def test_runs_recorded_before_there_were_digests_hold_and_are_said_to_have_none(clbench, tmp_path):
    outcome = clbench(tmp_path, "verify-run", RECORDED_BEFORE)
    assert (outcome.code, outcome.err) == (0, "")
    *lines, summary = outcome.out.splitlines()
    assert len(lines) == len(list(RECORDED_BEFORE.glob("*/status.json")))
    unsealed = sum("; no digests; " in line for line in lines)
    assert summary == f"{len(lines)} of {len(lines)} runs hold, {unsealed} of them without digests"
    assert all(": holds; " in line for line in lines)
    assert any(": holds; no digests; average_accuracy=0." in line for line in lines)


def test_a_failed_run_whose_record_is_whole_holds_and_is_called_failed(clbench, run, make_store, tmp_path):
    place = make_store(tmp_path / "place")
    small = ["n_tasks=2", "epochs=1", "optimizer=sgd", "learning_rate=10", "naive.weight_decay=1"]
    assert run(place, small=[word for item in small for word in ("--set", item)]).code == 1
    outcome = clbench(place, "verify-run", "clbench-runs")
    assert outcome.code == 0
    assert ", naive seed 0, failed: holds; seal " in outcome.out


def test_the_identity_is_recorded_so_that_the_run_id_can_be_computed_again(digits):
    import torch

    for overrides in (
        {},
        {"epochs": 2},
        {"steps_per_epoch": 3},
        {"clnp.margin": 0.5},
        {"clnp.margin_shares": [0.2, 0.8]},
        {"clnp.initial_scale": 0.5},
        {"clnp.initial_scale": None},
    ):
        for spec in make_specs(find_suite("permuted-digits"), ["clnp"], [7], overrides, digits, "bfloat16", "cpu"):
            stream = make_stream(spec.suite, digits, RandomStreams(spec.seed))
            config = json.loads(json.dumps(config_of(spec, torch.device("cpu"), stream)))
            assert recorded_identity(config) == spec.identity
            assert run_id_of(recorded_identity(config)) == config["run_id"] == spec.run_id
            on_gpu = config | {"device": "cuda:1"}
            assert recorded_identity(on_gpu)["device"] == "cuda"


def test_the_version_recorded_is_that_of_the_code_that_runs(monkeypatch):
    # As with an editable installation whose version was raised since.
    monkeypatch.setattr("clbench.records.environment.__version__", "9.9.9")
    assert package_versions()["clbench"] == "9.9.9"


# What does not


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: edit_config(folder, seed=1), "its settings give"),
        (lambda folder: edit_config(folder, epochs=2), "its settings give"),
        (lambda folder: edit_config(folder, precision="bfloat16"), "its settings give"),
        (lambda folder: edit_config(folder, numbers="9"), "its settings give"),
        (lambda folder: edit_config(folder, data={"sha256": "0" * 64}), "its settings give"),
        (lambda folder: edit_config(folder, device=3), "config.json lacks"),
        (lambda folder: edit_table(folder, "accuracy_matrix.csv", 2, "task_01", 0.51), "no share of 359 test images"),
        (lambda folder: edit_table(folder, "tasks.csv", 1, "task", 3), "tasks.csv has the tasks [1, 3]"),
        (lambda folder: edit_table(folder, "tasks.csv", 1, "train_seconds", -1.0), "negative"),
        (lambda folder: edit_table(folder, "accuracy_matrix.csv", 2, ["task_01", "task_02"], None), "learned 1 of 2"),
        (lambda folder: edit_table(folder, "capacity.csv", 0, "free", 15), "do not add up"),
        (lambda folder: edit_table(folder, "capacity.csv", 3, "new", 1), "do not add up"),
        (lambda folder: edit_table(folder, "capacity.csv", 1, "units", 17), "not have the same units of layer_2"),
        (lambda folder: edit_table(folder, "capacity.csv", 1, "unit", "filter"), "not have the same units of layer_2"),
        (lambda folder: edit_table(folder, "capacity.csv", 0, "group", "layer_2"), "one row of layer_2 for each task"),
        (lambda folder: edit_table(folder, "capacity.csv", 0, "group", "layer_3"), "one row of layer_3 for each task"),
        (lambda folder: edit_table(folder, "capacity.csv", 0, "unit", "synapse"), "a unit among neuron, filter"),
        (lambda folder: edit_table(folder, "capacity.csv", 0, "reused", 1), "reuses more units"),
        (lambda folder: edit_table(folder, "capacity.csv", 0, "threshold", -1.0), "negative"),
    ],
)
def test_without_digests_what_contradicts_itself_is_found(copied, change, said):
    folder = copied("clnp")
    assert audit(folder).holds
    change(folder)
    finding = audit(folder)
    assert not finding.holds
    assert said in finding.line
    assert ": does not hold: " in finding.line


def test_a_run_in_another_runs_folder_is_found(copied):
    folder = copied("clnp", sealed=True)
    moved = folder.rename(folder.with_name("0123456789abcdef"))
    assert "another name than the run id" in audit(moved).line
    # What was set aside keeps its name in front.
    aside = moved.rename(moved.with_name(f"{folder.name}.unfinished-20260101T000000Z"))
    assert audit(aside).holds


def test_one_run_that_does_not_hold_makes_the_exit_code_1_and_the_others_are_told_all_the_same(clbench, copied):
    good, bad = copied("naive", sealed=True), copied("clnp", sealed=True)
    (bad / "tasks.csv").write_text((bad / "tasks.csv").read_text().replace("1,", "2,", 1))
    outcome = clbench(good.parent, "verify-run", good, bad)
    assert outcome.code == 1
    first, second, summary = outcome.out.splitlines()
    assert ": holds; " in first
    assert summary == "1 of 2 runs hold"
    assert second.startswith(f"{bad}: does not hold: {bad / 'tasks.csv'} is not as clbench recorded it")


def test_runs_are_found_however_deep_they_lie(clbench, recorded, tmp_path):
    shutil.copytree(recorded["clnp"], tmp_path / "results" / "one" / recorded["clnp"].name)
    shutil.copytree(recorded["naive"], tmp_path / "results" / recorded["naive"].name)
    outcome = clbench(tmp_path, "verify-run", "results")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "2 of 2 runs hold"


def test_what_is_no_run_is_refused_before_anything_is_said(clbench, assert_refused, recorded, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        outcome = clbench(tmp_path, "verify-run", recorded["clnp"], path)
        assert_refused(outcome, f"{path} is no run folder and holds none")
        assert outcome.out == ""
    assert clbench(tmp_path, "verify-run").code == 2


def test_a_folder_without_a_status_is_not_passed_over(clbench, copied):
    folder = copied("naive", sealed=True)
    (folder / "status.json").unlink()
    for path in (folder, folder.parent):
        outcome = clbench(folder.parent, "verify-run", path)
        assert outcome.code == 1
        assert f"{folder / 'status.json'} cannot be read" in outcome.out
    for file in folder.iterdir():
        file.unlink()
    outcome = clbench(folder.parent, "verify-run", folder.parent)
    assert outcome.code == 1
    assert f"{folder / 'status.json'} cannot be read" in outcome.out


def test_a_name_that_would_steer_the_terminal_is_shown_as_text(clbench, copied):
    folder = copied("naive")
    edit_config(folder, method="\x1b[2Jnaive")
    outcome = clbench(folder.parent, "verify-run", folder)
    assert outcome.code == 1
    assert "\x1b" not in outcome.out
    assert len(outcome.out.splitlines()) == 1
