"""The files for authors: what a spreadsheet, LaTeX and a browser make of them; and the report as JSON."""

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy import stats

from clbench.data import SOURCES
from clbench.methods.table import AVALANCHE, METHODS
from clbench.records.reading import RecordedRun
from clbench.reports import write_report
from clbench.reports.analysis.groups import select
from clbench.reports.analysis.statistics import bootstrap_interval
from clbench.reports.compose import compose
from clbench.reports.formats.for_authors import latex, parts, table_as_csv, table_as_latex
from clbench.reports.model import Cell, Column, Figure, Report, Table
from clbench.reports.sections.bibliography import bibliography, citation_table, citations, entries

SUITE = "permuted-mnist"
MakeRun = Callable[..., RecordedRun]
MakeRuns = Callable[..., list[RecordedRun]]
FORMULA = "=1+1"
LATEX = r"a_b & 50% #1 $x^2$ ~ {y} \input{/etc/passwd} <z> |w| [q]"
HTML = "<script>alert('x')</script>"


def report_on(runs: list[RecordedRun]) -> Report:
    return compose(select(runs, SUITE), SUITE)


def small(*rows: tuple[Cell, ...]) -> Table:
    return Table("small", "A & B", (Column("Method", "text"), Column("Accuracy, %")), rows, ("50 % of it",))


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


# CSV


def test_csv_holds_the_numbers_in_full_and_their_intervals_apart() -> None:
    shown = small((Cell("ewc", "b=1"), Cell("91.23 ± 0.57", "", 91.2345678, 0.5678)), (Cell("si"), Cell("n/a")))
    assert read_csv(table_as_csv(shown)) == [
        ["Method", "Method (remark)", "Accuracy, %", "Accuracy, % (half of the 95 % interval)"],
        ["ewc", "b=1", "91.2345678", "0.5678"],
        ["si", "", "n/a", ""],
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_shows_a_name_and_does_not_compute_it(name: str) -> None:
    (_, row) = read_csv(table_as_csv(small((Cell(name, name), Cell("1", "", -1.0)))))
    assert row[:2] == [f"'{name}", f"'{name}"]
    # A negative number is a number.
    assert row[2] == "-1"


def test_commas_quotes_and_line_ends_stay_within_their_field() -> None:
    name = 'a,"b"\nc'
    assert read_csv(table_as_csv(small((Cell(name), Cell("1"))))) == [["Method", "Accuracy, %"], [name, "1"]]


def test_a_table_without_rows_has_its_headings() -> None:
    assert read_csv(table_as_csv(small())) == [["Method", "Accuracy, %"]]


def test_both_ends_of_an_interval_and_a_spread_stand_under_their_names(recorded_seeds: MakeRuns) -> None:
    files = {
        name: content.decode()
        for name, content in parts(report_on(recorded_seeds("clnp", 0.9, 0.91, 0.95)))
        if "csv" in name
    }
    heading, row = read_csv(files["tables/intervals.csv"])
    assert "BCa bootstrap" not in heading
    found = dict(zip(heading, row, strict=True))
    low, high = bootstrap_interval((0.9, 0.91, 0.95)) or (0, 0)
    assert float(found["BCa bootstrap (low)"]) == pytest.approx(100 * low)
    assert float(found["BCa bootstrap (high)"]) == pytest.approx(100 * high)
    half_width = stats.t.ppf(0.975, 2) * stats.sem([90, 91, 95])
    assert float(found["Student's t (high)"]) == pytest.approx(92 + half_width)
    published = read_csv(files["tables/published.csv"])
    # A published spread is its source's, and not said to be an interval.
    assert published[0][2:4] == ["Published, %", "Published, % (spread)"]


# LaTeX


def test_what_is_special_in_latex_is_escaped() -> None:
    assert latex("\\{}$&#%_^~") == (r"\textbackslash{}\{\}\$\&\#\%\_\textasciicircum{}\textasciitilde{}")
    assert latex("1 ± 2 − 3\n4") == r"1 $\pm$ 2 $-$ 3 4"


def test_a_latex_table_has_the_rules_of_booktabs_and_a_line_per_row() -> None:
    text = table_as_latex(small((Cell("[a_b]"), Cell("91.2 ± 0.6")), (Cell("si"), Cell("1"))), SUITE)
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if line in ("\\toprule", "\\midrule", "\\bottomrule")] == [
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
    ]
    # Without the empty group, the line break above would take [a_b] as a length.
    assert "{}[a\\_b] & 91.2 $\\pm$ 0.6 \\\\" in lines
    assert "\\caption{A \\& B}" in lines
    assert f"\\label{{tab:{SUITE}-small}}" in lines
    assert "\\begin{tabular}{lr}" in lines


