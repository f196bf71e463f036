"""Estimates as cells of a table, with the number behind the text."""

from collections.abc import Callable

from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.statistics import Estimate
from clbench.reports.formatting import percent, tenths
from clbench.reports.model import Cell

UNDEFINED = Cell("n/a")
NOT_DECLARED = Cell("not declared")
"""The state of a method that does not say what it keeps."""


def accuracy_cell(value: Estimate | None, remark: str = "") -> Cell:
    """An accuracy in per cent: `98.42 ± 0.04`; the remark stands below it where there is no interval."""
    if value is None:
        return UNDEFINED
    if value.half_width is None:
        return Cell(percent(value.mean), remark, 100 * value.mean)
    text = f"{percent(value.mean)} ± {percent(value.half_width)}"
    return Cell(text, "", 100 * value.mean, 100 * value.half_width)


def points_cell(value: Estimate | None, show: Callable[[float], str]) -> Cell:
    """A difference of accuracies in percentage points, its interval below."""
    if value is None:
        return UNDEFINED
    if value.half_width is None:
        return Cell(show(value.mean), "", 100 * value.mean)
    return Cell(show(value.mean), f"± {percent(value.half_width)}", 100 * value.mean, 100 * value.half_width)


def cost_cell(group: Group, column: str, over_tasks: str, show: Callable[[float], str]) -> Cell:
    """A time, a rate or a number of bytes, mean over seeds. Arguments are those of `Group.tasks`."""
    value = group.tasks(column, over_tasks)
    if value is None:
        return NOT_DECLARED if column == "state_bytes" else UNDEFINED
    return Cell(show(value.mean), "", value.mean)


def count_cell(number: int) -> Cell:
    """A whole number."""
    return Cell(str(number), "", float(number))


def capacity_cell(group: Group) -> Cell:
    """CAP after the last task in per cent, mean over seeds."""
    found = group.capacity_used
    return UNDEFINED if found is None else Cell(tenths(100 * found.mean), "", 100 * found.mean)
