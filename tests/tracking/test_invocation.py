"""What MLflow is given by one real invocation, checked against a real SQLite store and against the run folders."""

import json
import os
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from clbench.baselines.naive import Naive
from clbench.errors import RecordError
from clbench.records.format import CAPACITY_COLUMNS, TASK_COLUMNS
from clbench.records.reading import read_run, run_paths
from clbench.suites.files import SUITES, find_suite
from clbench.tracking.sync import load_runs, sync

STORES = runpy.run_path(str(Path(__file__).with_name("stores.py")))
SUITE = STORES["SUITE"]
SETTINGS = STORES["SETTINGS"]
OF_EVERY_TASK = STORES["OF_EVERY_TASK"]
uri_of = STORES["uri_of"]
recorded = STORES["recorded"]
points = STORES["points"]
wanted_points = STORES["wanted_points"]
assert_same_runs = STORES["assert_same_runs"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, make_store, clean_environment, run):
    """Two methods with two seeds, recorded in a folder with spaces beside a leftover ./mlruns."""
    folder = make_store(tmp_path_factory.mktemp("ran") / "my runs & more")
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\nexperiment_id: '0'\n")
    with clean_environment():
        outcome = run(folder, methods="clnp,naive", seeds="0-1")
    assert outcome.code == 0, outcome.err
    return SimpleNamespace(folder=folder, outcome=outcome, **vars(recorded(folder)))


def folder_of(ran, child):
    return ran.folder / "clbench-runs" / child.data.tags["clbench.run_id"]


def test_the_experiment_is_the_suite_and_its_files_lie_beside_the_store(ran):
    assert ran.experiment.name == SUITE
    assert len(list((ran.folder / "mlartifacts").iterdir())) == 4
    assert ran.experiment.artifact_location == (ran.folder / "mlartifacts").as_uri()


def test_there_is_a_parent_and_a_child_per_method_and_seed(ran):
    assert len(ran.parents) == 1
    assert ran.parents[0].info.status == "FINISHED"
    assert ran.parents[0].data.tags["clbench.suite"] == SUITE
    grid = [(c.data.tags["clbench.method"], c.data.tags["clbench.seed"]) for c in ran.children]
    assert sorted(grid) == [("clnp", "0"), ("clnp", "1"), ("naive", "0"), ("naive", "1")]
    for child in ran.children:
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == ran.parents[0].info.run_id


def test_every_child_carries_the_tags_that_say_what_it_is(ran):
    for child in ran.children:
        config = json.loads((folder_of(ran, child) / "config.json").read_text())
        tags = child.data.tags
        assert tags["clbench.run_id"] == config["run_id"]
        assert tags["clbench.suite"] == SUITE
        assert tags["clbench.scenario"] == "permuted"
        assert tags["clbench.head"] == "single"
        # CLNP chooses the mask by the task's label; a plain network needs none.
        assert tags["clbench.task_known_at_test"] == ("true" if config["method"] == "clnp" else "false")
        assert tags["clbench.told_at_test"] == ("yes: head, units" if config["method"] == "clnp" else "no")
        assert tags["clbench.modified"] == "true"
        assert tags["clbench.git_commit"] == config["git_commit"]
        assert tags["clbench.data_sha256"] == config["data"]["sha256"]
        for package in ("python", "clbench", "torch", "avalanche-lib", "mlflow"):
            assert tags[f"clbench.version.{package}"] == config["versions"][package]


def test_every_hyper_parameter_is_a_param(ran):
    for child in ran.children:
        config = json.loads((folder_of(ran, child) / "config.json").read_text())
        params = child.data.params
        assert {"method": config["method"], "seed": str(config["seed"]), "suite": SUITE}.items() <= params.items()
        assert config["method_settings"].keys() <= params.keys()
        assert params["epochs"] == "1"
        assert params["learning_rate"] == str(find_suite(SUITE).learning_rate)
        assert params["optimizer"] == "adam"
        assert params["reset_optimizer"] == "true"
        assert params["suite.n_tasks"] == "2"
        assert params["suite.hidden_sizes"] == "[64, 64]"
        assert ("margin" in params) == (config["method"] == "clnp")


def test_an_invocation_lists_its_runs_and_a_run_says_how_it_ended(ran):
    note = ran.parents[0].data.tags["mlflow.note.content"]
    assert "4 runs of the suite **permuted-digits** by one command" in note
    for child in ran.children:
        reached = f"{100 * child.data.metrics['average_accuracy']:.2f}"
        method, seed = child.data.tags["clbench.method"], child.data.tags["clbench.seed"]
        assert child.info.run_name == f"{method} epochs=1 hidden_sizes=64,64 n_tasks=2 · seed {seed}"
        (row,) = [
            line for line in note.splitlines() if line.startswith(f"| {method} epochs=1 ") and f"seed {seed} " in line
        ]
        assert f"| finished | {reached} |" in row
        assert f"Finished after 2 of 2 tasks. Average accuracy {reached} %" in child.data.tags["mlflow.note.content"]
    assert "list every run" in ran.experiment.tags["mlflow.note.content"].splitlines()[0]


