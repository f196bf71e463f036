"""Which runs may be averaged, and their statistics over seeds.

Letters: n seeds, T tasks. Accuracies are in [0, 1], as recorded.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from clbench.metrics import SUMMARY, capacity_used, tasks_learned
from clbench.records.format import REPLAYED
from clbench.records.identity import recorded_settings
from clbench.records.naming import group_identity, names, natural, override_words
from clbench.records.reading import RecordedRun
from clbench.records.result import rows_of
from clbench.reports.analysis.departures import departures, is_known
from clbench.reports.analysis.statistics import Estimate, estimate
from clbench.reports.formatting import NOT_RECORDED, plain
from clbench.suites.settings import base_name

# What is most likely to move a number when nothing else does.
VERSIONS_TO_MARK = ("clbench", "torch")


@dataclass(frozen=True)
class Group:
    """Runs of one method that differ in their seed alone.

    Attributes:
        method: the method's name.
        label: the method's name, with what differs where it has several groups; unique in the report (see
            `clbench.records.naming`).
        differs: what sets this group apart from the method's other groups, where its label has no room for it, and the
            versions that set it apart from most of the report; empty where nothing does.
        variant: 0 for the first of the method's groups by label, 1 for the second, and so on.
        runs: one per seed, by seed.
    """

    method: str
    label: str
    differs: str
    variant: int
    runs: tuple[RecordedRun, ...]

    @property
    def base(self) -> str:
        """The method without a variant's name: `psp` of `psp:rotation`."""
        return base_name(self.method)

    def name_among(self, names: Collection[str]) -> str:
        """The name that these values are looked up by: a variant's own where it has some, else its method's."""
        return self.method if self.method in names else self.base

    @property
    def epochs(self) -> str:
        """Epochs per task, as the runs had them; the method's where it has its own."""
        own = (self.config.get("method_settings") or {}).get("epochs")
        return self.epochs_of_suite if own is None else plain(own)

    @property
    def epochs_of_suite(self) -> str:
        """Epochs per task that the suite sets, with what was overridden."""
        return plain((self.config.get("suite_settings") or {}).get("epochs"))

    @property
    def is_modified(self) -> bool:
        """Whether these runs override the suite's or the method's own setting."""
        return self.runs[0].is_modified

    @cached_property
    def departures(self) -> list[str]:
        """In what the setting of these runs is not the one that the suite gives the method in this version.

        Nothing, for a suite that clbench does not have.
        """
        return departures(self.config)

    @property
    def is_in_the_suites_setting(self) -> bool:
        """Whether these runs count as the suite's own, by the suite as it is now or, if it is a user's, by the record.

        What was an override once may be the suite's setting now.
        """
        return not self.departures if is_known(self.runs[0].suite) else not self.is_modified

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that the runs share (and the seed, host and command of the first)."""
        return self.runs[0].config

    @cached_property
    def circumstances(self) -> str:
        """What groups must share to be held against each other: the number of tasks, the network, the data and so on.

        Everything that the suite sets for all methods; a method's own settings are the method's.
        """
        given = {**recorded_settings(self.config)["suite_settings"]}
        given["data"] = (self.config.get("data") or {}).get("sha256")
        return json.dumps(given, sort_keys=True)

    @property
    def overrides(self) -> str:
        """What was overridden, as `key=value`, comma-separated."""
        return ", ".join(override_words(self.config)) or NOT_RECORDED

    @cached_property
    def matrices(self) -> npt.NDArray[np.float64]:
        """The accuracy matrices, [n, T + 1, T]."""
        return np.stack([run.accuracy_matrix for run in self.runs])

    @cached_property
    def average_accuracy_curves(self) -> npt.NDArray[np.float64]:
        """Average accuracy over the tasks learned so far, [n, T]."""
        matrices = self.matrices
        return np.stack([matrices[:, t, :t].mean(axis=1) for t in range(1, matrices.shape[2] + 1)], axis=1)

    @property
    def average_accuracy(self) -> float:
        """After the last task, mean over seeds."""
        return float(self.average_accuracy_curves[:, -1].mean())

    @property
    def forgetting_per_task(self) -> npt.NDArray[np.float64]:
        """By how much each task but the last lies below its best earlier accuracy in the end, [n, T - 1]."""
        matrices = self.matrices
        tasks = matrices.shape[2]
        # As in metrics.forgetting: the best of rows 1 to T - 1, whether or not the task was learned by then.
        earlier = matrices[:, 1:tasks, : tasks - 1]
        # Nothing is known of a task that was never measured before the end.
        best = np.where(np.isnan(earlier), -np.inf, earlier).max(axis=1, initial=-np.inf)
        return np.where(np.isneginf(best), np.nan, best) - matrices[:, tasks, : tasks - 1]

    def metric(self, name: str) -> Estimate | None:
        """A metric of `clbench.metrics.SUMMARY` over the seeds; None where any run leaves it undefined."""
        values = [SUMMARY[name](run.accuracy_matrix, None) for run in self.runs]
        defined = [value for value in values if value is not None]
        return estimate(defined) if len(defined) == len(values) else None

    def by_seed(self, name: str) -> dict[int, float]:
        """A metric of `clbench.metrics.SUMMARY` by seed, without the runs that leave it undefined."""
        values = {run.seed: SUMMARY[name](run.accuracy_matrix, None) for run in self.runs}
        return {seed: value for seed, value in values.items() if value is not None}

    @property
    def is_told_the_task(self) -> bool | None:
        """Whether the method is told the task at test; None where it was not recorded."""
        return self.config.get("task_known_at_test")

    def tasks(self, column: str, over_tasks: str) -> Estimate | None:
        """A column of the task tables over seeds, after `mean`, `median`, `sum`, `max`, `first`, `last` or `slope`.

        The slope is what each task after the first adds on average; 0 with a single task. `mean`, `median` and `first`
        are of the tasks that trained an image: a method may wait for the last one.
        """
        ends = {"first": 0, "last": -1}
        values = []
        for found, rate in zip(self._task_column(column), self._task_column("train_images_per_second"), strict=True):
            left_out = np.isnan(found) | ((rate == 0) & (over_tasks in ("mean", "median", "first")))
            recorded = found[~left_out]
            if not recorded.size:
                return None
            if over_tasks == "slope":
                values.append(float(recorded[-1] - recorded[0]) / max(1, recorded.size - 1))
            elif over_tasks in ends:
                values.append(float(recorded[ends[over_tasks]]))
            elif over_tasks == "median":
                values.append(float(np.median(recorded)))
            else:
                values.append(float(getattr(recorded, over_tasks)()))
        return estimate(values)

    @cached_property
    def _task_columns(self) -> dict[str, list[npt.NDArray[np.float64]]]:
        return {}

    def _task_column(self, column: str) -> list[npt.NDArray[np.float64]]:
        """A column of the task tables as numbers, one [T] per seed, NaN where there is none; read once.

        `state_bytes` is all that is kept from task to task, by the method and by its optimiser.
        """
        if column == "state_bytes":
            parts = zip(*map(self._task_column, ("extra_state_bytes", "optimizer_state_bytes")), strict=True)
            # Early records do not count what an optimiser keeps.
            return [of_method + np.nan_to_num(of_optimizer) for of_method, of_optimizer in parts]
        if column not in self._task_columns:
            self._task_columns[column] = [
                pd.to_numeric(run.tasks[column], errors="coerce").to_numpy(dtype=float) for run in self.runs
            ]
        return self._task_columns[column]

    def task_means(self, column: str) -> npt.NDArray[np.float64]:
        """A column of the task tables, mean over seeds: [T], NaN where no run recorded it."""
        frames = self._task_column(column)
        length = min(len(frame) for frame in frames)
        return np.stack([frame[:length] for frame in frames]).mean(axis=0)

    @cached_property
    def capacity(self) -> pd.DataFrame:
        """What the runs counted, by group of units in the order of the record, then by task; mean over seeds.

        Empty for methods that count nothing.
        """
        frames = [run.capacity for run in self.runs if len(run.capacity)]
        if not frames:
            return pd.DataFrame()
        together = pd.concat(frames)
        means = together.groupby(["group", "unit", "task"], as_index=False, sort=False).mean().sort_values("task")
        places = {name: place for place, name in enumerate(dict.fromkeys(together["group"]))}
        return means.sort_values("group", key=lambda names: names.map(places), kind="stable", ignore_index=True)

    @cached_property
    def measures(self) -> pd.DataFrame:
        """Further numbers of the method, by task and name, mean over seeds; empty where there are none."""
        frames = [run.measures for run in self.runs if len(run.measures)]
        if not frames:
            return pd.DataFrame()
        return pd.concat(frames).groupby(["name", "task"], as_index=False, sort=False).mean()

    @cached_property
    def capacity_used(self) -> Estimate | None:
        """CAP after the last task, over seeds; None where the weights were not counted."""
        found = [capacity_used(rows_of(run.capacity)) for run in self.runs if len(run.capacity)]
        known = [value for value in found if value is not None]
        return estimate(known) if known and len(known) == len(self.runs) else None

    @cached_property
    def images_trained_on(self) -> Estimate | None:
        """Training images over all tasks, each counted as often as it was used, also from a memory, over seeds."""
        counts = []
        for run, seconds, rate in zip(
            self.runs, self._task_column("train_seconds"), self._task_column("train_images_per_second"), strict=True
        ):
            if np.isnan(seconds).any() or np.isnan(rate).any():
                return None
            of_memory = run.measures.loc[run.measures["name"] == REPLAYED, "value"].sum() if len(run.measures) else 0
            counts.append(float((seconds * rate).sum() + of_memory))
        return estimate(counts)

    def hours(self, device: str) -> float | None:
        """Hours of one core, or of one GPU, that all its runs took to train and test; None for runs on another device.

        A GPU on which a command trains several runs at once is shared out among them.

        Args:
            device: `cpu` or `cuda`.
        """
        found = 0.0
        for run in self.runs:
            if not str(run.config.get("device", "cpu")).startswith(device):
                return None
            seconds = run.tasks["train_seconds"].sum() + run.tasks["eval_seconds"].sum()
            share = (
                run.config.get("threads", 1)
                if device == "cpu"
                else run.config.get("gpus", 1 / run.config.get("jobs", 1))
            )
            found += float(seconds) * share / 3600
        return found

    @cached_property
    def reused_shares(self) -> pd.DataFrame:
        """Reused units as a share of those claimed earlier: rows tasks, columns groups of units, mean over seeds."""
        shares = []
        for run in self.runs:
            if len(run.capacity):
                frame = run.capacity
                # By run: of means over seeds, the difference is not exactly 0 where nothing was claimed earlier.
                earlier = frame["units"] - frame["free"] - frame["new"]
                frame = frame.assign(share=(frame["reused"] / earlier).where(earlier > 0))
                shares.append(frame.pivot(index="task", columns="group", values="share"))
        means = pd.concat(shares).groupby(level="task").mean().dropna(how="all")
        return means[list(dict.fromkeys(self.capacity["group"]))]


def are_mixed(groups: Iterable[Group]) -> bool:
    """Whether some of the groups cannot be held against each other (`Group.circumstances`)."""
    return len({group.circumstances for group in groups}) > 1


@dataclass(frozen=True)
class LeftOut:
    """A run that no number contains, and why."""

    run: RecordedRun
    reason: str


@dataclass(frozen=True)
class Selection:
    """The groups to report, the suite's own setting first, and the runs left out."""

    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]


