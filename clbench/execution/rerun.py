"""Training recorded runs anew, and whether they come out the same."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run
from clbench.records.removal import check_idle
from clbench.tracking.sync import forget


def set_aside(output: Path, run_ids: Sequence[str], uri: str | None) -> dict[str, str]:
    """Makes room for runs that are recorded: their records stay beside the new ones, their entries leave MLflow.

    Args:
        output: the folder of run folders.
        run_ids: of those that are to be trained anew.
        uri: of the MLflow store; None without one.

    Returns:
        For each that was finished, the digest of its weights.

    Raises:
        RecordError: if one is being trained, or its record cannot be read.
        TrackingError: if the store does not answer.
    """
    recorded = [run_id for run_id in run_ids if RunFolder(output, run_id).status == "finished"]
    check_idle(output, recorded)
    if uri is not None and recorded:
        forget(recorded, uri)
    return {run_id: RunFolder(output, run_id).replace() for run_id in recorded}


def compare(output: Path, before: Mapping[str, str], say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Says whether runs that were trained anew have the same weights as before, to the bit.

    Args:
        output: the folder of run folders.
        before: what `set_aside` gave.
        say, warn: told of the same, and of others.
    """
    same = 0
    for run_id, digest in before.items():
        try:
            run = read_run(output / run_id)
        except RecordError:
            # It failed or was stopped, and that was said.
            continue
        if run.status != "finished" or not digest:
            continue
        if RunFolder(output, run_id).weights_sha256 == digest:
            same += 1
        else:
            warn(f"{run.method} seed {run.seed}: trained anew, run {run_id} has other weights than before")
    if same:
        say(f"trained anew, {same} of {len(before)} runs have the same weights as before, to the bit")
