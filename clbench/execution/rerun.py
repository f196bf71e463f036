"""Training recorded runs anew, and whether they come out the same."""

from collections.abc import Callable, Sequence
from pathlib import Path

from clbench.errors import RecordError, TrackingError
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, replaced_before
from clbench.tracking.sync import forget


def set_aside(output: Path, run_ids: Sequence[str], uri: str | None, warn: Callable[[str], None]) -> None:
    """Makes room for runs that are recorded: their records stay beside the new ones, their entries leave MLflow.

    One that another command trains is left to it.

    Args:
        output: the folder of run folders.
        run_ids: of those that are to be trained anew.
        uri: of the MLflow store; None without one.
        warn: told if the store does not answer.

    Raises:
        RecordError: if a record cannot be read or renamed.
    """
    replaced = []
    for run_id in run_ids:
        folder = RunFolder(output, run_id)
        # Another command may have set it aside, and trains it, since somebody looked.
        with folder.lease() as is_ours:
            if is_ours and folder.status == "finished":
                folder.replace()
                replaced.append(run_id)
    if uri is None or not replaced:
        return
    try:
        forget(replaced, uri)
    except TrackingError as error:
        warn(f"the entries of before stay in MLflow: {error}")


def compare(output: Path, run_ids: Sequence[str], say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Says whether runs that were trained anew have the same weights as before, to the bit.

    Args:
        output: the folder of run folders.
        run_ids: of the command; those whose record was set aside are compared with the latest of before.
        say, warn: told of the same, and of others.
    """
    same = compared = 0
    for run_id in run_ids:
        before = replaced_before(output, run_id)
        try:
            if before is None or RunFolder(output, run_id).status != "finished":
                continue
            digest, now = (RunFolder(output, name).weights_sha256 for name in (before, run_id))
            run = read_run(output / run_id)
        except RecordError:
            # That it failed, or is damaged, was said.
            continue
        if digest:
            compared += 1
            same += digest == now
            if digest != now:
                warn(f"{run.method} seed {run.seed}: trained anew, run {run_id} has other weights than before")
    if compared:
        say(f"trained anew, {same} of {compared} runs have the same weights as before, to the bit")