def select(runs: Sequence[RecordedRun], suite: str) -> Selection:
    """Sorts a suite's runs into groups in the order of a report, and sets aside those that cannot count."""
    counted: dict[str, dict[int, RecordedRun]] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: (run.started, run.ended, run.run_id), reverse=True):
        if run.suite != suite:
            continue
        reason = _reason_to_leave_out(run)
        if not reason:
            by_seed = counted.setdefault(json.dumps(group_identity(run.config), sort_keys=True), {})
            # A seed that counts twice would narrow the interval without adding evidence.
            first = by_seed.setdefault(run.seed, run)
            if first is not run:
                reason = f"repeats seed {run.seed} of the later run {first.run_id}"
        if reason:
            left_out.append(LeftOut(run, reason))
    groups = _named([tuple(by_seed[seed] for seed in sorted(by_seed)) for by_seed in counted.values()])
    return Selection(
        groups=tuple(_in_order(list(_marked_by_version(groups)))),
        left_out=tuple(sorted(left_out, key=lambda item: (item.run.method, item.run.seed, item.run.run_id))),
    )


def _in_order(groups: Sequence[Group]) -> list[Group]:
    """By accuracy; the suite's own setting first, and what can be held against each other together, the most first."""
    alike = Counter((group.is_modified, group.circumstances) for group in groups)

    def key(group: Group) -> tuple[Any, ...]:
        block = (group.is_modified, group.circumstances)
        return group.is_modified, -alike[block], group.circumstances, -group.average_accuracy, group.label

    return sorted(groups, key=key)


