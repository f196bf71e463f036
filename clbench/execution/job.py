"""One run of a command: whether it is open, training it, and recording what happens to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from clbench.data import ImageSet
from clbench.data.streams import make_stream
from clbench.errors import ClbenchError, Interrupted, MethodWarning, RecordError, shown
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run
from clbench.records.result import RunResult
from clbench.runs.config import config_of
from clbench.runs.runner import execute
from clbench.runs.spec import RunSpec
from clbench.runs.watching import Progress, seldom
from clbench.seeding import RandomStreams

if TYPE_CHECKING:
    from clbench.screen import Screen
    from clbench.tracking.tracker import Tracker

Outcome = Literal["finished", "failed", "stopped"]
Status = Outcome | Literal["elsewhere", "open"]
Ended = tuple[RunSpec, Status]
SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Grid:
    """What the runs of one command share.

    Attributes:
        device: that they train on.
        output: the folder of run folders.
        images: of the suite.
        load: gives them again, in another process.
        jobs: how many runs train at once, each in a process of its own if there are several.
        command: what a record says the runs were asked for by; empty for the command line.
    """

    device: torch.device
    output: Path
    images: ImageSet
    load: Callable[[], ImageSet]
    jobs: int = 1
    command: str = ""


def job_config(grid: Grid, spec: RunSpec) -> dict[str, Any]:
    """What config.json of a run of this command says."""
    stream = make_stream(spec.suite, grid.images, RandomStreams(spec.seed))
    return config_of(spec, grid.device, stream, grid.jobs, grid.command)


def if_open(
    grid: Grid,
    spec: RunSpec,
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    train: Callable[..., Status],
) -> Status:
    """Trains a run, unless it is recorded already, or still another command's after `patience` seconds."""
    folder = RunFolder(grid.output, spec.run_id)
    try:
        with folder.lease(patience) as is_ours:
            if not is_ours:
                return "elsewhere"
            if folder.status != "finished":
                return train(grid, spec, folder, tracker, screen)
            read_run(folder.path)
            folder.discard_checkpoint()
            tracker.complete(folder)
    except RecordError as error:
        screen.run_ended(spec, "failed", str(error))
        return "failed"
    screen.run_ended(spec, "recorded before")
    return "finished"


def train_run(
    grid: Grid,
    spec: RunSpec,
    folder: RunFolder,
    tracker: "Tracker",
    screen: "Screen",
    *,
    config: Mapping[str, Any],
    should_stop: Callable[[], bool],
) -> Outcome:
    """One run that is ours to do; whatever happens to it is recorded."""
    latest = Progress(n_tasks=spec.suite.n_tasks)
    show = seldom(SECONDS_BETWEEN_REPORTS, screen.progress)

    has_begun = False

    def on_task(result: RunResult) -> None:
        nonlocal has_begun
        tracker.log(config, result)
        if has_begun:
            screen.task_learned(spec, result, latest)
        elif result.learned:
            screen.goes_on(spec, result)
        has_begun = True

    def on_progress(progress: Progress) -> None:
        nonlocal latest
        latest = progress
        show(spec, progress)

    try:
        with shown(MethodWarning, lambda said: screen.warn(f"{spec.method} seed {spec.seed}: {said}")):
            execute(spec, grid.images, grid.device, folder, config, on_task, on_progress, should_stop)
    except RecordError as error:
        # The run folder itself is at fault, so there is nothing whole to hand on.
        tracker.abandon(config)
        screen.run_ended(spec, "failed", str(error))
        return "failed"
    except (Interrupted, KeyboardInterrupt):
        tracker.close(config, folder)
        screen.run_ended(spec, "stopped")
        return "stopped"
    except Exception as error:
        tracker.close(config, folder)
        expected = isinstance(error, ClbenchError)
        detail = str(error) if expected else f"{type(error).__name__}: {error} (see {folder.path / 'traceback.txt'})"
        screen.run_ended(spec, "failed", detail)
        return "failed"
    tracker.close(config, folder)
    screen.run_ended(spec, "finished")
    return "finished"
