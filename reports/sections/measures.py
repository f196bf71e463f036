"""The section on what methods measure of themselves beside what all have."""

from collections.abc import Sequence

from clbench.reports.analysis.groups import Group
from clbench.reports.model import Cell, Column, Section, Table


def measures_section(groups: Sequence[Group], mark: str) -> Section | None:
    """A table of the further numbers; None where no method has any."""
    rows = [
        (Cell(group.label), Cell(str(name).replace("_", " ")), _number(of_name["value"].mean()), _number(last))
        for group in groups
        if not group.measures.empty
        for name, of_name in group.measures.groupby("name", sort=False)
        for last in [of_name["value"].iloc[-1]]
    ]
    if not rows:
        return None
    table = Table(
        "measures",
        f"{mark}Further numbers, mean over seeds",
        (Column("Method", "text", 1.6), Column("Number", "text", 2.0), Column("Mean over tasks"), Column("Last task")),
        tuple(rows),
        ("What a method says of itself after each task. docs/suites.md has how each number is counted.",),
    )
    return Section("measures", "Further numbers", (), (table,))


def _number(value: float) -> Cell:
    return Cell(f"{value:,.4g}".replace("-", "−"), "", float(value))
