"""`clbench rm`: what it removes, and what it refuses."""

import pytest

from clbench.records.folder import RunFolder
from clbench.records.reading import read_runs
from clbench.tracking.connection import open_client

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture
def recorded(run, place):
    """A folder with three recorded runs; their ids by seed."""
    done = run(place, "--no-report", seeds="0-2")
    assert done.code == 0, done.err
    return {found.seed: found.run_id for found in read_runs(place / "clbench-runs")}


def entries(place):
    client = open_client(f"sqlite:///{place}/mlflow.db", 30.0)
    experiments = [each.experiment_id for each in client.search_experiments()]
    found = client.search_runs(experiments, "tags.`clbench.run_id` != ''")
    return {entry.data.tags["clbench.run_id"] for entry in found}


def test_removed_runs_are_gone_from_folder_and_store_and_can_be_trained_again(clbench, run, place, recorded):
    aside = place / "clbench-runs" / f"{recorded[1]}.unfinished-1"
    aside.mkdir()
    done = clbench(place, "rm", recorded[0], recorded[1][:6])
    assert done.code == 0, done.err
    assert f"removed {recorded[0]}, {recorded[1]} from clbench-runs, and 2 of their entries" in done.out
    assert [found.seed for found in read_runs(place / "clbench-runs")] == [2]
    assert not aside.exists()
    assert entries(place) == {recorded[2]}
    again = run(place, "--no-report", seeds="0")
    assert again.code == 0
    assert "recorded before" not in again.out
    assert entries(place) == {recorded[0], recorded[2]}


def test_a_run_in_training_is_refused_and_nothing_is_removed(clbench, place, recorded, assert_refused):
    with RunFolder(place / "clbench-runs", recorded[1]).lease() as is_ours:
        assert is_ours
        refused = clbench(place, "rm", recorded[0], recorded[1])
    assert_refused(refused, f"the run {recorded[1]} is being trained; stop its command first")
    assert len(read_runs(place / "clbench-runs")) == 3
    assert entries(place) == set(recorded.values())


def test_what_names_no_run_or_several_is_refused(clbench, place, recorded, write_run, recorded_run, assert_refused):
    for other in ("abcd1", "abcd2"):
        write_run(place / "clbench-runs", recorded_run(run_id=other))
    for given, said in (
        ("0000", "holds no run '0000'"),
        ("abc", "at least its first 4 digits"),
        ("", "holds no run"),
        ("abcd", "'abcd' is the beginning of abcd1 and of abcd2; give more digits"),
    ):
        assert_refused(clbench(place, "rm", recorded[0], given), said)
    assert_refused(clbench(place, "rm", recorded[0], "--output", "nowhere"), "there is no folder nowhere")
    assert len(read_runs(place / "clbench-runs")) == 5


def test_without_a_store_the_folders_go_alone(clbench, place, recorded):
    (place / "mlflow.db").unlink()
    done = clbench(place, "rm", recorded[0])
    assert done.code == 0, done.err
    assert "0 of their entries" in done.out
    assert not (place / "mlflow.db").exists()
