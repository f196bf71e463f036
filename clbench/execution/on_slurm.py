"""Runs on a cluster with Slurm: the command submits jobs and ends. Each is a worker that takes runs until none is left.

Leases share the runs among the workers, as among commands in several terminals. So nothing is scheduled here, and a
worker that is lost leaves a run that another takes over. submitit writes the batch script. What became of a worker is
told by its log and by Slurm's queue, never by `sacct`, which many clusters lack.
"""

import contextlib
import difflib
import io
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clbench.errors import RecordError, SettingError, not_installed
from clbench.events import Event, Observers
from clbench.execution.grid import run_grid
from clbench.execution.here import here
from clbench.execution.job import Job
from clbench.execution.workers import WORKERS, Logbook, refuses, submitted
from clbench.records.folder import RunFolder

# What submitit calls otherwise than Slurm.
_OF_SUBMITIT = ("timeout_min", "mem_gb", "gpus_per_node")
# Those that are misspelt. Any other is handed on.
_KNOWN = (
    *_OF_SUBMITIT, "partition", "account", "qos", "constraint", "gres", "setup", "gpus_per_task", "gpus_per_socket",
    "gpus", "mem", "mem_per_cpu", "mem_per_gpu", "exclude", "nodelist", "reservation", "comment", "mail_type",
    "mail_user", "licenses", "dependency", "exclusive", "priority", "nice", "signal_delay_s", "srun_args", "use_srun",
    "stderr_to_stdout", "additional_parameters", "num_gpus", "cpus_per_gpu", "time_min", "begin", "requeue", "hold",
    "chdir", "export",
)  # fmt: skip
_NUMBERS = ("timeout_min", "mem_gb")
_INSTEAD = {
    **dict.fromkeys(("nodes", "tasks_per_node", "ntasks_per_node", "array", "array_parallelism"), "; give --workers"),
    "time": "; give timeout_min, in minutes",
    "cpus_per_task": "; give --threads",
    "name": "",
    "job_name": "",
}
# Before the time of a job is over, for the batch at hand.
_SECONDS_TO_STOP = 120
_MINUTES = 60
_SECONDS_FOR_ANSWER = 30.0
# What sbatch says where it finds no slurm.conf, and where slurmctld does not answer.
_NO_ANSWER = (
    "resolve_ctls_from_dns_srv",
    "fetch_config",
    "configuration file",
    "Unable to contact",
    "Socket timed out",
)
# What submitit raises for values that it cannot write into a script.
_WRONG = (ValueError, AssertionError, TypeError)


