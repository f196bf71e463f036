"""What pruning cost, read from a run's pruning.csv."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from clbench.records.format import ALL_GROUPS
from clbench.records.reading import RecordedRun
from clbench.reports.analysis.statistics import Estimate, estimate

if TYPE_CHECKING:
    from pandas.core.groupby import DataFrameGroupBy

_NORMAL = 1.96


@dataclass(frozen=True)
class Spent:
    """The accuracy that pruning for one task cost, before fine-tuning, as a share.

    Attributes:
        task: its number, from 1.
        validation, test: on either images; mean over seeds.
        uncertainty: half the 95 % interval of one run's cost on validation images, from the number of images whose
            answer became right or wrong (Agresti and Min 2005, "Simple improved confidence intervals for comparing
            matched proportions"); mean over seeds.
    """

    task: int
    validation: Estimate
    test: Estimate | None
    uncertainty: float


def spent(runs: Sequence[RecordedRun]) -> list[Spent]:
    """What each task's pruning cost, of runs that all have a pruning.csv."""
    costs = pd.concat([_costs(run.pruning) for run in runs])
    found = []
    for task, rows in costs.groupby("task"):
        on_test = [] if rows["test"].isna().any() else [float(cost) for cost in rows["test"]]
        validation = estimate([float(cost) for cost in rows["validation"]])
        found.append(
            Spent(int(str(task)), validation, estimate(on_test) if on_test else None, float(rows["uncertainty"].mean()))
        )
    return found


def margin_of(config: Mapping[str, Any]) -> float | None:
    """The accuracy in points that a run's pruning may cost, by its config.json; None where it has no such setting."""
    margin = (config.get("method_settings") or {}).get("margin")
    return float(margin) if isinstance(margin, int | float) else None


def of_network(looks: pd.DataFrame) -> "DataFrameGroupBy":
    """The looks at the whole network by task: the first is at the unpruned one, the last at what stays."""
    return looks[looks["group"] == ALL_GROUPS].groupby("task")


def cost_on_test(runs: Sequence[RecordedRun]) -> Estimate | None:
    """Test accuracy lost from before pruning to after fine-tuning, a share: of each run the mean over its tasks.

    None where it was not recorded.
    """
    of_runs = []
    for run in runs:
        if not len(run.pruning):
            return None
        whole = of_network(run.pruning)["test_accuracy"].first()
        tasks = [int(str(task)) for task in whole.index]
        lost = [float(whole[task]) - run.accuracy_matrix[task, task - 1] for task in tasks]
        of_runs.append(sum(lost) / len(lost))
    return estimate(of_runs) if of_runs and not any(map(math.isnan, of_runs)) else None


def _costs(looks: pd.DataFrame) -> pd.DataFrame:
    """By task, what one run's pruning cost on validation and test images, and how sure the first is."""
    whole = of_network(looks)
    before, after = whole.first(), whole.last()
    cost = before["validation_accuracy"] - after["validation_accuracy"]
    # Of n answers each turned wrong (1), right (-1) or stayed (0). Half an answer is added to either that could have
    # turned (Agresti and Min 2005), since none that did turn does not mean that none can.
    n, changed = after["validation_images"] + 2, after["changed"] + 1
    difference = cost * after["validation_images"] / n
    variance = (changed / n - difference**2).clip(lower=0) / n
    return pd.DataFrame(
        {
            "validation": cost,
            "test": before["test_accuracy"] - after["test_accuracy"],
            "uncertainty": _NORMAL * variance.map(math.sqrt),
        }
    ).reset_index()
