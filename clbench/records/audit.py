"""What can be checked about a recorded run without training it again.

Letters as in `clbench.metrics`: T tasks. A run's record holds if it is whole and unchanged (its digests), if it is the
run that its name says (its id is the hash of its configuration), and if its tables agree with one another and with the
configuration. Whether the numbers are good is another question; see `clbench.reports.verify`.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clbench.errors import RecordError
from clbench.metrics import summarise, tasks_learned
from clbench.records.folder import RunFolder
from clbench.records.format import ALL_GROUPS, REQUIRED_FILES
from clbench.records.identity import recorded_identity, run_id_of
from clbench.records.reading import RecordedRun, read_run

# An accuracy is a whole number of images over their number, which no float of that size misses by more.
_ROUNDING = 1e-6
_RUN_ID = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Finding:
    """What was found about one run folder.

    Attributes:
        folder: the run folder.
        run: what was read; None where it cannot be read.
        faults: a sentence for each thing that does not hold.
        metrics: every metric that is defined, recomputed from the stored matrix; empty where nothing was learned.
    """

    folder: Path
    run: RecordedRun | None
    faults: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the record."""
        return not self.faults

    @property
    def line(self) -> str:
        """The finding in one line, without characters that would steer a terminal."""
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self._text())

    def _text(self) -> str:
        if self.run is None:
            return f"{self.folder}: does not hold: {'; '.join(self.faults)}"
        run = self.run
        whole = f"seal {run.seal}" if run.seal else "no digests"
        if run.status == "running":
            whole = "no digests while it runs"
        who = f"{self.folder}: {run.suite}, {run.method} seed {run.seed}, {run.status}"
        who += "" if run.measured_on == "test" else f", measured on {run.measured_on} images"
        numbers = ", ".join(f"{name}={value:.6g}" for name, value in self.metrics.items())
        verdict = "holds" if self.holds else f"does not hold: {'; '.join(self.faults)}"
        return f"{who}: {verdict}; {whole}" + (f"; {numbers}" if numbers else "")


def run_folders(path: Path) -> list[Path]:
    """The run folder that a path names, or all that lie in the folder it names, however deep.

    Raises:
        RecordError: if there is none.
    """
    if any((path / name).exists() for name in REQUIRED_FILES):
        return [path]
    found = {file.parent for name in REQUIRED_FILES for file in path.rglob(name)}
    # Nothing tells such a folder from one whose files are all lost.
    found |= {folder for folder in path.rglob("*") if _RUN_ID.fullmatch(folder.name) and folder.is_dir()}
    if not found:
        raise RecordError(f"{path} is no run folder and holds none; expected one such as clbench-runs/0123456789abcdef")
    return sorted(found)


def audit(folder: Path) -> Finding:
    """Checks one run folder."""
    try:
        run = read_run(folder)
    except RecordError as error:
        return Finding(folder, None, (str(error),), {})
    metrics = summarise(run.accuracy_matrix) if tasks_learned(run.accuracy_matrix) else {}
    return Finding(
        folder,
        run,
        (
            *_identity_faults(folder, run),
            *_table_faults(run),
            *_capacity_faults(run),
            *_pruning_faults(run),
            *_network_faults(folder),
        ),
        metrics,
    )


def _identity_faults(folder: Path, run: RecordedRun) -> Iterator[str]:
    if folder.resolve().name.partition(".")[0] != run.run_id:
        yield f"the folder bears another name than the run id {run.run_id} in config.json"
    try:
        computed = run_id_of(recorded_identity(run.config))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        yield f"config.json lacks what the run id is made of ({type(error).__name__}: {error})"
        return
    if computed != run.run_id:
        yield f"config.json has the run id {run.run_id}, but its settings give {computed}"


