"""Leases where the file system has no locks: a file stands for the lock, and says whose it is."""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import filelock
import pytest

from clbench.errors import RecordError
from clbench.records import lease
from clbench.records.folder import RunFolder
from clbench.records.lease import mount_of, why_files
from clbench.screen import Screen

ERRORS = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK]
# Takes the lease of a run where there are no locks, says so, and goes to sleep with it. Then it tries to write.
HOLDER = """
import errno, fcntl, sys
from pathlib import Path
def refuse(*_): raise OSError(int(sys.argv[3]), "no locks")
fcntl.flock = refuse
from clbench.errors import RecordError
from clbench.records import lease
from clbench.records.folder import RunFolder
if sys.argv[4:]:
    lease._SECONDS_BETWEEN_TOUCHES, lease._SECONDS_WITHOUT_TOUCH = map(float, sys.argv[4:])
folder = RunFolder(Path(sys.argv[1]), sys.argv[2])
with folder.lease() as is_ours:
    print(is_ours, flush=True)
    sys.stdin.readline()
    try:
        folder.write("a.txt", "written")
    except RecordError as error:
        print(error, flush=True)
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
    assert "has no locks" in why_files(tmp_path)
    folder = RunFolder(tmp_path, "abc")
    command = [sys.executable, "-W", "error", "-c", HOLDER, tmp_path, "abc", str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with folder.lease() as is_ours:
            assert not is_ours
        assert f"process {holder.pid} of the machine" in folder.holder
        holder.send_signal(signal.SIGKILL)
    with folder.lease() as is_ours:
        assert is_ours
    assert folder.holder == ""


@pytest.mark.parametrize(
    "exchanges", [pytest.param(True, id="local", marks=pytest.mark.long), pytest.param(False, id="as on NFS")]
)
def test_a_file_that_nobody_touches_is_taken_over_and_who_had_it_writes_no_more(
    exchanges, tmp_path, without_locks, monkeypatch
):
    without_locks()
    if not exchanges:
        # Network file systems cannot exchange two names.
        def refuse(*_):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        for module in (filelock._util, filelock._soft):
            monkeypatch.setattr(module, "exchange_names", refuse)
    # The same for all who watch a file.
    monkeypatch.setattr(lease, "_SECONDS_BETWEEN_TOUCHES", 0.2)
    monkeypatch.setattr(lease, "_SECONDS_WITHOUT_TOUCH", 1.0)
    folder = RunFolder(tmp_path, "abc")
    folder.path.mkdir()
    command = [sys.executable, "-c", HOLDER, tmp_path, "abc", str(errno.ENOLCK), "0.2", "1.0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        owner = tmp_path / ".leases" / "abc.owner"
        # As if it were a process of another machine, of which nobody here can tell whether it lives.
        owner.write_text(owner.read_text().replace(f"host={socket.gethostname()}", "host=node7"))
        with folder.lease(3.0) as is_ours:
            assert not is_ours
        holder.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 60
        with contextlib.ExitStack() as held:
            # As whoever waits for a run: look by look.
            while not held.enter_context(folder.lease(0.5)):
                assert time.monotonic() < until
            holder.send_signal(signal.SIGCONT)
            # At once, before the holder has noticed by itself.
            said, _ = holder.communicate("go on\n")
            assert "is left to another process" in said
            assert not folder.is_lost
            folder.write("b.txt", "ours")
    assert [path.name for path in folder.path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("nfs4", "rw,vers=4.2,local_lock=none", ""),
        ("nfs", "rw,nolock", "(nfs, nolock) keeps locks on one machine"),
        ("nfs4", "rw,local_lock=all", "(nfs4, local_lock=all) keeps locks on one machine"),
        ("lustre", "rw,flock", ""),
        ("lustre", "rw,localflock", "(lustre, localflock) keeps"),
        ("fuse.sshfs", "rw", "(fuse.sshfs) keeps"),
        ("beegfs", "rw", "(beegfs) keeps"),
        ("ext4", "rw", ""),
    ],
)
def test_where_locks_do_not_leave_the_machine_files_stand_for_them(kind, options, said, tmp_path, monkeypatch):
    table = tmp_path / "mounts"
    table.write_text(
        f"/dev/a / ext4 rw 0 0\nserver:/home {str(tmp_path).replace(' ', chr(92) + '040')} {kind} {options} 0 0\n"
    )
    assert mount_of(tmp_path / "runs", table) == (kind, options.split(","))
    assert mount_of(tmp_path.parent, table) == ("ext4", ["rw"])
    monkeypatch.setattr(lease, "mount_of", lambda folder: mount_of(folder, table))
    assert said in why_files(tmp_path)
    assert bool(said) == bool(why_files(tmp_path))


def test_a_mount_point_may_be_called_anything(tmp_path):
    place = tmp_path / "jürg's files"
    place.mkdir()
    table = tmp_path / "mounts"
    point = str(place).replace(" ", "\\040")
    table.write_text(f"/dev/a / ext4 rw 0 0\nserver:/home {point} nfs rw,nolock 0 0\n")
    assert mount_of(place, table) == ("nfs", ["rw", "nolock"])


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


SAID = (
    "the file clbench-runs/.leases/{}.owner says that process 123 of the machine node7 trains it; it is taken over "
    "once that process has not touched it for 120 seconds"
)
ELSEWHERE = "filelock/2\npid=123\nhost=node7\nmode=lease\ntoken=abc\nduration=120.0\n"


def test_a_file_that_another_machine_left_is_named_by_status_and_by_rm(
    clbench, assert_refused, recorded_run, write_run, tmp_path, without_locks
):
    without_locks()
    run = replace(recorded_run(), run_id="0123456789abcdef", status="running")
    folder = write_run(tmp_path / "clbench-runs", replace(run, config={**run.config, "run_id": run.run_id}))
    owner = folder.parent / ".leases" / f"{folder.name}.owner"
    owner.parent.mkdir()
    owner.write_text(ELSEWHERE)
    assert SAID.format(folder.name) in clbench(tmp_path, "status").out
    assert_refused(clbench(tmp_path, "rm", folder.name), "is being trained", SAID.format(folder.name))
    owner.unlink()
    assert "cut off" in clbench(tmp_path, "status").out


def test_a_command_that_waits_for_what_another_machine_left_names_the_file(run, place, without_locks, monkeypatch):
    without_locks()
    first = run(place, "--no-report")
    assert first.code == 0
    assert first.err.count("\n") == 1
    assert "file system of clbench-runs has no locks, so files in clbench-runs/.leases stand for locks" in first.err
    (status,) = (place / "clbench-runs").glob("*/status.json")
    shutil.rmtree(status.parent)
    owner = place / "clbench-runs" / ".leases" / f"{status.parent.name}.owner"
    owner.write_text(ELSEWHERE)
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
