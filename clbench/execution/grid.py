"""The grid of runs, one after the other or several at once; whatever happens to one is recorded, the others go on."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from clbench.execution.job import Ended, Grid, Outcome, Status, if_open, job_config, train_run
from clbench.execution.processes import several_at_once
from clbench.execution.signals import stopping_on_signals
from clbench.records.folder import RunFolder
from clbench.records.lease import without_locks
from clbench.runs.spec import RunSpec

if TYPE_CHECKING:
    from clbench.screen import Screen
    from clbench.tracking.tracker import Tracker

# Between two looks at a run that another command trains.
_SECONDS_TO_WAIT = 1.0


def run_grid(grid: Grid, specs: Sequence[RunSpec], tracker: "Tracker", screen: "Screen") -> Outcome:
    """Runs everything; `failed` if some run failed, `stopped` after Ctrl-C.

    Runs that another command is training are left to it; when nothing else is to do, we wait for them, and take over
    what such a command leaves unfinished.
    """
    stop = threading.Event()
    outcome: Outcome = "finished"
    with stopping_on_signals(stop):
        if said := without_locks(grid.output):
            screen.warn(said)
        screen.begin(specs, specs[0].suite.n_tasks)
        try:
            waiting, patience = list(specs), 0.0
            while waiting:
                elsewhere = []
                runs = _one_by_one if grid.jobs == 1 else several_at_once
                for spec, status in runs(grid, waiting, patience, tracker, screen, stop):
                    if status == "elsewhere":
                        elsewhere.append(spec)
                    elif status == "stopped" or (status == "failed" and outcome == "finished"):
                        outcome = status
                if outcome == "stopped" or (elsewhere and stop.is_set()):
                    return "stopped"
                if elsewhere and patience == 0:
                    screen.say(f"{len(elsewhere)} of the runs are being trained by another process; waiting for it")
                    for spec in elsewhere:
                        if holder := RunFolder(grid.output, spec.run_id).holder:
                            screen.warn(f"{spec.method} seed {spec.seed} waits: {holder}")
                waiting, patience = elsewhere, _SECONDS_TO_WAIT
        finally:
            screen.end()
    return outcome


def _one_by_one(
    grid: Grid,
    specs: Sequence[RunSpec],
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    stop: threading.Event,
) -> Iterator[Ended]:
    for spec in specs:
        train = partial(train_run, config=job_config(grid, spec), should_stop=stop.is_set)
        status: Status = "stopped"
        if not stop.is_set():
            status = if_open(grid, spec, patience, tracker, screen, train)
        yield spec, status
        if status == "stopped":
            return
