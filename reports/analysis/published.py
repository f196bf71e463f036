"""Published results and our goals, read from `baselines/published.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from typing import Any, Literal

from clbench.reports.analysis.statistics import Estimate

Relation = Literal["inside", "above", "below"]


@dataclass(frozen=True)
class PublishedResult:
    """One number from the literature.

    Attributes:
        suite, method: the names it belongs to here.
        average_accuracy: a fraction, with the digits of its source (hence a Decimal: 0.970 is not 0.97).
        source: where it stands.
        setting: what it was measured under.
        spread: a fraction, or None where the source gives none.
        remark: what to know about our own number beside it; empty where there is nothing.
        known: what the source states of its setting, under our names of settings, to be compared with ours.
    """

    suite: str
    method: str
    average_accuracy: Decimal
    source: str
    setting: str
    spread: Decimal | None = None
    remark: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last_digit(self) -> Decimal:
        """One unit of the last digit that the source gives, as a fraction."""
        return Decimal(1).scaleb(int(self.average_accuracy.as_tuple().exponent))

    @property
    def percent(self) -> str:
        """The accuracy, and the spread where there is one, in per cent: `98.42 ± 0.04`."""
        value = f"{self.average_accuracy.scaleb(2):f}"
        return value if self.spread is None else f"{value} ± {self.spread.scaleb(2):f}"

    def relation(self, ours: Estimate) -> Relation:
        """Where ours lies: `inside` if its 95 % interval (if any) and the source's spread, or half a unit of the
        source's last digit, overlap."""
        slack = float(self.spread or self.last_digit / 2) + (ours.half_width or 0.0)
        difference = ours.mean - float(self.average_accuracy)
        if abs(difference) <= slack:
            return "inside"
        return "above" if difference > 0 else "below"


@dataclass(frozen=True)
class Goal:
    """What a method must reach in a suite.

    Attributes:
        suite, method: the names.
        average_accuracy: the least mean over the seeds, a fraction.
        seeds: how many the mean must be of to count as reached.
        no_forgetting: whether no task's accuracy may change after it was learned, in any run.
        free_share: per hidden layer, the least share of neurons that is free after the last task.
    """

    suite: str
    method: str
    average_accuracy: Decimal
    seeds: int = 3
    no_forgetting: bool = False
    free_share: tuple[Decimal, ...] = ()


def published_results(suite: str) -> list[PublishedResult]:
    """The published results for a suite, in the file's order; empty where none are known."""
    return [PublishedResult(**entry) for entry in _entries("result", suite)]


def goals(suite: str) -> list[Goal]:
    """The goals of a suite, in the file's order."""
    entries = [{**entry, "free_share": tuple(entry.get("free_share", ()))} for entry in _entries("goal", suite)]
    return [Goal(**entry) for entry in entries]


def _entries(kind: str, suite: str) -> list[dict[str, Any]]:
    text = (resources.files("clbench.baselines") / "published.toml").read_text(encoding="utf-8")
    return [entry for entry in tomllib.loads(text, parse_float=Decimal)[kind] if entry["suite"] == suite]
