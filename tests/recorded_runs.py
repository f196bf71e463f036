"""Fixtures for `conftest.py`: runs recorded by hand, and the folders that `clbench run` would write of them."""

import numpy as np
import pandas as pd
import pytest

from clbench.records.folder import RunFolder
from clbench.records.format import (
    CAPACITY_COLUMNS,
    FORMAT,
    MEASURES_COLUMNS,
    PRUNING_COLUMNS,
    TASK_COLUMNS,
    capacity_table,
)
from clbench.records.reading import RecordedRun
from clbench.records.result import result_of


@pytest.fixture(scope="session")
def recorded_run():
    """(method, seed, accuracy, changes) -> a finished run of permuted-mnist that nobody trained."""

    def make(method: str = "naive", seed: int = 0, accuracy: float = 0.9, **changes) -> RecordedRun:
        """Two tasks whose final average accuracy is `accuracy`; `changes` go into the config."""
        matrix = np.array([[0.1, 0.1], [0.95, 0.2], [accuracy - 0.05, accuracy + 0.05]])
        numbers = {"train_seconds": 10.0, "train_images_per_second": 5000.0, "eval_seconds": 1.0}
        memory = {"peak_memory_bytes": 2.0**30, "extra_state_bytes": 40000}
        tasks = pd.DataFrame([{"task": task, **numbers, **memory} for task in (1, 2)], columns=list(TASK_COLUMNS))
        config = {
            "format": FORMAT,
            "run_id": f"{method[:3]}{seed}",
            "suite": "permuted-mnist",
            "title": "Permuted MNIST",
            "method": method,
            "seed": seed,
            "modified": False,
            "overrides": {},
            "suite_settings": {"n_tasks": 2, "scenario": "permuted", "hidden_sizes": [20, 20], "epochs": 5},
            "method_settings": {},
            "task_known_at_test": False,
            "precision": "float32",
            "device": "cpu",
            "threads": 1,
            "data": {"source": "made up", "sha256": "ab" * 32, "train_images": 60000, "test_images": 10000},
            "versions": {"python": "3.11.0", "torch": "2.9.0", "clbench": "0.1.0"},
            "git_commit": "0123abc",
            "git_dirty": False,
            "command": f"clbench run --method {method} --seed {seed}",
            "host": "here",
        }
        config.update(changes)
        return RecordedRun(
            run_id=config["run_id"],
            status="finished",
            config=config,
            environment="",
            accuracy_matrix=matrix,
            tasks=tasks,
            capacity=pd.DataFrame(columns=list(CAPACITY_COLUMNS)),
            pruning=pd.DataFrame(columns=list(PRUNING_COLUMNS)),
            measures=pd.DataFrame(columns=list(MEASURES_COLUMNS)),
            started=f"2025-01-01T0{seed % 10}:00:00+00:00",
            ended=f"2025-01-01T0{seed % 10}:30:00+00:00",
        )

    return make


@pytest.fixture(scope="session")
def counted():
    """(rows) -> a capacity table of (task, group, unit, units, free, new, reused, threshold, margin_spent)."""

    def make(rows) -> pd.DataFrame:
        names = ("task", "group", "unit", "units", "free", "new", "reused", "threshold", "margin_spent")
        named = [dict(zip(names, row, strict=False)) for row in rows]
        return capacity_table(named).reindex(columns=list(CAPACITY_COLUMNS))

    return make


@pytest.fixture(scope="session")
def recorded_seeds(recorded_run):
    """(method, accuracy of each seed, changes) -> runs as of `recorded_run`, with the seeds 0, 1, ..."""

    def make(method: str, *accuracies: float, **changes) -> list[RecordedRun]:
        return [recorded_run(method, seed, accuracy, **changes) for seed, accuracy in enumerate(accuracies)]

    return make


@pytest.fixture(scope="session")
def write_run():
    """(root, run) -> the run's folder below `root`, written as `clbench run` would."""

    def write(root, run: RecordedRun):
        root.mkdir(exist_ok=True)
        folder = RunFolder(root, run.run_id)
        folder.begin(run.config, run.environment, run.files)
        if run.samples:
            folder.write_bytes("samples.png", run.samples)
        folder.write_tables(result_of(run))
        folder.set_status(run.status, run.reason)
        return folder.path

    return write
