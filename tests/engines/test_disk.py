"""A real Slurm whose shared folder is full, while MLflow is down: the grid goes on once there is room."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for a few runs, and what makes it larger."""
    place = tmp_path / "shared"
    place.mkdir()
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    try:
        yield place, lambda: subprocess.run(["mount", "-o", "remount,size=50m", str(place)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_and_an_mlflow_that_is_down_cost_nothing_that_was_recorded(
    slurm, until, command, grid, digests, one_after_the_other, small_disk, tmp_path
):
    place, make_room = small_disk
    runs = place / "runs"
    nowhere = {**slurm, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    work = [*grid, "--output", runs, "--tracking-uri", "http://127.0.0.1:9", "--executor", "slurm", "--workers", "2"]

    def queue():
        asked = subprocess.run(["squeue", "-h"], env=slurm, capture_output=True, text=True, check=True, timeout=60)
        return asked.stdout.strip()

    command(*work, env=nowhere)
    until(lambda: not queue(), 200, "an empty queue")
    before = {run: ended for run, ended in digests(runs).items() if ended[0] == "finished"}
    assert 0 < len(before) < 18
    told = command("status", "--output", runs, env=slurm).stdout
    assert "No space left on device" in told

    make_room()
    again = command(*work, env=nowhere)
    assert "clbench sync" in again.stdout
    until(lambda: not queue(), 300, "an empty queue")
    assert digests(runs) == one_after_the_other
    assert before.items() <= one_after_the_other.items()

    synced = command("sync", "--runs", runs, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert "18 added" in synced.stdout
