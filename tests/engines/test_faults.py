"""Many commands on one folder without locks of the kernel, and kills at any instant: nothing is lost."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# The command on a file system without locks.
WITHOUT_LOCKS = """
import errno, fcntl
def refuse(*_): raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = refuse
from clbench.cli import main
main()
"""
KILLS = int(os.environ.get("CLBENCH_KILLS", "5"))


@pytest.fixture
def begin(tmp_path):
    """(arguments, with locks) -> a command in a process of its own, which goes on."""
    begun = []

    def start(arguments, *, locks=True):
        how = ["-m", "clbench"] if locks else ["-c", WITHOUT_LOCKS]
        begun.append(
            subprocess.Popen(
                [sys.executable, *how, *arguments],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def test_eight_commands_on_one_folder_without_locks_train_every_run_once(
    begin, grid, digests, one_after_the_other, tmp_path
):
    stores = [f"--tracking-uri=sqlite:///{tmp_path}/store-{number}.db" for number in range(8)]
    commands = [begin([*grid, store], locks=False) for store in stores]
    said = [command.communicate(timeout=500)[0] for command in commands]
    assert [command.returncode for command in commands] == [0] * 8, said
    assert digests(tmp_path / "clbench-runs") == one_after_the_other
    # Each run ended as trained in one command, and as recorded before in the others.
    assert "".join(said).count(": finished\n") == 18
    assert not list((tmp_path / "clbench-runs").glob("*.unfinished*"))


def test_a_command_that_is_killed_at_any_instant_goes_on_to_the_same_bits(
    begin, command, grid, digests, one_after_the_other, tmp_path
):
    chance = random.Random(1)
    for _ in range(KILLS):
        process = begin(grid)
        time.sleep(chance.uniform(0.5, 12))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    command(*grid)
    assert digests(tmp_path / "clbench-runs") == one_after_the_other


def test_a_cluster_that_asks_for_a_token_says_what_it_needs_and_gets_it(until, command, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'clbench[ray]'")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    env = {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    begin = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    # A path of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="clbench-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        begin += ["--include-dashboard=false", f"--temp-dir={folder}"]
        head = subprocess.Popen(begin, env={**os.environ, **env}, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            until(lambda: is_open(port), 60, "a cluster")
            arguments = ["run", "--suite", "permuted-digits", "--methods", "naive", "--seeds", "0", "--threads", "1"]
            arguments += ["--set=n_tasks=2", "--set=epochs=1", "--no-report", "--executor", "ray"]
            arguments += ["--ray-address", f"127.0.0.1:{port}"]
            refused = command(*arguments, env=env, code=2).stderr
            assert refused.endswith("; one that asks for a token needs RAY_AUTH_MODE=token\n")
            said = command(*arguments, env={**env, "RAY_AUTH_MODE": "token"})
            assert "naive seed 0: finished" in said.stdout
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            head.wait(60)


def is_open(port):
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0
