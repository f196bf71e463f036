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


_STATE = (
    f"SELECT tags.value, run_uuid, runs.status, runs.end_time {_RUNS_OF} AND tags.key = 'clbench.run_id' ORDER BY 1, 2"
)
_EXPERIMENT = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"


def page_of(uri: str, suite: str) -> str:
    """The address of a suite's experiment in MLflow's own page, where the store is a file; empty where it is not known.

    MLflow 3.17 shows an experiment as one of language models unless its address says otherwise.

    Args:
        uri: of the store.
        suite: name of the suite.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
    try:
        with _opened(uri) as store:
            ((number,),) = store.execute(_EXPERIMENT, (name,))
    except (sqlite3.Error, ValueError):
        return ""
    return f"http://127.0.0.1:5000/#/experiments/{number}?workflowType=machine_learning"


def holds_all(uri: str, suite: str, run_ids: Collection[str]) -> bool:
    """Whether a store has these runs whole and nothing left open, so that there is nothing to tell it.

    False wherever it cannot be told at a glance: MLflow then finds out.

    Args:
        uri: of the store.
        suite: name of the suite.
        run_ids: of ours.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
    try:
        with _opened(uri) as store:
            held = {run_id for (run_id,) in store.execute(f"{_IDS} AND run_uuid IN ({_WHOLE})", (name, name))}
            ((left_open,),) = store.execute(_LEFT_OPEN, (name,))
    except (sqlite3.Error, ValueError):
        return False
    return not left_open and held.issuperset(run_ids)


def state_of(uri: str, suite: str) -> str:
    """The runs that a store has of a suite, in a text that is another once they are; empty where it cannot be told.

    Args:
        uri: of the store.
        suite: name of the suite.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
    try:
        with _opened(uri) as store:
            return repr([uri, *store.execute(_STATE, (name,))])
    except (sqlite3.Error, ValueError):
        return ""


def _opened(uri: str) -> "closing[sqlite3.Connection]":
    """A store that is a file, to be read; ValueError for any other."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_file():
        raise ValueError(uri)
    return closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1.0))
