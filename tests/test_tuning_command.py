"""The command `clbench tune`: what it says, how it goes on, and what it refuses."""

import json
import runpy
import tomllib
from pathlib import Path

import pytest

from clbench.baselines.naive import Naive
from clbench.errors import Interrupted
from clbench.methods.table import find_method
from clbench.records.reading import read_runs
from clbench.suites.files import SUITES, find_suite
from clbench.tracking.connection import open_client
from clbench.tracking.sync import load_runs

SMALL_GRIDS = runpy.run_path(str(Path(__file__).with_name("small_grids.py")))
SUITE = SMALL_GRIDS["SUITE"]
HEAD = SMALL_GRIDS["HEAD"]
TRIALS = SMALL_GRIDS["TRIALS"]
DIVERGING = SMALL_GRIDS["DIVERGING"]
logged = SMALL_GRIDS["logged"]


@pytest.fixture(autouse=True)
def _own_environment(own_environment):
    pass


def toml_of(trials):
    lines = []
    for name, of_method in trials.items():
        tables = ["{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in t.items()) + "}" for t in of_method]
        lines.append(f'"{name}" = [{", ".join(tables)}]')
    text = HEAD + "[trials]\n" + "\n".join(lines) + "\n"
    assert tomllib.loads(text)["trials"] == trials
    return text


def test_the_command_searches_says_what_it_found_and_goes_on_from_its_log(clbench, place, grid_file):
    trials = {"naive": [{"epochs": 1}, DIVERGING], "clnp": [{"epochs": 1}, {"epochs": 1, "margin": 3.0}]}
    command = ["tune", "--suite", SUITE, "--grid", grid_file(toml_of(trials))]
    outcome = clbench(place, *command, "--methods", "naive")
    assert (outcome.code, outcome.err.count("\n")) == (0, 1)
    assert "weight_decay=1: failed: the loss of task 1 is no longer finite" in outcome.err
    log = place / "clbench-tuning" / f"{SUITE}.csv"
    first, second = logged(log)
    assert f"naive epochs=1: validation accuracy {first['validation_accuracy']}, free -\n" in outcome.out
    assert "validation accuracy diverged, free -\n" in outcome.out
    assert outcome.out.endswith(f"log:     {log.relative_to(place)}\n")

    outcome = clbench(place, *command)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("logged before\n") == 2
    rows = logged(log)
    assert rows[:2] == [first, second]
    for row in rows[2:]:
        assert f"validation accuracy {row['validation_accuracy']}, free {row['free_neurons']}\n" in outcome.out
        assert row["free_neurons"].count("/1000") == 2


def test_the_command_searches_variants_of_methods(clbench, place, grid_file, monkeypatch, digits_with_variants):
    monkeypatch.setitem(SUITES, digits_with_variants.name, digits_with_variants)
    text = toml_of({"psp:rotation": [{"epochs": 1, "learning_rate": 0.001}]}).replace(SUITE, "variant-digits")
    log = place / "my log.csv"
    outcome = clbench(place, "tune", "--suite", "variant-digits", "--grid", grid_file(text), "--log", log)
    assert (outcome.code, outcome.err) == (0, "")
    (row,) = logged(log)
    assert (row["suite"], row["method"]) == ("variant-digits", "psp:rotation")
    assert outcome.out.endswith(f"log:     {log}\n")


def test_the_command_stops_when_asked_and_says_how_to_go_on(clbench, place, grid_file, monkeypatch):
    def stop(method, task):
        raise Interrupted

    trials = {"ewc": [{"epochs": 1, "fisher_images": 64}], "naive": [{"epochs": 1}]}
    command = ["tune", "--suite", SUITE, "--grid", grid_file(toml_of(trials)), "--log", place / "log.csv"]
    learn = find_method("ewc").learn
    with monkeypatch.context() as patch:
        patch.setattr(Naive, "learn", stop)
        patch.setattr(find_method("ewc"), "learn", learn)
        outcome = clbench(place, *command)
    assert outcome.code == 130
    assert outcome.err == "clbench: warning: stopped; the same command goes on after the tasks that are learned\n"
    assert [row["method"] for row in logged(place / "log.csv")] == ["ewc"]
    again = clbench(place, *command)
    assert (again.code, again.out.count("logged before")) == (0, 1)
    assert [row["method"] for row in logged(place / "log.csv")] == ["ewc", "naive"]


