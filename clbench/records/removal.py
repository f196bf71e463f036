"""Removing recorded runs, because the user asked for it."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.identity import FEWEST_DIGITS
from clbench.records.reading import run_paths


def named_runs(root: Path, given: Sequence[str]) -> list[str]:
    """The run ids that are meant, each once.

    Args:
        root: the folder of run folders.
        given: ids, or beginnings of at least four digits that only one run has.

    Raises:
        RecordError: for what names no run, or several.

    Example:
        named_runs(Path("clbench-runs"), ["0c6c61ab"])     # ["0c6c61ab3cd3f06e"]
    """
    there = [path.name for path in run_paths(root)]
    found = []
    for name in given:
        # As a path it may come from a shell that completes it.
        beginning = Path(name).name
        fitting = [run_id for run_id in there if run_id.startswith(beginning)]
        if len(beginning) < FEWEST_DIGITS or not fitting:
            raise RecordError(
                f"{root} holds no run '{name}'; give an id, or at least its first {FEWEST_DIGITS} digits, as "
                "clbench status shows them"
            )
        if len(fitting) > 1 and beginning not in fitting:
            raise RecordError(f"'{name}' is the beginning of {' and of '.join(fitting)}; give more digits")
        found.append(beginning if beginning in fitting else fitting[0])
    return list(dict.fromkeys(found))


def named_folder(root: Path, given: str) -> Path:
    """The folder of the run that is meant, absolute where it is given as a folder.

    Args:
        root: the folder of run folders.
        given: the run's own folder, its id, or the beginning of it.

    Raises:
        RecordError: for what names no run, or several.

    Example:
        named_folder(Path("clbench-runs"), "0c6c61ab")     # Path("clbench-runs/0c6c61ab3cd3f06e")
    """
    folder = Path(given)
    return folder.resolve() if (folder / "status.json").exists() else root / named_runs(root, [given])[0]


def check_idle(root: Path, run_ids: Sequence[str]) -> None:
    """Makes sure that no process trains one of these runs.

    Raises:
        RecordError: if one does.
    """
    for run_id in run_ids:
        with _leased(root, run_id):
            pass


@contextmanager
def _leased(root: Path, run_id: str) -> Iterator[None]:
    """Within, no other process trains the run."""
    folder = RunFolder(root, run_id)
    with folder.lease() as is_ours:
        if not is_ours:
            raise RecordError(f"the run {run_id} is being trained; {folder.holder or 'stop its command first'}")
        yield


def remove_runs(root: Path, run_ids: Sequence[str]) -> None:
    """Removes the folders of runs, and the attempts that were set aside beside them.

    Raises:
        RecordError: if one is being trained, or cannot be removed.
    """
    for run_id in run_ids:
        with _leased(root, run_id):
            for path in [root / run_id, *root.glob(f"{run_id}.unfinished-*"), *root.glob(f"{run_id}.replaced-*")]:
                try:
                    shutil.rmtree(path)
                except OSError as error:
                    raise RecordError(
                        f"{error.filename or path} cannot be removed ({error.strerror}); remove it by hand"
                    ) from None
