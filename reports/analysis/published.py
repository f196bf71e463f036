"""Published results and our goals, as the suite's file has them."""

from collections.abc import Sequence

from clbench.suites.files import SUITES
from clbench.suites.published import Goal, PublishedResult


def published_results(suite: str) -> Sequence[PublishedResult]:
    """The published results for a suite, in the file's order; empty where none are known."""
    return SUITES[suite].published if suite in SUITES else ()


def goals(suite: str) -> Sequence[Goal]:
    """The goals of a suite, in the file's order."""
    return SUITES[suite].goals if suite in SUITES else ()
