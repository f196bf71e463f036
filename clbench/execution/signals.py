"""Ctrl-C and the like, as an event that is asked between two batches."""

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Within, the first Ctrl-C, SIGTERM or SIGHUP sets the event; a second one interrupts at once."""

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
