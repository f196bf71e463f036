"""Ctrl-C and the like, as a request that is asked for between two batches."""

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """Whether somebody asked to stop.

    A `threading.Event` does not do. A signal that comes while an earlier one sets it would wait for its lock for ever.
    """

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        """Asks to stop."""
        self._asked = True

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._asked


@contextlib.contextmanager
def stopping_on_signals(stop: Stop) -> Iterator[None]:
    """Within, the first Ctrl-C, SIGTERM or SIGHUP asks to stop; a second one interrupts at once."""

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        # Python lets no other thread hear signals, and a notebook may call from one.
        yield
        return
    before = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
