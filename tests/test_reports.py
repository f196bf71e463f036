"""What a report promises: figures that can be told apart, nothing executed, the same bytes twice, refusals."""

import base64
import hashlib
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from clbench.errors import RecordError, SettingError
from clbench.methods.table import METHODS
from clbench.records.reading import RecordedRun
from clbench.reports import figures, write_report
from clbench.reports.analysis.groups import Group, select
from clbench.reports.figures import accuracy as accuracy_figures
from clbench.reports.figures.accuracy import average_accuracy
from clbench.reports.figures.looks import line_of, look_of
from clbench.suites.files import SUITES

REPORT_TABLES = runpy.run_path(str(Path(__file__).with_name("report_tables.py")))
SUITE, report_on, pdf_text = (REPORT_TABLES[name] for name in ("SUITE", "report_on", "pdf_text"))

MakeRun = Callable[..., RecordedRun]
MakeRuns = Callable[..., list[RecordedRun]]
HOSTILE = "<script>alert('x')</script> $a_b$ #emph[x] \\{}*_`"


# Figures


def test_a_methods_look_depends_on_its_name_alone(recorded_run: MakeRun) -> None:
    def groups(*names: str) -> list[Group]:
        return list(select([recorded_run(name) for name in names], SUITE).groups)

    for method in ("clnp", "somebody-elses"):
        colour = look_of(method).colour.lower()
        for others in ((), ("ewc", "si"), ("aaa", "zzz", "joint")):
            assert colour in average_accuracy(groups(method, *others), "x").lower()


@pytest.mark.parametrize("values", [(0.3, 0.4, 0.5), (0.9, 0.9, 0.99)])
def test_every_interval_lies_within_the_axes(
    recorded_seeds: MakeRuns, monkeypatch: pytest.MonkeyPatch, values: tuple[float, ...]
) -> None:
    groups = select([*recorded_seeds("ewc", *values), *recorded_seeds("si", 0.4, 0.4, 0.41)], SUITE).groups
    drawn = []
    priced = accuracy_figures._priced

    def noting(axes: Any, prices: Any) -> Any:
        drawn.append(axes)
        return priced(axes, prices)

    monkeypatch.setattr(accuracy_figures, "_priced", noting)
    figures.average_accuracy(groups, "name")
    low, high = drawn[0].get_ylim()
    for group in groups:
        found = group.metric("average_accuracy")
        assert found is not None
        assert found.half_width is not None
        assert low < 100 * (found.mean - found.half_width) < 100 * (found.mean + found.half_width) < high


def test_the_close_up_is_on_the_best_of_those_that_are_judged(
    recorded_seeds: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        *recorded_seeds("joint:multitask", 0.99, 0.99, 0.99),
        # Beyond reach of a close-up on joint training.
        *recorded_seeds("ewc", 0.85, 0.86, 0.87),
        *recorded_seeds("si", 0.84, 0.83, 0.84),
        # Its interval reaches into the close-up, it does not.
        *recorded_seeds("naive", 0.60, 0.70, 0.80),
    ]
    for run in runs:
        if run.method == "naive":
            run.accuracy_matrix[1:, 0] = 0.1
    drawn = {}
    priced = accuracy_figures._priced

    def noting(axes: Any, prices: Any) -> Any:
        drawn["limits"] = axes.get_ylim()
        drawn["methods"] = [group.method for group, _ in prices]
        return priced(axes, prices)

    monkeypatch.setattr(accuracy_figures, "_priced", noting)
    figures.average_accuracy(select(runs, SUITE).groups, "name")
    assert drawn["limits"][0] > 60
    assert drawn["methods"] == ["joint:multitask", "ewc", "si"]
    # Nor is it on runs that had it easier than most.
    easier = {"modified": True, "overrides": {"n_tasks": 2}, "suite_settings": {"n_tasks": 2}}
    modified = [replace(run, config={**run.config, "modified": True, "overrides": {"epochs": 1}}) for run in runs]
    figures.average_accuracy(select([*modified, *recorded_seeds("mas", 0.97, **easier)], SUITE).groups, "name")
    assert drawn["methods"] == ["joint:multitask", "ewc", "si", "mas"]


def test_the_known_methods_can_be_told_apart_in_colour_and_in_grey() -> None:
    names = [*METHODS, *(name for suite in SUITES.values() for name in suite.variants)]
    names = list(dict.fromkeys(names))
    looks = [look_of(name) for name in names]
    assert {"clnp:best", "psp:rotation", "mas"} <= set(names)
    assert len({look.colour for look in looks}) == len(names)
    # Without lines, as in a scatter plot, the marker alone must do.
    assert len({look.marker for look in looks}) == len(names)


@pytest.mark.parametrize("method", ["clnp", "packnet", "classp"])
def test_further_groups_of_a_method_are_told_apart_by_their_markers(recorded_run: MakeRun, method: str) -> None:
    runs = [recorded_run(method, n, 0.9, run_id=f"{n}", method_settings={"epochs": n}) for n in range(4)]
    groups = select(runs, SUITE).groups
    assert len(groups) == 4
    drawn = {(line["marker"], line["fillstyle"], line["markerfacecolor"]) for line in map(line_of, groups)}
    # matplotlib half fills no polygon and no star.
    assert not any(isinstance(marker, tuple) and fill != "full" for marker, fill, _ in drawn)
    assert len(drawn) == 4
    # A whole figure of them can be drawn.
    assert figures.average_accuracy(groups, "several").count("<svg") == 1


# The files


