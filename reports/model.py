"""What a report shows, as text and drawings ready to be set: no number is computed after this."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and smaller below it a detail such as `± 0.04` (may be empty)."""

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Column:
    """One column: its heading, what it holds, and its share of the page's width relative to the others."""

    heading: str
    kind: Literal["text", "number", "code"] = "number"
    width: float = 1.0


@dataclass(frozen=True)
class Table:
    """A table with its caption; `notes` are sentences that stand below it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: unique in the report; also the prefix of every id inside the drawing.
        caption: stands below it.
        alt: what it shows, for whoever can't see it.
        svg: an SVG document of its own, with namespaces and without XML declaration.
    """

    name: str
    caption: str
    alt: str
    svg: str


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
        suite: the suite's name, the running head.
        title: the suite's title.
        dated: when the newest run ended; the report's date, so that the same runs give the same bytes.
        summary: what was run, in two sentences.
        headline: the figure that answers the report's question.
        sections: the rest, in order.
    """

    suite: str
    title: str
    dated: datetime
    summary: tuple[str, ...]
    headline: Figure
    sections: tuple[Section, ...]
