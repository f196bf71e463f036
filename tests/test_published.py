"""The published values are those of the sources, digit for digit; what has a goal exists."""

from decimal import Decimal

import pytest
import torch

from clbench.methods.table import find_method, resolve_settings
from clbench.networks.units import find_units
from clbench.reports.analysis.published import PublishedResult, goals, published_results
from clbench.suites.files import SUITES, find_suite

SUITES_OF = [(suite, entry) for suite in SUITES.values() for entry in (*suite.published, *suite.goals)]


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("single-task", ["98.48 ± 0.05"]),
        ("clnp", ["98.42 ± 0.04"]),
        ("psp", ["97.6"]),
        ("si", ["97.2", "96.94"]),
        ("ewc", ["97.0"]),
        ("naive", ["57.4"]),
        ("avalanche-ewc", ["83"]),
        ("avalanche-si", ["83"]),
    ],
)
def test_permuted_mnist_has_the_value_of_each_source_with_its_own_digits(method: str, shown: list[str]) -> None:
    assert [r.percent for r in published_results("permuted-mnist") if r.method == method] == shown


def test_every_entry_is_a_fraction_with_a_source_and_a_setting() -> None:
    results = published_results("permuted-mnist")
    assert results
    for result in results:
        assert 0 < result.average_accuracy < 1
        assert result.spread is None or 0 < result.spread < Decimal("0.05")
        assert len(result.source) > 10
        assert result.setting


def test_a_suite_without_published_values_has_none() -> None:
    assert published_results("no-such-suite") == ()


@pytest.mark.parametrize(("suite", "entry"), SUITES_OF, ids=lambda value: getattr(value, "name", None) or value.method)
def test_every_result_and_every_goal_is_of_a_method_that_the_suite_can_run(suite, entry) -> None:
    assert find_method(entry.method).refuses(suite, resolve_settings(suite, entry.method, {})) == ""


def test_no_suite_has_two_goals_for_a_method() -> None:
    for suite in SUITES.values():
        methods = [goal.method for goal in suite.goals]
        assert len(set(methods)) == len(methods)


def test_every_goal_is_one_that_a_run_can_reach_and_miss() -> None:
    for suite in SUITES:
        for goal in goals(suite):
            assert goal.beside if goal.average_accuracy is None else 0.5 < goal.average_accuracy < 1
            assert all(0 <= share < 1 for share in goal.free_share)
            if goal.free_share:
                found = find_suite(suite)
                side = 32 if "cifar" in found.data else 28
                image = torch.zeros(1, 3 if "cifar" in found.data else 1, side, side)
                network = found.build_network(tuple(image.shape[1:]), 10, seed=0)
                assert len(goal.free_share) == len(find_units(network, image).groups)


def test_clnps_goal_is_the_papers_table_and_its_free_neurons() -> None:
    (goal,) = (goal for goal in goals("permuted-mnist") if goal.method == "clnp")
    assert goal.average_accuracy == Decimal("0.9842")
    assert goal.no_forgetting
    assert goal.free_share == (Decimal("0.18"), Decimal("0.40"))


def test_a_suite_without_goals_has_none() -> None:
    assert goals("no-such-suite") == goals("permuted-digits") == ()


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ("0.9848", "0.0001"),
        ("0.970", "0.001"),
        ("0.97", "0.01"),
        ("0.83", "0.01"),
        ("0.5", "0.1"),
        ("0.90000", "0.00001"),
        ("1", "1"),
    ],
)
def test_the_last_digit_is_the_unit_of_what_the_source_wrote(written: str, unit: str) -> None:
    result = PublishedResult(method="clnp", average_accuracy=Decimal(written), source="a source", setting="a setting")
    assert result.last_digit == Decimal(unit)


@pytest.mark.parametrize(
    ("method", "unit"),
    [("single-task", "0.0001"), ("psp", "0.001"), ("ewc", "0.001"), ("avalanche-ewc", "0.01")],
)
def test_the_digits_of_the_file_survive_its_reading(method: str, unit: str) -> None:
    (result,) = (result for result in published_results("permuted-mnist") if result.method == method)
    assert result.last_digit == Decimal(unit)
