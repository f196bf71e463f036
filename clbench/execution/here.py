"""Runs one after the other, in this process."""

from collections.abc import Iterator, Sequence

from clbench.events import Observer
from clbench.execution.job import Job, Status
from clbench.execution.signals import Stop


def here(jobs: Sequence[Job], observer: Observer, stop: Stop, patience: float) -> Iterator[tuple[Job, Status]]:
    """An executor, see `grid.Executor`."""
    for job in jobs:
        status: Status = "stopped"
        if not stop.is_set():
            status = job.run(observer.hear, stop.is_set, patience)
        yield job, status
        if status == "stopped":
            return
