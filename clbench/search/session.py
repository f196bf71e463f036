"""A search at work: trains the trials that a protocol asks for, keeps the log, and says in the end what came out."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from clbench.data.streams import Stream
from clbench.errors import RecordError
from clbench.events import Observers
from clbench.execution.engines import ready
from clbench.execution.grid import run_grid
from clbench.execution.on_ray import Ray
from clbench.execution.plan import Choice, make_jobs
from clbench.methods.method import Workplace, images_to_train
from clbench.methods.table import find_method
from clbench.records.lease import Lease
from clbench.search.protocols import Found
from clbench.search.trials import Log, Trial, logged_rows
from clbench.seeding import RandomStreams
from clbench.suites.suite import Suite
from clbench.tracking.tracker import Tracker

if TYPE_CHECKING:
    from clbench.data import ImageSet
    from clbench.execution.grid import Executor
    from clbench.screen import Screen


class Stopped(Exception):
    """The user stopped the search."""


class Unfinished(RecordError):
    """Trials failed for another reason than that they diverged."""


@contextmanager
def alone(output: Path, protocol: str) -> Iterator[None]:
    """Within, no other command asks what to try next for the same trials. Those of a grid are for all to share.

    Raises:
        RecordError: if another command does.
    """
    if protocol == "grid":
        yield
        return
    with Lease(output / ".leases", "search").taken() as is_ours:
        if not is_ours:
            raise RecordError(
                f"another command searches with its trials in {output}; wait for it, or give another --log, and more "
                "trials at once with --jobs"
            )
        yield


@dataclass
class Session:
    """Trains the trials of a search. A context manager, within which a cluster is connected.

    Attributes:
        choice: suite and data.
        images: the data.
        device: that trials train on.
        log: the CSV file.
        output: the folder of the trials' run folders.
        uri: of the MLflow store.
        command: what the records say that the trials were asked for by.
        screen: shows them.
        at_once: trials to train at once on this machine.
        engine: a cluster; None for this machine.
    """

    choice: Choice
    images: "ImageSet"
    device: torch.device
    log: Path
    output: Path
    uri: str
    command: str
    screen: "Screen"
    at_once: int = 1
    engine: Ray | None = None
    _stream: tuple[tuple[Suite, int], Stream] | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        self._open = ExitStack()
        engine = ready(self.engine, torch.get_num_threads(), self.screen.say)
        self._run: Executor | None = self._open.enter_context(engine)
        self._tracker: Tracker | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def width(self) -> int:
        """How many trials to ask for at a time."""
        if self.engine is None:
            return self.at_once
        return self.engine.workers or 4

    def train(self, trials: Sequence[Trial]) -> list[Found]:
        """Trains those that the log lacks, and gives what came of all, in their order.

        Raises:
            Stopped: after Ctrl-C.
            Unfinished: if one is not in the log afterwards, because it failed.
        """
        if not trials:
            return []
        lines = Log(self.log, trials, self.output, self.screen.say, self.screen.warn)
        left = list({trial.spec.run_id: trial for trial in lines.lacks(trials)}.values())
        open_ids = {trial.spec.run_id for trial in left}
        for trial in trials:
            if trial.spec.run_id not in open_ids:
                self.screen.say(f"{trial.spec.method} {trial.label}: logged before")
        if left:
            self._tracker = self._tracker or Tracker(self.uri, self.screen.warn, self.output)
            jobs = make_jobs(
                self.choice,
                [trial.spec for trial in left],
                self.images,
                self.device,
                self.output,
                self.command,
                at_once=self.at_once,
                gpus=self.engine.gpus if self.engine else None,
                labels=[trial.label for trial in left],
            )
            if run_grid(jobs, Observers(self._tracker, self.screen, lines), self._run) == "stopped":
                raise Stopped
        if missing := len(lines.lacks(trials)):
            raise Unfinished(
                f"{missing} of the trials are not in the log, for the reasons above; the same command tries them again"
            )
        rows = logged_rows(self.log)
        return [self._found(trial, rows[trial.logged_id]) for trial in trials]

    def images_of(self, trial: Trial) -> int:
        """How many a trial trains on."""
        spec = trial.spec
        # The trials of a search differ in their methods' settings.
        if self._stream is None or self._stream[0] != (spec.suite, spec.seed):
            self._stream = (spec.suite, spec.seed), spec.stream(self.images)
        stream = self._stream[1]
        place = Workplace(spec.suite, stream, RandomStreams(spec.seed), self.device, spec.precision)
        return images_to_train(find_method(spec.method)(spec.settings, place), stream.tasks)

    def _found(self, trial: Trial, row: dict[str, str]) -> Found:
        images = self.images_of(trial)
        if row["validation_accuracy"] == "diverged":
            return Found(trial, None, None, images)
        # Of a single task nothing is said of learning.
        learned = row["learning_accuracy"] or row["validation_accuracy"]
        return Found(trial, float(row["validation_accuracy"]), float(learned), images)
