"""A report as a tagged PDF (PDF/A-2a, PDF/UA-1), set by Typst.

Everything recorded reaches Typst as JSON, and so as text: no name or command can act as markup.
"""

import json
import shutil
import tempfile
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import typst

from clbench.errors import ReportWarning, SettingError
from clbench.reports.model import Figure, Report

_STANDARDS = ["a-2a", "ua-1"]


def render_pdf(report: Report, templates: Path | None = None) -> bytes:
    """The report as PDF; its creation date is the report's own date.

    Args:
        report: the report.
        templates: a folder whose `report.typ` replaces ours; what else lies there, it can import.

    Raises:
        SettingError: if a template of the user's own does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            if templates is not None:
                shutil.copytree(templates, root, dirs_exist_ok=True)
            if not (root / "report.typ").is_file():
                ours = resources.files("clbench.reports") / "templates" / "report.typ"
                (root / "report.typ").write_text(ours.read_text(encoding="utf-8"), encoding="utf-8")
        except (OSError, shutil.Error) as error:
            raise SettingError(f"the templates in {templates} cannot be read ({error})") from None
        content = json.loads(report.to_json()) | {"dated": f"{report.dated:%Y-%m-%d}"}
        (root / "report.json").write_text(json.dumps(content), encoding="utf-8")
        for item in report.items:
            if isinstance(item, Figure):
                (root / f"{item.name}.svg").write_text(item.svg, encoding="utf-8")
        try:
            return _compiled(root, report, _STANDARDS)
        except typst.TypstError as strict:
            # Archival and accessible PDF forbid a letter that no font has, which a method's name may hold;
            # a report with a box in that place is better than none.
            try:
                plain = _compiled(root, report, [])
            except typst.TypstError as error:
                if templates is None:
                    raise
                raise SettingError(f"the template report.typ does not compile ({error})") from None
            reason = str(strict).split("\n")[0]
            warnings.warn(f"the PDF is neither PDF/A-2a nor PDF/UA-1: {reason}", ReportWarning, stacklevel=2)
            return plain


def drawing_as_pdf(figure: Figure, report: Report) -> bytes:
    """One drawing as a PDF page of its size; vector, dated as the report."""
    source = '#set page(width: auto, height: auto, margin: 0pt)\n#image("drawing.svg")\n'
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "drawing.typ").write_text(source, encoding="utf-8")
        (root / "drawing.svg").write_text(figure.svg, encoding="utf-8")
        return typst.compile(root / "drawing.typ", root=root, format="pdf", timestamp=report.dated)


def _compiled(root: Path, report: Report, standards: list[Any]) -> bytes:
    return typst.compile(root / "report.typ", root=root, format="pdf", timestamp=report.dated, pdf_standards=standards)
