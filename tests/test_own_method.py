"""A method of the user's, from a file or a module: run, edited, stopped and gone on with, reported."""

import json
import shutil

import pandas as pd
import pytest

from clbench.baselines.ewc import EWC
from clbench.errors import INTERRUPTED, SettingError
from clbench.methods.method import Method
from clbench.methods.own import BROUGHT, bring
from clbench.methods.table import METHODS, find_method, names_of
from clbench.records.folder import RunFolder
from clbench.records.reading import read_runs

L2 = '''
from avalanche.core import SupervisedPlugin

from clbench.methods import Method, MethodSettings


class Pull(SupervisedPlugin):
    """Pulls the weights to where the last task left them."""

    def __init__(self, strength):
        super().__init__()
        self.strength, self.anchor = strength, None

    def before_backward(self, strategy, **kwargs):
        if self.anchor is not None:
            weights = strategy.model.parameters()
            strategy.loss += self.strength * sum((w - a).square().sum() for w, a in zip(weights, self.anchor))

    def after_training_exp(self, strategy, **kwargs):
        self.anchor = [weight.detach().clone() for weight in strategy.model.parameters()]


class L2(Method):
    class Settings(MethodSettings):
        strength: float = 0.1

    def plugins(self):
        return [Pull(self.settings.strength)]
'''
# The same with its state declared.
DECLARED = (
    L2.replace("class L2(Method):", "class L2(Method):\n    resumes = True\n")
    + """
    def extra_state(self):
        return {str(number): weight for number, weight in enumerate(self.method_plugins[0].anchor or [])}

    def load_extra_state(self, extra):
        self.method_plugins[0].anchor = [extra[str(number)] for number in range(len(extra))]
"""
)
SMALL = ["--suite", "permuted-digits", "--set", "n_tasks=3", "--set", "epochs=1", "--set", "hidden_sizes=64,64"]
SMALL += ["--seeds", "0", "--threads", "1", "--no-report"]
SUITE = """
name = "mine"
title = "My digits"
source = "Made up."
extends = "permuted-digits"
hidden_sizes = [16, 16]
n_tasks = 2
epochs = 1
methods = ["naive", "./l2.py:L2", "L2:strong"]
seeds = [0]

[method_settings.L2]
strength = 0.5

[method_settings."L2:strong"]
strength = 2.0
"""

pytestmark = pytest.mark.usefixtures("own_environment", "no_method_is_left")


@pytest.fixture
def lab(place):
    """A folder of the user's with a method."""
    (place / "l2.py").write_text(L2)
    return place


def only_run(folder):
    (run,) = read_runs(folder / "clbench-runs")
    return run


def test_a_method_of_a_file_is_run_beside_ours_and_identified_by_its_content(clbench, lab, make_store, tmp_path):
    done = clbench(lab, "run", *SMALL, "--methods", "naive,./l2.py:L2", "--set", "L2.strength=0.5")
    assert done.code == 0, done.err
    runs = {run.method: run for run in read_runs(lab / "clbench-runs")}
    assert set(runs) == {"naive", "L2"}
    config = runs["L2"].config
    assert config["method_settings"]["strength"] == 0.5
    assert config["overrides"]["L2.strength"] == 0.5
    assert len(config["method_sha256"]) == 64
    assert "method_sha256" not in runs["naive"].config
    assert runs["L2"].files["l2.py"] == L2.encode()
    assert str(lab) not in json.dumps({key: value for key, value in config.items() if key != "command"})
    assert (runs["L2"].accuracy_matrix[3] != runs["naive"].accuracy_matrix[3]).any()
    # Another folder is no other method.
    moved = make_store(tmp_path / "moved")
    (moved / "methods").mkdir()
    shutil.copy(lab / "l2.py", moved / "methods" / "l2.py")
    assert clbench(moved, "run", *SMALL, "--methods", "methods/l2.py:L2", "--set", "L2.strength=0.5").code == 0
    assert only_run(moved).run_id == runs["L2"].run_id


