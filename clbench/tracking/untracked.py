"""In the place of a tracker where nothing goes to MLflow: run folders alone are written."""

from typing import Any


class Untracked:
    """Hears what a `Tracker` hears, and keeps nothing."""

    is_behind = True

    def _nothing(self, *args: Any, **options: Any) -> None:
        """Does nothing."""

    begin = end = log = close = complete = abandon = keep_report = _nothing
