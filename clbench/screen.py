"""What a person sees while runs go on: a live table in a terminal, timestamped lines elsewhere, or nothing."""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clbench.events import Began, Ended, Event, Learned, Listed, Over, Planned, Progressed, Said, Waiting, Warned
from clbench.metrics import average_accuracy

if TYPE_CHECKING:
    from clbench.records.result import RunResult


_WIDTH_OF_FILES = 200


class _Patient(Console):
    """A console whose reader may go, and whose log file may lie on a full disk: what is lost is what is shown.

    In a file and in a pipe no table is cut to 80 columns, unless COLUMNS says how wide it may be.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr)
        if not (self.is_terminal or self.is_jupyter or "COLUMNS" in os.environ):
            self.width = _WIDTH_OF_FILES

    def print(self, *objects: Any, **how: Any) -> None:
        with contextlib.suppress(OSError):
            super().print(*objects, **how)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Screen:
    """Shows the grid of runs: an observer of their events.

    Args:
        quiet: show nothing but warnings and errors.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = _Patient()
        self.warnings = _Patient(stderr=True)
        self.is_live = self.console.is_terminal and not quiet
        self._runs: dict[str, Listed] = {}
        self._rows: dict[str, list[str]] = {}
        self._live: Live | None = None

    def hear(self, event: Event) -> None:
        """Shows an event of the runs."""
        match event:
            case Planned():
                self._begin(event.runs)
            case Waiting(n_runs):
                self.say(f"{n_runs} of the runs are being trained by another process; waiting for it")
            case Over():
                self._end()
            case Began(result=result) if result.learned:
                self._goes_on(self._runs[event.run_id], result)
            case Progressed():
                self._progress(self._runs[event.run_id], event)
            case Learned(result=result):
                self._task_learned(self._runs[event.run_id], result)
            case Warned(text):
                self.warn(text)
            case Said(run_id, text):
                self.warn(f"{self._runs[run_id].name}: {text}")
            case Ended():
                self._run_ended(self._runs[event.run_id], event)

    def _begin(self, runs: Sequence[Listed]) -> None:
        """Shows the grid, all runs waiting."""
        self._runs = {run.run_id: run for run in runs}
        for run in runs:
            method = f"{run.method} {run.label}".strip()
            self._rows[run.run_id] = [method, str(run.seed), f"0/{run.n_tasks}", "", "", "", "waiting"]
        if self.is_live:
            self._live = Live(self._table(), console=self.console, auto_refresh=False, transient=False)
            self._live.start(refresh=True)

    def _end(self) -> None:
        """Leaves the table as it stands."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None

    def _progress(self, run: Listed, progress: Progressed) -> None:
        if self._live is None:
            return
        rate = progress.images_trained / progress.seconds if progress.seconds else 0.0
        epoch = min(run.epochs, 1 + progress.images * run.epochs // max(1, progress.images_per_task))
        left = max(0, progress.images_total - progress.images_trained) / rate if rate else 0.0
        self._rows[run.run_id][2:] = [
            f"{progress.task}/{progress.n_tasks}",
            f"{epoch}/{run.epochs}",
            self._rows[run.run_id][4],
            f"{rate:,.0f}",
            duration(left) + " left",
        ]
        self._live.update(self._table(), refresh=True)

    def _goes_on(self, run: Listed, result: "RunResult") -> None:
        """A run that was cut off goes on after the last task it learned."""
        self._rows[run.run_id][2] = f"{result.learned}/{run.n_tasks}"
        self._rows[run.run_id][4] = _accuracy(result)
        if not self.is_live:
            self.say(f"{run.name}: goes on after task {result.learned}/{run.n_tasks}")

    def _task_learned(self, run: Listed, result: "RunResult") -> None:
        accuracy = _accuracy(result)
        # Not the progress's task, which is of the last batch: a method may train nothing on a task.
        learned = f"{result.learned}/{run.n_tasks}"
        self._rows[run.run_id][2] = learned
        self._rows[run.run_id][4] = accuracy
        if not self.is_live:
            measured = f"average accuracy {accuracy} %" if accuracy else "not measured yet"
            rate = result.tasks[-1]["train_images_per_second"]
            said = f"learned, {measured}, {rate:,.0f} images/s" if rate else "seen, nothing trained on it yet"
            self.say(f"{run.name}: task {learned} {said}")

    def _run_ended(self, run: Listed, end: Ended) -> None:
        self._rows[run.run_id][6] = end.status
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        if end.detail:
            self.warn(f"{run.name}: {end.status}: {end.detail}")
        elif not self.is_live:
            self.say(f"{run.name}: {end.status}")

    def say(self, text: str) -> None:
        """One line; with the time where it is no terminal."""
        if self.quiet:
            return
        stamp = "" if self.console.is_terminal else time.strftime("%Y-%m-%d %H:%M:%S  ")
        self.console.print(stamp + text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def show(self, renderable: Any) -> None:
        """A table or a line without the time."""
        if not self.quiet:
            is_text = isinstance(renderable, str)
            self.console.print(renderable, markup=False, emoji=False, highlight=False, soft_wrap=is_text)

    def warn(self, text: str) -> None:
        """A warning, on stderr, also when quiet."""
        line = f"clbench: warning: {text}"
        self.warnings.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("method")
        for name in ("seed", "task", "epoch", "accuracy %", "images/s"):
            table.add_column(name, justify="right")
        table.add_column("")
        for row in self._visible():
            # Text, not str: a name like [red] is a name, not markup.
            table.add_row(*map(Text, row))
        return table

    def _visible(self) -> list[list[str]]:
        """What fits on the screen: the latest runs that have begun, and the next ones waiting."""
        rows = list(self._rows.values())
        room = max(3, self.console.height - 4)
        begun = max((i for i, row in enumerate(rows) if row[6] != "waiting"), default=0)
        first = max(0, min(begun - room // 2, len(rows) - room))
        return rows[first : first + room]


def _accuracy(result: "RunResult") -> str:
    """The average accuracy in per cent; empty where nothing was measured."""
    return _percent(average_accuracy(result.matrix)) if result.is_measured else ""


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def duration(seconds: float) -> str:
    """Seconds in words a person reads at a glance: `42 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
