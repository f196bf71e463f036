"""The grids of a search: what they may hold, those that come with suites, and the logs of their trials."""

import re
import runpy
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clbench.data.images import ImageSet
from clbench.errors import SettingError
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.runs.spec import make_specs
from clbench.search.trials import Log, load_grid, plan_trials
from clbench.suites.files import SUITES, find_suite

SMALL_GRIDS = runpy.run_path(str(Path(__file__).with_name("small_grids.py")))
SUITE, HEAD, logged = (SMALL_GRIDS[name] for name in ("SUITE", "HEAD", "logged"))

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_environment(own_environment):
    pass


@pytest.fixture
def message_of(grid_file):
    """(text) -> why a file with this text is no grid of the digits."""

    def message(text):
        with pytest.raises(SettingError) as error:
            load_grid(find_suite(SUITE), grid_file(text))
        assert "\n" not in str(error.value)
        return str(error.value)

    return message


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
        (HEAD + "[trials]\nnaive = 3\n", "the setting trials.naive=3 does not fit: expected a valid list"),
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
    without = {"naive", "joint", "single-task", "frozen-trunk", "avalanche-si", "avalanche-ewc"}
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


@pytest.mark.parametrize("log", LOGS, ids=[path.stem for path in LOGS])
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
    together: dict[tuple[str, str, str], set[str]] = {}
    for line in lines:
        together.setdefault((line["method"], line["precision"], line["data_sha256"]), set()).add(line["run_id"])
    for (method, precision, sha256), logged_ids in together.items():
        planned = {
            make_specs(
                suite,
                [method],
                [grid.seed],
                {"n_tasks": grid.n_tasks, **{f"{method}.{key}": value for key, value in trial.items()}},
                replace(digits, sha256=sha256),
                precision,
                "cpu",
            )[0].run_id
            for trial in grid.trials[method]
        }
        assert logged_ids <= planned


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


@pytest.mark.parametrize("log", [log for log in LOGS if log.stem == "permuted-digits"], ids=["permuted-digits"])
def test_the_trials_of_a_log_from_before_they_were_runs_count_as_done(log, digits):
    suite, grid = the_grid_of(log.stem)
    trials = plan_trials(suite, grid, None, digits, "float32", CPU)
    assert trials
    assert Log(log, trials, log, pytest.fail, pytest.fail).lacks(trials) == []
