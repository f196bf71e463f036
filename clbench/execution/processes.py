"""Several runs at once: a process for each, which shows and tracks nothing itself. It sends its events."""

import contextlib
import multiprocessing
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, cast

from clbench.errors import RecordError, SettingError, reason_of
from clbench.events import Ended, Event, Observer, Said
from clbench.execution.job import SECONDS_BETWEEN_REPORTS, Job, Report, Status
from clbench.execution.signals import STOPPING, Stop, stopping_on_signals
from clbench.records.environment import environment
from clbench.records.folder import RunFolder

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

# For what a process has begun to write.
_SECONDS_TO_END = 10.0


# A process runs the main script again, from its start, before it does anything.
_NAME = "clbench-run"
_NO_GUARD = (
    "several runs at once need processes, each of which runs this script again from its start; put what calls clbench "
    'below if __name__ == "__main__":, or train one run at a time'
)


@dataclass
class _Child:
    """A run in a process of its own.

    Attributes:
        job, process: what runs where.
        has_begun: whether it has said anything.
        status: what it said of itself at its end, None before.
    """

    job: Job
    process: "ForkServerProcess"
    has_begun: bool = False
    status: Status | None = None


def check_not_importing() -> None:
    """Makes sure that this process does not run the main script again only to begin.

    Raises:
        SettingError: if it does, and would begin processes of its own.
        SystemExit: the same where it is a process for one of our runs; the first process says it then.
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        if process.name == _NAME:
            raise SystemExit(1)
        raise SettingError(_NO_GUARD)


def processes(
    jobs: Sequence[Job], observer: Observer, stop: Stop, patience: float, *, at_once: int
) -> Iterator[tuple[Job, Status]]:
    """An executor, see `grid.Executor`, for so many runs at once.

    A process that is killed takes no other with it; its run is tried once more.

    Raises:
        SettingError: if processes cannot begin, because the main script calls us whenever it is run.
    """
    context = multiprocessing.get_context("forkserver")
    halt = context.RawValue("b", 0)
    left, children, room = deque(jobs), dict[Connection, _Child](), at_once
    killed: set[str] = set()
    try:
        while left or children:
            halt.value = stop.is_set()
            while left and not stop.is_set() and len(children) < room:
                job = left.popleft()
                status = job.look(observer.hear, patience)
                if status == "open":
                    connection, process = _start(context, job, halt)
                    children[connection] = _Child(job, process)
                else:
                    yield job, status
            if stop.is_set() and not children:
                # The last run may have been found recorded meanwhile, and then nothing is left.
                if left:
                    yield left[0], "stopped"
                return
            for ready in wait(list(children), timeout=SECONDS_BETWEEN_REPORTS):
                connection = cast(Connection, ready)
                child = children[connection]
                if _heard(connection, child, observer):
                    continue
                del children[connection]
                child.process.join()
                job = child.job
                if child.status is not None:
                    yield job, child.status
                elif stop.is_set():
                    yield job, "stopped"
                elif not child.has_begun and child.process.exitcode == 1 and _is_script():
                    raise SettingError(_NO_GUARD)
                elif job.run_id in killed:
                    recorded_as_killed(job, observer.hear)
                    yield job, "failed"
                else:
                    killed.add(job.run_id)
                    left.append(job)
                    room = max(1, min(room, len(children) + 1) - 1)
                    said = (
                        "its process was killed, perhaps for want of memory; going on with "
                        f"{room} at once, and with it last"
                    )
                    observer.hear(Said(job.run_id, said))
    finally:
        # Nobody is left here, unless we were interrupted in the midst of it.
        for connection, child in children.items():
            # A child that waits for room to say something would wait for ever, and record nothing.
            connection.close()
            child.process.terminate()
        for child in children.values():
            child.process.join(_SECONDS_TO_END)
            child.process.kill()


def _is_script() -> bool:
    """Whether there is a main script, which a process runs again."""
    return hasattr(sys.modules["__main__"], "__file__")


def _prepare(context: "ForkServerContext") -> None:
    """Starts what makes processes, which has imported everything; Ctrl-C and the like are for us, not for it."""
    context.set_forkserver_preload([__name__, "clbench.runs.runner"])
    # Python lets no other thread set signals, and a notebook may call from one.
    numbers = STOPPING if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(context: "ForkServerContext", job: Job, halt: Any) -> tuple[Connection, "ForkServerProcess"]:
    _prepare(context)
    ours, theirs = context.Pipe(duplex=False)
    # In a piece, so that code of the user's which does not load any more is no end of the process.
    packed = pickle.dumps(replace(job, environment=environment()))
    process = context.Process(target=_run_in_child, args=(theirs, halt, job.run_id, packed), name=_NAME)
    try:
        process.start()
    except BrokenPipeError:
        # It ended before it had taken what it was sent.
        if _is_script():
            raise SettingError(_NO_GUARD) from None
        raise
    # So that the end of the process is the end of the pipe.
    theirs.close()
    return ours, process


def _heard(connection: Connection, child: _Child, observer: Observer) -> bool:
    """Hands on what a child says: at first nothing, then events, at last its status. False when there is no more."""
    try:
        said: Event | str | None = connection.recv()
    except (EOFError, OSError):
        return False
    child.has_begun = True
    if said is None:
        return True
    if isinstance(said, str):
        child.status = cast(Status, said)
    else:
        observer.hear(said)
    return True


def recorded_as_killed(job: Job, report: Report) -> None:
    """Records as failed what its process left, unless another command has taken it."""
    reason = "its process was killed, perhaps for want of memory"
    folder = RunFolder(job.output, job.run_id)
    try:
        with folder.lease() as is_ours:
            if is_ours:
                job.give_up(folder, reason, report)
                return
    except RecordError as error:
        reason += f"; {error}"
    report(Ended(job.run_id, "failed", reason, has_record=False))


def _run_in_child(connection: Connection, halt: Any, run_id: str, packed: bytes) -> None:
    """Trains one run in this process, until it, the first process, or whoever sends a signal says stop."""
    stop = Stop()

    def send(said: Event | Status | None) -> None:
        # The first process may be gone; then this one is told to stop as well.
        with contextlib.suppress(OSError):
            connection.send(said)

    status: Status = "failed"
    send(None)
    with stopping_on_signals(stop):
        threading.Thread(target=_set_with_parent, args=(stop,), daemon=True).start()
        try:
            job: Job = pickle.loads(packed)
            status = job.run(send, lambda: stop.is_set() or bool(halt.value))
        except KeyboardInterrupt:
            status = "stopped"
        except Exception as error:
            send(Ended(run_id, "failed", reason_of(error), has_record=False))
    send(status)


def _set_with_parent(stop: Stop) -> None:
    """Asks to stop when the first process ends, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.set()
