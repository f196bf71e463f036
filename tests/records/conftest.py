"""Tests of run folders: a finished run, one as the first version recorded it, and records of every form."""

import json
import runpy
from pathlib import Path

import pytest

from clbench.records.folder import RunFolder
from clbench.records.result import RunResult

CLNP_RUN = runpy.run_path(str(Path(__file__).with_name("clnp_run.py")))
RUN_ID = CLNP_RUN["RUN_ID"]
CONFIG = CLNP_RUN["CONFIG"]
ENVIRONMENT = CLNP_RUN["ENVIRONMENT"]
MATRIX = CLNP_RUN["MATRIX"]
TASKS = CLNP_RUN["TASKS"]
CAPACITY = CLNP_RUN["CAPACITY"]


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    made = RunFolder(tmp_path / "runs", RUN_ID)
    made.begin(CONFIG, ENVIRONMENT)
    made.write_tables(RunResult(MATRIX, TASKS, CAPACITY))
    made.set_status("finished")
    return made


@pytest.fixture
def unsealed(folder):
    """The same as clbench 0.1.0 recorded it, without digests: what it holds must stand for itself."""
    path = folder.path / "status.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: content[key] for key in ("status", "started", "ended", "reason")}, indent=2) + "\n"
    )
    return folder


record = runpy.run_path(str(Path(__file__).with_name("small_record.py")))["record"]