def _reason_to_leave_out(run: RecordedRun) -> str:
    if run.measured_on != "test":
        return f"was measured on {run.measured_on} images, for a search of hyper-parameters"
    if run.status == "running":
        return "was still running when the runs were read"
    if run.status != "finished":
        return run.reason or "no reason was recorded"
    tasks = run.accuracy_matrix.shape[1]
    learned = tasks_learned(run.accuracy_matrix)
    return "" if learned == tasks else f"is recorded as finished, but holds {learned} of {tasks} tasks"


def _named(all_runs: Sequence[tuple[RecordedRun, ...]]) -> list[Group]:
    # As they were recorded, so that a run added later leaves the letters as they are.
    in_time = sorted(all_runs, key=lambda runs: min((run.started, run.run_id) for run in runs))
    found = names([runs[0].config for runs in in_time])
    groups: list[Group] = []
    for name, runs in sorted(zip(found, in_time, strict=True), key=lambda pair: natural(pair[0].label)):
        variant = sum(group.method == runs[0].method for group in groups)
        groups.append(Group(runs[0].method, name.label, name.differs, variant, runs))
    return groups


def version_of(run: RecordedRun, package: str) -> str:
    """The version of a package that a run was made with."""
    return plain((run.config.get("versions") or {}).get(package))


def usual_version(groups: Sequence[Group], package: str) -> str:
    """The version of a package that most of the runs were made with; of two as frequent, the newest run's."""
    runs = sorted((run for group in groups for run in group.runs), key=lambda run: (run.started, run.run_id))
    return Counter(version_of(run, package) for run in reversed(runs)).most_common(1)[0][0]


def _marked_by_version(groups: Sequence[Group]) -> Iterator[Group]:
    """Says below the name of a group that it was made with another clbench or torch than most of the others."""
    usual = {package: usual_version(groups, package) for package in VERSIONS_TO_MARK} if groups else {}
    for group in groups:
        marks = [group.differs] if group.differs else []
        for package, version in usual.items():
            others = sorted({version_of(run, package) for run in group.runs} - {version, NOT_RECORDED})
            mark = f"{package}={' and '.join(others)}"
            if others and mark not in [*group.label.split(), *group.differs.split(", ")]:
                marks.append(mark)
        yield replace(group, differs=", ".join(marks))
