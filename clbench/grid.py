"""The grid of runs, one after the other or several at once; whatever happens to one is recorded, the others go on."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from clbench.data import ImageSet
from clbench.errors import INTERRUPTED, ClbenchError, Interrupted, MethodWarning, RecordError
from clbench.methods import find_method
from clbench.provenance import config_of
from clbench.records import RunFolder
from clbench.runner import RunResult, execute
from clbench.specs import RunSpec
from clbench.watching import Progress, seldom

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

    from clbench.screen import Screen
    from clbench.tracking import Tracker

Outcome = Literal["finished", "failed", "stopped"]
_Status = Outcome | Literal["elsewhere"]
_Ended = tuple[RunSpec, _Status]

# Between two looks at a run that another command trains.
_SECONDS_TO_WAIT = 1.0
_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Grid:
    """What the runs of one command share.

    Attributes:
        device: that they train on.
        output: the folder of run folders.
        images: of the suite.
        load: gives them to another process, which is quicker than to hand them over.
        jobs: how many runs train at once, each in a process of its own if there are several.
    """

    device: torch.device
    output: Path
    images: ImageSet
    load: Callable[[], ImageSet]
    jobs: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.device, self.output, self.load, self.jobs)


def _loaded(device: torch.device, output: Path, load: Callable[[], ImageSet], jobs: int) -> Grid:
    return Grid(device, output, load(), load, jobs)


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
                    elif outcome != "stopped" and status != "finished":
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
        if stop.is_set():
            yield spec, "stopped"
            return
        yield spec, _run_one(grid, spec, patience, tracker, screen, stop.is_set)


def _run_one(
    grid: Grid,
    spec: RunSpec,
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    should_stop: Callable[[], bool],
) -> _Status:
    """One run, unless it is recorded already, or still another command's after `patience` seconds."""
    folder = RunFolder(grid.output, spec.run_id)
    try:
        with folder.lease(patience) as is_ours:
            if not is_ours:
                return "elsewhere"
            if folder.status != "finished":
                return _train(grid, spec, folder, tracker, screen, should_stop)
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
    should_stop: Callable[[], bool],
) -> Outcome:
    """One run that is ours to do; whatever happens to it is recorded."""
    config = config_of(spec, find_method(spec.method), grid.device, grid.jobs)
    latest = Progress(n_tasks=spec.suite.n_tasks)
    show = seldom(_SECONDS_BETWEEN_REPORTS, screen.progress)

    def on_task(result: RunResult) -> None:
        tracker.log(config, result)
        if result.learned:
            screen.task_learned(spec, result, latest)

    def on_progress(progress: Progress) -> None:
        nonlocal latest
        latest = progress
        show(spec, progress)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MethodWarning)
            warnings.showwarning = _shown_by(screen, spec, warnings.showwarning)
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


def _shown_by(screen: "Screen", spec: RunSpec, otherwise: Any) -> Any:
    """How a warning is shown while a run goes on: a method's own as one of ours, any other as before."""

    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *details: Any) -> None:
        if not issubclass(category, MethodWarning):
            otherwise(message, category, *details)
        elif str(message) not in said:
            said.add(str(message))
            screen.warn(f"{spec.method} seed {spec.seed}: {message}")

    return show


# Several at once: processes of our own, which show and track nothing themselves


def _several_at_once(
    grid: Grid,
    specs: Sequence[RunSpec],
    patience: float,
    tracker: "Tracker",
    screen: "Screen",
    stop: threading.Event,
) -> Iterator[_Ended]:
    """As `_one_by_one`. If a process is killed, which takes the others with it, all goes on with one process less."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    left, jobs = list(specs), grid.jobs
    while left:
        calls, halt = context.Queue(), context.Event()
        answering = threading.Thread(target=_answer, args=(calls, {"tracker": tracker, "screen": screen}))
        answering.start()
        try:
            given = (grid, sys.argv, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), calls, halt)
            with ProcessPoolExecutor(min(jobs, len(left)), context, _begin_worker, given) as pool:
                running = {pool.submit(_work, spec, patience): spec for spec in left}
                while running:
                    if stop.is_set():
                        halt.set()
                    done, _ = wait(running, timeout=_SECONDS_BETWEEN_REPORTS, return_when=FIRST_COMPLETED)
                    for future in done:
                        spec, status = running[future], future.result()
                        del running[future]
                        left.remove(spec)
                        yield spec, status
        except BrokenProcessPool:
            pass
        finally:
            # Behind all that the processes have sent.
            calls.put(None)
            answering.join()
        if left and jobs > 1:
            jobs -= 1
            screen.warn(f"a process was killed, perhaps for want of memory; going on with {jobs} at once")
        elif left:
            # Alone, it can blame no other.
            spec = left.pop(0)
            _record_killed(grid, spec, tracker, screen)
            yield spec, "failed"


def _record_killed(grid: Grid, spec: RunSpec, tracker: "Tracker", screen: "Screen") -> None:
    reason = "its process was killed, perhaps for want of memory"
    folder = RunFolder(grid.output, spec.run_id)
    with folder.lease() as is_ours:
        if is_ours and folder.status == "running":
            folder.resume()
            folder.set_status("failed", reason)
            tracker.close(folder.config(), folder)
    screen.run_ended(spec, "failed", reason)


def _answer(calls: "Queue[bytes | None]", objects: dict[str, Any]) -> None:
    """Does what the processes ask for, until there comes None."""
    while (call := calls.get()) is not None:
        name, method, arguments = pickle.loads(call)
        try:
            getattr(objects[name], method)(*arguments)
        except ClbenchError as error:
            objects["screen"].warn(str(error))


class _Remote:
    """Stands for an object of the first process: what is called here is done there, later; it returns nothing."""

    def __init__(self, name: str, calls: "Queue[bytes | None]") -> None:
        self._name = name
        self._calls = calls

    def __getattr__(self, method: str) -> Callable[..., None]:
        # Pickled at once: a queue does it later, when the result has changed.
        return lambda *arguments: self._calls.put(pickle.dumps((self._name, method, arguments)))


class _Worker:
    """What a process of the pool has from its beginning."""

    grid: Grid
    tracker: Any
    screen: Any
    should_stop: Callable[[], bool]
    is_busy = threading.Lock()


def _begin_worker(
    grid: Grid,
    arguments: list[str],
    threads: int,
    deterministic: bool,
    calls: "Queue[bytes | None]",
    halt: "Event",
) -> None:
    sys.argv = arguments
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    stop = threading.Event()
    for number in _STOPPING:
        # Ctrl-C reaches us as well, and a cluster may end each process by itself.
        signal.signal(number, lambda *_: stop.set())

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        stop.set()
        with _Worker.is_busy:
            os._exit(INTERRUPTED)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _Worker.grid = grid
    _Worker.tracker = _Remote("tracker", calls)
    _Worker.screen = _Remote("screen", calls)
    _Worker.should_stop = lambda: stop.is_set() or halt.is_set()


def _work(spec: RunSpec, patience: float) -> _Status:
    if _Worker.should_stop():
        return "stopped"
    with _Worker.is_busy:
        return _run_one(_Worker.grid, spec, patience, _Worker.tracker, _Worker.screen, _Worker.should_stop)


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
