"""A record of two tasks with tables and files of the user's, and a fixture for `conftest.py` that writes it."""

import numpy as np
import pytest

from clbench.records.folder import RunFolder
from clbench.records.format import FORMAT, TABLES
from clbench.records.result import RunResult

CONFIG = {
    "format": FORMAT,
    "run_id": "0123456789abcdef",
    "suite": "s",
    "method": "m",
    "seed": 0,
    "modified": False,
    "suite_settings": {"n_tasks": 2},
}
MATRIX = np.array([[0.1, 0.1], [0.9, 0.1], [0.8, 0.9]])
FILES = {"net.py": b"raise SystemExit('run')\n", "helpers/blocks.py": b"# \xff no text\r\n"}
SAMPLES = b"\x89PNG\r\n\x1a\n made up"


def row(task, group, unit, units=10, free=8, new=2, reused=0, **more):
    return {
        "task": task,
        "group": group,
        "unit": unit,
        "units": units,
        "free": free,
        "new": new,
        "reused": reused,
        "used": units - free,
        **more,
    }


def two_tasks(group, unit):
    return [row(1, group, unit), row(2, group, unit, free=5, new=3, reused=2)]


CAPACITY = [*two_tasks("conv1+conv2", "filter"), *two_tasks("2", "neuron"), *two_tasks("head", "weight")]


@pytest.fixture
def record(tmp_path):
    """(capacity, config, files, pruning, measures) -> the folder of a finished run."""

    def make(capacity=(), config=CONFIG, files=FILES, pruning=(), measures=()):
        folder = RunFolder(tmp_path / "runs", CONFIG["run_id"])
        folder.begin(config, "python: 3.11\n", files)
        folder.write_bytes("samples.png", SAMPLES)
        columns = TABLES[FORMAT]["tasks.csv"].all
        tasks = [dict.fromkeys(columns, 1.0) | {"task": task} for task in (1, 2)]
        folder.write_tables(RunResult(MATRIX, tasks, list(capacity), list(pruning), list(measures)))
        folder.set_status("finished")
        return folder

    return make
