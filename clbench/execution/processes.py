"""Several runs at once: a process for each, which shows and tracks nothing itself."""

import contextlib
import multiprocessing
import pickle
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
from typing import TYPE_CHECKING, Any, cast

import torch

from clbench.data import ImageSet
from clbench.errors import ClbenchError, DataError, RecordError
from clbench.execution.job import SECONDS_BETWEEN_REPORTS, Ended, Grid, Status, if_open, job_config, train_run
from clbench.execution.signals import STOPPING, stopping_on_signals
from clbench.records.folder import RunFolder
from clbench.runs.spec import RunSpec

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    from clbench.screen import Screen
    from clbench.tracking.tracker import Tracker

# For what a process has begun to write.
_SECONDS_TO_END = 10.0


@dataclass
class _Child:
    """A run in a process of its own; `status` is what it said of itself at its end, None before."""

    spec: RunSpec
    process: "ForkServerProcess"
    status: Status | None = None


def several_at_once(
    grid: Grid,
    specs: Sequence[RunSpec],
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    stop: threading.Event,
) -> Iterator[Ended]:
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
                status = if_open(grid, spec, patience, tracker, screen, lambda *_: "open")
                if status == "open":
                    connection, process = _start(context, grid, spec, halt)
                    children[connection] = _Child(spec, process)
                else:
                    yield spec, status
            if stop.is_set() and not children:
                # The last run may have been found recorded meanwhile, and then nothing is left.
                if left:
                    yield left[0], "stopped"
                return
            for ready in wait(list(children), timeout=SECONDS_BETWEEN_REPORTS):
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
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
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
    config = job_config(grid, spec)
    # In a piece, so that code of the user's which does not load any more is no end of the process.
    packed = pickle.dumps(spec)
    process = context.Process(target=_run_in_child, args=(theirs, halt, set_up, given, packed, config))
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
        if arguments:
            objects["screen"].run_ended(child.spec, method, arguments)
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
    packed: bytes,
    config: Mapping[str, Any],
) -> None:
    """Trains one run in this process, until it, the first process, or whoever sends a signal says stop."""
    stop = threading.Event()
    tracker: Any = _Remote("tracker", connection)
    screen: Any = _Remote("screen", connection)
    status: Status = "failed"
    reason = ""
    with stopping_on_signals(stop):
        set_up.apply()
        threading.Thread(target=_set_with_parent, args=(stop,), daemon=True).start()
        train = partial(train_run, config=config, should_stop=lambda: stop.is_set() or bool(halt.value))
        try:
            device, output, load, jobs = given
            spec: RunSpec = pickle.loads(packed)
            images = load()
            if images.sha256 != spec.data["sha256"]:
                raise DataError(f"the data {images.source} have changed since the command began; give it again")
            status = if_open(Grid(device, output, images, load, jobs), spec, 0.0, tracker, screen, train)
        except KeyboardInterrupt:
            status = "stopped"
        except Exception as error:
            reason = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        connection.send(("", status, reason))


def _set_with_parent(stop: threading.Event) -> None:
    """Sets the event when the first process ends, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.set()
