"""A glance at a SQLite store without MLflow, whose import takes seconds that a command with nothing to do can spare."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_RUNS_OF = """
    FROM runs JOIN experiments USING (experiment_id) JOIN tags USING (run_uuid)
    WHERE experiments.name = ? AND experiments.lifecycle_stage = 'active' AND runs.lifecycle_stage = 'active'
"""
_IDS = f"SELECT tags.value {_RUNS_OF} AND tags.key = 'clbench.run_id' AND runs.status = 'FINISHED'"
_WHOLE = f"SELECT run_uuid {_RUNS_OF} AND tags.key = 'clbench.complete' AND tags.value = 'true'"
_LEFT_OPEN = f"SELECT count(*) {_RUNS_OF} AND tags.key = 'clbench.kind' AND runs.status = 'RUNNING'"


def holds_all(uri: str, suite: str, run_ids: Collection[str]) -> bool:
    """Whether a store has these runs whole and nothing left open, so that there is nothing to tell it.

    False wherever it cannot be told at a glance: MLflow then finds out.

    Args:
        uri: of the store.
        suite: name of the suite.
        run_ids: of ours.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_file():
        return False
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1.0)) as store:
            held = {run_id for (run_id,) in store.execute(f"{_IDS} AND run_uuid IN ({_WHOLE})", (name, name))}
            ((left_open,),) = store.execute(_LEFT_OPEN, (name,))
    except sqlite3.Error:
        return False
    return not left_open and held.issuperset(run_ids)
