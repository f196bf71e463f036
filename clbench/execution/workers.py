"""What workers say of themselves: a log for each, beside the runs, so that anybody can tell how each of them ended.

Workers of one command have a folder, `clbench-runs/.workers/NAME/`. `submitted.json` says what was asked of whom. Each
worker appends lines of JSON to `WORKER.jsonl`: that it began, which run it took and how many tasks were learned, how
the run ended, how it ended itself. A worker that is killed says nothing. So its log ends in the middle.
"""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench.errors import RecordError
from clbench.events import Began, Ended, Event, Learned
from clbench.records.files import now, write_whole
from clbench.records.folder import RunFolder

WORKERS = ".workers"
_SUBMITTED = "submitted.json"


class Logbook:
    """The log of one worker: an observer of the runs that it trains.

    Args:
        folder: of the workers of its command.
        name: of the worker, such as `12_0`, job and task of Slurm.

    Attributes:
        has_learned: whether a run came further, since the worker began, than any worker had brought it before.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.jsonl"
        self._reached: dict[str, int] = {}
        self.has_learned = False

    def note(self, **said: Any) -> None:
        """Appends a line. A full disk is no reason to end, for the runs have records of their own."""
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": now(), **said}) + "\n")

    def begin(self) -> None:
        """Notes that the worker begins, on which machine."""
        for worker in told(self._path.parent):
            for run, learned in worker.reached.items():
                self._reached[run] = max(learned, self._reached.get(run, 0))
        self.note(worker="began", host=socket.gethostname(), pid=os.getpid())

    def end(self, how: str, reason: str = "") -> None:
        """Notes how the worker ends."""
        self.note(worker=how, reason=reason)

    def hear(self, event: Event) -> None:
        """Notes which run is at work, and how it ends."""
        match event:
            case Began(run_id=run_id, result=result):
                self.note(run=run_id, learned=result.learned)
            case Learned(run_id=run_id, result=result):
                self.has_learned |= result.learned > self._reached.get(run_id, 0)
                self.note(run=run_id, learned=result.learned)
            case Ended(status="recorded before"):
                pass
            case Ended():
                self.note(run=event.run_id, ended=event.status, reason=event.detail)


@dataclass
class Told:
    """What a worker's log tells.

    Attributes:
        name: of the worker.
        began: when it began last; empty if it has not.
        host: where.
        ended: how it ended; empty if it has not said so.
        reason: why it ended so.
        run: that it was at when it ended or was killed, or that it is at now; empty for none.
        learned: tasks of that run that were learned.
        cut_off: run -> for every time that the worker was killed at it, the tasks learned then.
        failed: runs that failed, and why.
        reached: run -> the most tasks that it had learned.
    """

    name: str
    began: str = ""
    host: str = ""
    ended: str = ""
    reason: str = ""
    run: str = ""
    learned: int = 0
    cut_off: dict[str, list[int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)

    def hear(self, said: Mapping[str, Any]) -> None:
        """Takes one line of the log."""
        if said.get("worker") == "began":
            self._forget_run()
            self.began, self.host, self.ended, self.reason = str(said["at"]), str(said.get("host", "")), "", ""
        elif "worker" in said:
            self.ended, self.reason, self.run = str(said["worker"]), str(said.get("reason", "")), ""
        elif "ended" in said:
            self.run = ""
            if said["ended"] == "failed":
                self.failed[str(said["run"])] = str(said.get("reason", ""))
        elif "run" in said:
            self.run, self.learned = str(said["run"]), int(said["learned"])
            self.reached[self.run] = max(self.learned, self.reached.get(self.run, 0))

    def _forget_run(self) -> None:
        """A worker that begins anew was killed at what it had not ended."""
        if self.run:
            self.cut_off.setdefault(self.run, []).append(self.learned)
            self.run = ""


def told(folder: Path) -> list[Told]:
    """What every worker of a command tells, by their names; a line that was cut off is left out."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        worker = Told(path.stem)
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    worker.hear(json.loads(line))
        found.append(worker)
    return found


def submitted(folder: Path, what: Mapping[str, Any]) -> None:
    """Notes what was asked of the workers of a command.

    Raises:
        RecordError: if it cannot be written.
    """
    try:
        write_whole(folder / _SUBMITTED, (json.dumps({"at": now(), **what}, indent=2) + "\n").encode())
    except OSError as error:
        raise RecordError(
            f"{folder / _SUBMITTED} cannot be written ({error.strerror}); give another --output"
        ) from None


def all_submitted(output: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The folders of workers beside runs, and what was asked of them, in the order of asking."""
    found = []
    for path in (output / WORKERS).glob(f"*/{_SUBMITTED}"):
        with suppress(OSError, ValueError):
            what = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(what, dict):
                found.append((path.parent, what))
    return sorted(found, key=lambda item: (str(item[1].get("at", "")), item[0].name))


def refuses(workers: Path, me: str, folder: RunFolder) -> str:
    """Why a worker shall not train a run again, which it alone works on now; empty if it may.

    One that failed is not tried by every worker in turn. Nor is one that killed two workers in the same task, perhaps
    for want of memory: it would kill all of them.

    Args:
        workers: the folder of the workers of the command.
        me: name of the one that asks.
        folder: of the run.
    """
    run_id, status = folder.path.name, folder.status
    everybody = told(workers)
    if status == "failed":
        return next((each.failed[run_id] for each in everybody if run_id in each.failed), "")
    if status != "running":
        return ""
    deaths: dict[int, list[str]] = {}
    for each in everybody:
        at = list(each.cut_off.get(run_id, []))
        if each.run == run_id and each.name != me:
            at.append(each.learned)
        for learned in at:
            deaths.setdefault(learned, []).append(each.name)
    for learned, names in deaths.items():
        if len(names) > 1:
            return f"its worker was killed twice in task {learned + 1} ({', '.join(names)}), perhaps for want of memory"
    return ""
