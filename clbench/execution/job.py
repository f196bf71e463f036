"""One run of a command: training it unless it is recorded, and reporting what happens to it."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch

from clbench.data import ImageSet
from clbench.errors import ClbenchError, DataError, Interrupted, MethodWarning, RecordError, shown
from clbench.events import Began, Ended, Event, Learned, Listed, Outcome, Progressed, Said
from clbench.records.environment import Environment, environment
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run
from clbench.records.result import RunResult
from clbench.runs.config import config_of
from clbench.runs.runner import execute
from clbench.runs.spec import RunSpec
from clbench.runs.watching import Progress, seldom

Status = Outcome | Literal["elsewhere", "open"]
Report = Callable[[Event], None]
SECONDS_BETWEEN_REPORTS = 0.5


class Images:
    """Gives the images of a suite: read once in every process, since they do not travel with a job.

    Args:
        load: reads them.
        there: what it reads, where this process has them already.
    """

    def __init__(self, load: Callable[[], ImageSet], there: ImageSet | None = None) -> None:
        self._load = load
        self._there = there

    def __call__(self) -> ImageSet:
        """The images."""
        if self._there is None:
            self._there = self._load()
        return self._there

    def __getstate__(self) -> dict[str, object]:
        return {"_load": self._load, "_there": None}


@dataclass(frozen=True)
class Job:
    """A run, with all that is needed to train it here or elsewhere. It can be pickled.

    Attributes:
        spec: what to run.
        device: where.
        output: the folder of run folders.
        images: gives the suite's.
        threads: of the CPU.
        deterministic: whether torch may use deterministic algorithms only.
        at_once: how many runs the same command trains at a time.
        command: what a record says that the run was asked for by.
        label: what tells it from other runs of the same method and seed; empty where nothing has to.
        keep_weights: whether the network of every task is kept.
        environment: the code that runs and what it runs with, as the command found it. None looks in this process.
        gpus: how many the run has, or which share of one; None on a CPU.
        refuses: given the run's folder before it is trained, a reason to record it as failed instead, or "".

    Example:
        job.run(print)      # "finished", after an event for everything that happened
    """

    spec: RunSpec
    device: torch.device
    output: Path
    images: Images
    threads: int
    deterministic: bool
    at_once: int
    command: str
    label: str = ""
    keep_weights: bool = False
    environment: Environment | None = None
    gpus: float | None = None
    refuses: Callable[[RunFolder], str] | None = None

    @property
    def run_id(self) -> str:
        """Of the run."""
        return self.spec.run_id

    @property
    def listed(self) -> Listed:
        """The run as it is listed."""
        spec = self.spec
        return Listed(
            self.run_id, spec.method, spec.seed, spec.suite.n_tasks, int(spec.settings.epochs or 1), self.label
        )

    def look(self, report: Report, patience: float = 0.0) -> Status:
        """Whether the run is `open`, or `finished`, `failed` (its record is damaged) or `elsewhere`; trains nothing.

        Args:
            report: is told if it is not open.
            patience: seconds to wait for another command that trains it.
        """
        return self._if_open(lambda folder: "open", report, patience)

    def run(self, report: Report, should_stop: Callable[[], bool] = lambda: False, patience: float = 0.0) -> Status:
        """Trains the run, unless it is recorded or another command trains it. Whatever happens to it is recorded.

        Args:
            report: is told of every event.
            should_stop: asked after every batch.
            patience: seconds to wait for another command that trains it.
        """
        torch.set_num_threads(self.threads)
        set_deterministic(self.deterministic)

        def train(folder: RunFolder) -> Status:
            if reason := self.refuses(folder) if self.refuses else "":
                return self.give_up(folder, reason, report)
            return self._train(folder, report, lambda: should_stop() or folder.is_lost)

        return self._if_open(train, report, patience)

    def give_up(self, folder: RunFolder, reason: str, report: Report) -> Status:
        """Records a run as failed, which this process alone works on.

        Args:
            folder: of the run.
            reason: why.
            report: is told.
        """
        if folder.status == "running":
            folder.resume()
            folder.set_status("failed", reason)
        report(Ended(self.run_id, "failed", reason, folder.status == "failed"))
        return "failed"

    def _if_open(self, action: Callable[[RunFolder], Status], report: Report, patience: float) -> Status:
        folder = RunFolder(self.output, self.run_id)
        try:
            with folder.lease(patience) as is_ours:
                if not is_ours:
                    return "elsewhere"
                if folder.status != "finished":
                    return action(folder)
                read_run(folder.path)
                folder.discard_checkpoint()
        except RecordError as error:
            report(Ended(self.run_id, "failed", str(error), has_record=False))
            return "failed"
        report(Ended(self.run_id, "recorded before"))
        return "finished"

    def _train(self, folder: RunFolder, report: Report, should_stop: Callable[[], bool]) -> Status:
        status, detail, has_record = self._attempt(folder, report, should_stop)
        if folder.is_lost:
            report(
                Said(self.run_id, "another process took it over, for this one showed no sign of life; it is left to it")
            )
            return "elsewhere"
        report(Ended(self.run_id, status, detail, has_record))
        return status

    def _attempt(self, folder: RunFolder, report: Report, should_stop: Callable[[], bool]) -> tuple[Outcome, str, bool]:
        """How it ended, why it failed, and whether the run folder says so."""
        has_begun = False

        def on_task(result: RunResult) -> None:
            nonlocal has_begun
            report(Learned(self.run_id, result) if has_begun else Began(self.run_id, config, result))
            has_begun = True

        def on_progress(progress: Progress) -> None:
            values = {field.name: getattr(progress, field.name) for field in fields(progress)}
            report(Progressed(self.run_id, **values))

        try:
            images = self.images()
            if images.sha256 != self.spec.data["sha256"]:
                raise DataError(f"the data {images.source} have changed since the command began; give it again")
            stream = self.spec.stream(images)
            found = self.environment or environment()
            config = config_of(self.spec, self.device, stream, self.at_once, self.command, found, self.gpus)
            show = seldom(SECONDS_BETWEEN_REPORTS, on_progress)
            with shown(MethodWarning, lambda text: report(Said(self.run_id, text))):
                how = on_task, show, should_stop, self.keep_weights
                execute(self.spec, stream, self.device, folder, config, found.text, *how)
        except RecordError as error:
            # The run folder itself is at fault, so there is nothing whole to hand on.
            return "failed", str(error), False
        except (Interrupted, KeyboardInterrupt):
            return "stopped", "", True
        except ClbenchError as error:
            return "failed", str(error), True
        except (Exception, SystemExit) as error:
            return "failed", f"{type(error).__name__}: {error} (see {folder.path / 'traceback.txt'})", True
        return "finished", "", True


def set_deterministic(wanted: bool) -> None:
    """Lets torch use deterministic algorithms only, or any; setting it anew would import torch's compiler."""
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)
