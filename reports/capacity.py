"""The section on neurons: free, claimed and reused, by layer and task, and when a layer will be full."""

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from clbench.reports import figures
from clbench.reports.cells import UNDEFINED
from clbench.reports.forecast import FEWEST_TASKS, Forecast, forecasts
from clbench.reports.formatting import counted, tenths
from clbench.reports.groups import Group
from clbench.reports.model import Cell, Column, Figure, Section, Table

_TRENDS = {
    "": "",
    "falling": ", because the claims have been falling",
    "rising": ", its beginning from the claims' rise",
}


def capacity_section(groups: Sequence[Group], mark: str) -> Section | None:
    """Figures and a table for every group that counts its neurons; None where none does."""
    counting = [group for group in groups if not group.capacity.empty]
    items = tuple(
        item for number, group in enumerate(counting, start=1) for item in _items(group, f"capacity-{number}", mark)
    )
    return Section("capacity", "Capacity", (), items) if items else None


def _items(group: Group, name: str, mark: str) -> Iterator[Table | Figure]:
    rows = _records(group.capacity)
    last_task = max(row["task"] for row in rows)
    free = ", ".join(
        f"layer {row['layer']:.0f} {tenths(100 * row['free'] / row['neurons'])} %"
        for row in rows
        if row["task"] == last_task
    )
    yield Figure(
        name,
        f"{mark}{group.label}: neurons by layer and task, mean over seeds. Free after the last task: {free}.",
        f"{mark}Stacked bars for {group.label}: neurons that are free, newly claimed, claimed earlier and "
        f"reused, or claimed earlier and not reused, by layer and task. Free after the last task: {free}.",
        figures.capacity(group, name),
    )
    if not group.reused_shares.empty:
        reused = ", ".join(
            f"layer {layer:.0f} {tenths(100 * share)} %" for layer, share in group.reused_shares.mean().items()
        )
        yield Figure(
            f"{name}-reuse",
            f"{mark}{group.label}: how much of what earlier tasks claimed each task uses again. Mean over tasks: "
            f"{reused}.",
            f"{mark}Line chart for {group.label} of the share of earlier claimed neurons that each task reuses, one "
            f"line per layer. Mean over tasks: {reused}.",
            figures.reuse(group, f"{name}-reuse"),
        )
    found = _forecasts(group)
    if any(not forecast.is_full for forecast in found):
        yield Figure(
            f"{name}-forecast",
            f"{mark}{group.label}: free neurons by layer, mean over seeds; dashed, what is left if every further task "
            "claims as many as those of the second half did on average, with its 95 % interval.",
            f"{mark}Line chart for {group.label} of the free neurons by layer against tasks learned, and on to the "
            f"task after which none is left. {' '.join(_forecast_notes(found))}",
            figures.filling(group, found, f"{name}-forecast"),
        )
    yield _table(group, rows, name, mark, found)


def _forecasts(group: Group) -> list[Forecast]:
    """One for each layer, if there are tasks enough."""
    tables = [run.capacity for run in group.runs if len(run.capacity)]
    enough = max(int(table["task"].max()) for table in tables) >= FEWEST_TASKS
    return forecasts(tables) if enough else []


def _table(group: Group, rows: Sequence[Mapping[str, float]], name: str, mark: str, found: Sequence[Forecast]) -> Table:
    def cell(value: float, pattern: str) -> Cell:
        return UNDEFINED if math.isnan(value) else Cell(format(value, pattern).replace("-", "−"), "", value)

    return Table(
        name,
        f"{mark}{group.label}: capacity by layer and task, mean over {counted(len(group.runs), 'seed')}",
        (
            Column("Layer", width=0.6),
            Column("Task", width=0.6),
            Column("Neurons"),
            Column("Free"),
            Column("Free, %"),
            Column("New"),
            Column("Reused"),
            Column("Threshold"),
            Column("Margin spent, points", width=1.3),
        ),
        tuple(
            (
                cell(row["layer"], ".0f"),
                cell(row["task"], ".0f"),
                cell(row["neurons"], ".0f"),
                cell(row["free"], ".1f"),
                cell(100 * row["free"] / row["neurons"], ".1f"),
                cell(row["new"], ".1f"),
                cell(row["reused"], ".1f"),
                cell(row["threshold"], ".3g"),
                cell(row["margin_spent"], ".2f"),
            )
            for row in rows
        ),
        (*_margin_notes(group, rows), *_forecast_notes(found)),
    )


def _margin_notes(group: Group, rows: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """The margin that all layers of a task spent together, against the one allowed."""
    allowed = (group.config.get("method_settings") or {}).get("margin")
    spent: dict[float, float] = {}
    for row in rows:
        if not math.isnan(row["margin_spent"]):
            spent[row["task"]] = spent.get(row["task"], 0.0) + row["margin_spent"]
    if not isinstance(allowed, int | float) or not spent:
        return
    mean = f"{sum(spent.values()) / len(spent):.2f}".replace("-", "−")
    most = f"{max(spent.values()):.2f}".replace("-", "−")
    yield (
        f"Margin: a task may spend {allowed:g} points on all layers together; spent were {mean} on average over tasks, "
        f"{most} at most."
    )


def _forecast_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """When each layer will be full, if tasks go on to claim what the later ones did."""
    for found in forecasts:
        layer = f"Layer {found.layer}"
        if math.isinf(found.full_after):
            yield f"{layer}: the later tasks claimed nothing, so it does not fill up."
        elif found.is_full:
            yield f"{layer}: full after {found.full_after:.0f} tasks."
        else:
            high = "open" if math.isinf(found.high) else tenths(found.high)
            yield (
                f"{layer}: if every further task claims as many neurons as those of the second half did on average "
                f"({tenths(found.claims)}), it is full after {tenths(found.full_after)} tasks (95 % interval: "
                f"{tenths(found.low)} to {high}{_TRENDS[found.trend]})."
            )


def _records(frame: pd.DataFrame) -> list[dict[str, float]]:
    return [{str(key): float(value) for key, value in row.items()} for row in frame.to_dict("records")]
