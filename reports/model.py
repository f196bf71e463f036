"""What a report shows, as text and drawings ready to be set: no number is computed after this.

The same model becomes HTML, PDF, JSON, and the CSV, LaTeX, SVG and PDF files for authors.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import Any, Literal


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        detail: smaller below it, such as `± 0.04`; may be empty.
        value: the number behind the text, in the unit of the column's heading, for sorting and CSV; None for words.
        half_width: half the 95 % interval of that number; None without one.
        bounds: where an interval is what is shown, its ends; the value is then their middle.
    """

    text: str
    detail: str = ""
    value: float | None = None
    half_width: float | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for number in (self.value, self.half_width, *(self.bounds or ())):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"expected the number of the cell '{self.text}' to be finite, but got {number}")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: stands above it.
        kind: what it holds.
        width: its share of the page's width, relative to the others.
        plus_minus: what stands after ± in it.
    """

    heading: str
    kind: Literal["text", "number", "code"] = "number"
    width: float = 1.0
    plus_minus: str = "half of the 95 % interval"


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        name: unique in the report; the stem of its CSV and LaTeX files.
        caption: stands above it.
        columns: from left to right.
        rows: as many cells in each as there are columns.
        notes: sentences that stand below it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: unique in the report; also the prefix of every id inside the drawing, and the stem of its files.
        caption: stands below it.
        alt: what it shows, for whoever can't see it.
        draw: makes `svg`, once it is asked for: most formats do without some drawings.
        draw_narrow: makes `narrow`; None where the drawing is scrolled on a narrow screen.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[], str]
    draw_narrow: Callable[[], str] | None = None

    @cached_property
    def svg(self) -> str:
        """An SVG document of its own, with namespaces and without XML declaration."""
        return self.draw()

    @cached_property
    def narrow(self) -> str:
        """The same for a narrow screen, or nothing."""
        return self.draw_narrow() if self.draw_narrow else ""


@dataclass(frozen=True)
class Section:
    """A headed part of the report: paragraphs, then tables and figures in order."""

    name: str
    heading: str
    paragraphs: tuple[str, ...] = ()
    items: tuple[Table | Figure, ...] = ()


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
        suite: the suite's name, or the names of several; the running head.
        title: the suite's title.
        dated: when the newest run ended; the report's date, so that the same runs give the same bytes.
        summary: what was run, in two sentences.
        headline: the figure and the table that answer the report's question.
        sections: the rest, in order.
        bibliography: BibTeX entries of the methods and data sets used.
    """

    suite: str
    title: str
    dated: datetime
    summary: tuple[str, ...]
    headline: tuple[Table | Figure, ...]
    sections: tuple[Section, ...]
    bibliography: str = ""

    @property
    def items(self) -> Iterator[Table | Figure]:
        """Every table and figure, in order."""
        yield from self.headline
        for section in self.sections:
            yield from section.items

    def to_json(self) -> bytes:
        """The report as JSON in UTF-8; a table has `columns`, a figure has `svg`."""
        return (json.dumps(self, ensure_ascii=False, indent=1, allow_nan=False, default=_as_json) + "\n").encode()


def _as_json(part: Any) -> Any:
    if isinstance(part, datetime):
        return part.isoformat()
    if isinstance(part, Figure):
        return {name: getattr(part, name) for name in ("name", "caption", "alt", "svg", "narrow")}
    return {field.name: getattr(part, field.name) for field in fields(part)}
