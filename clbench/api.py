"""clbench from Python: train methods on a suite, and work with what was recorded.

runs = clbench.run("permuted-digits", methods=["naive", "ewc"], seeds=range(3))
runs.table()
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.errors import RunError, SettingError
from clbench.events import Observer, Observers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from clbench.methods.method import Method
    from clbench.records.reading import RecordedRun
    from clbench.suites.suite import Suite


class Runs(Sequence["RecordedRun"]):
    """Recorded runs, in the order of methods and seeds.

    Args:
        recorded: the runs.
    """

    def __init__(self, recorded: "Sequence[RecordedRun]") -> None:
        self._runs = tuple(recorded)

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __iter__(self) -> "Iterator[RecordedRun]":
        return iter(self._runs)

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(run.method for run in self))
        return f"<{len(self)} runs of {methods or 'nothing'}>"

    @property
    def finished(self) -> "Runs":
        """Those that ended whole."""
        return Runs([run for run in self if run.status == "finished"])

    @property
    def failed(self) -> "Runs":
        """Those that did not; `reason` of each says why."""
        return Runs([run for run in self if run.status == "failed"])

    def table(self) -> "pd.DataFrame":
        """A row per finished run: suite, method, seed, every metric, training seconds, images measured on, run id.

        Accuracies are shares in [0, 1]. A metric that a run leaves undefined is NaN. `measured_on` is `validation` for
        a trial of `clbench tune`.

        Example:
            runs.table().groupby("method")["average_accuracy"].mean()
        """
        import pandas as pd

        from clbench.metrics import SUMMARY

        rows = [
            {
                "suite": run.suite,
                "method": run.method,
                "seed": run.seed,
                **{name: metric(run.accuracy_matrix, None) for name, metric in SUMMARY.items()},
                "train_seconds": run.tasks["train_seconds"].sum(),
                "measured_on": run.measured_on,
                "run_id": run.run_id,
            }
            for run in self.finished
        ]
        columns = ["suite", "method", "seed", *SUMMARY, "train_seconds", "measured_on", "run_id"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(SUMMARY, float))

    def accuracy(self) -> "pd.DataFrame":
        """Every accuracy measured, a row each: method, seed, tasks_learned, task (from 1), accuracy, measured_on.

        Example:
            runs.accuracy().query("tasks_learned == 10").pivot_table("accuracy", "task", "method")
        """
        import numpy as np
        import pandas as pd

        rows = [
            (run.method, run.seed, int(learned), int(task) + 1, run.accuracy_matrix[learned, task], run.measured_on)
            for run in self
            for learned, task in np.argwhere(~np.isnan(run.accuracy_matrix))
        ]
        return pd.DataFrame(rows, columns=["method", "seed", "tasks_learned", "task", "accuracy", "measured_on"])

    def plot(self) -> "Figure":
        """Average accuracy over the tasks learned so far against their number, mean over seeds, in per cent.

        Trials, which are measured on validation images, are left out.
        """
        from matplotlib.figure import Figure

        found = Runs([run for run in self.finished if run.measured_on == "test"]).accuracy()
        seen = found[(found["task"] <= found["tasks_learned"])]
        means = seen.groupby(["method", "seed", "tasks_learned"])["accuracy"].mean()
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for method, curve in means.groupby(level="method", sort=False):
            over_seeds = 100 * curve.groupby(level="tasks_learned").mean()
            axes.plot(over_seeds.index, over_seeds, marker="o", markersize=3, label=str(method))
        axes.set(xlabel="Tasks learned", ylabel="Average accuracy, %")
        axes.legend()
        return figure

    def report(self, folder: str | Path) -> list[Path]:
        """Writes the report on each suite, HTML, PDF, JSON and parts for a paper; returns the paths.

        Raises:
            RecordError: if no run is finished, or a file cannot be written.
        """
        from clbench.reports import write_report

        suites = dict.fromkeys(run.suite for run in self)
        return [path for suite in suites for path in write_report(self._runs, suite, Path(folder))]


def load(folder: str | Path = "clbench-runs") -> Runs:
    """The runs below a folder of run folders.

    Raises:
        RecordError: if there is no such folder, or a run in it is damaged.

    Example:
        clbench.load("clbench-runs").table()
    """
    from clbench.records.reading import read_runs

    return Runs(read_runs(Path(folder)))


def run(
    suite: "str | Path | Suite",
    methods: "Sequence[str | type[Method]] | None" = None,
    seeds: Sequence[int] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    data_root: str | Path | None = None,
    offline: bool = False,
    output: str | Path = "clbench-runs",
    tracking: str | None = None,
    rerun: bool = False,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    threads: int | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> Runs:
    """Trains every method with every seed, as `clbench run` does, and returns the recorded runs.

    Runs that are recorded in `output` already are not repeated. A run that was cut off goes on after its last task.

    Args:
        suite: a name, the path of a file, or a suite.
        methods: names, `./file.py:Class`, or classes. None for the suite's own, without those that cannot run.
        seeds: None for the suite's own.
        overrides: settings to change, such as `{"epochs": 2, "ewc.strength": 100.0}`.
        sweep: settings of which every value is run, such as `{"ewc.strength": [100.0, 1000.0]}`; of several, every
            combination.
        data_root, offline: where images are, and whether none may be downloaded.
        output: the folder of run folders.
        tracking: URI of an MLflow store, such as `sqlite:///mlflow.db`. None keeps run folders alone.
        rerun: whether to train recorded runs anew. The record from before is kept beside the new one, and it is said
            whether the weights are the same.
        precision: of training.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`.
        threads: of the CPU. None for torch's. Torch has its own number again afterwards.
        jobs: runs to train at once, each in a process of its own.
        quiet: whether to say warnings and errors only.

    Raises:
        SettingError, DataError, RecordError: for what cannot be run, before anything is.
        RunError: if a run failed, after the others ended; its `runs` has all of them.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.

    Example:
        class L2(clbench.methods.Method): ...
        runs = clbench.run("permuted-digits", methods=["naive", L2], seeds=range(3), overrides={"epochs": 4})
    """
    from clbench.cli.options import check_home

    check_home()
    import torch

    from clbench.execution.grid import run_grid
    from clbench.execution.plan import choose, chosen_device, make_jobs, set_threads
    from clbench.execution.rerun import compare, set_aside
    from clbench.records.files import check_writable
    from clbench.records.reading import read_run
    from clbench.screen import Screen

    if isinstance(methods, str):
        raise SettingError(f"methods={methods!r} is one name; give a list, such as [{methods!r}]")
    folder, screen = Path(output), Screen(quiet=quiet)
    root = None if data_root is None else Path(data_root)
    choice = choose(suite, methods, seeds, overrides, root, sweep=sweep, at_once=jobs)
    images, place = choice.images(screen.warn, offline=offline), chosen_device(device)
    specs = choice.specs(images, precision, place, screen.warn)
    check_writable(folder, "output")
    command = f"clbench.run({choice.suite.name!r}, methods={choice.methods!r}, overrides={choice.overrides!r})"
    before = torch.get_num_threads()
    try:
        set_threads(threads, jobs, place, ("jobs=", "threads="))
        observer = Observers(_tracker(tracking, screen.warn, folder), screen)
        before_anew = set_aside(folder, [spec.run_id for spec in specs], tracking) if rerun else {}
        outcome = run_grid(make_jobs(choice, specs, images, place, folder, command, at_once=jobs), observer)
    finally:
        torch.set_num_threads(before)
    compare(folder, before_anew, screen.say, screen.warn)
    if outcome == "stopped":
        raise KeyboardInterrupt
    runs = Runs([read_run(folder / spec.run_id) for spec in specs])
    if outcome == "failed":
        failed = "; ".join(f"{each.method} seed {each.seed}: {each.reason}" for each in runs.failed)
        raise RunError(f"{len(runs.failed)} of {len(runs)} runs failed: {failed}", runs)
    return runs


def _tracker(uri: str | None, warn: Callable[[str], None], output: Path) -> Observer:
    if uri is None:
        from clbench.tracking.untracked import Untracked

        return Untracked()
    from clbench.tracking.tracker import Tracker

    return Tracker(uri, warn, output)


__all__ = ["Runs", "load", "run"]