def test_the_data_set_is_recorded_as_an_input(ran):
    for child in ran.children:
        dataset = ran.client.get_run(child.info.run_id).inputs.dataset_inputs[0].dataset
        assert dataset.name == SUITE
        assert json.loads(dataset.source)["source"] == "digits"
        assert json.loads(dataset.profile)["tasks"] == 2
        assert child.data.tags["clbench.data_sha256"].startswith(dataset.digest)


def test_the_metrics_are_those_of_the_tables_with_the_tasks_learned_as_step(ran):
    for child in ran.children:
        assert points(ran.client, child) == wanted_points(folder_of(ran, child))


def test_every_promised_metric_is_there_and_none_where_it_is_undefined(ran):
    for child in ran.children:
        found = points(ran.client, child)
        assert {step for step, _ in found["accuracy/task_01"]} == {0, 1, 2}
        assert {step for step, _ in found["average_accuracy"]} == {1, 2}
        # Undefined after one task.
        for name in ("backward_transfer", "forgetting", "forward_transfer"):
            assert [step for step, _ in found[name]] == [2]
        for name in ("average_incremental_accuracy", "learning_accuracy", *OF_EVERY_TASK):
            assert [step for step, _ in found[name]] == [1, 2]
        counted = {name for name in found if "neurons" in name}
        kinds = [f"{kind}_neurons" for kind in ("used", "free", "reused", "new")]
        layers = [f"{kind}/layer_{layer}" for kind in kinds for layer in (1, 2)]
        assert counted == ({*kinds, *layers} if child.data.tags["clbench.method"] == "clnp" else set())


def test_the_artifacts_are_the_files_of_the_run_folder(ran, tmp_path):
    for child in ran.children:
        names = {"accuracy_matrix.csv", "config.json", "environment.txt", "samples.png", "tasks.csv", "status.json"}
        if child.data.tags["clbench.method"] == "clnp":
            names |= {"capacity.csv", "pruning.csv"}
        fetched = Path(ran.client.download_artifacts(child.info.run_id, "", str(tmp_path)))
        for name in names:
            assert (fetched / name).read_bytes() == (folder_of(ran, child) / name).read_bytes()
        assert {item.path for item in ran.client.list_artifacts(child.info.run_id)} == names


def test_the_invocation_has_the_report_and_its_figures(run, place, tmp_path):
    assert run(place, reported=True).code == 0
    found = recorded(place)
    fetched = Path(found.client.download_artifacts(found.parents[0].info.run_id, "", str(tmp_path)))
    page = place / "clbench-reports" / f"{SUITE}.html"
    assert (fetched / page.name).read_bytes() == page.read_bytes()
    written = {path.name: path.read_bytes() for path in page.with_suffix("").glob("figures/*")}
    assert "average-accuracy.svg" in written
    assert {path.name: path.read_bytes() for path in (fetched / "figures").iterdir()} == written


def test_the_files_have_the_documented_columns(ran):
    for child in ran.children:
        folder = folder_of(ran, child)
        assert list(pd.read_csv(folder / "accuracy_matrix.csv")) == ["tasks_learned", "task_01", "task_02"]
        assert list(pd.read_csv(folder / "tasks.csv")) == list(TASK_COLUMNS)
        if (folder / "capacity.csv").exists():
            assert list(pd.read_csv(folder / "capacity.csv")) == list(CAPACITY_COLUMNS)


def test_what_is_loaded_is_what_the_folders_hold(ran):
    held = [read_run(path) for path in run_paths(ran.folder / "clbench-runs")]
    assert_same_runs(load_runs(SUITE, uri_of(ran.folder)), sorted(held, key=lambda item: (item.method, item.seed)))
    assert load_runs("split-mnist", uri_of(ran.folder)) == []


