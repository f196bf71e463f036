"""MLflow entries that the user removed, and stores whose folder was moved, renamed or copied."""

import shutil

import pytest

from clbench.records.reading import run_paths
from clbench.tracking.connection import open_client
from clbench.tracking.moved import follow

SUITE = "permuted-digits"


@pytest.fixture(autouse=True)
def _own_environment(own_environment):
    pass


@pytest.fixture
def client_of():
    """(folder) -> a client of the store there."""
    return lambda folder: open_client(f"sqlite:///{folder / 'mlflow.db'}", 30)


@pytest.fixture
def old(run, make_store, tmp_path):
    """A folder with a recorded run, in MLflow as well."""
    folder = make_store(tmp_path / "old")
    assert run(folder, "--no-report").code == 0
    return folder


def runs_of(client):
    """MLflow's invocations, and its runs of ours."""
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    above = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return above, [run for run in found if run not in above]


def artifacts_of(folder):
    """The run folders among MLflow's artifacts beside a store."""
    return {path.parents[1].name for path in (folder / "mlartifacts").glob("*/artifacts/config.json")}


def test_a_folder_that_was_moved_is_reported_synced_and_gone_on_with_where_it_is(run, clbench, client_of, old):
    new = old.rename(old.with_name("new place"))
    reported = clbench(new, "report", "--suite", SUITE, "-q")
    assert (reported.code, reported.err) == (0, "")
    assert "0 added, 0 completed, 1 up to date" in clbench(new, "sync").out
    assert run(new, "-q", seeds="1").code == 0
    _, runs = runs_of(client_of(new))
    assert artifacts_of(new) == {each.info.run_id for each in runs}
    assert len(runs) == 2
    assert not old.exists()


def test_a_folder_that_was_copied_has_artifacts_of_its_own(run, clbench, old):
    new = old.with_name("new")
    shutil.copytree(old, new)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert run(new, "--no-report", seeds="1").code == 0
    assert clbench(new, "report", "--suite", SUITE, "-q").code == 0
    assert len(artifacts_of(new)) == 2
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_places_that_the_user_chose_for_artifacts_stay(place, client_of, tmp_path):
    client = client_of(place)
    chosen = {
        "by name": (tmp_path / "gone" / "files").as_uri(),
        "elsewhere": (tmp_path / "shared" / "mlartifacts").as_uri(),
        "on a server": "mlflow-artifacts:/mlartifacts",
        "in a bucket": "s3://bucket/mlartifacts",
    }
    (tmp_path / "shared" / "mlartifacts").mkdir(parents=True)
    for name, location in chosen.items():
        client.create_experiment(name, artifact_location=location)
    follow(place / "mlflow.db", place / "mlartifacts")
    found = {each.name: each.artifact_location for each in client_of(place).search_experiments()}
    assert {name: found[name] for name in chosen} == chosen


def test_files_that_were_removed_from_mlflow_are_restored_by_sync(clbench, client_of, assert_refused, old):
    (folder,) = run_paths(old / "clbench-runs")
    lost = next((old / "mlartifacts").glob("*/artifacts/tasks.csv"))
    lost.unlink()
    assert_refused(clbench(old, "report", "--suite", SUITE, "-q"), "`clbench sync`", "--runs clbench-runs")
    assert "0 added, 1 completed, 0 up to date" in clbench(old, "sync").out
    assert lost.read_bytes() == (folder / "tasks.csv").read_bytes()
    shutil.rmtree(old / "mlartifacts")
    assert "0 added, 1 completed, 0 up to date" in clbench(old, "sync").out
    assert clbench(old, "report", "--suite", SUITE, "-q").code == 0
    assert "0 added, 0 completed, 1 up to date" in clbench(old, "sync").out


@pytest.mark.parametrize("for_ever", [False, True])
def test_a_run_whose_invocation_was_removed_gets_one_anew_from_sync(clbench, client_of, old, for_ever):
    client = client_of(old)
    (above,), (run,) = runs_of(client)
    client.delete_run(above.info.run_id)
    if for_ever:
        # What `mlflow gc` does.
        client._tracking_client.store._hard_delete_run(above.info.run_id)
    outcome = clbench(old, "sync")
    assert (outcome.code, outcome.err) == (0, "")
    (anew,), (same,) = runs_of(client)
    assert (same.info.run_id, same.data.metrics) == (run.info.run_id, run.data.metrics)
    assert same.data.tags["mlflow.parentRunId"] == anew.info.run_id != above.info.run_id
    assert anew.info.status == "FINISHED"
    assert "seed 0 |" in anew.data.tags["mlflow.note.content"]
    assert "0 added, 0 completed, 1 up to date" in clbench(old, "sync").out
