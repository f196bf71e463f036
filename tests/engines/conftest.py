"""A real Slurm on this machine: munged, slurmctld and slurmd on loopback, started for the tests, ended after them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")

CONF = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={port_of_node}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ReturnToService=2
MinJobAge=300
KillWait=20
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def waits(true, seconds, what):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what} did not come true in {seconds} seconds"
        time.sleep(0.2)


@pytest.fixture
def until():
    """(condition, seconds, what) waits for something that it names if it does not come true."""
    return waits


# Eighteen runs that take a minute on one processor, every one of them seconds.
GRID = ["run", "--suite", "permuted-digits", "--methods", "naive,ewc,si,psp,clnp,packnet", "--seeds", "0-2"]
GRID += ["--threads", "1", "--set=n_tasks=3", "--set=epochs=40", "--set=hidden_sizes=50,50", "--no-report", "--offline"]


@pytest.fixture(scope="session")
def grid():
    """The arguments of a command with eighteen runs."""
    return list(GRID)


@pytest.fixture
def command(tmp_path):
    """(arguments, environment) -> the command `clbench` in a process of its own, which has ended."""

    def run(*arguments, env=None, code=0):
        found = subprocess.run(
            [sys.executable, "-m", "clbench", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **(env or {}), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert found.returncode == code, found.stderr
        return found

    return run


def weights(folder):
    """By run id how it ended and the digest of what it learned."""
    found = {}
    for path in folder.glob("*/status.json"):
        if ".unfinished" not in path.parent.name:
            status = json.loads(path.read_text())
            found[path.parent.name] = (status["status"], status.get("weights_sha256"))
    return found


@pytest.fixture(scope="session")
def digests():
    """(folder of runs) -> by run id how it ended and the digest of what it learned."""
    return weights


@pytest.fixture(scope="session")
def one_after_the_other(tmp_path_factory):
    """What the grid learns without any executor."""
    place = tmp_path_factory.mktemp("alone")
    subprocess.run(
        [sys.executable, "-m", "clbench", *GRID],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=900,
    )
    found = weights(place / "clbench-runs")
    assert len(found) == 18
    assert {status for status, _ in found.values()} == {"finished"}
    return found


@pytest.fixture(scope="session")
def slurm():
    """Environment variables with which Slurm's commands find the cluster on this machine: a node of two processors."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(
            f"Slurm is not installed ({', '.join(missing)}); apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.geteuid():
        pytest.skip("slurmd needs root")
    place = Path(tempfile.mkdtemp(prefix="clbench-slurm-", dir="/tmp"))
    place.chmod(0o755)
    (place / "state").mkdir()
    (place / "spool").mkdir()
    key = place / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = {"port": free_port(), "port_of_node": free_port()}
    host = socket.gethostname().partition(".")[0]
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(host=host, place=place, user="root", **ports))
    env = {**os.environ, "SLURM_CONF": str(conf)}
    pids = [place / f"{name}.pid" for name in ("slurmd", "slurmctld", "munged")]
    try:
        munged = ["munged", "--force", f"--socket={place}/munge.socket", f"--key-file={key}", f"--pid-file={pids[2]}"]
        munged += [f"--log-file={place}/munged.log", f"--seed-file={place}/munged.seed"]
        subprocess.run(munged, check=True, capture_output=True)
        subprocess.run(["slurmctld"], check=True, env=env, capture_output=True)
        subprocess.run(["slurmd"], check=True, env=env, capture_output=True)

        def is_up():
            asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False)
            return asked.stdout.strip() in ("idle", "idle*")

        waits(is_up, 60, f"a node of Slurm that is idle ({place}/slurmctld.log)")
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, capture_output=True, check=False, timeout=30)
        ended = []
        for path in pids:
            with suppress(OSError, ValueError):
                ended.append(int(path.read_text()))
                os.kill(ended[-1], signal.SIGTERM)
        waits(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ended), 60, "the end of Slurm")
        shutil.rmtree(place, ignore_errors=True)
