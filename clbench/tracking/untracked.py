"""In the place of a tracker where nothing goes to MLflow: run folders alone are written."""

from collections.abc import Iterable
from pathlib import Path

from clbench.events import Event


class Untracked:
    """Hears what a `Tracker` hears, and keeps nothing.

    Args:
        is_behind: whether a store may lack something of it.
    """

    def __init__(self, *, is_behind: bool = True) -> None:
        self.is_behind = is_behind

    def hear(self, event: Event) -> None:
        """Does nothing."""

    def keep_report(self, paths: Iterable[Path]) -> None:
        """Does nothing."""
