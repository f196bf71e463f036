"""Tests of commands in processes of their own: how they are begun, and how their runs ended."""

import multiprocessing
import runpy
from functools import partial
from pathlib import Path

import pytest

from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths

start = runpy.run_path(str(Path(__file__).with_name("grids.py")))["start"]


@pytest.fixture(scope="module")
def processes():
    """Makes processes in which everything is imported already, and nothing was computed yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["clbench.cli.running", "clbench.runs.runner", "clbench.tracking", "mlflow", "sklearn.datasets"]
    )
    return context


@pytest.fixture
def command(processes):
    """(folder, methods, more arguments, tasks, output) -> a process that runs the grid of these methods in the folder.

    What it says goes to the output, said.txt in the folder if none is given.
    """
    return partial(start, processes)


@pytest.fixture
def outcomes(outcome_of):
    """(folder) -> by method, the outcome of its run there."""

    def read(place):
        paths = run_paths(place / "clbench-runs")
        return {read_run(path).method: outcome_of(RunFolder(path.parent, path.name)) for path in paths}

    return read
