"""A SQLite store whose folder was moved, renamed or copied: MLflow keeps whole paths of the artifacts beside it."""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def follow(path: Path, here: Path) -> None:
    """Lets a store's entries point to the artifacts beside it, where they point to the place that it was moved from.

    Args:
        path: the SQLite file of the store.
        here: the folder of artifacts beside it.

    Raises:
        sqlite3.Error: if the file cannot be read or written.
    """
    with contextlib.closing(sqlite3.connect(path)) as store:
        for (old,) in store.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
            if old and _has_moved(store, old, here):
                # Both at once, and all of it or nothing.
                with store:
                    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                        store.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (here.as_uri(), len(old) + 1, old, len(old) + 1, f"{old}/"),
                        )


def _has_moved(store: sqlite3.Connection, old: str, here: Path) -> bool:
    """Whether a place of artifacts is one that clbench chose, beside the store where it was before."""
    parts = urlsplit(old)
    before = url2pathname(parts.path)
    is_ours = parts.scheme == "file" and os.path.basename(before) == here.name
    if not is_ours or os.path.realpath(before) == os.path.realpath(here):
        return False
    if not os.path.exists(before):
        return True
    # The store may be a copy: then its runs' files lie here as well.
    runs = store.execute("SELECT run_uuid FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(old) + 1, f"{old}/"))
    return any((here / run).exists() for (run,) in runs)