class Slurm:
    """Jobs of Slurm that train the runs of a command.

    Args:
        workers: how many jobs, at most. There are no more than runs.
        idle_min: minutes for which a worker that finds nothing to train waits for the others. It takes over runs that
            are cut off.
        options: of submitit or `sbatch`: `partition="gpu"`, `gpus_per_node=1`, `timeout_min=240`, `mem_gb=16`,
            `account=...`, `qos=...`, `constraint=...`.

    Raises:
        SettingError: for numbers that make no sense, and options that are ours to set.

    Example:
        clbench.run("split-cifar10", executor=clbench.Slurm(8, partition="gpu", gpus_per_node=1, timeout_min=240))
    """

    asks_for_gpus = "--slurm gpus_per_node=1"

    def __init__(self, workers: int = 1, *, idle_min: float = 10, **options: Any) -> None:
        if workers != int(workers) or workers < 1:
            raise SettingError(f"{workers} workers train nothing; expected a whole number, 1 or more")
        if not idle_min >= 0:
            raise SettingError(f"idle_min={idle_min} is no time to wait; expected minutes, 0 or more")
        for name, value in options.items():
            if name in _INSTEAD:
                raise SettingError(f"the option {name} of Slurm is set by clbench{_INSTEAD[name]}")
            if name not in _KNOWN and (near := difflib.get_close_matches(name, _KNOWN, 1, 0.85)):
                raise SettingError(f"no option {name} of Slurm is known; did you mean {near[0]}?")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name in _NUMBERS and not (is_number and value > 0):
                raise SettingError(f"{name}={value} is not understood; expected a number, such as {name}=240")
        self.workers, self.idle_min, self.options = workers, float(idle_min), options

    @property
    def gpus(self) -> float | None:
        """How many a run has; None for none."""
        asked = [self.options.get(name) or 0 for name in ("gpus_per_node", "gpus_per_task", "gpus")]
        if all(str(count) in ("0", "none") for count in asked) and "gpu" not in str(self.options.get("gres", "")):
            return None
        # A model and a number, such as a100:1, is taken for one.
        return float(asked[0]) if isinstance(asked[0], int) and asked[0] else 1.0

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submits workers for the runs, and returns their names, such as `12_0`.

        Args:
            jobs: the runs, at least one.

        Raises:
            SettingError: if submitit is not installed, this machine has no Slurm, or Slurm refuses.
            RecordError: if nothing can be written beside the runs.
        """
        try:
            import submitit
            from submitit.core.utils import FailedJobError, FailedSubmissionError
        except ImportError:
            raise not_installed("the executor slurm", "submitit", "slurm") from None
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise SettingError(
                "this machine has no sbatch and srun of Slurm; give the command on one that submits jobs, or leave out "
                "--executor slurm"
            )
        output = jobs[0].output.absolute()
        # Two commands may be given in the same second.
        folder = output / WORKERS / f"slurm-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        executor = submitit.AutoExecutor(
            folder=folder, cluster="slurm", slurm_max_num_timeout=0, slurm_python=shlex.quote(sys.executable)
        )
        # Those that are recorded need no worker.
        still = [job for job in jobs if RunFolder(output, job.run_id).status != "finished"]
        workers = min(self.workers, len(still))
        asked = {"engine": "slurm", "command": jobs[0].command, "runs": len(still)}
        mine = [replace(job, output=output) for job in still]
        worker = Worker(mine, workers, folder, self._minutes, self.idle_min * 60)
        try:
            folder.mkdir(parents=True)
            # A full disk shows before anything is submitted.
            submitted(folder, {**asked, "workers": []})
            executor.update_parameters(**self._parameters(jobs[0].threads))
            # What sbatch says is said once, by us.
            with contextlib.redirect_stderr(io.StringIO()):
                found = executor.map_array(worker, range(workers))
        except OSError as error:
            raise RecordError(f"{folder} cannot be written ({error.strerror}); give another --output") from None
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, *_WRONG) as error:
            # Nothing was submitted that it could tell of.
            shutil.rmtree(folder, ignore_errors=True)
            said = _said(error)
            if any(words in said for words in _NO_ANSWER):
                raise SettingError(
                    f"no cluster of Slurm answers here ({said}); give the command on a machine that submits jobs, or "
                    "leave out --executor slurm"
                ) from None
            raise SettingError(f"Slurm takes no such job: {said}") from None
        names = [str(job.job_id) for job in found]
        try:
            submitted(folder, {**asked, "workers": names})
        except RecordError as error:
            raise RecordError(f"{error}; the workers {', '.join(names)} are submitted, though") from None
        return names

    @property
    def _minutes(self) -> float:
        return float(self.options.get("timeout_min", _MINUTES))

    def _parameters(self, threads: int) -> dict[str, Any]:
        """What submitit is told."""
        from submitit.slurm.slurm import _get_default_parameters

        known = _get_default_parameters()
        found: dict[str, Any] = {
            "name": "clbench",
            "timeout_min": int(self._minutes),
            "cpus_per_task": threads,
            "slurm_signal_delay_s": _SECONDS_TO_STOP,
            "slurm_wckey": "clbench",
        }
        flags: dict[str, Any] = {"requeue": True}
        for name, value in self.options.items():
            if name == "gpus_per_node" and not isinstance(value, int):
                # A model and a number, such as a100:1.
                flags["gpus-per-node"] = value
            elif name in _OF_SUBMITIT:
                found[name] = value
            elif name == "setup":
                found["slurm_setup"] = [value] if isinstance(value, str) else list(value)
            elif name in known:
                found[f"slurm_{name}"] = value
            else:
                # Slurm knows more than submitit, and refuses by itself.
                flags[name] = value
        return {**found, "slurm_additional_parameters": flags}


def _said(error: Exception) -> str:
    """The last line of what sbatch says, without its own name."""
    text = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in (text.decode() if isinstance(text, bytes) else str(text)).splitlines()]
    said = [line for line in lines if line.startswith("sbatch: error:")] or [line for line in lines if line]
    return "; ".join(line.removeprefix("sbatch: error:").strip() for line in said[:2]) or type(error).__name__


class Worker:
    """What a job of Slurm does. It can be pickled.

    Args:
        jobs: all runs of the command.
        workers: how many there are.
        folder: of their logs.
        minutes: that Slurm gives a job.
        patience: seconds to wait for runs of other workers.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, folder: Path, minutes: float, patience: float) -> None:
        self.jobs, self.workers, self.folder = list(jobs), workers, folder
        self.minutes, self.patience = minutes, patience

    def __call__(self, number: int) -> str:
        """Trains what nobody else trains, and says how it ended."""
        began, name = time.monotonic(), _own_id()
        log = Logbook(self.folder, name)
        log.begin()
        # Each begins elsewhere, so that they do not all ask for the same lease.
        first = number * len(self.jobs) // self.workers
        jobs = [*self.jobs[first:], *self.jobs[:first]]
        asked = partial(refuses, self.folder, name)
        jobs = [replace(job, environment=None, refuses=asked) for job in jobs]
        told_to_go: list[int] = []

        def go(signal_number: int, frame: object) -> None:
            told_to_go.append(signal_number)
            # As after Ctrl-C: the batch is ended, whole tasks are recorded.
            signal.raise_signal(signal.SIGTERM)

        # Slurm sends it before a job's time is over, and some clusters before they preempt one.
        signal.signal(signal.SIGUSR2, go)
        try:
            outcome = run_grid(jobs, Observers(log, _Printed()), here, patience=self.patience)
        except KeyboardInterrupt:
            outcome = "stopped"
        except BaseException as error:
            log.end("failed", f"{type(error).__name__}: {error}")
            raise
        if outcome != "stopped":
            log.end(outcome)
        elif not told_to_go:
            log.end("stopped", "cancelled, or preempted by Slurm, which then begins it anew")
        elif time.monotonic() - began > 60 * self.minutes - 2 * _SECONDS_TO_STOP and not log.has_learned:
            log.end("stopped", f"no run came further in {self.minutes:g} minutes; give a longer timeout_min")
        else:
            log.end("stopped", GOES_ON)
            if said := _requeued(name):
                log.end("stopped", f"Slurm does not put it back into the queue ({said}); give the command again")
        return outcome


