"""Whether a report has to be made again: not while the store holds the same runs, and the code is the same."""

import hashlib
import json
from pathlib import Path
from typing import Any

from clbench.records.files import write_whole

_NAME = ".reports.json"


def made_of(state: str) -> str:
    """A digest of what a report is made of; empty where that is not known.

    Args:
        state: of the store, see `clbench.tracking.glance.state_of`.
    """
    if not state:
        return ""
    digest = hashlib.sha256(state.encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def fresh(notes: Path, reports: Path, suite: str, found: str) -> list[Path]:
    """The files of a report that is up to date; none where it is not, or where one of them is gone.

    Args:
        notes: the folder that holds the notes, that of the runs.
        reports: the folder of reports.
        suite: name.
        found: see `made_of`.
    """
    kept = _kept(notes).get(_key(reports, suite), {})
    paths = [Path(path) for path in kept.get("paths", [])]
    return paths if found and kept.get("made_of") == found and all(path.exists() for path in paths) else []


def remember(notes: Path, reports: Path, suite: str, found: str, paths: list[Path]) -> None:
    """Notes what a report was made of; where that cannot be written, it is made again next time."""
    kept = {**_kept(notes), _key(reports, suite): {"made_of": found, "paths": [str(path) for path in paths]}}
    try:
        write_whole(notes / _NAME, (json.dumps(kept, indent=2) + "\n").encode())
    except OSError:
        return


def _key(reports: Path, suite: str) -> str:
    return f"{reports.resolve()}: {suite}"


def _kept(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