def _table_faults(run: RecordedRun) -> Iterator[str]:
    """The accuracy matrix and the table of tasks against each other and the configuration."""
    matrix = run.accuracy_matrix
    learned, n_tasks = tasks_learned(matrix), matrix.shape[1]
    if learned == 0 and _of(run, "method_settings").get("only_last") and run.status != "finished":
        # It is measured when the last task has arrived.
        learned = len(run.tasks)
    if list(run.tasks["task"]) != list(range(1, learned + 1)):
        yield f"tasks.csv has the tasks {list(run.tasks['task'])}, but the accuracy matrix was filled for {learned}"
    if len(run.tasks) and (run.tasks.to_numpy(dtype=float) < 0).any():
        yield "tasks.csv holds a negative number"
    if run.status == "finished" and learned != n_tasks:
        yield f"it is recorded as finished, but learned {learned} of {n_tasks} tasks"
    images = _images_measured_on(run)
    if images:
        correct = matrix[~np.isnan(matrix)] * images
        odd = correct[np.abs(correct - np.rint(correct)) > _ROUNDING * images]
        if len(odd):
            what = f"{images:,} {run.measured_on} images"
            yield f"accuracy_matrix.csv has {odd[0] / images!r}, which is no share of {what}"


def _images_measured_on(run: RecordedRun) -> int:
    """How many images each task is measured on; 0 where a record does not say."""
    suite, data = _of(run, "suite_settings"), _of(run, "data")
    # Tasks of classes have images of their own, whose number is not recorded.
    if suite.get("scenario") not in ("permuted", "rotated"):
        return 0
    if run.measured_on == "test":
        images = data.get("test_images")
        return images if isinstance(images, int) and images > 0 else 0
    images, share = data.get("train_images"), suite.get("validation_share")
    return round(images * share) if isinstance(images, int) and isinstance(share, float) else 0


def _capacity_faults(run: RecordedRun) -> Iterator[str]:
    """Free and claimed units must add up to all of them, group by group and task by task."""
    rows = run.capacity
    for group in dict.fromkeys(rows["group"]):
        of_group = rows[rows["group"] == group]
        if list(of_group["task"]) != list(run.tasks["task"]):
            yield f"capacity.csv does not have one row of {group} for each task"
        if of_group["units"].nunique() > 1 or of_group["unit"].nunique() > 1:
            yield f"capacity.csv does not have the same units of {group} in every task"
        used = of_group["new"].cumsum()
        if (of_group["free"] + used != of_group["units"]).any() or (of_group["used"] != used).any():
            yield f"capacity.csv: free and claimed units of {group} do not add up to its units"
        if (of_group["reused"] > used - of_group["new"]).any():
            yield f"capacity.csv: {group} reuses more units than earlier tasks claimed"
        # What a method does not have is NaN, and no fault.
        if (of_group[["free", "new", "reused", "threshold"]] < 0).to_numpy().any():
            yield f"capacity.csv has a negative number in {group}"


def _pruning_faults(run: RecordedRun) -> Iterator[str]:
    """Every task's search ends at the units that capacity.csv counts as used."""
    import pandas as pd

    looks = run.pruning
    if looks.empty:
        return
    shares = looks[["validation_accuracy", "test_accuracy"]]
    if ((shares < 0) | (shares > 1)).to_numpy().any():
        yield "pruning.csv has an accuracy that is no share"
    if (looks["changed"] > looks["validation_images"]).any() or (looks[["kept", "changed"]] < 0).to_numpy().any():
        yield "pruning.csv counts what cannot be"
    chosen = looks[looks["chosen"] == 1]
    counted = run.capacity[["task", "group", "used"]]
    everything = counted.groupby("task", as_index=False)["used"].sum().assign(group=ALL_GROUPS)
    ends = chosen.merge(pd.concat([counted, everything]), on=["task", "group"], how="left")
    for _, end in ends[ends["kept"] != ends["used"]].iterrows():
        yield f"pruning.csv: task {end['task']} keeps other units of {end['group']} than capacity.csv counts as used"
    if list(chosen["task"][chosen["group"] == ALL_GROUPS]) != list(run.tasks["task"]):
        yield "pruning.csv does not say of each task where its search ended"


def _network_faults(folder: Path) -> Iterator[str]:
    """The networks that it kept are there, and unchanged."""
    for name, digest in RunFolder(folder.parent, folder.name).networks.items():
        try:
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                yield f"{name} is not what the run kept: its SHA-256 is another than status.json has"
        except OSError as error:
            yield f"{name}, which the run kept, cannot be read ({error.strerror})"


def _of(run: RecordedRun, key: str) -> dict[str, Any]:
    found = run.config.get(key)
    return found if isinstance(found, dict) else {}
