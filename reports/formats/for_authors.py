"""The parts of a report as files to take into a paper: CSV, LaTeX, SVG, PDF and BibTeX."""

import csv
import io
import re
from collections.abc import Iterator

from clbench.reports.formats.pdf import drawing_as_pdf
from clbench.reports.model import Cell, Figure, Report, Table

_LONG = 30  # rows, above which a table does not fit on a page with other text
_SHORT = 24  # letters, up to which a cell is set on one line
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
            yield f"tables/{item.name}.tex", table_as_latex(item, report.suite).encode()
        else:
            yield f"figures/{item.name}.svg", _standalone(item).encode()
            yield f"figures/{item.name}.pdf", drawing_as_pdf(item, report)
    if report.bibliography:
        yield "references.bib", report.bibliography.encode()


def table_as_csv(table: Table) -> str:
    """A table as CSV: numbers in full; what follows ±, ends of intervals and smaller print in columns of their own."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    headings: list[str] = []
    fields: list[list[str]] = []
    for column, cells in zip(table.columns, columns, strict=True):
        if any(cell.bounds for cell in cells):
            for end, name in enumerate(("low", "high")):
                headings.append(f"{column.heading} ({name})")
                fields.append([_number(cell.bounds[end]) if cell.bounds else _harmless(cell.text) for cell in cells])
            continue
        headings.append(column.heading)
        fields.append([_harmless(cell.text) if cell.value is None else _number(cell.value) for cell in cells])
        if any(cell.half_width is not None for cell in cells):
            headings.append(f"{column.heading} ({column.plus_minus})")
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


def table_as_latex(table: Table, suite: str) -> str:
    """A table as LaTeX, to be read in with `\\input`; its label is `tab:<suite>-<name>`.

    Columns of long words are paragraphs, and a table of many rows is a longtable, which breaks across pages.
    """
    columns = "".join(_latex_column(table, number) for number in range(len(table.columns)))
    caption = f"\\caption{{{latex(table.caption)}}}"
    label = f"\\label{{tab:{re.sub(r'[^a-z0-9]+', '-', suite.lower()).strip('-')}-{table.name}}}"
    head = ["    \\toprule", "    " + " & ".join(latex(column.heading) for column in table.columns) + " \\\\"]
    rows = ["    " + " & ".join(map(_latex_cell, row)) + " \\\\" for row in table.rows]
    notes = [f"  \\par{{\\raggedright\\footnotesize {latex(note)}\\par}}" for note in table.notes]
    needs = ["% Needs \\usepackage{array,booktabs,graphicx,longtable,textcomp}. A whole float, with caption and label."]
    if len(table.rows) > _LONG:
        lines = [
            f"\\small\\begin{{longtable}}{{{columns}}}",
            f"  {caption} {label} \\\\",
            *head,
            "    \\midrule \\endfirsthead",
            *head,
            "    \\midrule \\endhead",
            *rows,
            "    \\bottomrule",
            "\\end{longtable}",
            *notes,
        ]
    else:
        lines = [
            "\\begin{table}",
            "  \\centering",
            f"  {caption}",
            f"  {label}",
            # As wide as it is, or as the text where that is less.
            "  \\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
            f"  \\begin{{tabular}}{{{columns}}}",
            *head,
            "    \\midrule",
            *rows,
            "    \\bottomrule",
            "  \\end{tabular}}",
            *notes,
            "\\end{table}",
        ]
    return "\n".join([*needs, *lines]) + "\n"


def _latex_column(table: Table, number: int) -> str:
    """`r` for numbers, `l` for short words, and a paragraph as wide as the column's share for long ones."""
    if table.columns[number].kind == "number":
        return "r"
    longest = max((len(row[number].text) + len(row[number].detail) for row in table.rows), default=0)
    # Nothing breaks a run's id.
    if longest <= _SHORT * (1 + (table.columns[number].kind == "code")):
        return "l"
    share = table.columns[number].width / sum(column.width for column in table.columns)
    return f">{{\\raggedright\\arraybackslash}}p{{{0.9 * share:.2f}\\linewidth}}"


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
