"""What happens to runs, as data: whoever trains a run reports it, and whoever wants to know hears it.

Events can be pickled. A run may be trained in another process, or on another machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from clbench.records.result import RunResult

Outcome = Literal["finished", "failed", "stopped"]
"""How a command or a run ends."""


@dataclass(frozen=True)
class Listed:
    """A run of a command.

    Attributes:
        run_id: of the run.
        method, seed: what it trains.
        n_tasks, epochs: how many, and of each task.
        label: what tells it from others of the same method and seed; empty where nothing has to.
    """

    run_id: str
    method: str
    seed: int
    n_tasks: int
    epochs: int
    label: str = ""

    @property
    def name(self) -> str:
        """What it is called on a screen."""
        return f"{self.method} {self.label or f'seed {self.seed}'}"


@dataclass(frozen=True)
class Planned:
    """A command begins.

    Attributes:
        suite, title: name and title of the suite.
        command: what the runs were asked for by.
        runs: in their order.
        measured_on: the images that accuracy is measured on, `test` or `validation`.
    """

    suite: str
    title: str
    command: str
    runs: tuple[Listed, ...]
    measured_on: str = "test"


@dataclass(frozen=True)
class Waiting:
    """The only runs left, so many, are being trained by other commands."""

    n_runs: int


@dataclass(frozen=True)
class Warned:
    """A command goes on, but not as its user may think."""

    text: str


@dataclass(frozen=True)
class Over:
    """A command has ended."""

    outcome: Outcome


@dataclass(frozen=True)
class Began:
    """A run is at work.

    Attributes:
        run_id: of the run.
        config: the content of its config.json.
        result: what it knows so far: of an earlier attempt the tasks that were learned, else the network untrained.
    """

    run_id: str
    config: Mapping[str, Any]
    result: "RunResult"


@dataclass(frozen=True)
class Progressed:
    """A batch was trained; not every batch is reported.

    Attributes:
        run_id: of the run.
        task, n_tasks: the task being learned, from 1, of how many.
        images, images_per_task: trained on within the task, and expected.
        images_trained, images_total: in the whole run.
        seconds: spent in training so far.
    """

    run_id: str
    task: int
    n_tasks: int
    images: int
    images_per_task: int
    images_trained: int
    images_total: int
    seconds: float


@dataclass(frozen=True)
class Learned:
    """A task was learned and measured; `result` is all that was measured so far."""

    run_id: str
    result: "RunResult"


@dataclass(frozen=True)
class Said:
    """A run goes on, but not as its user may think."""

    run_id: str
    text: str


@dataclass(frozen=True)
class Ended:
    """A run is over, for this command.

    Attributes:
        run_id: of the run.
        status: how.
        detail: why it failed.
        has_record: whether the run folder says so as well. It does not where the folder is at fault.
    """

    run_id: str
    status: Outcome | Literal["recorded before"]
    detail: str = ""
    has_record: bool = True


Event = Planned | Waiting | Warned | Over | Began | Progressed | Learned | Said | Ended


class Observer(Protocol):
    """Whoever hears what happens.

    Example:
        class Lines:
            def hear(self, event):
                if isinstance(event, Ended):
                    print(event.run_id, event.status)
    """

    def hear(self, event: Event) -> None:
        """Is told of an event, in the order in which a run reports them."""


class Observers:
    """Several observers as one.

    Args:
        observers: in the order in which they are told.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def hear(self, event: Event) -> None:
        """Tells all of them."""
        for observer in self._observers:
            observer.hear(event)
