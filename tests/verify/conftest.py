"""Tests of verifications: runs in their suite's own setting with what they reached, and the verdict on them."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench.methods.table import resolve_settings
from clbench.records.identity import settings_of
from clbench.records.reading import RecordedRun
from clbench.reports.verify import Verdict, verify
from clbench.suites.files import find_suite

PERMUTED_MNIST = runpy.run_path(str(Path(__file__).with_name("permuted_mnist.py")))
SUITE, capacity_of = (PERMUTED_MNIST[name] for name in ("SUITE", "capacity_of"))

MakeRun = Callable[..., RecordedRun]


@pytest.fixture(scope="session")
def own_run(recorded_run: MakeRun) -> MakeRun:
    """(method, seed, accuracy of all tasks, forgetting of the first, free neurons by layer, changes) -> a run.

    In the setting that its suite gives the method, unless the changes say otherwise.
    """

    def make(
        method: str,
        seed: int = 0,
        accuracy: float = 0.9,
        forgetting: float = 0.0,
        free: tuple[int, ...] = (),
        **changes: Any,
    ) -> RecordedRun:
        own = changes | {"run_id": changes.get("run_id", f"{method.replace(':', '-')}-{seed}")}
        suite = find_suite(own.get("suite", SUITE)).with_overrides(own.get("overrides", {}))
        run = recorded_run(method, seed, **settings_of(suite, resolve_settings(suite, method, {})) | own)
        matrix = np.full((suite.n_tasks + 1, suite.n_tasks), 0.2)
        matrix[np.tril_indices_from(matrix, -1)] = accuracy
        matrix[1:-1, 0] += forgetting
        return replace(run, accuracy_matrix=matrix, capacity=capacity_of(*free))

    return make


@pytest.fixture
def judge(own_run: MakeRun) -> Callable[..., Verdict]:
    """(method, accuracy of each seed, as for own_run) -> the verdict on these runs."""

    def of(method: str, *accuracies: float, **how: Any) -> Verdict:
        (verdict,) = verify(
            [own_run(method, seed, value, **how) for seed, value in enumerate(accuracies)], SUITE
        ).verdicts
        return verdict

    return of


@pytest.fixture(autouse=True)
def _own_environment(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
