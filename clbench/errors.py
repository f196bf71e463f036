"""The errors a user can cause, each said in one sentence.

On the command line each is one line on stderr, without a traceback: with exit code 2 when it shows before anything
has run; a run that it ends is recorded as failed, the others go on, and the exit code is 1.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

# What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130


class ClbenchError(Exception):
    """Base of every error whose text is meant for the user."""


class DataError(ClbenchError):
    """A data set is absent, damaged, or not what was asked for."""


class AbsentDataError(DataError):
    """A data set is not there, and was not downloaded."""


class SettingError(ClbenchError):
    """A name, an override or an option does not fit."""


class MissingSettingError(SettingError):
    """A setting that must be given is not."""


class MethodError(ClbenchError):
    """A method cannot work on the network or the suite that it was given."""


class RecordError(ClbenchError):
    """A recorded run cannot be written or read back."""


class NewerRecordError(RecordError):
    """A recorded run is of a newer clbench."""


class TrackingError(ClbenchError):
    """The MLflow store cannot be reached or written."""


class DivergenceError(ClbenchError):
    """Training left the finite numbers."""


class ClusterError(ClbenchError):
    """A cluster that was lost while it trained."""


class RunError(ClbenchError):
    """Some of several runs failed; the others ended.

    Attributes:
        runs: all of them, failed or not.
    """

    def __init__(self, text: str, runs: Any) -> None:
        super().__init__(text)
        self.runs = runs


class ReportWarning(UserWarning):
    """A report lacks something that it should have."""


class MethodWarning(UserWarning):
    """A run goes on, but not as its user may think: a method cannot do what its name promises, or it begins anew.

    Shown to the user once.
    """


def why_unreadable(error: OSError | UnicodeDecodeError) -> str | None:
    """Why a text file cannot be read, in the words of a sentence about it."""
    return error.strerror if isinstance(error, OSError) else "not UTF-8 text"


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def reason_of(error: Exception) -> str:
    """Why something failed: what an error of ours says, or the type of another before what it says."""
    return str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"


def not_installed(what: str, package: str, extra: str) -> SettingError:
    """The error of something that needs an optional package.

    Args:
        what: needs it.
        package: as a person calls it.
        extra: of clbench, which installs it.
    """
    return SettingError(f"{what} needs {package}, which is not installed; run pip install 'clbench[{extra}]'")


_LISTENERS: "ContextVar[tuple[tuple[type[Warning], Callable[[str], None]], ...]]" = ContextVar("listeners", default=())


@contextmanager
def shown(category: type[Warning], say: Callable[[str], None]) -> Iterator[None]:
    """Within, in this thread, warnings of this category go to `say`, each text once, and any other as before.

    Python has one way out for all warnings of a process. So it is changed once and stays changed, and what it does
    with a warning depends on the context that it comes from. Changing it back at the end, as
    `warnings.catch_warnings` does, would take it from runs that other threads are still training.
    """
    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    _hear_warnings(category)
    token = _LISTENERS.set(((category, once), *_LISTENERS.get()))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def _hear_warnings(category: type[Warning]) -> None:
    """Lets every warning of this category through to the listeners of its context."""
    if ("always", None, category, None, 0) not in warnings.filters:
        # Python would leave out what it has said before, also to another listener.
        warnings.simplefilter("always", category)
    if hasattr(warnings.showwarning, "asks_listeners"):
        return
    otherwise = warnings.showwarning

    def show(message: Warning | str, kind: type[Warning], *details: Any) -> None:
        for wanted, say in _LISTENERS.get():
            if issubclass(kind, wanted):
                say(str(message))
                return
        otherwise(message, kind, *details)

    show.asks_listeners = True  # type: ignore[attr-defined]
    warnings.showwarning = show  # type: ignore[assignment]


class Interrupted(Exception):
    """The user asked the run to stop; raised between two batches, so that no batch is half done."""


def unknown_name(kind: str, name: str, known: Iterable[str], elsewhere: str = "") -> SettingError:
    """The error for a name that does not exist: lists the right ones, the nearest first.

    Args:
        kind: what it names.
        name: as it was given.
        known: the right ones.
        elsewhere: where there is such a name.
    """
    known = sorted(known)
    # In capitals a name is like no other.
    nearest = get_close_matches(name, known, n=1) or get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    where = f", which {elsewhere} has" if elsewhere else ""
    return SettingError(f"unknown {kind} '{name}'{where}: {hint}expected one of {', '.join(known)}")
