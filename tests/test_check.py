"""`clbench check`: what it says of a method that holds, and of each way in which one may not."""

import re

import pytest

from clbench.check import CHECKS, findings, learns
from clbench.methods.table import names_of

GOOD = """
from clbench.methods import Method, MethodSettings

class Mine(Method):
    class Settings(MethodSettings):
        strength: float = 0.1
"""
BROKEN = {
    "testing between tasks changes what is learned": (
        "testing_changes_nothing",
        """
    def network_for(self, task):
        for parameter in self.model.parameters():
            parameter.data += 0.01
        return super().network_for(task)
""",
    ),
    "the same seed gives other bits": (
        "same_seed_same_bits",
        """
    drawn = []
    def learn(self, task):
        self.drawn.append(1)
        super().learn(task)
        next(self.model.parameters()).data += 0.01 * len(self.drawn)
""",
    ),
    "training moves torch's global generator": (
        "leaves_the_generator",
        """
    def learn(self, task):
        import torch
        super().learn(task)
        torch.rand(1)
""",
    ),
    "a run killed after task 1 would end at other numbers": (
        "resumes",
        """
    resumes = True
    seen = 0
    def learn(self, task):
        super().learn(task)
        self.seen += 1
        next(self.model.parameters()).data *= self.seen
""",
    ),
    "a run killed after task 2 would end at other numbers": (
        "resumes",
        """
    resumes = True
    anchors = ()
    def learn(self, task):
        super().learn(task)
        self.anchors = (*self.anchors, float(next(self.model.parameters()).detach().sum()))
        next(self.model.parameters()).data *= 1 + 0.01 * sum(self.anchors[:-1])
    def extra_state(self):
        import torch
        return {"latest": torch.tensor(self.anchors[-1:], dtype=torch.float64)}
    def load_extra_state(self, extra):
        self.anchors = tuple(extra["latest"].tolist())
""",
    ),
    "RecordError: a checkpoint holds tensors, numbers and strings only, but state.extra.seen is a": (
        "resumes",
        """
    resumes = True
    def extra_state(self):
        return {"seen": object()}
""",
    ),
    "it does not learn": (
        "learns",
        """
    def learn(self, task):
        self.tasks_learned = task.index + 1
""",
    ),
    "with a head per task it answers with numbers that are not finite": (
        "trains_other_heads",
        """
    def learn(self, task):
        super().learn(task)
        if self.workplace.suite.head == "multi":
            next(self.model.parameters()).data *= float("nan")
""",
    ),
    "ZeroDivisionError: division by zero (": (
        "learns",
        """
    def learn(self, task):
        1 / 0
""",
    ),
}


@pytest.fixture
def check(clbench, tmp_path):
    def execute(text, *arguments):
        (tmp_path / "mine.py").write_text(text)
        return clbench(tmp_path, "check", "./mine.py:Mine", *arguments)

    return execute


def test_a_method_that_holds_is_said_to_and_every_line_says_what(check):
    outcome = check(GOOD, "--set", "strength=0.5")
    assert outcome.code == 0
    *lines, empty, last = outcome.out.splitlines()
    assert all(re.match(r" yes  |   -  ", line) for line in lines)
    assert (empty, last) == ("", "Mine holds what every method must")
    assert "it does not declare what it keeps" in outcome.out
    assert "a killed run begins anew" in outcome.out


@pytest.mark.parametrize("said", BROKEN)
def test_each_way_in_which_one_may_not_is_found_and_said(tmp_path, monkeypatch, said):
    name, text = BROKEN[said]
    (tmp_path / "mine.py").write_text(GOOD + text)
    names_of(["./mine.py:Mine"], tmp_path)
    # The others take time, and hold or not.
    only = {check: otherwise for check, otherwise in CHECKS.items() if check.__name__ == name}
    monkeypatch.setattr("clbench.check.CHECKS", only)
    (finding,) = findings("Mine", {})
    assert finding.verdict == "fails"
    assert said in finding.said


def test_a_method_that_does_not_hold_gives_exit_code_1(check, monkeypatch):
    monkeypatch.setattr("clbench.check.CHECKS", {learns: ""})
    outcome = check(GOOD + BROKEN["ZeroDivisionError: division by zero ("][1])
    assert outcome.code == 1
    assert outcome.out.startswith("  NO  ZeroDivisionError: division by zero (")
    assert "mine.py, line" in outcome.out
    assert outcome.out.endswith("Mine does not hold 1 of what every method must\n")


def test_what_cannot_be_checked_is_refused_in_one_sentence(check, clbench, tmp_path, assert_refused):
    assert_refused(clbench(tmp_path, "check", "no-such"), "unknown method 'no-such'", "./file.py:Class")
    assert_refused(check(GOOD, "--set", "speed=1"), "unknown setting of Mine 'speed'")
    assert_refused(clbench(tmp_path, "check", "psp:rotation"), "psp:rotation is a variant", "give psp")
    failing = "    @classmethod\n    def refuses(cls, suite, settings):\n        return 1 / 0\n"
    assert_refused(check(GOOD + failing), "Mine fails when it is asked whether it can run here: ZeroDivisionError")
    refusing = "    @classmethod\n    def refuses(cls, suite, settings):\n        return 'of no use'\n"
    assert_refused(check(GOOD + refusing), "Mine cannot be checked, because it refuses every suite: of no use")
