"""The grid of runs, one after the other or several at once; whatever happens to one is recorded, the others go on."""

import contextlib
import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from clbench.data import ImageSet
from clbench.errors import ClbenchError, DataError, Interrupted, MethodWarning, RecordError, shown
from clbench.methods import find_method
from clbench.provenance import config_of
from clbench.records import RunFolder, read_run
from clbench.runner import RunResult, execute
from clbench.specs import RunSpec
from clbench.watching import Progress, seldom

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    from clbench.screen import Screen
    from clbench.tracking import Tracker

Outcome = Literal["finished", "failed", "stopped"]
_Status = Outcome | Literal["elsewhere", "open"]
_Ended = tuple[RunSpec, _Status]

# Between two looks at a run that another command trains.
_SECONDS_TO_WAIT = 1.0
_SECONDS_BETWEEN_REPORTS = 0.5
# For what a process has begun to write.
_SECONDS_TO_END = 10.0


@dataclass(frozen=True)
class Grid:
    """What the runs of one command share.

    Attributes:
        device: that they train on.
        output: the folder of run folders.
        images: of the suite.
        load: gives them again, in another process.
        jobs: how many runs train at once, each in a process of its own if there are several.
    """

    device: torch.device
    output: Path
    images: ImageSet
    load: Callable[[], ImageSet]
    jobs: int = 1


def run_grid(grid: Grid, specs: Sequence[RunSpec], tracker: "Tracker", screen: "Screen") -> Outcome:
    """Runs everything; `failed` if some run failed, `stopped` after Ctrl-C.

    Runs that another command is training are left to it; when nothing else is to do, we wait for them, and take over
    what such a command leaves unfinished.
    """
    stop = threading.Event()
    outcome: Outcome = "finished"
    with stopping_on_signals(stop):
        screen.begin(specs, specs[0].suite.n_tasks)
        try:
            waiting, patience = list(specs), 0.0
            while waiting:
                elsewhere = []
                runs = _one_by_one if grid.jobs == 1 else _several_at_once
                for spec, status in runs(grid, waiting, patience, tracker, screen, stop):
                    if status == "elsewhere":
                        elsewhere.append(spec)
                    elif status == "stopped" or (status == "failed" and outcome == "finished"):
                        outcome = status
                if outcome == "stopped" or (elsewhere and stop.is_set()):
                    return "stopped"
                if elsewhere and patience == 0:
                    screen.say(f"{len(elsewhere)} of the runs are being trained by another process; waiting for it")
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
) -> Iterator[_Ended]:
    for spec in specs:
        train = partial(_train, config=_config_of(grid, spec), should_stop=stop.is_set)
        status: _Status = "stopped"
        if not stop.is_set():
            status = _if_open(grid, spec, patience, tracker, screen, train)
        yield spec, status
        if status == "stopped":
            return


def _config_of(grid: Grid, spec: RunSpec) -> dict[str, Any]:
    return config_of(spec, find_method(spec.method), grid.device, grid.jobs)


def _if_open(
    grid: Grid,
    spec: RunSpec,
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    train: Callable[..., _Status],
) -> _Status:
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


