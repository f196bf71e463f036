"""Tests of MLflow: no settings of the user's, runs without reports, and how long a contact with a store takes."""

import time

import pytest

from clbench.tracking import connection, tracker


@pytest.fixture(autouse=True)
def _own_environment(own_environment):
    pass


@pytest.fixture(scope="session")
def run(run):
    """As everywhere, but without a report unless asked for."""

    def execute(folder, *arguments, reported=False, **how):
        return run(folder, *([] if reported else ["--no-report"]), *arguments, **how)

    return execute


@pytest.fixture
def waits(monkeypatch):
    """How many seconds each contact with the store held the run up."""
    found, within = [], connection.within

    def measured(seconds, work):
        start = time.monotonic()
        try:
            return within(seconds, work)
        finally:
            found.append(time.monotonic() - start)

    for module in (connection, tracker):
        monkeypatch.setattr(module, "within", measured)
    return found
