"""The parts of a report as files to take into a paper: CSV, LaTeX, SVG, PDF and BibTeX."""

import csv
import io
import re
from collections.abc import Iterator

from clbench.reports.model import Cell, Figure, Report, Table
from clbench.reports.pdf import drawing_as_pdf

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "∞": r"$\infty$",
    "\u202f": r"\,",
    "\u00a0": "~",
    "…": r"\ldots{}",
}


def parts(report: Report) -> Iterator[tuple[str, bytes]]:
    """Every file's name, relative to the report's folder, and its content; the same report gives the same bytes."""
    for item in report.items:
        if isinstance(item, Table):
            yield f"tables/{item.name}.csv", table_as_csv(item).encode()
            yield f"tables/{item.name}.tex", table_as_latex(item).encode()
        else:
            yield f"figures/{item.name}.svg", _standalone(item).encode()
            yield f"figures/{item.name}.pdf", drawing_as_pdf(item, report)
    if report.bibliography:
        yield "references.bib", report.bibliography.encode()


def table_as_csv(table: Table) -> str:
    """A table as CSV: numbers in full, half of their 95 % interval and the smaller print in columns of their own."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    headings: list[str] = []
    fields: list[list[str]] = []
    for column, cells in zip(table.columns, columns, strict=True):
        headings.append(column.heading)
        fields.append([_harmless(cell.text) if cell.value is None else _number(cell.value) for cell in cells])
        if any(cell.half_width is not None for cell in cells):
            headings.append(f"{column.heading} (half of the 95 % interval)")
            fields.append(["" if cell.half_width is None else _number(cell.half_width) for cell in cells])
        if any(_says_more(cell) for cell in cells):
            headings.append(f"{column.heading} (remark)")
            fields.append([_harmless(cell.detail) if _says_more(cell) else "" for cell in cells])
    buffer = io.StringIO()
    # With RFC 4180's line ends; with others, Python's writer would leave a bare \r in a name without quotes.
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(map(_harmless, headings))
    writer.writerows(zip(*fields, strict=True))
    return buffer.getvalue()


def table_as_latex(table: Table) -> str:
    """A table as LaTeX, to be read in with `\\input`; needs the packages booktabs and textcomp."""
    alignment = "".join("r" if column.kind == "number" else "l" for column in table.columns)
    lines = [
        "% Needs \\usepackage{booktabs} and \\usepackage{textcomp}.",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{latex(table.caption)}}}",
        f"  \\label{{tab:{table.name}}}",
        f"  \\begin{{tabular}}{{{alignment}}}",
        "    \\toprule",
        "    " + " & ".join(latex(column.heading) for column in table.columns) + " \\\\",
        "    \\midrule",
        *("    " + " & ".join(map(_latex_cell, row)) + " \\\\" for row in table.rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        *(f"  \\par\\footnotesize {latex(note)}" for note in table.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Text that LaTeX sets as it stands, on one line."""
    return "".join(_LATEX.get(letter, letter) for letter in re.sub(r"\s*[\r\n]\s*", " ", text))


def _latex_cell(cell: Cell) -> str:
    shown = f"{cell.text} ({cell.detail})" if _says_more(cell) else f"{cell.text} {cell.detail}".strip()
    # A row that begins with a bracket would be read as the optional argument of the line break before it.
    return f"{{}}{latex(shown)}" if shown.startswith(("[", "*")) else latex(shown)


def _says_more(cell: Cell) -> bool:
    return bool(cell.detail) and not cell.detail.startswith("±")


def _number(value: float) -> str:
    return format(value, ".10g")


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not compute: what it would take as a formula begins with an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _standalone(figure: Figure) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>\n{figure.svg.rstrip()}\n'
