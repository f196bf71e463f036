"""`--sweep` and `--rerun`: every value of a setting, and recorded runs trained anew."""

import json
import re
from unittest.mock import Mock

import pytest

from clbench.baselines.naive import Naive
from clbench.errors import Interrupted, SettingError, TrackingError
from clbench.execution.rerun import set_aside
from clbench.records.folder import RunFolder
from clbench.records.reading import read_runs
from clbench.suites.settings import parse_sweeps

SMALL = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64"]


def settings(place, *keys):
    runs = read_runs(place / "clbench-runs")
    found = (
        (r.method, r.seed, *((r.config["method_settings"] | r.config["suite_settings"]).get(k) for k in keys))
        for r in runs
    )
    return sorted(found, key=str)


@pytest.mark.long
def test_every_value_is_run_with_every_seed_and_other_methods_once(run, place):
    outcome = run(place, "--sweep", "ewc.strength=100,1000,3000", methods="naive,ewc", seeds="0-1")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"ewc strength={value} seed 1: finished" in outcome.out for value in (100, 1000, 3000))
    assert "naive seed 1: finished" in outcome.out
    ewc = [("ewc", seed, strength) for seed in (0, 1) for strength in (100.0, 1000.0, 3000.0)]
    assert settings(place, "strength") == sorted([*ewc, ("naive", 0, None), ("naive", 1, None)], key=str)
    page = next((place / "clbench-reports").glob("*.html")).read_text()
    assert all(name in page for name in ("ewc strength=100<", "ewc strength=1000<", "ewc strength=3000<"))


def test_several_sweeps_are_every_combination_also_of_lists_and_of_the_suites_settings(run, place):
    small = ["--set", "n_tasks=2", "--set", "epochs=1"]
    outcome = run(
        place, "--no-report", "--sweep", "hidden_sizes=[80,80],[90]", "--sweep", "batch_size=32,64", small=small
    )
    assert (outcome.code, outcome.err) == (0, "")
    found = settings(place, "hidden_sizes", "batch_size")
    assert found == [
        ("naive", 0, [80, 80], 32),
        ("naive", 0, [80, 80], 64),
        ("naive", 0, [90], 32),
        ("naive", 0, [90], 64),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--sweep", "ewc.speed=1,2"], ["unknown setting of ewc 'speed'"]),
        (["--sweep", "epoch=1,2"], ["unknown setting 'epoch'", "did you mean 'epochs'"]),
        (["--sweep", "ewc.strength=1,many"], ["ewc.strength=many does not fit"]),
        (["--sweep", "si.strength=1,2"], ["'si' is not among the methods of this run"]),
        (["--sweep", "epochs"], ["--sweep expects NAME=VALUE,VALUE", "but got 'epochs'"]),
        (["--sweep", "epochs=1,2", "--sweep", "epochs=3"], ["gives 'epochs' twice"]),
        (["--sweep", "epochs=1,1"], ["has a value twice"]),
        (["--sweep", "epochs=1-3"], ["--sweep epochs takes each value, separated by commas", "the range '1-3'"]),
        (["--sweep", "epochs=1,2", "--set", "epochs=3"], ["'epochs' is both set and swept over"]),
        (["--sweep", "data=digits,mnist"], ["a sweep is over one set of images"]),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_one_sentence(clbench, tmp_path, assert_refused, given, said):
    assert_refused(clbench(tmp_path, "run", "--suite", "permuted-digits", "--methods", "ewc", *given), *said)
    assert not list(tmp_path.iterdir())


def test_values_are_read_as_settings_are():
    assert parse_sweeps(["a=1,2.5,none,x", "b=[1,2],[3]"]) == {"a": [1, 2.5, None, "x"], "b": [[1, 2], [3]]}
    with pytest.raises(SettingError, match="expects NAME=VALUE,VALUE"):
        parse_sweeps(["a="])


def test_a_rerun_trains_anew_to_the_same_bits_and_keeps_the_record_from_before(run, place, clbench):
    assert run(place, "--no-report").code == 0
    (before,) = (place / "clbench-runs").glob("*/status.json")
    content = before.read_text()
    outcome = run(place, "--rerun")
    assert (outcome.code, outcome.err) == (0, "")
    assert "trained anew, 1 of 1 runs have the same weights as before, to the bit" in outcome.out
    (aside,) = (place / "clbench-runs").glob("*.replaced-*/status.json")
    assert aside.read_text() == content
    assert json.loads(before.read_text())["started"] >= json.loads(content)["started"]
    # The report and MLflow show the new one alone.
    assert len(read_runs(place / "clbench-runs")) == 1
    assert run(place, "--no-report").out.count("recorded before") == 1
    # What goes on does not begin anew once more.
    again = clbench(place, "resume")
    assert "recorded before" in again.out
    assert clbench(place, "rm", before.parent.name).code == 0
    assert not [path for path in (place / "clbench-runs").iterdir() if before.parent.name in path.name]


def test_weights_that_differ_are_said(run, place, monkeypatch):
    assert run(place, "--no-report").code == 0
    learn = Naive.learn

    def otherwise(method, task):
        learn(method, task)
        next(method.model.parameters()).data += 0.001

    monkeypatch.setattr(Naive, "learn", otherwise)
    outcome = run(place, "--no-report", "--rerun")
    assert outcome.code == 0
    assert re.search(r"naive seed 0: trained anew, run \w{16} has other weights than before", outcome.err)
    assert "0 of 1 runs have the same weights" in outcome.out


def test_a_rerun_that_is_stopped_goes_on_and_is_compared_in_the_end(run, place, clbench):
    assert run(place, "--no-report").code == 0

    def stop(*_):
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        learn = Naive.learn
        patch.setattr(Naive, "learn", lambda method, task: stop() if task.index else learn(method, task))
        stopped = run(place, "--no-report", "--rerun")
    assert stopped.code == 130
    assert "clbench resume goes on after them" in stopped.err
    resumed = clbench(place, "resume")
    assert resumed.code == 0
    assert "1 of 1 runs have the same weights as before" in resumed.out


def test_a_store_that_does_not_answer_stops_no_rerun(run, place, monkeypatch):
    assert run(place, "--no-report").code == 0
    monkeypatch.setattr("clbench.execution.rerun.forget", Mock(side_effect=TrackingError("the store does not answer")))
    outcome = run(place, "--no-report", "--rerun")
    assert outcome.code == 0
    assert "the entries of before stay in MLflow: the store does not answer" in outcome.err


def test_a_run_that_another_command_trains_is_not_set_aside(run, place):
    assert run(place, "--no-report").code == 0
    (status,) = (place / "clbench-runs").glob("*/status.json")
    with RunFolder(place / "clbench-runs", status.parent.name).lease():
        set_aside(place / "clbench-runs", [status.parent.name], None, pytest.fail)
    assert status.exists()
    set_aside(place / "clbench-runs", [status.parent.name], None, pytest.fail)
    assert not status.exists()
