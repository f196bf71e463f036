"""What a search promises: equal budgets, validation images alone, a log that goes on where it stopped."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench import api
from clbench.baselines.naive import Naive
from clbench.errors import Interrupted, RecordError, SettingError
from clbench.execution.grid import run_grid
from clbench.execution.job import Images, Job
from clbench.records.reading import read_run, run_paths
from clbench.runs.spec import make_specs
from clbench.search.trials import LOG_COLUMNS, Grid, Log, plan_trials
from clbench.suites.files import find_suite

SMALL_GRIDS = runpy.run_path(str(Path(__file__).with_name("small_grids.py")))
SUITE, TRIALS, DIVERGING, logged = (SMALL_GRIDS[name] for name in ("SUITE", "TRIALS", "DIVERGING", "logged"))

CPU = torch.device("cpu")


def grid_of(trials, n_tasks=2, seed=1000):
    return Grid(suite=SUITE, n_tasks=n_tasks, seed=seed, trials=trials)


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in rows]


@pytest.fixture(autouse=True)
def _own_environment(own_environment):
    pass


@pytest.fixture
def tune(digits, tmp_path):
    """(trials, methods, log, images) -> the trials of a search on the embedded digits that the log lacked."""

    def execute(trials, methods=None, log=tmp_path / "log.csv", images=digits, **how):
        planned = plan_trials(find_suite(SUITE), grid_of(trials, **how), methods, images, "float32", CPU)
        output = log.with_suffix("")
        lines = Log(log, planned, output, said.append, pytest.fail)
        left = lines.lacks(planned)
        if left:
            given = (CPU, output, Images(None, images), 1, False, 1, "clbench tune")
            run_grid([Job(trial.spec, *given, trial.label) for trial in left], lines)
        return left

    said = []
    execute.said = said
    return execute


# The search


def test_a_trial_that_trains_on_what_it_is_measured_on_is_refused_before_any_training(tune, tmp_path):
    trials = {"naive": [{"epochs": 1}], "si": [{"epochs": 1, "train_on_validation": True}]}
    with pytest.raises(
        SettingError, match="trial 1 of 'si' in the grid: it trains on the images that a search measures on"
    ):
        tune(trials)
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.parametrize("word", ["null", "none"])
def test_null_and_none_in_a_grid_stand_for_none_as_clbench_show_and_reports_print_it(tune, tmp_path, word):
    (trial,) = tune({"clnp": [{"epochs": 1, "margin_shares": word}]})
    assert trial.settings["margin_shares"] is None
    (row,) = logged(tmp_path / "log.csv")
    assert json.loads(row["settings"])["margin_shares"] is None


@pytest.mark.parametrize(
    ("trials", "methods", "said"),
    [
        ({"nayve": [{}]}, None, "unknown method 'nayve': did you mean 'naive'?"),
        ({"nayve": [{"epochs": 1}]}, None, "unknown method 'nayve': did you mean 'naive'?"),
        (
            TRIALS,
            ["si"],
            "the grid has no trials of 'si', only of ewc, naive; give some with --grid FILE, or search ranges",
        ),
        (TRIALS, ["naive", "ewcc"], "unknown method of the grid 'ewcc': did you mean 'ewc'?"),
        (
            {"naive": [{"epochs": 1}, {"strength": 1.0}]},
            None,
            "trial 2 of 'naive' in the grid: unknown setting of naive 'strength'",
        ),
        ({"naive": [{"epochs": 1}, {"n_tasks": 1}]}, None, "unknown setting of naive 'n_tasks'"),
        ({"naive": [{"epochs": 1}, {"momentum": 2.0}]}, None, "the setting naive.momentum=2.0 does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tune, tmp_path, trials, methods, said):
    with pytest.raises(SettingError) as error:
        tune(trials, methods)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_search_writes_a_row_per_trial_with_what_it_tried(tune, digits, tmp_path):
    trials = {name: [*of_method, {"epochs": 1, "learning_rate": 0.0005}] for name, of_method in TRIALS.items()}
    found = tune(trials, log=tmp_path / "new" / "log.csv")
    rows = logged(tmp_path / "new" / "log.csv")
    assert (tmp_path / "new" / "log.csv").read_text().splitlines()[0] == ",".join(LOG_COLUMNS)
    assert [(row["method"], json.loads(row["settings"])) for row in rows] == [
        (name, settings) for name, of_method in trials.items() for settings in of_method
    ]
    for trial, row in zip(found, rows, strict=True):
        assert row["settings"] == json.dumps(trial.settings, sort_keys=True)
        assert row["run_id"] == trial.logged_id != trial.spec.run_id
        run = read_run(tmp_path / "new" / "log" / trial.spec.run_id)
        assert (run.status, run.measured_on) == ("finished", "validation")
        assert row["validation_accuracy"] == f"{np.mean(run.accuracy_matrix[2]):.6f}"
        assert (row["suite"], row["n_tasks"], row["epochs"], row["seed"]) == (SUITE, "2", "1", "1000")
        assert (row["precision"], row["data_sha256"]) == ("float32", digits.sha256)
        overrides = {"n_tasks": 2} | {f"{row['method']}.{key}": value for key, value in trial.settings.items()}
        (spec,) = make_specs(find_suite(SUITE), [row["method"]], [1000], overrides, digits, "float32", "cpu")
        assert spec.run_id == row["run_id"]
        for column in ("validation_accuracy", "learning_accuracy"):
            assert 0.05 < float(row[column]) < 1
        assert row["free_neurons"] == ""
        assert int(row["train_seconds"]) >= 0
        assert row["clbench"]
    assert len({row["run_id"] for row in rows}) == 4


@pytest.mark.parametrize("name", ["naive", "clnp"])
def test_the_accuracies_are_those_of_the_validation_images_by_hand(tune, tmp_path, make_workplace, make_method, name):
    settings = {"epochs": 2} | ({"margin": 3.0} if name == "clnp" else {})
    tune({name: [settings]})
    (row,) = logged(tmp_path / "log.csv")

    method = make_method(name, make_workplace(SUITE, seed=1000, n_tasks=2), **settings)
    first, second = method.workplace.stream.tasks

    def share(task):
        x, y = task.validation.tensors()
        with torch.inference_mode(), method.network_for(task) as network:
            right = (network(x).argmax(1) == y).float().mean()
        return float(right)

    method.learn(first)
    before = share(first)
    method.learn(second)
    after = [share(first), share(second)]
    # One image may tip over: our batch here is another than the runner's.
    one = 1.01 / len(first.validation)
    assert float(row["validation_accuracy"]) == pytest.approx(np.mean(after), abs=one)
    assert float(row["learning_accuracy"]) == pytest.approx((before + after[1]) / 2, abs=one)
    assert float(row["forgetting"]) == pytest.approx(before - after[0], abs=2 * one)
    if name == "clnp":
        report = method.clnp.reports[1]
        assert row["free_neurons"] == " ".join(f"{layer.free}/{layer.units}" for layer in report)
        assert [layer.units for layer in report] == [1000, 1000]
        assert all(0 < layer.free < 1000 for layer in report)


@pytest.mark.long
def test_the_test_images_have_no_part_in_a_search(tune, digits, tmp_path):
    random = torch.Generator().manual_seed(0)
    garbage = replace(
        digits,
        test_images=torch.randint(0, 256, digits.test_images.shape, generator=random, dtype=torch.uint8),
        test_labels=torch.randint(0, 10, digits.test_labels.shape, generator=random),
    )
    assert not torch.equal(garbage.test_images, digits.test_images)
    trials = TRIALS | {"clnp": [{"epochs": 1}]}
    tune(trials, log=tmp_path / "true.csv")
    tune(trials, log=tmp_path / "garbage.csv", images=garbage)
    assert without_time(logged(tmp_path / "true.csv")) == without_time(logged(tmp_path / "garbage.csv"))


def test_the_validation_images_do_have_a_part_in_a_search(tune, digits, tmp_path):
    # Were it not so, the test above would hold for a search that measures nothing.
    flipped = replace(digits, train_labels=9 - digits.train_labels)
    tune({"naive": [{"epochs": 1}]}, log=tmp_path / "true.csv")
    tune({"naive": [{"epochs": 1}]}, log=tmp_path / "flipped.csv", images=flipped)
    columns = [logged(tmp_path / name)[0]["validation_accuracy"] for name in ("true.csv", "flipped.csv")]
    assert columns[0] != columns[1]


def test_a_single_task_has_no_forgetting_to_log(tune, tmp_path):
    tune({"naive": [{"epochs": 1}]}, n_tasks=1)
    (row,) = logged(tmp_path / "log.csv")
    assert row["forgetting"] == ""
    assert row["validation_accuracy"] == row["learning_accuracy"] != ""


def test_the_seed_and_the_number_of_tasks_are_the_grids(tune, tmp_path):
    tune({"naive": [{"epochs": 1}]})
    tune({"naive": [{"epochs": 1}]}, seed=1001)
    tune({"naive": [{"epochs": 1}]}, n_tasks=1)
    rows = logged(tmp_path / "log.csv")
    assert [(row["seed"], row["n_tasks"]) for row in rows] == [("1000", "2"), ("1001", "2"), ("1000", "1")]
    assert len({row["validation_accuracy"] for row in rows}) == 3


def test_the_methods_asked_for_are_searched_alone_and_the_rest_follows_later(tune, tmp_path):
    assert [trial.spec.method for trial in tune(TRIALS, ["ewc"])] == ["ewc"]
    assert [row["method"] for row in logged(tmp_path / "log.csv")] == ["ewc"]
    assert [trial.spec.method for trial in tune(TRIALS)] == ["naive"]
    assert [row["method"] for row in logged(tmp_path / "log.csv")] == ["ewc", "naive"]


# Going on


def test_a_second_search_runs_nothing_and_leaves_the_log_as_it_is(tune, tmp_path):
    assert len(tune(TRIALS)) == 2
    before = (tmp_path / "log.csv").read_bytes()
    assert tune(TRIALS) == []
    assert (tmp_path / "log.csv").read_bytes() == before


def test_a_line_that_was_lost_is_made_of_the_record_without_training(tune, tmp_path, monkeypatch):
    tune(TRIALS)
    before = (tmp_path / "log.csv").read_bytes()
    (tmp_path / "log.csv").unlink()
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("trained again"))
    assert len(tune(TRIALS)) == 2
    assert (tmp_path / "log.csv").read_bytes() == before
    assert tune.said[0].startswith("naive epochs=1: validation accuracy 0.")


@pytest.mark.parametrize("task", [3, 4])
def test_an_interrupted_search_goes_on_after_the_last_task_learned(tune, tmp_path, during_task, task):
    trials = {"naive": [{"epochs": 1}, {"epochs": 1, "weight_decay": 0.5}, {"epochs": 1, "weight_decay": 0.25}]}

    def stop():
        raise Interrupted

    # Two tasks each: the second trial is stopped in its first or in its second.
    during_task(task, stop)
    tune(trials)
    kept = logged(tmp_path / "log.csv")
    assert [json.loads(row["settings"]) for row in kept] == trials["naive"][:1]
    assert len(tune(trials)) == 2
    resumed = [json.loads((path / "status.json").read_text()) for path in run_paths(tmp_path / "log")]
    assert sum("resumed" in status for status in resumed) == (task == 4)
    rows = logged(tmp_path / "log.csv")
    assert rows[:1] == kept
    assert [json.loads(row["settings"]) for row in rows] == trials["naive"]
    # The same numbers as without the interruption.
    tune(trials, log=tmp_path / "whole.csv")
    assert without_time(logged(tmp_path / "whole.csv")) == without_time(rows)


def test_a_trial_that_diverges_is_logged_as_such_and_the_search_goes_on(tune, tmp_path):
    trials = {"naive": [DIVERGING, {"epochs": 1}]}
    found = tune(trials)
    diverged, other = logged(tmp_path / "log.csv")
    assert diverged["validation_accuracy"] == "diverged"
    assert {diverged[column] for column in ("learning_accuracy", "forgetting", "free_neurons")} == {""}
    assert json.loads(diverged["settings"]) == DIVERGING
    assert diverged["run_id"] == found[0].logged_id
    assert float(other["validation_accuracy"]) > 0.05
    # It counts as tried.
    assert tune(trials) == []


def test_a_trial_that_fails_otherwise_is_not_logged_and_is_tried_again(tune, tmp_path, during_task):
    def fail():
        raise MemoryError("none left")

    during_task(1, fail)
    tune({"naive": [{"epochs": 1}]})
    assert not (tmp_path / "log.csv").exists()
    assert len(tune({"naive": [{"epochs": 1}]})) == 1
    assert len(logged(tmp_path / "log.csv")) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"my,own,table\n1,2,3\n",
        ",".join(LOG_COLUMNS[:-1]).encode() + b"\n",
        ",".join(LOG_COLUMNS[::-1]).encode() + b"\n",
        b"",
        b"dear diary,\n",
        b"\xff\xfe\x00binary",
    ],
    ids=["table", "fewer columns", "another order", "empty", "text", "binary"],
)
def test_a_log_that_is_something_else_is_refused_and_left_as_it_is(tune, tmp_path, monkeypatch, content):
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("trained"))
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(RecordError, match=r"log\.csv (is not a log of clbench tune|cannot be read)"):
        tune(TRIALS)
    assert (tmp_path / "log.csv").read_bytes() == content


def test_a_log_that_cannot_be_opened_is_refused_before_anything_is_trained(tune, tmp_path, monkeypatch):
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("trained"))
    (tmp_path / "file").write_text("in the way")
    for log in (tmp_path / "file" / "log.csv", tmp_path):
        with pytest.raises(RecordError, match=f"the log {log} cannot be read"):
            tune(TRIALS, log=log)
    assert (tmp_path / "file").read_text() == "in the way"


def test_trials_are_told_from_results_wherever_records_are_read(tune, tmp_path, clbench, assert_refused):
    (trial,) = tune({"naive": [{"epochs": 1}]})
    folder = tmp_path / "log"
    status = clbench(tmp_path, "status", "--output", folder)
    assert {"naive", "(on", "validation", "images)"} <= {*status.out.split()}
    checked = clbench(tmp_path, "verify-run", folder)
    assert checked.code == 0, checked.out
    assert "seed 1000, finished, measured on validation images: holds" in checked.out
    assert_refused(
        clbench(tmp_path, "report", "--suite", SUITE, "--runs", folder), "no finished run", "1 of them of a search"
    )
    table = api.load(folder).table()
    assert table["measured_on"].tolist() == ["validation"]
    assert api.load(folder).plot().axes[0].lines[:] == []
    # An accuracy of the tables is checked against the number of validation images.
    run = read_run(folder / trial.spec.run_id)
    images = round(run.config["data"]["train_images"] * run.config["suite_settings"]["validation_share"])
    shares = run.accuracy_matrix[~np.isnan(run.accuracy_matrix)] * images
    assert np.allclose(shares, np.rint(shares), atol=1e-6)