class Reader(HTMLParser):
    """Collects what an HTML file would load, its ids, its scripts and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "svg":
            self.labels.append(dict(attrs).get("aria-label"))
            assert dict(attrs).get("role") == "img"

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"]:
            self.text += data


@pytest.fixture(scope="module")
def hostile_files(
    recorded_run: MakeRun, recorded_seeds: MakeRuns, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    runs = [
        *recorded_seeds("ewc", 0.9, 0.9, 0.9),
        recorded_run(HOSTILE, 0, 0.8, command=f'clbench run --method "{HOSTILE}"', title=HOSTILE),
        replace(recorded_run("psp", run_id="failed1"), status="failed", reason=HOSTILE),
        recorded_run("ewc", 0, 0.3, modified=True, overrides={HOSTILE: HOSTILE}),
    ]
    return write_report(runs, SUITE, tmp_path_factory.mktemp("hostile"))


def test_hostile_names_stand_literally_in_the_html(hostile_files: list[Path]) -> None:
    reader = Reader()
    reader.feed(hostile_files[0].read_text(encoding="utf-8"))
    # One script, ours, and the page lets no other run.
    assert reader.tags.count("script") == 1
    assert reader.text.count(HOSTILE) >= 5


def test_hostile_names_stand_literally_in_the_pdf(hostile_files: list[Path]) -> None:
    text = re.sub(r"\s+", "", pdf_text(hostile_files[1]))
    assert re.sub(r"\s+", "", HOSTILE) in text


def test_the_html_needs_nothing_beside_itself(hostile_files: list[Path]) -> None:
    content = hostile_files[0].read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(content)
    assert reader.references
    assert all(reference.startswith("#") for reference in reader.references)
    assert {reference[1:] for reference in reader.references} <= set(reader.ids)
    assert not re.search(r"@import|url\((?!#)|https?://", content)
    assert not {"link", "img", "image", "iframe"} & set(reader.tags)
    script = re.search(r"<script>(.*?)</script>", content, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in content


def test_ids_are_unique_and_every_drawing_is_described(hostile_files: list[Path]) -> None:
    reader = Reader()
    reader.feed(hostile_files[0].read_text(encoding="utf-8"))
    assert len(reader.ids) == len(set(reader.ids))
    assert len(reader.labels) >= 4
    assert all(label and len(label) > 40 for label in reader.labels)


def test_the_pdf_holds_text_page_numbers_and_the_suite_as_running_head(
    recorded_seeds: MakeRuns, tmp_path: Path
) -> None:
    (path,) = write_report(recorded_seeds("clnp", 0.90, 0.91, 0.92), SUITE, tmp_path, formats=("pdf",))
    text = pdf_text(path)
    pages = text.split("\f")[:-1]
    assert all(page.lstrip().startswith(SUITE) for page in pages)
    for number, page in enumerate(pages, start=1):
        assert re.search(rf"\b{number}\s*/\s*{len(pages)}\s*$", page)
    assert "91.00 ± 2.48" in text
    assert "98.42 ± 0.04" in text


def test_a_letter_that_no_font_has_does_not_prevent_the_pdf(recorded_run: MakeRun, tmp_path: Path) -> None:
    (path,) = write_report([recorded_run("\U00010383\ue123")], SUITE, tmp_path, formats=("pdf",))
    assert path.read_bytes().startswith(b"%PDF")


def test_the_same_runs_in_any_order_give_the_same_bytes(recorded_seeds: MakeRuns, tmp_path: Path) -> None:
    runs = [
        *recorded_seeds("clnp", 0.9, 0.91, 0.92),
        *recorded_seeds("ewc", 0.8, 0.7),
        *recorded_seeds("si", 0.5, modified=True),
    ]
    first = write_report(runs, SUITE, tmp_path / "a")
    write_report(runs[::-1], SUITE, tmp_path / "b")
    assert [path.name for path in first] == [f"{SUITE}.html", f"{SUITE}.pdf", f"{SUITE}.json", SUITE]
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert len(one) > 30
    assert one == other


def test_the_report_is_dated_by_its_newest_run(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("ewc", 0.9, 0.9, 0.9))
    assert report.dated.isoformat() == "2025-01-01T02:30:00+00:00"


# Refusals


def test_without_a_finished_run_it_says_what_to_do(recorded_run: MakeRun, tmp_path: Path) -> None:
    stopped = replace(recorded_run("ewc"), status="stopped", reason="interrupted")
    with pytest.raises(RecordError, match=f"clbench run --suite {SUITE}"):
        write_report([stopped], SUITE, tmp_path)
    with pytest.raises(RecordError, match="no finished run"):
        write_report([], SUITE, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(recorded_run: MakeRun, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RecordError, match=r"file/permuted-mnist\.html cannot be written"):
        write_report([recorded_run()], SUITE, blocked, formats=("html",))


def test_an_unknown_format_is_refused_with_the_known_ones(recorded_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="expected one of html, json, parts, pdf"):
        write_report([recorded_run()], SUITE, tmp_path, formats=("docx",))


def test_a_failed_replacement_leaves_the_old_file_and_no_rest(
    recorded_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (path,) = write_report([recorded_run()], SUITE, tmp_path, formats=("html",))
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(RecordError, match="No space left"):
        write_report([recorded_run("ewc")], SUITE, tmp_path, formats=("html",))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_suites_name_cannot_lead_out_of_the_folder(recorded_run: MakeRun, tmp_path: Path) -> None:
    name = "../../up"
    (path,) = write_report([recorded_run(suite=name)], name, tmp_path, formats=("html",))
    assert path.parent == tmp_path


def test_reporting_imports_no_training_library() -> None:
    script = (
        "import sys\n"
        "import clbench.reports, clbench.reports.compose, clbench.reports.formats.html, clbench.reports.formats.pdf\n"
        "print([name for name in ('torch', 'mlflow', 'avalanche') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
