"""What runs of permuted-mnist leave free, which methods are to be recorded, and how a verdict compares."""

import pandas as pd

from clbench.records.format import CAPACITY_COLUMNS, capacity_table
from clbench.reports.verify import Verdict

SUITE = "permuted-mnist"
# Neurons of 2000 that are free in each hidden layer after the last task; the goal is 18 % and 40 %.
PLENTY = (600, 1000)
EXPECTED = (
    "avalanche-ewc",
    "avalanche-si",
    "classp",
    "clnp",
    "clnp:10-epochs",
    "clnp:best",
    "ewc",
    "ewc:20-epochs",
    "hat",
    "mas",
    "naive",
    "online-ewc",
    "psp",
    "si",
    "si:10-epochs",
    "single-task",
)


def capacity_of(*free: int) -> pd.DataFrame:
    """Two tasks; the first leaves twice as much as the last."""
    rows = [
        (task, f"layer_{layer}", "neuron", 2000, left * (3 - task), 10, 0, 0.5, 0.25)
        for task in (1, 2)
        for layer, left in enumerate(free, start=1)
    ]
    names = ("task", "group", "unit", "units", "free", "new", "reused", "threshold", "margin_spent")
    table = capacity_table([dict(zip(names, row, strict=True)) for row in rows])
    return table.reindex(columns=list(CAPACITY_COLUMNS))


def relations(verdict: Verdict) -> str:
    """Where ours lies by each published value."""
    return ", ".join(result.relation(verdict.average_accuracy) for result in verdict.published)
