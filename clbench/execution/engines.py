"""What a command does with an executor: it waits for Ray, and leaves the runs to Slurm."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.execution.grid import Executor
from clbench.execution.job import Job
from clbench.execution.on_ray import Ray
from clbench.execution.on_slurm import Slurm, in_queue, last_state
from clbench.execution.workers import Told, all_submitted, told

if TYPE_CHECKING:
    from clbench.execution.invocation import Remembering
    from clbench.screen import Screen


@contextmanager
def ready(engine: Slurm | Ray | None, threads: int) -> Iterator[Executor | None]:
    """Within, what runs jobs while this process stays; None for this machine.

    Args:
        engine: where.
        threads: of the CPU, for each run.

    Raises:
        SettingError: if the cluster is not there, or has no room.
    """
    if isinstance(engine, Ray):
        with engine.ready(threads) as executor:
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


def show_workers(output: Path, screen: "Screen") -> bool:
    """Shows how the workers of clusters stand that have not all ended well; whether there are any.

    Of earlier commands only those that the queue still has.
    """
    from rich.table import Table
    from rich.text import Text

    table, reasons = Table(box=None, pad_edge=False), []
    for name in ("worker", "state", "run"):
        table.add_column(name, overflow="fold")
    commands = all_submitted(output)
    for number, (folder, what) in enumerate(commands, start=1):
        standing = [_standing(each, queue, folder) for queue, each in _workers(folder, what)]
        is_last = number == len(commands) and any(state != "finished" for _, state, _, _ in standing)
        for row in standing:
            if is_last or row[1].startswith(_IN_QUEUE):
                table.add_row(*map(Text, row[:3]))
                reasons += [f"{row[0]}: {row[3]}"] if row[3] else []
    if table.row_count:
        screen.show(table)
    for reason in reasons:
        screen.show(reason)
    return bool(table.row_count)


_IN_QUEUE = ("running", "pending", "completing", "configuring", "suspended", "requeued", "not known")


def _workers(folder: Path, what: Mapping[str, Any]) -> Iterator[tuple[str, Told]]:
    """Each worker of a command: what the queue says of it, and what it told itself."""
    names = [str(name) for name in what.get("workers", [])]
    queue = in_queue(names)
    logs = {each.name: each for each in told(folder)}
    for name in names:
        yield "not known" if queue is None else queue.get(name, ""), logs.get(name) or Told(name)


def _standing(worker: Told, queue: str, folder: Path) -> tuple[str, str, str, str]:
    """Name, state, run and detail of a worker."""
    run = f"{worker.run} after {worker.learned} tasks" if worker.run else ""
    log = f"see {folder / worker.name}_0_log.err"
    if queue and queue != "not known":
        return worker.name, queue, run, f"on {worker.host}" if queue == "running" and worker.host else ""
    if worker.ended:
        return worker.name, worker.ended, run, worker.reason
    if queue:
        return worker.name, queue, run, "Slurm cannot be asked here"
    end = last_state(worker.name)
    if end == "cancelled" and not worker.began:
        return worker.name, end, run, "before it began"
    how = f"Slurm says {end}" if end else "Slurm has forgotten it"
    return worker.name, "gone", run, f"{how}; it did not say how it ended: killed, or short of memory; {log}"