def test_an_edited_method_trains_again_and_stands_apart_in_the_report(clbench, lab):
    arguments = [*SMALL[:-1], "--methods", "./l2.py:L2"]
    assert clbench(lab, "run", *arguments).code == 0
    assert "recorded before" in clbench(lab, "run", *arguments).out
    (lab / "l2.py").write_text(L2.replace("0.1", "0.1 * 3"))
    again = clbench(lab, "run", *arguments)
    assert again.code == 0
    assert "l2.py:L2 changed since the last clbench run" in again.err
    first, second = read_runs(lab / "clbench-runs")
    assert first.config["method_sha256"] != second.config["method_sha256"]
    shown = " ".join(again.out.split())
    for run in (first, second):
        strength, code = run.config["method_settings"]["strength"], run.config["method_sha256"][:8]
        assert f"strength={strength:.1g}" in shown
        assert f"code={code}" in shown


def test_reading_and_reporting_never_run_the_file(clbench, lab):
    assert clbench(lab, "run", *SMALL, "--methods", "./l2.py:L2").code == 0
    BROUGHT.clear()
    (lab / "l2.py").write_text("raise RuntimeError('it was run')")
    for command in (
        ["report", "--suite", "permuted-digits"],
        ["report", "--suite", "permuted-digits", "--runs", "clbench-runs"],
        ["verify-run", "clbench-runs"],
        ["status"],
    ):
        done = clbench(lab, *command)
        assert done.code == 0, done.err
    assert "not declared" in (lab / "clbench-reports" / "permuted-digits.html").read_text()
    assert pd.read_csv(only_run_folder(lab) / "tasks.csv")["extra_state_bytes"].isna().all()


def only_run_folder(lab):
    return lab / "clbench-runs" / only_run(lab).run_id


@pytest.mark.parametrize(("text", "goes_on"), [(L2, False), (DECLARED, True)])
def test_a_stopped_run_goes_on_only_where_the_method_says_that_it_can(
    clbench, lab, make_store, tmp_path, outcome_of, monkeypatch, text, goes_on
):
    arguments = ["run", *SMALL, "--methods", "./l2.py:L2"]
    trained = []
    (lab / "l2.py").write_text(text)

    as_it_is = Method.learn

    def learn(method, task):
        trained.append(task.index)
        if len(trained) == 3:
            raise KeyboardInterrupt
        as_it_is(method, task)

    with monkeypatch.context() as patch:
        patch.setattr(Method, "learn", learn)
        assert clbench(lab, *arguments).code == INTERRUPTED
        resumed = clbench(lab, "resume")
    assert resumed.code == 0, resumed.err
    assert trained == ([0, 1, 2, 2] if goes_on else [0, 1, 2, 0, 1, 2])
    assert ("begins anew" in resumed.err) is not goes_on
    whole = make_store(tmp_path / "whole")
    (whole / "l2.py").write_text(text)
    assert clbench(whole, *arguments).code == 0
    run_id = only_run(whole).run_id
    first, second = (outcome_of(RunFolder(each / "clbench-runs", run_id)) for each in (lab, whole))
    assert first == second


def test_a_suite_names_a_method_beside_its_file_with_its_settings_and_variants(clbench, lab):
    (lab / "mine.toml").write_text(SUITE)
    elsewhere = lab / "elsewhere"
    elsewhere.mkdir()
    done = clbench(elsewhere, "run", "--suite", "../mine.toml", "--threads", "1")
    assert done.code == 0, done.err
    runs = {run.method: run for run in read_runs(elsewhere / "clbench-runs")}
    assert {name: run.config["method_settings"].get("strength") for name, run in runs.items()} == {
        "naive": None,
        "L2": 0.5,
        "L2:strong": 2.0,
    }
    assert runs["L2"].config["method_sha256"] == runs["L2:strong"].config["method_sha256"]
    assert not any(run.is_modified for run in runs.values())