def test_quiet_prints_nothing_and_logs_all_the_same(clbench, place, grid_file):
    grid = grid_file(toml_of({"naive": [{"epochs": 1}]}))
    outcome = clbench(place, "tune", "--suite", SUITE, "--grid", grid, "--log", place / "log.csv", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert len(logged(place / "log.csv")) == 1


@pytest.mark.long
def test_the_command_trains_trials_at_once_and_mlflow_tells_them_from_results(clbench, run, place, grid_file):
    grid = grid_file(toml_of({"naive": [{"epochs": 1}, {"epochs": 1, "weight_decay": 0.5}]}))
    command = ["tune", "--suite", SUITE, "--grid", grid, "--jobs", "2", "--threads", "1"]
    outcome = clbench(place, *command)
    assert outcome.code == 0, outcome.err
    trials = read_runs(place / "clbench-tuning" / SUITE)
    assert {trial.measured_on for trial in trials} == {"validation"}
    assert len(logged(place / "clbench-tuning" / f"{SUITE}.csv")) == 2

    client = open_client(f"sqlite:///{place}/mlflow.db", 30.0)
    assert client.get_experiment_by_name(SUITE) is None
    experiment = client.get_experiment_by_name(f"{SUITE} (tuning)")
    entries = client.search_runs([experiment.experiment_id], "tags.`clbench.measured_on` = 'validation'")
    assert {entry.data.tags["clbench.run_id"] for entry in entries} == {trial.run_id for trial in trials}
    assert load_runs(SUITE, f"sqlite:///{place}/mlflow.db") == []

    outcome = run(place, "--output", place / "clbench-tuning" / SUITE)
    assert outcome.code == 0, outcome.err
    # The report of the run that was measured on test images, and no other.
    (result,) = load_runs(SUITE, f"sqlite:///{place}/mlflow.db")
    assert result.measured_on == "test"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "mnist"], ["unknown suite 'mnist'"]),
        (["--suite", "split-mnist"], ["comes without a search", "--grid FILE"]),
        (["--suite", SUITE, "--methods", "nayve"], ["unknown method 'nayve'", "did you mean 'naive'?"]),
        (["--suite", SUITE, "--methods", "psp:rotation"], ["unknown method 'psp:rotation'"]),
        (
            ["--suite", SUITE, "--grid", "GRID", "--methods", "si"],
            ["the grid has no trials of 'si', only of ewc, naive"],
        ),
        (["--suite", SUITE, "--grid", "absent.toml"], ["the grid absent.toml cannot be read"]),
        (["--suite", "permuted-mnist", "--grid", "GRID"], ["is for the suite 'permuted-digits'"]),
        (["--suite", SUITE, "--grid", "GRID", "--precision", "half"], ["unknown precision 'half'"]),
        (["--suite", SUITE, "--grid", "GRID", "--device", "gpu"], ["unknown device 'gpu'"]),
        (["--suite", SUITE, "--grid", "GRID", "--log", "GRID"], ["grid.toml is not a log of clbench tune", "--log"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_the_command_refuses_in_one_sentence(clbench, assert_refused, tmp_path, grid_file, arguments, said):
    grid = grid_file(toml_of(TRIALS))
    text = grid.read_text()
    assert_refused(clbench(tmp_path, "tune", *(str(grid) if word == "GRID" else word for word in arguments)), *said)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]
    assert grid.read_text() == text


def test_a_trial_that_repeats_another_is_refused(clbench, assert_refused, tmp_path, grid_file):
    # The suite's own number of epochs, spelled out.
    epochs = find_suite(SUITE).epochs
    grid = grid_file(toml_of({"naive": [{"learning_rate": 0.01}, {"epochs": epochs, "learning_rate": 0.01}]}))
    outcome = clbench(tmp_path, "tune", "--suite", SUITE, "--grid", grid, "--log", tmp_path / "log.csv")
    assert_refused(outcome, "trial 2 of 'naive'", "an earlier one")
    assert not (tmp_path / "log.csv").exists()


def test_a_grid_may_hold_a_method_of_the_users_named_as_on_the_command_line(tmp_path, clbench):
    (tmp_path / "l2.py").write_text("from clbench.methods import Method\n\n\nclass L2(Method):\n    pass\n")
    (tmp_path / "grid.toml").write_text(
        f'suite = "{SUITE}"\nn_tasks = 2\nseed = 1000\n\n[trials]\n'
        '"./l2.py:L2" = [{ epochs = 1 }]\nnaive = [{ epochs = 1 }]\n'
    )
    small = ["--grid", "grid.toml", "--threads", "1"]
    outcome = clbench(tmp_path, "tune", "--suite", SUITE, *small, "--methods", "./l2.py:L2")
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["method"] for row in logged(tmp_path / "clbench-tuning" / f"{SUITE}.csv")] == ["L2"]