def test_long_words_are_paragraphs_and_many_rows_break_across_pages() -> None:
    rows = [(Cell("a name of many letters, too long for a line"), Cell("1"))] * 31
    short = table_as_latex(small(*rows[:30]), "two suites, more")
    assert "\\begin{tabular}{>{\\raggedright\\arraybackslash}p{0.45\\linewidth}r}" in short
    assert "\\label{tab:two-suites-more-small}" in short
    long = table_as_latex(small(*rows), SUITE)
    assert "\\begin{tabular}" not in long
    # The heading stands on every page.
    assert long.count("Method & Accuracy, \\%") == 2
    assert long.index("\\endfirsthead") < long.index("\\endhead") < long.index("a name of many")


@pytest.fixture(scope="module")
def hostile(recorded_run: MakeRun, recorded_seeds: MakeRuns) -> Report:
    runs = [
        *recorded_seeds("ewc", 0.9, 0.91, 0.92),
        recorded_run(FORMULA, 0, 0.8, host="=2+2"),
        recorded_run(LATEX, 0, 0.7, run_id="latex"),
        recorded_run(HTML, 0, 0.6, run_id="html"),
        replace(recorded_run("si", run_id="failed1"), status="failed", reason="=3+3"),
    ]
    return report_on(runs)


def test_every_table_compiles_in_latex(hostile: Report, tmp_path: Path) -> None:
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not installed")
    inputs = []
    for item in hostile.items:
        if isinstance(item, Table):
            (tmp_path / f"{item.name}.tex").write_text(table_as_latex(item, SUITE), encoding="utf-8")
            inputs.append(f"\\input{{{item.name}}}\\clearpage")
    packages = "\\usepackage[T1]{fontenc}\\usepackage{array,booktabs,graphicx,longtable,textcomp}"
    document = f"\\documentclass{{article}}{packages}\\begin{{document}}{chr(10).join(inputs)}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        [program, "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]


# All of them


def test_hostile_names_stand_literally_in_every_form(hostile: Report) -> None:
    files = {name: content.decode("utf-8", "replace") for name, content in parts(hostile)}
    methods = [row[0] for row in read_csv(files["tables/results.csv"])]
    assert {f"'{FORMULA}", LATEX, HTML} <= set(methods)
    assert "'=3+3" in [field for row in read_csv(files["tables/left-out.csv"]) for field in row]
    assert latex(LATEX) in files["tables/results.tex"]
    assert "\\input" not in files["tables/results.tex"]
    assert FORMULA in files["tables/results.tex"]
    # As a title of a drawing's spot, and no element of its own.
    drawing = ElementTree.fromstring(files["figures/average-accuracy.svg"])
    titles = [element.text or "" for element in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith(f"{HTML}, after 1 task:") for title in titles)
    assert not list(drawing.iter("{http://www.w3.org/2000/svg}script"))
    names = [row["text"] for row in [cells[0] for cells in json.loads(hostile.to_json())["headline"][1]["rows"]]]
    assert {FORMULA, LATEX, HTML} <= set(names)


