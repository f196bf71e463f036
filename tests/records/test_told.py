"""What reports say of the task being known at test."""

import pytest

from clbench.methods.table import AVALANCHE, METHODS, find_method
from clbench.records.told import CHOOSES, told


@pytest.mark.parametrize("name", [*METHODS, *AVALANCHE])
def test_of_every_method_that_is_told_the_task_it_is_known_what_that_chooses(name):
    assert find_method(name).task_known_at_test == (name in CHOOSES)


@pytest.mark.parametrize(
    ("method", "known", "head", "settings", "said"),
    [
        ("si", False, "single", {}, "no"),
        ("si", True, "multi", {}, "yes: head"),
        ("hat", True, "multi", {}, "yes: head, units"),
        ("clnp:budget", True, "single", {}, "yes: units"),
        ("packnet", True, "single", {"output_weights": "per-task"}, "yes: head, weights"),
        ("frozen-trunk", True, "single", {"output_weights": "per-task"}, "yes: head"),
        ("single-task", True, "multi", {}, "yes: a network"),
        ("./mine.py:Mine", True, "single", {}, "yes"),
        ("si", None, "multi", {}, "not recorded"),
    ],
)
def test_a_row_says_what_the_task_chooses(method, known, head, settings, said):
    config = {"method": method, "task_known_at_test": known, "method_settings": settings}
    assert told({**config, "suite_settings": {"head": head}}) == said
