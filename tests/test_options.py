"""What every command checks: options that are given twice, and that the user's home is known."""

import pwd
import re

import pytest

import clbench as package
from clbench.errors import SettingError


def planned(outcome):
    """(method, seed) of the runs that a dry run lists."""
    assert outcome.code == 0, outcome.err
    return re.findall(r"^[0-9a-f]{16} +(\S+) .*? (\d) ", outcome.out, re.MULTILINE)


def test_methods_and_seeds_given_twice_are_all_taken_and_each_once(clbench, tmp_path):
    arguments = ("run", "--suite", "permuted-digits", "--dry-run", "--threads", "1")
    outcome = clbench(
        tmp_path, *arguments, "--methods", "naive,psp", "--methods", "ewc", "--methods", "psp", *("--seeds", "0") * 2
    )
    assert planned(outcome) == [("naive", "0"), ("psp", "0"), ("ewc", "0")]
    outcome = clbench(tmp_path, *arguments, "--methods", "naive", "--seeds", "0-1", "--seeds", "1,4")
    assert planned(outcome) == [("naive", "0"), ("naive", "1"), ("naive", "4")]


def test_all_may_stand_among_others(clbench, tmp_path):
    arguments = ("run", "--suite", "permuted-digits", "--dry-run", "--threads", "1", "--seeds", "0")
    alone = planned(clbench(tmp_path, *arguments, "--methods", "all"))
    assert planned(clbench(tmp_path, *arguments, "--methods", "ewc", "--methods", "all")) == [
        ("ewc", "0"),
        *(found for found in alone if found != ("ewc", "0")),
    ]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("run", "--suite", "permuted-digits", "--suite", "split-mnist", "--dry-run"), "--suite"),
        (("run", "--suite", "permuted-digits", "--threads", "1", "--threads=2"), "--threads"),
        (("sync", "--runs", "here", "--output", "there"), "--runs"),
        (("report", "--suite", "x", "--from-mlflow", "sqlite:///a", "--tracking-uri", "sqlite:///b"), "--from-mlflow"),
        (("compare", "naive", "ewc", "--suite", "x", "--suite", "y"), "--suite"),
        (("tune", "--suite", "x", "--log", "a", "--log", "b"), "--log"),
        (("bench", "--repeats", "1", "--repeats", "2"), "--repeats"),
        (("status", "--output", "a", "--output", "b"), "--output"),
    ],
)
def test_a_single_value_given_twice_is_refused(clbench, assert_refused, tmp_path, arguments, option):
    assert_refused(clbench(tmp_path, *arguments), f"{option} takes one value, but is given 2 times; give it once")
    assert not any(tmp_path.iterdir())


def test_a_switch_given_twice_is_on(clbench, tmp_path):
    outcome = clbench(tmp_path, "run", "--suite", "permuted-digits", "--dry-run", "-q", "--quiet", "--dry-run")
    assert (outcome.code, outcome.out) == (0, "")


def test_without_a_home_a_command_is_refused_in_one_sentence_and_makes_no_folder(
    clbench, assert_refused, tmp_path, monkeypatch
):
    def nobody(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    run = ("run", "--suite", "permuted-digits")
    for command in (run, ("show", "permuted-digits"), ("sync",), ("status",)):
        assert_refused(clbench(tmp_path, *command), "your home folder is not known", "set HOME to a folder")
    with pytest.raises(SettingError, match="your home folder is not known"):
        package.run("permuted-digits", output=tmp_path / "runs")
    assert clbench(tmp_path, *run, "--help").code == 0
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (("run", "--suite", "permuted-digits", "--epochs", "3"), "epochs"),
        (("run", "--suite", "permuted-digits", "--n-tasks=3"), "n_tasks"),
        (("check", "naive", "--learning_rate", "1"), "learning_rate"),
    ],
)
def test_a_setting_given_as_an_option_is_refused_with_how_to_give_it(
    clbench, tmp_path, assert_refused, arguments, setting
):
    assert_refused(clbench(tmp_path, *arguments), f"give it as --set {setting}=VALUE")


@pytest.mark.parametrize(
    "arguments", [("run", "--suite", "permuted-digits", "--epoch", "3"), ("list", "--epochs", "3")]
)
def test_another_unknown_option_is_refused_as_such(clbench, tmp_path, arguments):
    outcome = clbench(tmp_path, *arguments)
    assert outcome.code == 2
    assert f"No such option: {arguments[-2]}" in outcome.err
