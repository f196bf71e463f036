"""The section on neurons: free, claimed and reused, by layer and task, and when a layer will be full."""

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from clbench.reports import figures
from clbench.reports.analysis.forecast import FARTHEST, FULL, Forecast, forecasts
from clbench.reports.analysis.groups import Group
from clbench.reports.cells import UNDEFINED
from clbench.reports.formatting import counted, tenths
from clbench.reports.model import Cell, Column, Figure, Section, Table


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
    found = forecasts([run.capacity for run in group.runs if len(run.capacity)])
    if any(not forecast.is_full for forecast in found):
        yield Figure(
            f"{name}-forecast",
            f"{mark}{group.label}: free neurons by layer, mean over seeds; dashed, what is left if the claims go on to "
            "depend on what is free as in the second half of the tasks, with the 95 % interval of a run.",
            f"{mark}Line chart for {group.label} of the free neurons by layer against tasks learned, and what is left "
            f"after further ones. {' '.join(_forecast_notes(found))}",
            figures.filling(group, found, f"{name}-forecast"),
        )
    yield _table(group, rows, name, mark, found)


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
        (*_margin_notes(group), *_forecast_notes(found)),
    )


def _margin_notes(group: Group) -> Iterator[str]:
    """The margin that all layers of a task spent together, against the one allowed; every run's."""
    allowed = (group.config.get("method_settings") or {}).get("margin")
    spent = [
        float(points)
        for run in group.runs
        for points in run.capacity.apply(pd.to_numeric, errors="coerce")
        .groupby("task")["margin_spent"]
        .sum(min_count=1)
        if not math.isnan(points)
    ]
    if not isinstance(allowed, int | float) or not spent:
        return
    mean = f"{sum(spent) / len(spent):.2f}".replace("-", "−")
    most = f"{max(spent):.2f}".replace("-", "−")
    yield (
        f"Margin: a task may spend {allowed:g} point{'' if allowed == 1 else 's'} on all layers together; spent were "
        f"{mean} on average over tasks and seeds, {most} at most."
    )


def _forecast_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """When each layer will be full, if the claims go on as in the later tasks."""
    for found in forecasts:
        layer = f"Layer {found.layer}"
        ends = [end for end in found.full_seeds if end is not None]
        if found.is_full:
            span = f"{min(ends)}" if min(ends) == max(ends) else f"{min(ends)} to {max(ends)}"
            yield f"{layer}: full after {span} tasks."
            continue
        already = f" {len(ends)} of {counted(len(found.full_seeds), 'seed')} have filled it already." if ends else ""
        if math.isinf(found.low):
            yield f"{layer}: not expected to fill up.{already}"
        elif math.isinf(found.full_after):
            yield (
                f"{layer}: more likely than not never full, and not before {found.low:.0f} tasks; the next task is "
                f"expected to claim {tenths(found.next_claim)} neurons.{already}"
            )
        else:
            high = "never" if math.isinf(found.high) else f"{found.high:.0f}"
            yield (
                f"{layer}: full after {found.full_after:.0f} tasks (95 % prediction interval: {found.low:.0f} to "
                f"{high}); the next task is expected to claim {tenths(found.next_claim)} neurons.{already}"
            )
    if forecasts and not all(found.is_full for found in forecasts):
        yield (
            f"Full: at most {100 * FULL:g} % of a layer's neurons are free. Forecast: the claims of a task are a "
            "straight line in the number of neurons still free, fitted to the second half of the tasks and continued "
            f"with its noise. What is not full within {FARTHEST} times as many tasks counts as never filling up."
        )


def _records(frame: pd.DataFrame) -> list[dict[str, float]]:
    return [{str(key): float(value) for key, value in row.items()} for row in frame.to_dict("records")]
