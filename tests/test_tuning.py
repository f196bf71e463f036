"""What a search promises: equal budgets, validation images alone, a log that goes on where it stopped."""

import csv
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench import api
from clbench.baselines.naive import Naive
from clbench.data.images import ImageSet
from clbench.errors import Interrupted, RecordError, SettingError
from clbench.execution.grid import run_grid
from clbench.execution.job import Images, Job
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.records.reading import read_run, read_runs, run_paths
from clbench.runs.spec import make_specs
from clbench.search.trials import LOG_COLUMNS, Grid, Log, load_grid, plan_trials
from clbench.suites.files import SUITES, find_suite
from clbench.tracking.connection import open_client
from clbench.tracking.sync import load_runs

SUITE = "permuted-digits"
CPU = torch.device("cpu")
HEAD = f'suite = "{SUITE}"\nn_tasks = 2\nseed = 1000\n'
# A trial of each method: short, since a trial cannot make the network smaller.
TRIALS = {"naive": [{"epochs": 1}], "ewc": [{"epochs": 1, "strength": 10.0, "fisher_images": 64}]}
# Weight decay 1 at rate 10 multiplies every weight by -9 in each step.
DIVERGING = {"epochs": 1, "optimizer": "sgd", "learning_rate": 10, "learning_rate_schedule": "constant"}
DIVERGING |= {"weight_decay": 1}


def grid_of(trials, n_tasks=2, seed=1000):
    return Grid(suite=SUITE, n_tasks=n_tasks, seed=seed, trials=trials)


def logged(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in rows]


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


@pytest.fixture
def grid_file(tmp_path):
    """(text) -> the path of a file that holds it."""

    def write(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def message_of(grid_file):
    """(text) -> why a file with this text is no grid of the digits."""

    def message(text):
        with pytest.raises(SettingError) as error:
            load_grid(find_suite(SUITE), grid_file(text))
        assert "\n" not in str(error.value)
        return str(error.value)

    return message


# The grid


def test_a_grid_is_read_with_the_trials_of_each_method_in_their_order(grid_file):
    text = (
        HEAD + '[trials]\newc = [{ strength = 3.0 }, { strength = 1.0, fisher = "sample" }]\nnaive = [{}, {epochs=2}]\n'
    )
    grid = load_grid(find_suite(SUITE), grid_file(text))
    assert (grid.suite, grid.n_tasks, grid.seed) == (SUITE, 2, 1000)
    assert list(grid.trials) == ["ewc", "naive"]
    assert grid.trials["ewc"] == [{"strength": 3.0}, {"strength": 1.0, "fisher": "sample"}]
    assert grid.trials["naive"] == [{}, {"epochs": 2}]


def test_unequal_budgets_are_refused_with_each_methods(message_of):
    said = message_of(HEAD + "[trials]\nnaive = [{}]\newc = [{}, {strength = 1.0}]\n")
    assert "every method must have the same number of trials, but got naive 1, ewc 2" in said


@pytest.mark.parametrize("seed", find_suite(SUITE).seeds)
def test_a_seed_that_the_suite_reports_is_refused(message_of, seed):
    said = message_of(HEAD.replace("1000", str(seed)) + "[trials]\nnaive = [{}]\n")
    assert said.endswith(f"grid.toml searches with seed {seed}, which is one that the suite reports")


def test_the_grid_of_another_suite_is_refused(message_of):
    said = message_of(HEAD.replace(SUITE, "permuted-mnist") + "[trials]\nnaive = [{}]\n")
    assert said.endswith(f"grid.toml is for the suite 'permuted-mnist', not for '{SUITE}'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("suite = ", "grid.toml is no TOML: Invalid value"),
        (HEAD, "the setting trials is missing"),
        (HEAD + "[trials]\nnaive = 3\n", "the setting trials.naive=3 does not fit: input should be a valid list"),
        (HEAD + "[trials]\nnaive = [3]\n", "the setting trials.naive with 3 in it does not fit"),
        (HEAD + "trails = 3\n[trials]\n", "unknown entry of the grid"),
        (
            HEAD + "trails = 3\n[trials]\n",
            "'trails': did you mean 'trials'? expected one of n_tasks, seed, suite, trials",
        ),
        (HEAD.replace("= 2", "= 0") + "[trials]\n", "the setting n_tasks=0 does not fit"),
        (HEAD.replace("1000", "-1") + "[trials]\n", "the setting seed=-1 does not fit"),
    ],
)
def test_what_is_no_grid_is_refused_naming_the_file_and_the_place(message_of, text, said):
    message = message_of(text)
    assert said in message
    assert "grid.toml" in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(SettingError, match=f"the grid {path} cannot be read"):
            load_grid(find_suite(SUITE), path)
    (tmp_path / "latin.toml").write_bytes(b"suite = '\xe4'")
    with pytest.raises(SettingError, match=r"latin\.toml cannot be read"):
        load_grid(find_suite(SUITE), tmp_path / "latin.toml")


def test_a_trial_that_trains_on_what_it_is_measured_on_is_refused_before_any_training(tune, tmp_path):
    trials = {"naive": [{"epochs": 1}], "si": [{"epochs": 1, "train_on_validation": True}]}
    with pytest.raises(
        SettingError, match="trial 1 of 'si' in the grid: it trains on the images that a search measures on"
    ):
        tune(trials)
    assert not (tmp_path / "log.csv").exists()


def test_a_trial_that_repeats_another_is_refused(clbench, assert_refused, tmp_path, grid_file):
    # The suite's own number of epochs, spelled out.
    epochs = find_suite(SUITE).epochs
    grid = grid_file(toml_of({"naive": [{"learning_rate": 0.01}, {"epochs": epochs, "learning_rate": 0.01}]}))
    outcome = clbench(tmp_path, "tune", "--suite", SUITE, "--grid", grid, "--log", tmp_path / "log.csv")
    assert_refused(outcome, "trial 2 of 'naive'", "an earlier one")
    assert not (tmp_path / "log.csv").exists()