def _train(
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
    show = seldom(_SECONDS_BETWEEN_REPORTS, screen.progress)

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


# Several at once: a process for each run, which shows and tracks nothing itself


@dataclass
class _Child:
    """A run in a process of its own; `status` is what it said of itself at its end, None before."""

    spec: RunSpec
    process: "ForkServerProcess"
    status: _Status | None = None


def _several_at_once(
    grid: Grid,
    specs: Sequence[RunSpec],
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    stop: threading.Event,
) -> Iterator[_Ended]:
    """As `_one_by_one`. A process that is killed takes no other with it; its run is tried once more."""
    context = _prepared_context()
    halt = context.RawValue("b", 0)
    objects = {"tracker": tracker, "screen": screen}
    left, children, room = deque(specs), dict[Connection, _Child](), grid.jobs
    killed: set[str] = set()
    try:
        while left or children:
            halt.value = stop.is_set()
            while left and not stop.is_set() and len(children) < room:
                spec = left.popleft()
                status = _if_open(grid, spec, patience, tracker, screen, lambda *_: "open")
                if status == "open":
                    connection, process = _start(context, grid, spec, halt)
                    children[connection] = _Child(spec, process)
                else:
                    yield spec, status
            if stop.is_set() and not children:
                yield left[0], "stopped"
                return
            for ready in wait(list(children), timeout=_SECONDS_BETWEEN_REPORTS):
                connection = cast(Connection, ready)
                child = children[connection]
                if _heard(connection, child, objects):
                    continue
                del children[connection]
                child.process.join()
                spec = child.spec
                if child.status is not None:
                    yield spec, child.status
                elif stop.is_set():
                    yield spec, "stopped"
                elif spec.run_id in killed:
                    _record_killed(grid, spec, tracker, screen)
                    yield spec, "failed"
                else:
                    killed.add(spec.run_id)
                    left.append(spec)
                    room = max(1, min(room, len(children) + 1) - 1)
                    screen.warn(
                        f"the process of {spec.method} seed {spec.seed} was killed, perhaps for want of memory; going "
                        f"on with {room} at once, and with it last"
                    )
    finally:
        # Nobody is left here, unless we were interrupted in the midst of it.
        for connection, child in children.items():
            # A child that waits for room to say something would wait for ever, and record nothing.
            connection.close()
            child.process.terminate()
        for child in children.values():
            child.process.join(_SECONDS_TO_END)
            child.process.kill()


def _prepared_context() -> "ForkServerContext":
    """Makes processes that have imported everything; Ctrl-C and the like are for us, not for what makes them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return context


def _start(
    context: "ForkServerContext", grid: Grid, spec: RunSpec, halt: Any
) -> tuple[Connection, "ForkServerProcess"]:
    ours, theirs = context.Pipe(duplex=False)
    set_up = _SetUp(sys.argv, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    given = (grid.device, grid.output, grid.load, grid.jobs)
    # What config.json says of the code is what was there when the command began.
    config = _config_of(grid, spec)
    process = context.Process(target=_run_in_child, args=(theirs, halt, set_up, given, spec, config))
    process.start()
    # So that the end of the process is the end of the pipe.
    theirs.close()
    return ours, process


def _heard(connection: Connection, child: _Child, objects: dict[str, Any]) -> bool:
    """Does what a child asks for; False at the end of it."""
    try:
        name, method, arguments = connection.recv()
    except (EOFError, OSError):
        return False
    if not name:
        child.status = method
        return True
    try:
        getattr(objects[name], method)(*arguments)
    except ClbenchError as error:
        objects["screen"].warn(str(error))
    return True


def _record_killed(grid: Grid, spec: RunSpec, tracker: "Tracker", screen: "Screen") -> None:
    reason = "its process was killed, perhaps for want of memory"
    folder = RunFolder(grid.output, spec.run_id)
    try:
        with folder.lease() as is_ours:
            if is_ours and folder.status == "running":
                folder.resume()
                folder.set_status("failed", reason)
                tracker.close(folder.config(), folder)
    except RecordError as error:
        reason += f"; {error}"
    screen.run_ended(spec, "failed", reason)


class _Remote:
    """Stands for an object of the first process: what is called here is done there, later; it returns nothing."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection

    def __getattr__(self, method: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            # The first process may be gone; then this one is told to stop as well.
            with contextlib.suppress(OSError):
                self._connection.send((self._name, method, arguments))

        return call


@dataclass(frozen=True)
class _SetUp:
    """What a process takes over from the first."""

    arguments: list[str]
    threads: int
    deterministic: bool

    def apply(self) -> None:
        sys.argv = self.arguments
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic)


def _run_in_child(
    connection: Connection,
    halt: Any,
    set_up: _SetUp,
    given: tuple[torch.device, Path, Callable[[], ImageSet], int],
    spec: RunSpec,
    config: Mapping[str, Any],
) -> None:
    """Trains one run in this process, until it, the first process, or whoever sends a signal says stop."""
    stop = threading.Event()
    tracker: Any = _Remote("tracker", connection)
    screen: Any = _Remote("screen", connection)
    status: _Status = "failed"
    with stopping_on_signals(stop):
        set_up.apply()
        threading.Thread(target=_set_with_parent, args=(stop,), daemon=True).start()
        train = partial(_train, config=config, should_stop=lambda: stop.is_set() or bool(halt.value))
        try:
            device, output, load, jobs = given
            images = load()
            if images.sha256 != spec.data["sha256"]:
                raise DataError(f"the data {images.source} have changed since the command began; give it again")
            status = _if_open(Grid(device, output, images, load, jobs), spec, 0.0, tracker, screen, train)
        except KeyboardInterrupt:
            status = "stopped"
        except Exception as error:
            expected = isinstance(error, ClbenchError)
            screen.run_ended(spec, "failed", str(error) if expected else f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        connection.send(("", status, ()))


def _set_with_parent(stop: threading.Event) -> None:
    """Sets the event when the first process ends, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.set()


_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Within, the first Ctrl-C, SIGTERM or SIGHUP sets the event; a second one interrupts at once."""

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
