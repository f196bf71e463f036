"""What a run measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench import metrics
from clbench.records.format import REPLAYED
from clbench.records.reading import RecordedRun

if TYPE_CHECKING:
    import pandas as pd


_TABLES = ("tasks", "capacity", "pruning", "measures")


@dataclass
class RunResult:
    """What a run measured so far.

    Attributes:
        matrix: accuracy [T + 1, T], NaN where not measured (see `clbench.metrics`).
        tasks: per task learned, the columns `format.TASK_COLUMNS`.
        capacity: per task and group of units, the columns `format.CAPACITY_COLUMNS`.
        pruning: per look of a search for what to prune, the columns `format.PRUNING_COLUMNS`.
        measures: per task, further numbers of the method, the columns `format.MEASURES_COLUMNS`.
    """

    matrix: metrics.Matrix
    tasks: list[dict[str, Any]] = field(default_factory=list)
    capacity: list[dict[str, Any]] = field(default_factory=list)
    pruning: list[dict[str, Any]] = field(default_factory=list)
    measures: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "RunResult":
        """What `state` was made of."""
        return cls(state["matrix"].numpy(), *(list(state.get(name, [])) for name in _TABLES))

    def state(self) -> dict[str, Any]:
        """Everything in it, as a checkpoint takes it."""
        import torch

        return {
            "matrix": torch.from_numpy(self.matrix),
            **{name: getattr(self, name) for name in _TABLES},
        }

    @property
    def learned(self) -> int:
        """Tasks learned so far."""
        return len(self.tasks)

    @property
    def is_measured(self) -> bool:
        """Whether anything was measured after the last task: a method may train only when the last has arrived."""
        return self.learned > 0 and not np.isnan(self.matrix[self.learned]).all()

    def metrics(self) -> dict[str, float]:
        """What MLflow gets after the last task: see `docs/records.md` for the names."""
        row = self.matrix[self.learned]
        values = {f"accuracy/task_{j + 1:02d}": float(v) for j, v in enumerate(row) if not np.isnan(v)}
        if not self.learned:
            return values
        if self.is_measured:
            values |= metrics.summarise(self.matrix, self.learned)
        # What a method does not declare is None, and read back NaN.
        known = {key: value for key, value in self.tasks[-1].items() if value is not None and value == value}
        values |= {key: float(value) for key, value in known.items() if key != "task"}
        for row in self.capacity:
            if row["task"] == self.learned:
                counts = {**row, "used": row["units"] - row["free"]}
                for kind in ("used", "free", "reused", "new"):
                    name = f"{kind}_{row['unit']}s"
                    # Neurons and filters are no sum.
                    values[name] = values.get(name, 0.0) + float(counts[kind])
                    values[f"{name}/{row['group']}"] = float(counts[kind])
        measured = {row["name"]: float(row["value"]) for row in self.measures if row["task"] == self.learned}
        values |= measured
        if known.keys() >= {"train_seconds", "train_images_per_second"}:
            of_task = round(known["train_seconds"] * known["train_images_per_second"])
            values["images_trained"] = of_task + measured.get(REPLAYED, 0.0)
        used = metrics.capacity_used([row for row in self.capacity if row["task"] <= self.learned])
        if used is not None:
            values["capacity_used"] = used
        return values


def result_of(recorded: RecordedRun) -> "RunResult":
    """What a recorded run measured."""
    return RunResult(
        recorded.accuracy_matrix,
        rows_of(recorded.tasks),
        rows_of(recorded.capacity),
        rows_of(recorded.pruning),
        rows_of(recorded.measures),
    )


def rows_of(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """A table of a record, row by row, whole numbers as such."""
    # Not iterrows: it would turn the whole numbers of a row into floats.
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
