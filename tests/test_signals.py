"""Claims: signals ask to stop, however close to each other they come."""

import signal
import subprocess
import sys

import pytest

from clbench.execution.signals import STOPPING, Stop, stopping_on_signals


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    stop, before = Stop(), signal.getsignal(number)
    with stopping_on_signals(stop):
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


# The second signal comes at the first, second ... line that Python executes after the first one.
_AT_EVERY_LINE = """
import signal, sys
from clbench.execution.signals import Stop, stopping_on_signals

line, is_over = 0, False
while not is_over:
    stop, seen, line, is_over = Stop(), 0, line + 1, True

    def trace(frame, event, value):
        global seen, is_over
        seen += 1
        if seen == line:
            is_over = False
            signal.raise_signal(signal.SIGTERM)
        return trace

    with stopping_on_signals(stop):
        sys.settrace(trace)
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            pass
        sys.settrace(None)
    assert stop.is_set()
print(line)
"""


def test_a_signal_while_another_is_heard_does_not_wait_for_ever() -> None:
    ended = subprocess.run([sys.executable, "-c", _AT_EVERY_LINE], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) > 5