GOES_ON = "its time was over, or it was preempted; it goes on when Slurm begins it anew"


def _requeued(name: str) -> str:
    """Puts this worker back into the queue, which ends it. Why not, where that fails."""
    try:
        answer = _ask("scontrol", "requeue", name)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return _said(RuntimeError(answer.stderr)) if answer.returncode else ""


class _Printed:
    """Prints every event but progress into the worker's log of submitit."""

    def hear(self, event: Event) -> None:
        text = repr(event)
        if not text.startswith("Progressed"):
            print(text[:300], flush=True)


def _own_id() -> str:
    """Job and task of Slurm, such as `12_0`."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    """What a command of Slurm answers; OSError or TimeoutExpired where it cannot be asked."""
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_FOR_ANSWER, check=False)


def in_queue(names: Sequence[str]) -> Mapping[str, str] | None:
    """What Slurm's queue says of workers, such as `running` or `pending (Priority)`; without those it knows no more.

    None where the queue cannot be asked.
    """
    if not names:
        return {}
    masters = ",".join(dict.fromkeys(name.partition("_")[0] for name in names))
    try:
        answer = _ask("squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={masters}")
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Of a job that ended long ago it says that the id is invalid.
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    found = {}
    for line in answer.stdout.splitlines():
        name, state, why = [*line.split("|"), "", ""][:3]
        found[name] = state.lower() + (f" ({why})" if why not in ("", "None") and state == "PENDING" else "")
    return found


def last_state(name: str) -> str:
    """How Slurm says that a worker ended, such as `cancelled` or `out_of_memory`; empty once it has forgotten it."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        for word in _ask("scontrol", "--oneliner", "show", "job", name).stdout.split():
            if word.startswith("JobState="):
                return word.removeprefix("JobState=").lower()
    return ""
