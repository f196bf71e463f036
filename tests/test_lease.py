"""Leases where the file system has no locks: a file stands for the lock, and says whose it is."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.lease import has_locks
from clbench.screen import Screen

ERRORS = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK]
# Takes the lease of a run where there are no locks, says so, and goes to sleep with it.
HOLDER = """
import errno, fcntl, signal, sys
from pathlib import Path
def refuse(*_): raise OSError(int(sys.argv[3]), "no locks")
fcntl.flock = refuse
from clbench.records.folder import RunFolder
with RunFolder(Path(sys.argv[1]), sys.argv[2]).lease() as is_ours:
    print(is_ours, flush=True)
    signal.pause()
"""


@pytest.fixture
def without_locks(monkeypatch):
    """(number of the error) -> this process finds no locks on any file system."""

    def arrange(number=errno.ENOLCK):
        def refuse(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)

    return arrange


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", ERRORS)
def test_without_locks_a_lease_is_held_by_one_process_and_ends_with_it(number, tmp_path, without_locks):
    without_locks(number)
    assert not has_locks(tmp_path)
    folder = RunFolder(tmp_path, "abc")
    command = [sys.executable, "-W", "error", "-c", HOLDER, tmp_path, "abc", str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with folder.lease() as is_ours:
            assert not is_ours
        assert f"process {holder.pid} of the machine" in folder.holder
        holder.send_signal(signal.SIGKILL)
    with folder.lease() as is_ours:
        assert is_ours
    assert folder.holder == ""


def test_a_lease_that_was_let_go_where_there_are_locks_is_free_where_there_are_none(tmp_path, without_locks):
    with RunFolder(tmp_path, "abc").lease() as is_ours:
        assert is_ours
    without_locks()
    with RunFolder(tmp_path, "abc").lease() as is_ours:
        assert is_ours


def test_another_fault_of_the_file_system_is_said_with_the_way_out(tmp_path, without_locks):
    without_locks(errno.EIO)
    with (
        pytest.raises(RecordError, match=r"abc\.lock cannot be taken \(Input/output error\); .* another --output"),
        RunFolder(tmp_path, "abc").lease(),
    ):
        pass


SAID = "the file clbench-runs/.leases/{}.owner says that process 123 of the machine node7 trains it; remove the file"


def test_a_file_that_another_machine_left_is_named_by_status_and_by_rm(
    clbench, assert_refused, recorded_run, write_run, tmp_path, without_locks
):
    without_locks()
    run = replace(recorded_run(), run_id="0123456789abcdef", status="running")
    folder = write_run(tmp_path / "clbench-runs", replace(run, config={**run.config, "run_id": run.run_id}))
    owner = folder.parent / ".leases" / f"{folder.name}.owner"
    owner.parent.mkdir()
    owner.write_text("123\nnode7\n")
    assert SAID.format(folder.name) in clbench(tmp_path, "status").out
    assert_refused(clbench(tmp_path, "rm", folder.name), "is being trained", SAID.format(folder.name))
    owner.unlink()
    assert "cut off" in clbench(tmp_path, "status").out


def test_a_command_that_waits_for_what_another_machine_left_names_the_file(run, place, without_locks, monkeypatch):
    without_locks()
    first = run(place, "--no-report")
    assert first.code == 0
    assert first.err.count("\n") == 1
    assert "the file system of clbench-runs has no locks, so files in clbench-runs/.leases stand for them" in first.err
    (status,) = (place / "clbench-runs").glob("*/status.json")
    shutil.rmtree(status.parent)
    owner = place / "clbench-runs" / ".leases" / f"{status.parent.name}.owner"
    owner.write_text("123\nnode7\n")
    warn = Screen.warn

    def remove_when_named(screen, text):
        warn(screen, text)
        if owner.name in text:
            owner.unlink()

    monkeypatch.setattr(Screen, "warn", remove_when_named)
    again = run(place, "--no-report")
    assert again.code == 0
    assert again.err.count(SAID.format(status.parent.name)) == 1
    assert status.exists()
