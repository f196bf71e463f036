"""The grid of runs, one after the other or several at once; whatever happens to one is recorded, the others go on."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from clbench.events import Observer, Outcome, Over, Planned, Said, Waiting, Warned
from clbench.execution.here import here
from clbench.execution.job import Job, Status
from clbench.execution.processes import processes
from clbench.execution.signals import Stop, stopping_on_signals
from clbench.records.folder import RunFolder
from clbench.records.lease import without_locks

Executor = Callable[[Sequence[Job], Observer, Stop, float], Iterator[tuple[Job, Status]]]
"""Runs jobs: gives each with how it ended, in the order in which they end, until `Stop` is set.

Arguments are the jobs, who hears of their events, what asks them to stop, and for how many seconds to wait for a run
that another command trains before it is given back as `elsewhere`.
"""

# Between two looks at a run that another command trains.
_SECONDS_TO_WAIT = 1.0


def run_grid(
    jobs: Sequence[Job], observer: Observer, executor: Executor | None = None, patience: float = math.inf
) -> Outcome:
    """Runs everything; `failed` if some run failed, `stopped` after Ctrl-C.

    Runs that another command is training are left to it; when nothing else is to do, we wait for them, and take over
    what such a command leaves unfinished.

    Args:
        jobs: of one command on one suite; at least one.
        observer: hears of everything.
        executor: None for this process, or for processes where the jobs say `at_once`.
        patience: seconds to wait for runs that other commands train, while nothing else is to do.
    """
    first, stop = jobs[0], Stop()
    run = executor or (here if first.at_once == 1 else partial(processes, at_once=first.at_once))
    suite = first.spec.suite
    outcome: Outcome = "failed"
    observer.hear(
        Planned(suite.name, suite.title, first.command, tuple(job.listed for job in jobs), first.spec.measured_on)
    )
    if said := without_locks(first.output):
        observer.hear(Warned(said))
    try:
        with stopping_on_signals(stop):
            outcome = _until_none_is_elsewhere(jobs, observer, run, stop, patience)
    except KeyboardInterrupt:
        outcome = "stopped"
        raise
    finally:
        observer.hear(Over(outcome))
    return outcome


def _until_none_is_elsewhere(
    jobs: Sequence[Job], observer: Observer, run: Executor, stop: Stop, patience: float
) -> Outcome:
    outcome: Outcome = "finished"
    waiting, wait, since = list(jobs), 0.0, time.monotonic()
    while waiting:
        elsewhere = []
        for job, status in run(waiting, observer, stop, wait):
            if status == "elsewhere":
                elsewhere.append(job)
                continue
            since = time.monotonic()
            if status == "stopped" or (status == "failed" and outcome == "finished"):
                outcome = status
        if outcome == "stopped" or (elsewhere and stop.is_set()):
            return "stopped"
        if time.monotonic() - since > patience:
            return outcome
        if elsewhere and wait == 0:
            observer.hear(Waiting(len(elsewhere)))
            for job in elsewhere:
                if holder := RunFolder(job.output, job.run_id).holder:
                    observer.hear(Said(job.run_id, f"waits: {holder}"))
        waiting, wait = elsewhere, _SECONDS_TO_WAIT
    return outcome
