"""A report of permuted-mnist, its tables, and the text of its PDF."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.groups import select
from clbench.reports.compose import compose
from clbench.reports.model import Report, Table

SUITE = "permuted-mnist"


def report_on(runs: list[RecordedRun]) -> Report:
    return compose(select(runs, SUITE), SUITE)


def table(report: Report, caption: str) -> Table:
    found = [item for item in report.items if isinstance(item, Table) and caption in item.caption]
    assert found, f"no table '{caption}'"
    return found[0]


def column(shown: Table, heading: str) -> list[str]:
    place = [part.heading for part in shown.columns].index(heading)
    return [f"{row[place].text} {row[place].detail}".strip() for row in shown.rows]


def pdf_text(path: Path) -> str:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    done = subprocess.run([program, "-layout", str(path), "-"], capture_output=True, text=True, check=True)
    return done.stdout