@pytest.mark.long
def test_in_processes_of_their_own_runs_learn_the_same(clbench, lab, make_store, tmp_path, outcome_of):
    other = make_store(tmp_path / "other")
    (other / "l2.py").write_text(L2)
    arguments = ["run", *SMALL, "--methods", "./l2.py:L2"]
    assert clbench(lab, *arguments).code == 0
    parallel = clbench(other, *arguments, "--jobs", "2", "--seeds", "0,1")
    assert parallel.code == 0, parallel.err
    run_id = only_run(lab).run_id
    first, second = (outcome_of(RunFolder(each / "clbench-runs", run_id)) for each in (lab, other))
    assert first == second


def test_a_method_of_a_module_that_can_be_imported(clbench, lab, monkeypatch):
    (lab / "mymethods").mkdir()
    (lab / "mymethods" / "__init__.py").write_text("")
    (lab / "l2.py").rename(lab / "mymethods" / "l2.py")
    monkeypatch.syspath_prepend(str(lab))
    assert clbench(lab, "run", *SMALL, "--methods", "mymethods.l2:L2").code == 0
    run = only_run(lab)
    assert (run.method, sorted(run.files)) == ("L2", ["mymethods/__init__.py", "mymethods/l2.py"])


@pytest.mark.parametrize(
    ("text", "methods", "said"),
    [
        ("class L2(", "./l2.py:L2", ["l2.py has a syntax error in line 1"]),
        ("raise ValueError('no luck')", "./l2.py:L2", ["does not load: ValueError: no luck"]),
        ("class L2: pass", "./l2.py:L2", ["must be a subclass of clbench.methods.Method", "a class of another kind"]),
        ("def L2(): pass", "./l2.py:L2", ["must be a subclass of clbench.methods.Method", "a function"]),
        (
            L2.replace("(MethodSettings)", ""),
            "./l2.py:L2",
            ["Settings", "must be a subclass of clbench.methods.MethodSettings"],
        ),
        (L2, "./l2.py:L3", ["l2.py has no class L3 for the method; it has Pull, L2"]),
        (L2, "./l3.py:L2", ["l3.py of the method L2 cannot be read"]),
        (L2, "./l2.py:L2,./other.py:L2", ["two methods of one name", "rename one of the classes"]),
        (L2.replace("class L2(", "class Naive("), "./l2.py:Naive", ["has the name of one that is there already"]),
        (L2, "L2", ["unknown method 'L2'", "one of your own as ./file.py:Class or package.module:Class"]),
        (L2, "./l2.py:L2,L2:strong", ["unknown method 'L2:strong'"]),
    ],
)
def test_a_method_that_cannot_be_used_is_refused_in_one_sentence(clbench, assert_refused, lab, text, methods, said):
    (lab / "l2.py").write_text(text)
    (lab / "other.py").write_text(L2)
    assert_refused(clbench(lab, "run", *SMALL, "--methods", methods), *said)
    assert not (lab / "clbench-runs").exists()


def test_a_setting_that_it_does_not_have_is_refused(clbench, assert_refused, lab):
    arguments = ["run", *SMALL, "--methods", "./l2.py:L2", "--set", "L2.weight=1"]
    assert_refused(clbench(lab, *arguments), "unknown setting of L2 'weight'", "strength")


def test_a_subclass_says_itself_whether_it_can_go_on():
    class More(EWC):
        pass

    assert EWC.resumes
    assert not More.resumes
    assert all(find_method(name).resumes for name in METHODS)


def test_names_are_found_for_references_and_kept_for_others(lab):
    assert names_of(["naive", "psp:rotation", "./l2.py:L2", "naive"], lab) == ["naive", "psp:rotation", "L2"]
    reference = BROUGHT["L2"].reference
    before = find_method("L2")
    assert bring(reference, ["naive"], anew=False) == "L2"
    assert find_method("L2") is before
    assert bring(reference, ["naive"]) == "L2"
    assert find_method("L2") is not before
    with pytest.raises(SettingError, match="rename the class"):
        bring(reference, ["l2"])
