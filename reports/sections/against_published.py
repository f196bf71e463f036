"""The section that lays our numbers beside those of the papers."""

from collections.abc import Iterator, Sequence
from typing import Any

from clbench.records.identity import recorded_settings
from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.published import PublishedResult
from clbench.reports.cells import accuracy_cell
from clbench.reports.formatting import differing, signed_percent
from clbench.reports.model import Cell, Column, Section, Table


def published_section(published: Sequence[PublishedResult], groups: Sequence[Group]) -> Section:
    """Every published value for the suite, ours beside it, and where it stands."""
    return Section("published", "Published against measured", (), (_comparison(published, groups), _sources(published)))


def _comparison(published: Sequence[PublishedResult], groups: Sequence[Group]) -> Table:
    return Table(
        "published",
        "Average accuracies for this suite: published, ours, and what differs in the setting",
        (
            Column("No.", "text", 0.4),
            Column("Method", "text", 1.4),
            Column("Published, %", width=1.1, plus_minus="spread"),
            Column("Ours, %", width=1.3),
            Column("Difference, points", width=1),
            Column("Ours is", "text", 0.9),
            Column("Settings that differ", "text", 2.6),
        ),
        tuple(_rows(published, groups)),
        (
            "Difference: ours less the published mean. Ours is inside if our 95 % interval and the published spread "
            "overlap; where there is no interval, ours alone counts, and for the spread half a unit of the last "
            "digit published. Only settings that the source states can be compared; – means that none is known to "
            "differ. A spread is the source's own, and need not be a confidence interval. Variants of a method "
            "(after a colon) stand beside what is published for it.",
        ),
    )


def _rows(published: Sequence[PublishedResult], groups: Sequence[Group]) -> Iterator[tuple[Cell, ...]]:
    named = {result.method for result in published}
    for number, result in enumerate(published, start=1):
        theirs = float(result.average_accuracy)
        spread = None if result.spread is None else 100 * float(result.spread)
        given = Cell(result.percent, "", 100 * theirs, spread)
        ours = [group for group in groups if group.name_among(named) == result.method]
        if not ours:
            yield (Cell(f"[{number}]"), Cell(result.method), given, *[Cell("not run"), *[Cell("–")] * 3])
        for group in ours:
            accuracy = group.metric("average_accuracy")
            assert accuracy is not None  # a finished run has its last row
            difference = accuracy.mean - theirs
            yield (
                Cell(f"[{number}]"),
                Cell(group.label),
                given,
                accuracy_cell(accuracy),
                Cell(signed_percent(difference), "", 100 * difference),
                Cell(result.relation(accuracy)),
                Cell("; ".join([*filter(None, [result.remark]), *differing(_settings(group), result.known)]) or "–"),
            )


def _settings(group: Group) -> dict[str, Any]:
    of_suite, of_method = recorded_settings(group.config).values()
    return of_suite | of_method


def _sources(published: Sequence[PublishedResult]) -> Table:
    return Table(
        "published-sources",
        "Where the published values stand",
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
                Cell(result.method),
                Cell(result.percent, "", 100 * float(result.average_accuracy)),
                Cell(result.setting),
                Cell(result.source),
            )
            for number, result in enumerate(published, start=1)
        ),
    )