def test_every_table_and_figure_lies_beside_the_report(recorded_seeds: MakeRuns, tmp_path: Path) -> None:
    runs = recorded_seeds("ewc", 0.9, 0.91, 0.92)
    (folder,) = write_report(runs, SUITE, tmp_path, formats=("parts",))
    report = report_on(runs)
    expected = {"references.bib"}
    for item in report.items:
        kind, ends = ("figures", ("svg", "pdf")) if isinstance(item, Figure) else ("tables", ("csv", "tex"))
        expected |= {f"{kind}/{item.name}.{end}" for end in ends}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == expected
    assert len(expected) > 20
    for path in folder.glob("figures/*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        # Drawn, not a picture of a drawing.
        assert b"/Subtype /Image" not in content
        assert b"/Subtype/Image" not in content


def test_names_of_tables_and_figures_are_unique(hostile: Report) -> None:
    for kind in (Table, Figure):
        names = [item.name for item in hostile.items if isinstance(item, kind)]
        assert len(names) == len(set(names))


# JSON


def test_the_json_holds_the_report_and_the_numbers_behind_its_text(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("ewc", 0.90, 0.91, 0.92))
    content = json.loads(report.to_json())
    assert content["suite"] == SUITE
    assert content["dated"] == "2025-01-01T02:30:00+00:00"
    results = content["headline"][1]
    place = [column["heading"] for column in results["columns"]].index("Average accuracy, %")
    cell = results["rows"][0][place]
    assert cell["text"] == "91.00 ± 2.48"
    assert cell["value"] == pytest.approx(91)
    assert [section["name"] for section in content["sections"]] == [section.name for section in report.sections]


def test_a_number_that_json_cannot_hold_is_refused_where_it_arises() -> None:
    with pytest.raises(ValueError, match="finite"):
        Cell("∞", "", float("inf"))


# References


def test_every_method_and_data_set_of_ours_that_has_a_source_has_a_reference(recorded_run: MakeRun) -> None:
    without = {"naive", "joint", "single-task", "frozen-trunk"}
    groups = select([recorded_run(name) for name in (*METHODS, *AVALANCHE)], SUITE).groups
    assert {name for name, keys in citations(groups) if not keys} == without | {"made up"}
    # Images of the user's own have no source that we know.
    for source in SOURCES.keys() - {"image-folder"}:
        run = recorded_run("naive", data={"source": source})
        assert dict(citations(select([run], SUITE).groups))[source]


def test_what_is_cited_exists_and_nothing_else_is_listed(recorded_run: MakeRun) -> None:
    groups = select([recorded_run("psp:rotation"), recorded_run("naive", data={"source": "mnist"})], SUITE).groups
    listed = bibliography(groups)
    assert listed.count("@") == 2
    assert "{cheung2019psp," in listed
    assert "{lecun1998mnist," in listed
    everything = select([recorded_run(name) for name in (*METHODS, *AVALANCHE)], SUITE).groups
    assert {key for _, keys in citations(everything) for key in keys} <= entries().keys()
    titles = {str(cells[0].text): str(cells[2].text) for cells in citation_table(everything).rows}
    assert titles["classp"] == (
        "CLASSP: a Biologically-Inspired Approach to Continual Learning through Adjustment Suppression and Sparsity "
        "Promotion, 2024"
    )


def test_every_reference_is_whole() -> None:
    for key, entry in entries().items():
        assert entry.count("{") == entry.count("}")
        for field in ("author", "title", "year"):
            assert f"  {field} = {{" in entry, key


# PDF


def test_the_pdf_is_tagged_and_archival_and_every_page_shows_something(
    recorded_seeds: MakeRuns, tmp_path: Path
) -> None:
    (pdf,) = write_report(recorded_seeds("ewc", 0.9, 0.91, 0.92), SUITE, tmp_path, formats=("pdf",))
    content = pdf.read_bytes()
    for said in (b"pdfaid:part>2<", b"pdfaid:conformance>A<", b"pdfuaid:part>1<", b"/StructTreeRoot"):
        assert said in content
    program = shutil.which("pdftoppm")
    if program is None:
        pytest.skip("pdftoppm is not installed")
    subprocess.run([program, "-r", "20", "-gray", pdf, tmp_path / "page"], check=True, capture_output=True)
    pages = sorted(tmp_path.glob("page*.pgm"))
    assert len(pages) >= 5
    for page in pages:
        # Below the header: one byte per pixel, 255 is white.
        pixels = page.read_bytes()[-160 * 220 :]
        assert sum(pixel < 200 for pixel in pixels) > 100