def test_a_suite_that_comes_without_a_grid_says_how_to_give_one():
    with pytest.raises(SettingError, match="'split-mnist' comes without a search; give one with --grid FILE"):
        load_grid(find_suite("split-mnist"), None)


TUNING = Path(__file__).resolve().parents[1] / "baselines" / "tuning"


def the_grid_of(name):
    """The suite and the grid of that name: the suite's own, or a file beside it."""
    path = TUNING / f"{name}.toml"
    if not path.exists():
        return find_suite(name), load_grid(find_suite(name), None)
    suite = find_suite(tomllib.loads(path.read_text())["suite"])
    return suite, load_grid(suite, path)


GRIDS = [
    *(suite.name for suite in SUITES.values() if suite.search),
    *sorted(path.stem for path in TUNING.glob("*.toml")),
]


def test_permuted_mnist_comes_with_a_grid_for_every_method_that_has_something_to_choose():
    grid = load_grid(find_suite("permuted-mnist"), None)
    assert grid.trials.keys() >= {"clnp", "ewc", "online-ewc", "mas"}
    small = load_grid(find_suite("permuted-mnist-small"), None)
    without = {"naive", "joint", "single-task", "frozen-trunk", "psp", "avalanche-si", "avalanche-ewc"}
    assert METHODS.keys() - small.trials.keys() == without


@pytest.mark.parametrize("name", GRIDS)
def test_every_packaged_grid_is_one_of_trials_that_fit(name):
    suite, grid = the_grid_of(name)
    # One that a suite has beyond its own carries more words in its name.
    assert name == suite.name or name.startswith(f"{suite.name}-")
    assert grid.seed not in {seed for other in SUITES.values() for seed in other.seeds}
    assert len({len(trials) for trials in grid.trials.values()}) == 1
    changed = suite.with_overrides({"n_tasks": grid.n_tasks})
    for method, trials in grid.trials.items():
        resolved = [resolve_settings(changed, method, trial) for trial in trials]
        assert {find_method(method).refuses(changed, settings) for settings in resolved} == {""}
        for settings, trial in zip(resolved, trials, strict=True):
            assert {key: getattr(settings, key) for key in trial} == trial


LOGS = sorted(TUNING.glob("*.csv"))
# Takes half a minute, and says no more than the others do.
LONG = "permuted-mnist-clnp-paper"


@pytest.mark.parametrize(
    "log",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem == LONG else [], id=path.stem) for path in LOGS],
)
def test_a_grid_says_all_that_its_logged_trials_depended_on_whatever_the_suite_says_now(log, digits):
    suite, grid = the_grid_of(log.stem)
    if suite.scenario == "split":
        # As many classes as CIFAR-10 and CIFAR-100 have together.
        labels = torch.arange(110).repeat_interleave(20)
        pictures = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
        digits = ImageSet(suite.data, pictures, labels, pictures, labels, tuple(map(str, range(110))), "")
    # CLNP's trials among all methods' are from before there was `output_weights` (baselines/tuning/README.md).
    lines = [line for line in logged(log) if (log.stem, line["method"]) != ("permuted-mnist", "clnp")]
    assert lines
    for line in lines:
        images = replace(digits, sha256=line["data_sha256"])
        planned = {
            make_specs(
                suite,
                [line["method"]],
                [grid.seed],
                {"n_tasks": grid.n_tasks, **{f"{line['method']}.{key}": value for key, value in trial.items()}},
                images,
                line["precision"],
                "cpu",
            )[0].run_id
            for trial in grid.trials[line["method"]]
        }
        assert line["run_id"] in planned


def test_the_picture_of_clnps_trials_has_every_trial_of_three_tasks_that_is_logged_with_at_least_97_per_cent():
    picture = (Path(__file__).resolve().parents[1] / "docs" / "clnp-trials.svg").read_text()
    drawn = set(re.findall(r'id="([0-9a-f]{16}-[12])"', picture))
    of_permuted_mnist = [log for log in LOGS if log.stem.startswith("permuted-mnist")]
    clnps = [
        line["run_id"]
        for log in of_permuted_mnist
        for line in logged(log)
        if line["method"] == "clnp" and line["n_tasks"] == "3" and float(line["validation_accuracy"]) >= 0.97
    ]
    assert drawn == {f"{run_id}-{layer}" for run_id in clnps for layer in (1, 2)}


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
        (TRIALS, ["si"], "unknown method of the grid 'si': expected one of ewc, naive"),
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


# The search


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


@pytest.mark.parametrize("log", [log for log in LOGS if log.stem == "permuted-digits"], ids=["permuted-digits"])
def test_the_trials_of_a_log_from_before_they_were_runs_count_as_done(log, digits):
    suite, grid = the_grid_of(log.stem)
    trials = plan_trials(suite, grid, None, digits, "float32", CPU)
    assert trials
    assert Log(log, trials, log, pytest.fail, pytest.fail).lacks(trials) == []


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


# The command


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
    assert (outcome.code, outcome.err) == (0, "")
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "mnist"], ["unknown suite 'mnist'"]),
        (["--suite", "split-mnist"], ["comes without a search", "--grid FILE"]),
        (["--suite", SUITE, "--methods", "nayve"], ["unknown method 'nayve'", "did you mean 'naive'?"]),
        (["--suite", SUITE, "--methods", "psp:rotation"], ["unknown method 'psp:rotation'"]),
        (["--suite", SUITE, "--grid", "GRID", "--methods", "si"], ["unknown method of the grid 'si'", "ewc, naive"]),
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
