"""A report as a tagged PDF (PDF/A-2a, PDF/UA-1), set by Typst.

Everything recorded reaches Typst as JSON, and so as text: no name or command can act as markup.
"""

import json
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import typst

from clbench.reports.model import Figure, Report

_STANDARDS = ["a-2a", "ua-1"]


def render_pdf(report: Report) -> bytes:
    """The report as PDF; its creation date is the report's own date."""
    template = (resources.files("clbench.reports") / "templates" / "report.typ").read_text(encoding="utf-8")
    drawings = [report.headline, *(item for section in report.sections for item in section.items)]
    content = asdict(report) | {"dated": f"{report.dated:%Y-%m-%d}"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "report.typ").write_text(template, encoding="utf-8")
        (root / "report.json").write_text(json.dumps(content), encoding="utf-8")
        for drawing in drawings:
            if isinstance(drawing, Figure):
                (root / f"{drawing.name}.svg").write_text(drawing.svg, encoding="utf-8")
        try:
            return _compiled(root, report, _STANDARDS)
        except typst.TypstError:
            # Archival and accessible PDF forbid a letter that no font has, which a method's name may hold;
            # a report with a box in that place is better than none.
            return _compiled(root, report, [])


def _compiled(root: Path, report: Report, standards: list[Any]) -> bytes:
    return typst.compile(root / "report.typ", root=root, format="pdf", timestamp=report.dated, pdf_standards=standards)
