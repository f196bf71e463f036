"""The published values are those of the sources, digit for digit."""

from decimal import Decimal

import pytest

from clbench.reports.published import published_results


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
    assert published_results("no-such-suite") == []