def test_files_sample_images_and_groups_of_other_units_go_there_and_come_back(place, recorded_run, write_run, counted):
    rows = [
        (task, group, unit, 16, 16 - 4 * task, 4, 0)
        for task in (1, 2)
        for group, unit in (("conv1+conv2", "filter"), ("conv3", "filter"), ("linear", "neuron"))
    ]
    run = replace(
        recorded_run(suite=SUITE, suite_settings=SETTINGS),
        files={"net.py": b"raise SystemExit\n", "helpers/blocks.py": b"\xff"},
        samples=b"\x89PNG",
        capacity=counted(rows),
    )
    folder = write_run(place / "clbench-runs", run)
    said = []
    assert sync(place / "clbench-runs", uri_of(place), None, said.append)["added"] == 1
    assert sync(place / "clbench-runs", uri_of(place), None, said.append)["up to date"] == 1
    assert said == []
    (loaded,) = load_runs(SUITE, uri_of(place))
    assert_same_runs([loaded], [read_run(folder)])
    assert (loaded.files, loaded.samples, loaded.seal) == (run.files, run.samples, read_run(folder).seal)
    found = recorded(place)
    values = points(found.client, found.children[0])
    assert values["free_filters"] == [(1, 24.0), (2, 16.0)]
    assert values["free_filters/conv1-conv2"] == [(1, 12.0), (2, 8.0)]
    assert values["free_neurons"] == values["free_neurons/linear"] == [(1, 12.0), (2, 8.0)]
    # A copy there that is another now is not taken for what was recorded.
    (copy,) = (place / "mlartifacts").rglob("blocks.py")
    copy.write_bytes(b"other")
    with pytest.raises(RecordError, match=r"files/helpers/blocks\.py is not as clbench recorded it"):
        load_runs(SUITE, uri_of(place))


def test_a_leftover_mlruns_folder_is_left_alone(ran):
    files = [path for path in (ran.folder / "mlruns").rglob("*") if path.is_file()]
    assert [path.read_text() for path in files] == ["name: Default\nexperiment_id: '0'\n"]


def test_the_same_command_again_trains_nothing_and_adds_no_child(run, ran, monkeypatch):
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("trained again"))
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in _files(ran.folder / "clbench-runs")}
    again = run(ran.folder, methods="naive", seeds="0-1")
    assert again.code == 0
    assert again.out.count("recorded before") == 2
    assert [c.info.run_id for c in recorded(ran.folder).children] == [c.info.run_id for c in ran.children]
    assert files == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in _files(ran.folder / "clbench-runs")}


def _files(root):
    """What was recorded: without what the latest invocation leaves beside it."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))


def test_a_store_that_was_lost_is_restored_from_the_folders_without_training(run, ran, place, monkeypatch):
    shutil.copytree(ran.folder / "clbench-runs", place / "clbench-runs")
    monkeypatch.setattr("clbench.runs.runner.train", lambda *args: pytest.fail("trained again"))
    outcome = run(place, methods="clnp,naive", seeds="0-1")
    assert outcome.code == 0
    assert outcome.err == ""
    found = recorded(place)
    first = {child.data.tags["clbench.run_id"]: child for child in ran.children}
    assert {child.data.tags["clbench.run_id"] for child in found.children} == first.keys()
    assert len(found.children) == 4
    for child in found.children:
        before = first[child.data.tags["clbench.run_id"]]
        # The lists are equal point by point, so none is there twice.
        assert points(found.client, child) == points(ran.client, before)
        assert child.data.params == before.data.params
        tags, tags_before = child.data.tags, before.data.tags
        assert tags["clbench.folder"].endswith(str(place / "clbench-runs" / tags["clbench.run_id"]))
        elsewhere = ("clbench.folder", "mlflow.note.content", "mlflow.parentRunId")
        assert {key: value for key, value in tags.items() if key not in elsewhere} == {
            key: value for key, value in tags_before.items() if key not in elsewhere
        }
        assert child.info.status == "FINISHED"
    assert_same_runs(load_runs(SUITE, uri_of(place)), load_runs(SUITE, uri_of(ran.folder)))


def test_forward_transfer_is_absent_where_no_head_was_trained_before(clbench, place, monkeypatch, split_digits):
    monkeypatch.setitem(SUITES, "split-digits", split_digits)
    command = ["run", "--suite", "split-digits", "--methods", "naive", "--seeds", "0", "--no-report"]
    outcome = clbench(place, *command, "--set", "epochs=1", "--set", "hidden_sizes=64,64")
    assert outcome.code == 0, outcome.err
    found = recorded(place, "split-digits")
    (child,) = found.children
    assert "forward_transfer" not in child.data.metrics
    assert "backward_transfer" in child.data.metrics
    assert child.data.tags["clbench.head"] == "multi"
    assert child.data.tags["clbench.task_known_at_test"] == "true"
    folder = place / "clbench-runs" / child.data.tags["clbench.run_id"]
    assert points(found.client, child) == wanted_points(folder)


def test_loading_leaves_the_processs_own_choice_of_a_store_alone(ran, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    load_runs(SUITE, uri_of(ran.folder))
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///mine.db"
