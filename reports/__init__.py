"""Recorded runs become tables, figures, one HTML file and one PDF; nothing here trains.

The way through: `groups` decides which runs may be averaged, `compose` turns the groups into a `model.Report`
(every number already text), and `html` and `pdf` set that same report, so that the two cannot disagree.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clbench.errors import RecordError, unknown_name
from clbench.records import RecordedRun

FORMATS = ("html", "pdf")


def write_report(runs: Sequence[RecordedRun], suite: str, output: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes `<output>/<suite>.html` and `<output>/<suite>.pdf`; the same runs give the same bytes.

    Args:
        runs: recorded runs, finished or not; those of other suites are passed over.
        suite: the suite's name.
        output: the folder to write to; created where absent.
        formats: which of `FORMATS` to write.

    Returns:
        The files written, in the order of `formats`.

    Raises:
        RecordError: if no run of the suite is finished, or a file cannot be written.
        SettingError: for a format that does not exist.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("report format", name, FORMATS)
    # Plotting and typesetting take a second to import, which the command line's other commands don't owe.
    from clbench.reports.compose import compose
    from clbench.reports.groups import select
    from clbench.reports.html import render_html
    from clbench.reports.pdf import render_pdf

    selection = select(runs, suite)
    if not selection.groups:
        raise RecordError(
            f"no finished run of the suite '{suite}' was found among {len(runs)} recorded runs; "
            f"run it with: clbench run --suite {suite}"
        )
    report = compose(selection, suite)
    renderers = {"html": render_html, "pdf": render_pdf}
    written = []
    for name in formats:
        path = output / f"{_file_stem(suite)}.{name}"
        _write(path, renderers[name](report))
        written.append(path)
    return written


def _file_stem(suite: str) -> str:
    # A third party's suite may carry any name; as a file name it must not lead out of the folder.
    return re.sub(r"[^\w.-]", "_", suite).lstrip(".") or "suite"


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RecordError(
            f"the report {path} cannot be written ({error.strerror}); give a folder you may write to"
        ) from None
