"""Recorded runs as a Python object: tables, a figure, reports."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from clbench.records.reading import RecordedRun


class Runs(Sequence["RecordedRun"]):
    """Recorded runs, as `clbench.run` and `clbench.load` return them. A sequence: each item is one run.

    Args:
        recorded: the runs, in their order.

    Example:
        runs = clbench.load("clbench-runs")
        ewc = clbench.Runs([run for run in runs if run.method == "ewc"])
        ewc[0].accuracy_matrix      # [tasks learned + 1, tasks], shares in [0, 1], NaN where nothing was measured
    """

    def __init__(self, recorded: "Sequence[RecordedRun]") -> None:
        self._runs = tuple(recorded)

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> "RecordedRun": ...

    @overload
    def __getitem__(self, index: slice) -> "Runs": ...

    def __getitem__(self, index: int | slice) -> "RecordedRun | Runs":
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __iter__(self) -> "Iterator[RecordedRun]":
        return iter(self._runs)

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(run.method for run in self))
        return f"<{len(self)} runs of {methods or 'nothing'}>"

    @property
    def finished(self) -> "Runs":
        """Those that ended whole.

        Example:
            len(runs.finished)
        """
        return Runs([run for run in self if run.status == "finished"])

    @property
    def failed(self) -> "Runs":
        """Those that did not; `reason` of each says why.

        Example:
            [(run.method, run.seed, run.reason) for run in runs.failed]
        """
        return Runs([run for run in self if run.status == "failed"])

    def _names(self) -> dict[str, str]:
        """By run id, the method and what tells it from others of it among the runs of its suite."""
        from clbench.records.naming import names

        found: dict[str, str] = {}
        for suite in dict.fromkeys(run.suite for run in self):
            of_suite = sorted((run for run in self if run.suite == suite), key=lambda run: (run.started, run.run_id))
            called = names([run.config for run in of_suite])
            found |= {run.run_id: name.label for run, name in zip(of_suite, called, strict=True)}
        return found

    def table(self) -> "pd.DataFrame":
        """A row per finished run: suite, method, name, seed, every metric, training seconds, images measured on, id.

        `name` is the method and what tells it from others of it, such as `ewc strength=1000`, as in reports.
        Accuracies are shares in [0, 1]. A metric that a run leaves undefined is NaN. `measured_on` is `validation` for
        a trial of `clbench tune`.

        Example:
            runs.table().groupby("name")["average_accuracy"].mean()
        """
        import pandas as pd

        from clbench.metrics import SUMMARY

        name_of = self._names()
        rows = [
            {
                "suite": run.suite,
                "method": run.method,
                "name": name_of[run.run_id],
                "seed": run.seed,
                **{name: metric(run.accuracy_matrix, None) for name, metric in SUMMARY.items()},
                "train_seconds": run.tasks["train_seconds"].sum(),
                "measured_on": run.measured_on,
                "run_id": run.run_id,
            }
            for run in self.finished
        ]
        columns = ["suite", "method", "name", "seed", *SUMMARY, "train_seconds", "measured_on", "run_id"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(SUMMARY, float))

    def accuracy(self) -> "pd.DataFrame":
        """Every accuracy measured, a row each: method, name, seed, tasks_learned, task (from 1), accuracy, measured_on.

        Example:
            runs.accuracy().query("tasks_learned == 10").pivot_table("accuracy", "task", "name")
        """
        import numpy as np
        import pandas as pd

        name_of = self._names()
        rows = [
            (
                run.method,
                name_of[run.run_id],
                run.seed,
                int(learned),
                int(task) + 1,
                run.accuracy_matrix[learned, task],
                run.measured_on,
            )
            for run in self
            for learned, task in np.argwhere(~np.isnan(run.accuracy_matrix))
        ]
        return pd.DataFrame(
            rows, columns=["method", "name", "seed", "tasks_learned", "task", "accuracy", "measured_on"]
        )

    def plot(self) -> "Figure":
        """Average accuracy over the tasks learned so far against their number, mean over seeds, in per cent.

        Trials, which are measured on validation images, are left out.

        Example:
            runs.plot().savefig("accuracy.pdf")
        """
        from clbench.reports.figures.notebook import NotebookFigure

        found = Runs([run for run in self.finished if run.measured_on == "test"]).accuracy()
        seen = found[(found["task"] <= found["tasks_learned"])]
        means = seen.groupby(["name", "seed", "tasks_learned"])["accuracy"].mean()
        figure = NotebookFigure(layout="constrained")
        axes = figure.subplots()
        for name, curve in means.groupby(level="name", sort=False):
            over_seeds = 100 * curve.groupby(level="tasks_learned").mean()
            axes.plot(over_seeds.index, over_seeds, marker="o", markersize=3, label=str(name))
        axes.set(xlabel="Tasks learned", ylabel="Average accuracy, %")
        axes.legend()
        return figure

    def report(self, folder: str | Path) -> list[Path]:
        """Writes the report on each suite, HTML, PDF, JSON and parts for a paper; returns the paths.

        Raises:
            RecordError: if no run is finished, or a file cannot be written.

        Example:
            runs.report("out")      # [out/permuted-digits.html, ...]
        """
        from clbench.reports import write_report

        suites = dict.fromkeys(run.suite for run in self)
        return [path for suite in suites for path in write_report(self._runs, suite, Path(folder))]
