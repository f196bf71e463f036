"""A real Slurm on this machine: workers are preempted, cancelled and killed, and the grid ends complete."""

import json
import os
import re
import signal
import subprocess

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(slurm):
    """(command...) -> what a command of Slurm prints."""

    def run(*command):
        found = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=60)
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


@pytest.fixture
def cancel(slurm):
    """(arguments...) -> `scancel`, which is not waited for: it goes on asking while a job goes back into the queue."""
    begun = []

    def run(*arguments):
        begun.append(subprocess.Popen(["scancel", *arguments], env=slurm))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.wait()


@pytest.fixture
def at_work(tmp_path):
    """(worker) -> the process id of a worker that is at a run, once it is; else nothing."""

    def look(worker):
        for path in (tmp_path / "clbench-runs" / ".workers").glob(f"*/{worker}.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            begins = [line for line in lines if line.get("worker") == "began"]
            if begins and "run" in lines[-1] and "ended" not in lines[-1]:
                return begins[-1]["pid"]
        return None

    return look


def test_workers_that_are_preempted_cancelled_and_killed_leave_a_complete_grid_with_the_same_bits(
    slurm, ask, cancel, at_work, until, command, grid, digests, one_after_the_other, tmp_path
):
    options = [
        "--executor",
        "slurm",
        "--workers",
        "4",
        "--slurm",
        "timeout_min=30,mem_gb=1",
        "--slurm",
        "partition=debug",
    ]
    said = command(*grid, *options, env=slurm)
    assert "submitted 4 workers to Slurm" in said.stdout
    job = said.stdout.split("to Slurm: ")[1].partition("_")[0]
    names = [f"{job}_{number}" for number in range(4)]

    until(lambda: at_work(names[0]) and at_work(names[1]), 300, "two workers at work")
    # The first is told that its time is over. It goes back into the queue, where Slurm holds it for two minutes.
    asking = cancel("--signal=USR2", names[0])
    until(
        lambda: f"{names[0]}|PENDING" in ask("squeue", "-h", "--array", "-o", "%i|%T"), 90, "a worker that waits again"
    )
    asking.kill()
    cancel(names[1])
    assert "pending" in command("status", env=slurm).stdout
    until(lambda: at_work(names[2]), 300, "the third worker at work")
    os.kill(at_work(names[2]), signal.SIGKILL)
    until(lambda: names[2] not in ask("squeue", "-h", "--array", "-o", "%i"), 60, "the end of the third worker")

    table = command("status", env=slurm).stdout
    assert f"{names[1]}: cancelled, or preempted" in table
    assert f"{names[2]}: Slurm says failed; it did not say how it ended" in table
    ask("scontrol", "update", f"JobId={names[0]}", "StartTime=now")
    until(lambda: not ask("squeue", "-h").strip(), 300, "an empty queue")
    assert digests(tmp_path / "clbench-runs") == one_after_the_other

    logs = {path.stem: path.read_text() for path in (tmp_path / "clbench-runs" / ".workers").glob("*/*.jsonl")}
    assert logs[names[0]].count('"began"') == 2
    assert "it goes on when Slurm begins it anew" in logs[names[0]]
    assert "cancelled, or preempted" in logs[names[1]]

    # The same command brings MLflow up to date; nothing is trained again, nor submitted.
    again = command(*grid, *options, env=slurm)
    assert "submitted" not in again.stdout
    assert again.stdout.count("recorded before") == 18


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("partition=gpux", "Slurm takes no such job: .*invalid partition"),
        ("nonsense=3", "Slurm takes no such job: .*unrecognized option"),
        ("mem_gb=4000", "Slurm takes no such job: .*(Memory|configuration)"),
        ("nodes=2", "the option nodes of Slurm is set by clbench; give --workers"),
    ],
)
def test_what_slurm_refuses_is_said_in_one_sentence_and_nothing_is_submitted(options, said, slurm, ask, command, grid):
    found = command(*grid, "--executor", "slurm", "--slurm", options, env=slurm, code=2)
    assert found.stderr.count("\n") == 1
    assert re.search(said, found.stderr)
    assert ask("squeue", "-h") == ""
