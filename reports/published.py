"""Published results, read from `baselines/published.toml`."""

import tomllib
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources


@dataclass(frozen=True)
class PublishedResult:
    """One number from the literature.

    Attributes:
        suite, method: the names it belongs to here.
        average_accuracy: a fraction, with the digits of its source (hence a Decimal: 0.970 is not 0.97).
        source: where it stands.
        setting: what it was measured under.
        spread: a fraction, or None where the source gives none.
    """

    suite: str
    method: str
    average_accuracy: Decimal
    source: str
    setting: str
    spread: Decimal | None = None

    @property
    def percent(self) -> str:
        """The accuracy, and the spread where there is one, in per cent: `98.42 ± 0.04`."""
        value = f"{self.average_accuracy.scaleb(2):f}"
        return value if self.spread is None else f"{value} ± {self.spread.scaleb(2):f}"


def published_results(suite: str) -> list[PublishedResult]:
    """The published results for a suite, in the file's order; empty where none are known."""
    text = (resources.files("clbench.baselines") / "published.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text, parse_float=Decimal)["result"]
    return [PublishedResult(**entry) for entry in entries if entry["suite"] == suite]
