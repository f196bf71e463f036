"""Recorded runs become tables, figures, HTML, PDF, and files for authors; nothing here trains.

The way through: `groups` decides which runs may be averaged, `compose` turns the groups into a `model.Report`
(every number already text), and `html`, `pdf` and `for_authors` set that same report, so that they cannot disagree.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.errors import RecordError, SettingError, unknown_name
from clbench.records.files import write_whole
from clbench.records.reading import RecordedRun

if TYPE_CHECKING:
    from clbench.reports.model import Report

_LONGEST_NAME = 150
FORMATS = ("html", "pdf", "json", "parts")
TEMPLATES = ("report.html.j2", "style.css", "script.js", "report.typ")


def write_report(
    runs: Sequence[RecordedRun],
    suite: str,
    output: Path,
    formats: Sequence[str] = FORMATS,
    *,
    templates: Path | None = None,
) -> list[Path]:
    """Writes the report on a suite; the same runs give the same bytes.

    Args:
        runs: recorded runs, finished or not; those of other suites are passed over.
        suite: the suite's name.
        output: the folder to write to; created where absent.
        formats: which of `FORMATS` to write: `<suite>.html`, `<suite>.pdf`, `<suite>.json` (the report itself), and
            the folder `<suite>` with its parts for authors.
        templates: a folder with templates of the user's own, see `html` and `pdf`.

    Returns:
        The files and the folder written, in the order of `formats`.

    Raises:
        RecordError: if no run of the suite is finished, or a file cannot be written.
        SettingError: for a format that does not exist, or a template that cannot be used.
    """
    # Plotting takes a second to import, which the command line's other commands don't owe.
    from clbench.reports.analysis.groups import select
    from clbench.reports.compose import compose

    check_formats(formats)
    selection = select(runs, suite)
    if not selection.groups:
        trials = sum(run.measured_on != "test" for run in runs)
        apart = f" ({trials} of them of a search, on validation images)" if trials else ""
        raise RecordError(
            f"no finished run of the suite '{suite}' was found among {len(runs)} recorded runs{apart}; "
            f"run it with: clbench run --suite {suite}"
        )
    return write_files(compose(selection, suite), suite, output, formats, templates=templates)


def check_formats(formats: Sequence[str]) -> None:
    """Refuses a format that does not exist.

    Raises:
        SettingError: naming those that do.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("report format", name, FORMATS)


def write_files(
    report: "Report", name: str, output: Path, formats: Sequence[str] = FORMATS, *, templates: Path | None = None
) -> list[Path]:
    """Writes a composed report under a name; arguments, result and errors as for `write_report`."""
    from clbench.reports.formats.for_authors import parts
    from clbench.reports.formats.html import render_html
    from clbench.reports.formats.pdf import render_pdf

    check_formats(formats)
    if templates is not None and not templates.is_dir():
        raise SettingError(f"there is no folder {templates}; give one with templates of your own, or leave it out")
    if templates is not None and not any((templates / known).is_file() for known in TEMPLATES):
        raise SettingError(f"the folder {templates} holds no template; expected one or more of {', '.join(TEMPLATES)}")
    stem = _file_stem(name)
    written = []
    for kind in formats:
        if kind == "parts":
            path = output / stem
            for part, content in parts(report):
                _write(path / part, content)
        else:
            path = output / f"{stem}.{kind}"
            if kind == "html":
                _write(path, render_html(report, templates))
            elif kind == "pdf":
                _write(path, render_pdf(report, templates))
            else:
                _write(path, report.to_json())
        written.append(path)
    return written


def _file_stem(suite: str) -> str:
    # A third party's suite may carry any name; as a file name it must not lead out of the folder.
    return re.sub(r"[^\w.-]", "_", suite).lstrip(".")[:_LONGEST_NAME] or "suite"


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise RecordError(
            f"the report {path} cannot be written ({error.strerror}); give a folder you may write to"
        ) from None
