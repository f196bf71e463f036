"""What a command does with an executor: it waits for Ray, and leaves the runs to Slurm."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.execution.grid import Executor
from clbench.execution.job import Job
from clbench.execution.on_ray import Ray
from clbench.execution.on_slurm import Slurm, in_queue
from clbench.execution.workers import all_submitted

if TYPE_CHECKING:
    from clbench.execution.invocation import Remembering
    from clbench.screen import Screen


@contextmanager
def ready(engine: Slurm | Ray | None, jobs: Sequence[Job]) -> Iterator[Executor | None]:
    """Within, what runs the jobs while this process stays; None for this machine.

    Raises:
        SettingError: if the cluster is not there, or has no room.
    """
    if isinstance(engine, Ray):
        with engine.ready(jobs[0].threads) as executor:
            yield executor
    else:
        yield None


def submit(engine: Slurm, jobs: Sequence[Job], remembering: "Remembering", screen: "Screen", uri: str) -> None:
    """Submits workers, and says how to see what becomes of them.

    Args:
        engine: where.
        jobs: the runs.
        remembering: remembers the command once its workers are submitted.
        screen: is told.
        uri: of the MLflow store that the runs are to be in.
    """
    output = jobs[0].output
    still = still_there(output)
    names = engine.submit(jobs)
    remembering.remember()
    screen.show(f"submitted {len(names)} worker{'' if len(names) == 1 else 's'} to Slurm: {', '.join(names)}")
    if still:
        screen.show(f"still there of earlier commands: {', '.join(still)}; all share the runs")
    folder = shlex.quote(str(output))
    screen.show(f"look:    clbench status --output {folder}")
    screen.show("stop:    scancel " + " ".join(dict.fromkeys(name.partition("_")[0] for name in names)))
    screen.show(f"then:    clbench sync --runs {folder} --tracking-uri {shlex.quote(uri)}")
    screen.show("         or the same command, which brings MLflow up to date and writes the report")


def still_there(output: Path) -> list[str]:
    """The workers of earlier commands that Slurm's queue still has."""
    found: list[str] = []
    for _, what in all_submitted(output):
        if what.get("engine") == "slurm":
            found += sorted(in_queue([str(name) for name in what.get("workers", [])]) or {})
    return found
