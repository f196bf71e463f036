"""The section on capacity: units that are free, claimed and reused, by group and task, and when a group will be full.

A group is what a method counts together, such as a layer; its units are neurons, filters or weights.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from clbench.reports import figures
from clbench.reports.analysis.forecast import FARTHEST, FULL, Budget, Forecast, forecasts
from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.pruning import margin_of
from clbench.reports.cells import UNDEFINED, capacity_cell
from clbench.reports.formatting import counted, group_words, layer_number, percent, tenths, units_words
from clbench.reports.model import Cell, Column, Figure, Section, Table
from clbench.reports.sections.pruning import pruning_items

Row = Mapping[str, Any]


def capacity_section(groups: Sequence[Group], mark: str) -> Section | None:
    """All methods that count their units beside each other, and figures and a table for each; None where none does."""
    counting = [group for group in groups if not group.capacity.empty]
    if not counting:
        return None
    items: list[Table | Figure] = [_overview(counting, mark)] if any(group.capacity_used for group in counting) else []
    for number, group in enumerate(counting, start=1):
        items += _items(group, f"capacity-{number}", mark)
    return Section("capacity", "Capacity", (), tuple(items))


def _overview(groups: Sequence[Group], mark: str) -> Table:
    rows = []
    for group in groups:
        last = group.capacity[group.capacity["task"] == group.capacity["task"].max()]
        accuracy = group.average_accuracy
        # Filters and neurons are never added.
        free = float(last["free"].sum() / last["units"].sum()) if last["unit"].nunique() == 1 else math.nan
        rows.append(
            (
                Cell(group.label),
                Cell(percent(accuracy), "", accuracy),
                capacity_cell(group),
                Cell(units_words(last["unit"])),
                _number(100 * free, ".1f"),
            )
        )
    return Table(
        "capacity",
        f"{mark}Capacity after the last task, mean over seeds",
        (
            Column("Method", "text", 1.6),
            Column("Average accuracy, %"),
            Column("CAP, %"),
            Column("Counts", "text", 0.8),
            Column("Free, %"),
        ),
        tuple(rows),
        (
            "CAP: share of the hidden weights that tasks use, and what says which are theirs, counted in weights of 32 "
            "bits. So it may exceed 100 %. That is a bit per unit or weight for each task, compressed for wsn and "
            "sor-snn-style, a number per unit for hat as published, and nothing for anpyc. Below, “weights used” is "
            "the same for each group.",
            *_told_how_many(groups),
        ),
    )


def _told_how_many(groups: Sequence[Group]) -> Iterator[str]:
    """Says which methods divide the network by the number of tasks, or leave the last one all that is free."""
    dividing = {"shares": ("equal", "search"), "budget": ("even",)}
    found = [
        group.label
        for group in groups
        if any(group.runs[0].config["method_settings"].get(name) in values for name, values in dividing.items())
    ]
    if found:
        yield f"Told beforehand how many tasks come, by which they divide the network: {', '.join(found)}."


def _items(group: Group, name: str, mark: str) -> Iterator[Table | Figure]:
    rows = group.capacity.to_dict("records")
    units = units_words(row["unit"] for row in rows)
    last_task = max(row["task"] for row in rows)
    free = ", ".join(
        f"{group_words(row['group'])} {tenths(100 * row['free'] / row['units'])} %"
        for row in rows
        if row["task"] == last_task
    )
    by = "layer" if _are_layers(rows) else "group"
    names = list(dict.fromkeys(row["group"] for row in rows))
    panels = [names[start : start + figures.MOST_GROUPS] for start in range(0, len(names), figures.MOST_GROUPS)]
    for number, shown in enumerate(panels, start=1):
        part = f" ({number} of {len(panels)})" if len(panels) > 1 else ""
        own = name if number == 1 else f"{name}-{number}"
        yield Figure(
            own,
            f"{mark}{group.label}: {units} by {by} and task, mean over seeds{part}. Free after the last task: {free}.",
            f"{mark}Stacked bars for {group.label}: {units} that are free, newly claimed, claimed earlier and "
            f"reused, or claimed earlier and not reused, by {by} and task{part}. Free after the last task: {free}.",
            partial(figures.capacity, group, own, shown),
        )
    if not group.reused_shares.empty:
        reused = ", ".join(
            f"{group_words(str(found))} {tenths(100 * share)} %" for found, share in group.reused_shares.mean().items()
        )
        yield Figure(
            f"{name}-reuse",
            f"{mark}{group.label}: how much of what earlier tasks claimed each task uses again. Mean over tasks: "
            f"{reused}.",
            f"{mark}Line chart for {group.label} of the share of earlier claimed {units} that each task reuses, one "
            f"line per {by}. Mean over tasks: {reused}.",
            partial(figures.reuse, group, f"{name}-reuse"),
        )
    found = forecasts([run.capacity for run in group.runs if len(run.capacity)], budget=_budget(group, names))
    if any(not forecast.is_full for forecast in found):
        yield Figure(
            f"{name}-forecast",
            f"{mark}{group.label}: free {units} by {by}, mean over seeds; dashed, what is left if the claims go on to "
            "depend on what is free as in the second half of the tasks, with the 95 % interval of a run.",
            f"{mark}Line chart for {group.label} of the free {units} by {by} against tasks learned, and what is left "
            f"after further ones. {' '.join(_forecast_notes(found))}",
            partial(figures.filling, group, found, f"{name}-forecast"),
        )
    yield _table(group, rows, name, mark, found)
    yield from pruning_items(group, name, mark)


def _budget(group: Group, names: Sequence[str]) -> Budget | None:
    """What limited the claims of a method that prunes by thresholds, as CLNP does; of others nothing is known."""
    if group.capacity["threshold"].isna().all():
        return None
    setting = (group.config.get("method_settings") or {}).get("budget")
    return Budget.of(setting, names, int(group.config["suite_settings"]["n_tasks"]))


def _are_layers(rows: Sequence[Row]) -> bool:
    return all(layer_number(row["group"]) for row in rows)


def _table(group: Group, rows: Sequence[Row], name: str, mark: str, found: Sequence[Forecast]) -> Table:
    by = "layer" if _are_layers(rows) else "group"
    columns = [(column, cell) for column, cell in _columns(rows) if any(cell(row) != UNDEFINED for row in rows)]
    return Table(
        name,
        f"{mark}{group.label}: capacity by {by} and task, mean over {counted(len(group.runs), 'seed')}",
        tuple(column for column, _ in columns),
        tuple(tuple(cell(row) for _, cell in columns) for row in rows),
        (*_margin_notes(group), *_forecast_notes(found)),
    )


def _columns(rows: Sequence[Row]) -> Iterator[tuple[Column, Callable[[Row], Cell]]]:
    """Each column with what stands in it; units are in the heading where all are of one kind."""

    def number(key: str, pattern: str) -> Callable[[Row], Cell]:
        return lambda row: _number(row[key], pattern)

    units = units_words(row["unit"] for row in rows)
    if _are_layers(rows):
        yield Column("Layer", width=0.6), lambda row: _number(layer_number(row["group"]), ".0f")
    else:
        yield Column("Group", "text", 1.6), lambda row: Cell(group_words(row["group"]))
    yield Column("Task", width=0.6), number("task", ".0f")
    if units == "units":
        yield Column("Of", "text", 0.8), lambda row: Cell(f"{row['unit']}s")
    yield Column(units.capitalize()), number("units", ".0f")
    yield Column("Used"), number("used", ".1f")
    yield Column("Free"), number("free", ".1f")
    yield Column("Free, %"), lambda row: _number(100 * row["free"] / row["units"], ".1f")
    yield Column("New"), number("new", ".1f")
    yield Column("Reused"), number("reused", ".1f")
    yield Column("Threshold"), number("threshold", ".3g")
    yield Column("Margin spent, points", width=1.3), number("margin_spent", ".2f")
    yield Column("Weights used, %"), lambda row: _number(100 * row["weights_used"], ".1f")


def _number(value: float, pattern: str) -> Cell:
    return UNDEFINED if math.isnan(value) else Cell(format(value, pattern).replace("-", "−"), "", float(value))


def _margin_notes(group: Group) -> Iterator[str]:
    """The margin that all layers of a task spent together, against the one allowed; every run's.

    Where runs recorded their search, a table of its own says more.
    """
    if any(len(run.pruning) for run in group.runs):
        return
    allowed = margin_of(group.config)
    spent = [
        float(points)
        for run in group.runs
        for points in (run.capacity.groupby("task")["margin_spent"].sum(min_count=1) if len(run.capacity) else ())
        if not math.isnan(points)
    ]
    if allowed is None or not spent:
        return
    mean = f"{sum(spent) / len(spent):.2f}".replace("-", "−")
    most = f"{max(spent):.2f}".replace("-", "−")
    yield (
        f"Margin: a task may spend {allowed:g} point{'' if allowed == 1 else 's'} on all layers together; spent were "
        f"{mean} on average over tasks and seeds, {most} at most."
    )


def _forecast_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """When each group will be full, if the claims go on as in the later tasks."""
    for found in forecasts:
        words = group_words(found.group)
        group = words if words == found.group else words.capitalize()
        ends = [end for end in found.full_seeds if end is not None]
        if found.is_full:
            span = f"{min(ends)}" if min(ends) == max(ends) else f"{min(ends)} to {max(ends)}"
            yield f"{group}: full after {span} tasks."
            continue
        already = f" {len(ends)} of {counted(len(found.full_seeds), 'seed')} have filled it already." if ends else ""
        claim = f"the next task is expected to claim {tenths(found.next_claim)} {found.unit}s"
        if math.isinf(found.low):
            yield f"{group}: not expected to fill up.{already}"
        elif math.isinf(found.full_after):
            yield f"{group}: more likely than not never full, and not before {found.low:.0f} tasks; {claim}.{already}"
        else:
            high = "never" if math.isinf(found.high) else f"{found.high:.0f}"
            yield (
                f"{group}: full after {found.full_after:.0f} tasks (95 % prediction interval: {found.low:.0f} to "
                f"{high}); {claim}.{already}"
            )
    if forecasts and not all(found.is_full for found in forecasts):
        units = units_words(found.unit for found in forecasts)
        yield (
            f"Full: at most {100 * FULL:g} % of a layer's {units} are free. Forecast: the claims of a task are a "
            f"straight line in the number of {units} still free, fitted to the second half of the tasks and continued "
            "with its noise, within the budget where there is one. What is not full within "
            f"{FARTHEST} times as many tasks counts as never filling up."
        )
