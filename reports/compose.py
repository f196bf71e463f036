"""From groups of runs to the report's tables, figures and sentences."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from clbench.records import RecordedRun
from clbench.reports import figures
from clbench.reports.forecast import FEWEST_TASKS, forecasts
from clbench.reports.formatting import (
    counted,
    instant,
    percent,
    plain,
    readable_bytes,
    signed_percent,
    tenths,
    thousands,
)
from clbench.reports.glossary import glossary
from clbench.reports.groups import SEEDS_FOR_INTERVAL, Estimate, Group, LeftOut, Selection, estimate
from clbench.reports.model import Cell, Column, Figure, Report, Section, Table
from clbench.reports.provenance import left_out_table, provenance
from clbench.reports.published import PublishedResult, published_results

MODIFIED = "Modified runs: not the suite's setting"
_MODIFIED_MARK = "Modified runs. "
_UNDEFINED = Cell("n/a")

# By method: the published result to show in the table, and its number in the list of all.
References = Mapping[str, tuple[PublishedResult, int]]


def compose(selection: Selection, suite: str) -> Report:
    """The report on a selection that holds at least one group.

    The suite's own runs are its subject and the modified ones a section at the end; where every run is
    modified, these are the subject, and every caption says so.
    """
    own = [group for group in selection.groups if not group.is_modified]
    modified = [group for group in selection.groups if group.is_modified]
    subject = own or modified
    mark = "" if own else _MODIFIED_MARK
    published = published_results(suite) if own else []
    references = _references(published)

    sections = [
        Section(
            "results",
            "Methods" if own else MODIFIED,
            _opening(bool(own), selection.left_out),
            _results(subject, references, mark),
        ),
        Section("accuracy", "Accuracy over the stream", (), tuple(_accuracy_figures(subject, mark))),
    ]
    if capacities := tuple(_capacities(subject, mark)):
        sections.append(Section("capacity", "Capacity", (), capacities))
    sections.append(Section("costs", "Time and memory", (), tuple(_costs(subject, mark))))
    if own and modified:
        sections.append(_modified_section(modified))
    if published:
        table = _published_table(published, references)
        sections.append(Section("published", "Published values", (), (table,)))
    if selection.left_out:
        sections.append(Section("left-out", "Left out", (), (left_out_table(selection.left_out),)))
    sections.append(Section("provenance", "Provenance", (), provenance(selection.groups)))
    sections.append(Section("glossary", "What the numbers mean", (), (glossary(),)))

    settings = subject[0].config.get("suite_settings") or {}
    return Report(
        suite=suite,
        title=str(subject[0].config.get("title") or settings.get("title") or suite),
        dated=_newest_end([run for group in selection.groups for run in group.runs]),
        summary=_summary(suite, subject, mark),
        headline=_curves(subject, "average-accuracy", mark),
        sections=tuple(sections),
    )


def _summary(suite: str, groups: Sequence[Group], mark: str) -> tuple[str, ...]:
    runs = [run for group in groups for run in group.runs]
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))

    def said(name: str, key: str) -> str:
        """The recorded value, or all of them where the groups differ."""
        values = [(group.config.get(name) or {}).get(key) for group in groups]
        shown = [thousands(value) if key.endswith("_images") and value else plain(value) for value in values]
        return " or ".join(dict.fromkeys(shown))

    head = said("suite_settings", "head")
    heads = {"single": "a single head", "multi": "a head per task"}.get(head, f"head {head}")
    return (
        f"{mark}The suite {suite} is a {said('suite_settings', 'scenario')} stream of "
        f"{said('suite_settings', 'n_tasks')} tasks, learned one after the other by a network with hidden layers "
        f"{said('suite_settings', 'hidden_sizes')} and {heads}; epochs per task: {said('suite_settings', 'epochs')}.",
        f"The numbers come from {counted(len(runs), 'run')} of "
        f"{counted(len({group.method for group in groups}), 'method')} (seed {seeds}) on "
        f"{said('data', 'source')}: {said('data', 'train_images')} images to train on, validation included, and "
        f"{said('data', 'test_images')} to test.",
    )


def _opening(has_own: bool, left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    sentences = []
    if not has_own:
        sentences.append(
            "Every run found overrides settings, so nothing here is the suite's own result, and published values "
            "are not comparable."
        )
    if left_out:
        verb = "is" if len(left_out) == 1 else "are"
        sentences.append(f"{counted(len(left_out), 'run')} {verb} in no number: see Left out.")
    return tuple(sentences)


def _modified_section(groups: Sequence[Group]) -> Section:
    return Section(
        "modified",
        MODIFIED,
        (
            "These runs override settings. They enter none of the numbers and figures above, and are not "
            "comparable with published values.",
        ),
        (
            *_results(groups, {}, _MODIFIED_MARK),
            _curves(groups, "modified-average-accuracy", _MODIFIED_MARK),
        ),
    )


def _results(groups: Sequence[Group], references: References, mark: str) -> tuple[Table, Table]:
    modified = bool(mark)
    columns = (
        Column("Method", "text", 2.3),
        *([Column("Overrides", "code", 2.6)] if modified else []),
        Column("Seeds", width=0.8),
        Column("Average accuracy, %", width=1.75),
        *([] if modified else [Column("Published, %", width=1.75)]),
        Column("Forgetting, points", width=1.3),
        Column("Backward transfer, points", width=1.3),
        Column("Forward transfer, points", width=1.3),
        Column("Task known at test", "text", 0.9),
        Column("Extra state", width=1.2),
        Column("Training, s per task", width=1.1),
        Column("Images per s", width=1.1),
    )
    rows = tuple(
        (
            Cell(group.label, group.differs),
            *([Cell(group.overrides)] if modified else []),
            Cell(str(len(group.runs))),
            _accuracy(group.metric("average_accuracy")),
            *([] if modified else [_published(references.get(group.method))]),
            _points(group.metric("forgetting"), percent),
            _points(group.metric("backward_transfer"), signed_percent),
            _points(group.metric("forward_transfer"), signed_percent),
            Cell(plain(group.config.get("task_known_at_test"))),
            _cost(group.tasks("extra_state_bytes", "last"), readable_bytes),
            _cost(group.tasks("train_seconds", "mean"), tenths),
            _cost(group.tasks("train_images_per_second", "mean"), thousands),
        )
        for group in groups
    )
    caption = f"{mark}Results after the last task, by average accuracy"
    return Table(caption, columns, rows, tuple(_notes(groups))), _further_accuracies(groups, mark)


def _notes(groups: Sequence[Group]) -> Iterable[str]:
    yield "Mean ± half the 95 % confidence interval over seeds (Student's t). Points are percentage points."
    few = [
        f"{group.label}: {', '.join(map(percent, accuracy.values))}"
        for group in groups
        if (accuracy := group.metric("average_accuracy")) and accuracy.half_width is None
    ]
    if few:
        yield (
            f"Below {SEEDS_FOR_INTERVAL} seeds there is no interval; the average accuracies by seed are, in %: "
            f"{'; '.join(few)}."
        )
    if any(group.differs for group in groups):
        yield (
            "Where a method has a letter, its runs differ in more than the seed; what differs stands below the "
            "name, and they are not averaged."
        )
    for group in groups:
        yield from _mixtures(group)


def _mixtures(group: Group) -> Iterable[str]:
    """Says what differs within a group although no accuracy should depend on it."""
    sources: tuple[tuple[str, Callable[[RecordedRun], object]], ...] = (
        ("commits", lambda run: run.config.get("git_commit")),
        ("devices, over which its times are averaged", lambda run: run.config.get("device")),
        ("hosts, over which its times are averaged", lambda run: run.config.get("host")),
        ("versions of torch", lambda run: (run.config.get("versions") or {}).get("torch")),
    )
    for what, read in sources:
        found = sorted({plain(read(run)) for run in group.runs})
        if len(found) > 1:
            yield f"{group.label} has runs of {len(found)} {what}: {', '.join(found)}."


def _further_accuracies(groups: Sequence[Group], mark: str) -> Table:
    return Table(
        f"{mark}Accuracy along the stream, in %",
        (
            Column("Method", "text", 1.6),
            Column("Learning accuracy"),
            Column("Average incremental accuracy", width=1.3),
            Column("Task 1, after the last task", width=1.3),
            Column("Last task"),
        ),
        tuple(
            (
                Cell(group.label),
                _accuracy(group.metric("learning_accuracy")),
                _accuracy(group.metric("average_incremental_accuracy")),
                _accuracy(estimate(group.matrices[:, -1, 0])),
                _accuracy(estimate(group.matrices[:, -1, -1])),
            )
            for group in groups
        ),
    )


def _curves(groups: Sequence[Group], name: str, mark: str) -> Figure:
    finals = _listed(groups, lambda group: group.average_accuracy_curves[:, -1])
    return Figure(
        name,
        f"{mark}Average accuracy over the tasks learned so far: lines are means over seeds, bands the range of "
        "the seeds.",
        f"{mark}Line chart of average accuracy against tasks learned. After the last task: {finals}.",
        figures.average_accuracy(groups, name),
    )


def _accuracy_figures(groups: Sequence[Group], mark: str) -> Iterable[Figure]:
    first_task = _listed(groups, lambda group: group.matrices[:, -1, 0])
    yield Figure(
        "first-task",
        f"{mark}Left: accuracy on the first task as more are learned (mean and range of seeds). "
        "Right: forgetting after the last task (mean ± half the 95 % confidence interval).",
        f"{mark}Line chart of the accuracy on task 1 against tasks learned, and bars of forgetting. Task 1 after "
        f"the last task: {first_task}.",
        figures.first_task_and_forgetting(groups, "first-task"),
    )
    lowest = 10 * math.floor(min(10 * float(np.nanmin(group.matrices[:, 1:])) for group in groups))
    pairs = range(0, len(groups), figures.MATRICES_PER_FIGURE)
    for number, start in enumerate(pairs, start=1):
        shown = groups[start : start + figures.MATRICES_PER_FIGURE]
        labels = " and ".join(group.label for group in shown)
        key = "; right of the step line are tasks not yet learned, blank is not measured" if number == 1 else ""
        yield Figure(
            f"matrices-{number}",
            f"{mark}Accuracy matrices in per cent, mean over seeds ({number} of {len(pairs)}): {labels}{key}.",
            f"{mark}Heat maps of test accuracy by tasks learned and task tested, on one colour scale from {lowest} "
            f"to 100 %: {labels}.",
            figures.accuracy_matrices(shown, f"matrices-{number}", lowest),
        )


def _capacities(groups: Sequence[Group], mark: str) -> Iterable[Table | Figure]:
    with_units = [group for group in groups if not group.capacity.empty]
    for number, group in enumerate(with_units, start=1):
        rows = _records(group.capacity)
        last_task = max(row["task"] for row in rows)
        free = ", ".join(
            f"layer {row['layer']:.0f} {tenths(100 * row['free'] / row['neurons'])} %"
            for row in rows
            if row["task"] == last_task
        )
        name = f"capacity-{number}"
        yield Figure(
            name,
            f"{mark}{group.label}: neurons by layer and task, mean over seeds. Free after the last task: {free}.",
            f"{mark}Stacked bars for {group.label}: neurons that are free, newly claimed, claimed earlier and "
            f"reused, or claimed earlier and not reused, by layer and task. Free after the last task: {free}.",
            figures.capacity(group, name),
        )
        yield _capacity_table(group, rows, mark)


def _capacity_table(group: Group, rows: Sequence[Mapping[str, float]], mark: str) -> Table:
    def cell(value: float, pattern: str) -> Cell:
        return _UNDEFINED if math.isnan(value) else Cell(format(value, pattern).replace("-", "−"))

    return Table(
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
        tuple(_forecast_notes(group)),
    )


def _forecast_notes(group: Group) -> Iterable[str]:
    """When each layer will be full, if tasks go on to claim what the later ones did."""
    tables = [run.capacity for run in group.runs if len(run.capacity)]
    if max(int(table["task"].max()) for table in tables) < FEWEST_TASKS:
        return
    for found in forecasts(tables):
        layer = f"Layer {found.layer}"
        if math.isinf(found.full_after):
            yield f"{layer}: the later tasks claimed nothing, so it does not fill up."
        elif found.is_full:
            yield f"{layer}: full after {found.full_after:.0f} tasks."
        else:
            high = "open" if math.isinf(found.high) else tenths(found.high)
            yield (
                f"{layer}: if every further task claims as many neurons as those of the second half did on average "
                f"({tenths(found.claims)}), it is full after {tenths(found.full_after)} tasks (95 % interval of that "
                f"average: {tenths(found.low)} to {high})."
            )


def _costs(groups: Sequence[Group], mark: str) -> Iterable[Table | Figure]:
    shown: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
        ("Training, s per task", "train_seconds", "mean", tenths),
        ("First task, s", "train_seconds", "first", tenths),
        ("Last task, s", "train_seconds", "last", tenths),
        ("Training, s in all", "train_seconds", "sum", tenths),
        ("Testing, s in all", "eval_seconds", "sum", tenths),
        ("Images per\u00a0s", "train_images_per_second", "mean", thousands),
        ("Peak memory", "peak_memory_bytes", "max", readable_bytes),
        ("Extra state", "extra_state_bytes", "last", readable_bytes),
    )
    if any(group.tasks("train_seconds", "mean") for group in groups):
        yield Figure(
            "costs",
            f"{mark}Training time per task, peak memory and extra state after the last task; mean over seeds.",
            f"{mark}Bars of training time, peak memory and extra state by method, with the numbers of the table "
            "on time and memory.",
            figures.costs(groups, "costs"),
        )
    yield Table(
        f"{mark}Time and memory, mean over seeds",
        (Column("Method", "text", 1.8), *(Column(heading) for heading, *_ in shown)),
        tuple(
            (Cell(group.label), *(_cost(group.tasks(column, over), show) for _, column, over, show in shown))
            for group in groups
        ),
        ("Times compare methods only where device, threads and host are the same: see Provenance.",),
    )


def _references(published: Sequence[PublishedResult]) -> References:
    shown: dict[str, tuple[PublishedResult, int]] = {}
    for number, result in enumerate(published, start=1):
        shown.setdefault(result.method, (result, number))
    return shown


def _published_table(published: Sequence[PublishedResult], references: References) -> Table:
    return Table(
        "Published average accuracies for this suite, and where they stand",
        (
            Column("No.", "text", 0.4),
            Column("Method", "text", 1.2),
            Column("Published, %", width=1.1),
            Column("Setting", "text", 3),
            Column("Source", "text", 3.7),
        ),
        tuple(
            (
                Cell(f"[{number}]"),
                Cell(result.method, "" if references[result.method][1] == number else "only here"),
                Cell(result.percent),
                Cell(result.setting),
                Cell(result.source),
            )
            for number, result in enumerate(published, start=1)
        ),
        ("A spread is the source's own, and need not be a confidence interval.",),
    )


def _published(known: tuple[PublishedResult, int] | None) -> Cell:
    return Cell("–") if known is None else Cell(known[0].percent, f"[{known[1]}]")


def _accuracy(value: Estimate | None) -> Cell:
    if value is None:
        return _UNDEFINED
    if value.half_width is None:
        return Cell(percent(value.mean), "no interval")
    return Cell(f"{percent(value.mean)} ± {percent(value.half_width)}")


def _points(value: Estimate | None, show: Callable[[float], str]) -> Cell:
    if value is None:
        return _UNDEFINED
    return Cell(show(value.mean), "" if value.half_width is None else f"± {percent(value.half_width)}")


def _cost(value: Estimate | None, show: Callable[[float], str]) -> Cell:
    return _UNDEFINED if value is None else Cell(show(value.mean))


def _listed(groups: Sequence[Group], values: Callable[[Group], Any]) -> str:
    return ", ".join(f"{group.label} {percent(float(values(group).mean()))} %" for group in groups)


def _records(frame: pd.DataFrame) -> list[dict[str, float]]:
    return [{str(key): float(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _newest_end(runs: Sequence[RecordedRun]) -> datetime:
    ends = [end for run in runs if (end := instant(run.ended)) is not None]
    return max(ends, default=datetime.fromtimestamp(0, UTC))
