"""A command with nothing left to do asks the store at a glance, and MLflow only where something is missing."""

import pytest

from clbench.baselines.naive import Naive
from clbench.errors import Interrupted
from clbench.records.reading import run_paths
from clbench.tracking.connection import open_client
from clbench.tracking.glance import holds_all, page_of
from clbench.tracking.tracker import Tracker

SUITE = "permuted-digits"

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture
def quick(run, place):
    """() -> the outcome of a small command in the test's folder; two seeds, no report."""
    return lambda: run(place, "--no-report", seeds="0-1")


@pytest.fixture
def uri(place):
    return f"sqlite:///{place}/mlflow.db"


def test_a_grid_that_is_recorded_everywhere_opens_no_store(quick, monkeypatch):
    assert quick().code == 0
    monkeypatch.setattr(Tracker, "__init__", lambda *args: pytest.fail("it was opened"))
    again = quick()
    assert (again.code, again.err) == (0, "")
    assert again.out.count("recorded before") == 2


def test_what_the_store_lacks_is_restored(quick, uri, place):
    assert quick().code == 0
    ids = [path.name for path in run_paths(place / "clbench-runs")]
    client = open_client(uri, 30.0)
    experiment = client.get_experiment_by_name(SUITE).experiment_id
    (lost,) = client.search_runs([experiment], f"tags.`clbench.run_id` = '{ids[0]}'")
    assert holds_all(uri, SUITE, ids)
    client.delete_run(lost.info.run_id)
    assert not holds_all(uri, SUITE, ids)
    assert holds_all(uri, SUITE, ids[1:])
    assert quick().code == 0
    assert holds_all(uri, SUITE, ids)


def test_a_stopped_run_and_a_command_that_was_left_open_are_not_whole(quick, uri, place, monkeypatch):
    def stop(method, task):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(Naive, "learn", stop)
        assert quick().code == 130
    ids = [path.name for path in run_paths(place / "clbench-runs")]
    assert not holds_all(uri, SUITE, ids)
    assert quick().code == 0
    client = open_client(uri, 30.0)
    experiment = client.get_experiment_by_name(SUITE).experiment_id
    assert holds_all(uri, SUITE, ids)
    client.create_run(experiment, tags={"clbench.kind": "invocation", "clbench.command": "clbench run"})
    assert not holds_all(uri, SUITE, ids)


def test_what_cannot_be_read_at_a_glance_is_left_to_mlflow(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    for uri in (f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/absent.db", "http://127.0.0.1:9"):
        assert not holds_all(uri, SUITE, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db"]


def test_the_page_of_a_suite_is_the_one_that_mlflow_shows_training_on(run, place):
    outcome = run(place, "--no-report")
    page = page_of(f"sqlite:///{place / 'mlflow.db'}", "permuted-digits")
    assert page == "http://127.0.0.1:5000/#/experiments/1?workflowType=machine_learning"
    assert outcome.out.splitlines()[-1].split() == ["then", "open", page]
    assert page_of(f"sqlite:///{place / 'mlflow.db'}", "no-such") == ""
    assert page_of("http://127.0.0.1:1", "permuted-digits") == ""
