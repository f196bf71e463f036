"""What a command does with an executor: it waits for Ray, and leaves the runs to Slurm."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.execution.grid import Executor
from clbench.execution.job import Job
from clbench.execution.on_ray import Ray
from clbench.execution.on_slurm import GOES_ON, Slurm, in_queue, last_state
from clbench.execution.workers import Told, all_submitted, told

if TYPE_CHECKING:
    from clbench.screen import Screen


@contextmanager
def ready(engine: Slurm | Ray | None, threads: int, say: Callable[[str], None]) -> Iterator[Executor | None]:
    """Within, what runs jobs while this process stays; None for this machine.

    Args:
        engine: where.
        threads: of the CPU, for each run.
        say: is told what is waited for.

    Raises:
        SettingError: if the cluster is not there, or has no room.
    """
    if isinstance(engine, Ray):
        say(f"connecting to Ray ({engine.address or 'a new cluster on this machine'}), and waiting for its workers")
        with engine.ready(threads) as executor:
            yield executor
    else:
        yield None


def submit(
    engine: Slurm, jobs: Sequence[Job], screen: "Screen", uri: str | None = None, *, rerun: bool = False
) -> None:
    """Submits workers, and says how to see what becomes of them.

    Args:
        engine: where.
        jobs: the runs.
        screen: is told.
        uri: of the MLflow store that the runs are to be in; None for none.
        rerun: whether recorded runs are trained anew, which the same command would do once more.
    """
    output = jobs[0].output
    still = sorted(in_queue([name for _, what in all_submitted(output) for name in _names(what)]) or {})
    names = engine.submit(jobs)
    screen.show(f"submitted {len(names)} worker{'' if len(names) == 1 else 's'} to Slurm: {', '.join(names)}")
    if still:
        screen.show(f"still there of earlier commands: {', '.join(still)}; all share the runs")
    folder = shlex.quote(str(output))
    screen.show(f"look:    clbench status --output {folder}")
    screen.show("stop:    scancel " + " ".join(dict.fromkeys(name.partition("_")[0] for name in names)))
    if uri is not None:
        again = f"clbench resume --output {folder}" if rerun else "the same command"
        screen.show(f"then:    clbench sync --runs {folder} --tracking-uri {shlex.quote(uri)}")
        screen.show(f"         or {again}, which brings MLflow up to date and writes the report")


def _names(what: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in what.get("workers", [])] if what.get("engine") == "slurm" else []


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
    queue = in_queue([name for _, what in commands for name in _names(what)])
    for number, (folder, what) in enumerate(commands, start=1):
        logs = {each.name: each for each in told(folder)}
        workers = [logs.get(name) or Told(name) for name in _names(what)]
        is_last = number == len(commands) and any(each.ended != "finished" for each in workers)
        for each in workers:
            known = None if queue is None else queue.get(each.name, "")
            if is_last or known:
                *row, detail = _standing(each, known, folder)
                table.add_row(*map(Text, row))
                reasons += [f"{each.name}: {detail}"] if detail else []
    if table.row_count:
        screen.show(table)
    for reason in reasons:
        screen.show(reason)
    return bool(table.row_count)


def _standing(worker: Told, queue: str | None, folder: Path) -> tuple[str, str, str, str]:
    """Name, state, run and detail of a worker.

    Args:
        worker: what its log tells.
        queue: what Slurm's queue says of it; "" where it knows it no more, None where it cannot be asked.
        folder: of the workers of its command.
    """
    run = f"{worker.run} after {worker.learned} tasks" if worker.run else ""
    if queue:
        return worker.name, queue, run, f"on {worker.host}" if queue == "running" and worker.host else ""
    goes_on = worker.reason == GOES_ON
    if worker.ended and not goes_on:
        return worker.name, worker.ended, run, worker.reason
    if queue is None:
        return worker.name, "not known", run, "Slurm cannot be asked here"
    end = last_state(worker.name)
    how = f"Slurm says {end}" if end else "Slurm has forgotten it"
    if goes_on:
        return worker.name, "gone", run, f"{how}; it stopped, and did not begin again"
    if not worker.began:
        return worker.name, "gone", run, f"{how}; it never began"
    log = folder / f"{worker.name}_0_log.err"
    return worker.name, "gone", run, f"{how}; it did not say how it ended: killed, or short of memory; see {log}"
