"""What pruning cost each task, asked and spent, and the trade-off that the search saw."""

from collections.abc import Iterator
from functools import partial

from clbench.reports import figures
from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.pruning import Spent, margin_of, spent
from clbench.reports.cells import points_cell
from clbench.reports.formatting import counted, percent, units_words
from clbench.reports.model import Cell, Column, Figure, Table


def pruning_items(group: Group, name: str, mark: str) -> Iterator[Table | Figure]:
    """The trade-off that a search saw, and what it spent; nothing where no run searched."""
    runs = [run for run in group.runs if len(run.pruning)]
    if not runs:
        return
    shown = min(runs, key=lambda run: run.seed)
    groups = figures.searched(shown.pruning)
    panels = [groups[start : start + figures.MOST_GROUPS] for start in range(0, len(groups), figures.MOST_GROUPS)]
    units = units_words(shown.capacity["unit"])
    for number, names in enumerate(panels, start=1):
        part = f" ({number} of {len(panels)})" if len(panels) > 1 else ""
        own = f"{name}-trade-off" if number == 1 else f"{name}-trade-off-{number}"
        yield Figure(
            own,
            f"{mark}{group.label}, seed {shown.seed}: points of validation accuracy that a task loses, against the "
            f"{units} of each group that it newly claims{part}. Groups were pruned one after the "
            "other, each after those before it. Every point is one look of the search; the large ones were chosen.",
            f"{mark}Line charts for {group.label}, seed {shown.seed}, of the validation accuracy lost against the "
            f"{units} newly claimed, one line per task{part}.",
            partial(figures.trade_off, shown, own, names),
        )
    yield _table(group, spent(runs), len(runs), name, mark)


def _table(group: Group, found: list[Spent], seeds: int, name: str, mark: str) -> Table:
    asked = margin_of(group.config)
    # What the budget takes is not asked of the margin.
    allowed = "n/a" if asked is None else f"{asked:g}"
    columns = [
        Column("Task", width=0.6),
        Column("Asked, points"),
        Column("Spent on validation, points", width=1.3),
        Column("95 % interval of a run, ± points", width=1.3),
    ]
    on_test = any(cost.test is not None for cost in found)
    rows = []
    for cost in found:
        cells = [
            Cell(str(cost.task), "", float(cost.task)),
            Cell(allowed, "", asked),
            points_cell(cost.validation, percent),
            Cell(percent(cost.uncertainty), "", 100 * cost.uncertainty),
        ]
        rows.append((*cells, points_cell(cost.test, percent)) if on_test else tuple(cells))
    return Table(
        f"{name}-margin",
        f"{mark}{group.label}: accuracy that pruning may cost and has cost, before fine-tuning, mean over "
        f"{counted(seeds, 'seed')}",
        tuple([*columns, Column("Spent on test, points", width=1.3)] if on_test else columns),
        tuple(rows),
        tuple(_notes(group, on_test)),
    )


def _notes(group: Group, on_test: bool) -> Iterator[str]:
    yield (
        "95 % interval of a run: from the number of validation images whose answer pruning turned right or wrong. The "
        "fewer the images, the wider it is. The search takes the most that these very images allow, so on others the "
        "cost tends to be larger."
    )
    if on_test:
        yield "The search never sees the test images. They are measured for this table alone."
    budget = (group.config.get("method_settings") or {}).get("budget")
    if budget is not None:
        yield "With a budget pruning may cost more than the margin. Fine-tuning comes after it."
