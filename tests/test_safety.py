"""What is recorded is text: nothing of it is run, interpreted, or followed out of the folder it was put in."""

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets

from clbench.data import load_images
from clbench.errors import DataError, RecordError
from clbench.records.reading import RecordedRun, read_run, read_runs, run_paths
from clbench.reports import write_report

SUITE = "permuted-mnist"

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</svg><svg onload=alert(1)>",
    "<!--<style>*{display:none}</style>",
    "]]></text><a href='javascript:alert(1)'>",
    "{{ 7*7 }}{% include '/etc/passwd' %}",
    '#read("/etc/passwd") #eval("1") #import "/x": *',
    "= Heading *bold* _em_ `raw` $x^2$ @ref <label>",
    r"\input{/etc/passwd} \write18{touch pwned} %",
    "../../../../tmp/pwned",
    "/etc/passwd",
    "$(touch pwned) `touch pwned`; touch pwned | &",
    "[red]markup[/red] [/bold] [link=x]",
    "=HYPERLINK(1)",
    "\u202egnp.exe \u200b\ufeff\u2066",
    "e\u0301\u0323\u0336" * 40,
    "\U0001f9ea\u200d\U0001f52c 中文 العربية \ue123",
    "x" * 5000,
]
NOT_TEXT = ["\x00", "\x1b[2J", "a\nb", "\r", "\x08", "\x7f", "\x9b", "\ud800", "\ufffe", "\uffff"]


class Reader(HTMLParser):
    """Every tag with its attributes, and all the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_runs(recorded_run: Callable[..., RecordedRun], write: Callable[..., Path], root: Path) -> list[RecordedRun]:
    """A run of each hostile name, which also stands wherever a record takes text; one of them failed for it."""
    for seed, name in enumerate(HOSTILE):
        run = recorded_run(
            name,
            seed,
            run_id=f"{seed:016x}",
            title=name,
            command=name,
            host=name,
            device=name,
            device_name=name,
            git_commit=name,
            precision=name,
            overrides={name: name},
            method_settings={name: name},
            data={"source": name, "sha256": name, "train_images": 60000, "test_images": 10000},
            versions={"torch": name, "clbench": name, name: name},
        )
        write(root, run)
        failed = recorded_run(name, seed, run_id=f"{1000 + seed:016x}")
        write(root, replace(failed, status="failed", reason=name))
    return read_runs(root)


@pytest.fixture(scope="module")
def reports(
    recorded_run: Callable[..., RecordedRun], write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the reports on the hostile runs, and nothing else."""
    place = tmp_path_factory.mktemp("hostile")
    runs = hostile_runs(recorded_run, write_run, place / "runs")
    assert len(runs) == 2 * len(HOSTILE)
    write_report(runs, SUITE, place / "reports")
    assert sorted(path.name for path in place.rglob("*") if path.suffix != ".json" and path.is_dir()) == sorted(
        ["reports", "runs", SUITE, "figures", "tables", *(run.run_id for run in runs)]
    )
    return place / "reports"


def test_hostile_text_is_text_in_the_html(reports: Path) -> None:
    reader = Reader()
    reader.feed((reports / f"{SUITE}.html").read_text(encoding="utf-8"))
    assert not {"img", "iframe", "object", "embed", "link", "base", "form"} & set(reader.tags)
    # The page's own script, and no other.
    assert reader.tags.count("script") == 1
    own = resources.files("clbench.reports").joinpath("templates", "script.js").read_text(encoding="utf-8")
    assert own.strip() in reader.text
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    links = [value or "" for name, value in reader.attributes if name in ("href", "src", "action", "xlink:href")]
    assert all(value.startswith("#") for value in links)
    for name in HOSTILE:
        assert name in reader.text


def test_hostile_text_is_text_in_the_pdf(reports: Path) -> None:
    assert (reports / f"{SUITE}.pdf").read_bytes().startswith(b"%PDF")
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    done = subprocess.run([program, reports / f"{SUITE}.pdf", "-"], capture_output=True, text=True, check=True)
    text = re.sub(r"\s+", "", done.stdout)
    # What comes after them in the list has no glyphs, changes the direction, or is longer than a page.
    for name in HOSTILE[:14]:
        # A long word may be set in two halves.
        assert re.sub(r"\s+", "", name)[:20] in text
    assert "root:x:0:0" not in done.stdout


def test_only_the_reports_are_written(reports: Path) -> None:
    names = sorted(path.name for path in reports.iterdir())
    assert names == [SUITE, f"{SUITE}.html", f"{SUITE}.json", f"{SUITE}.pdf"]
    assert not list(reports.parent.rglob("pwned*"))


@pytest.mark.parametrize("name", NOT_TEXT)
@pytest.mark.parametrize("key", ["method", "suite", "run_id", "suite_settings", "method_settings", "overrides"])
def test_a_name_with_characters_that_steer_or_that_no_text_has_is_refused(
    recorded_run: Callable[..., RecordedRun], write_run: Callable[..., Path], tmp_path: Path, name: str, key: str
) -> None:
    folder = write_run(tmp_path, recorded_run())
    config = json.loads((folder / "config.json").read_text())
    # Of settings it is the names.
    config[key] = {**config[key], name: 1} if isinstance(config[key], dict) else name
    (folder / "config.json").write_text(json.dumps(config))
    status = {"status": "finished", "started": "", "ended": "", "reason": ""}
    (folder / "status.json").write_text(json.dumps(status))
    with pytest.raises(RecordError, match=r"config\.json is not as clbench recorded it") as error:
        read_run(folder)
    assert name not in str(error.value)


def test_a_command_is_recorded_so_that_a_shell_would_repeat_it_and_nothing_else(
    run: Any, place: Path, own_environment: None, clbench: Any
) -> None:
    names = ["$(touch pwned) <b> ' \" \\", "..", "caf\udce9 \U0001f9ea"]
    output = place.joinpath(*names[:1], "runs " + names[2])
    outcome = run(place, "--output", output, "--reports", place / "reports")
    assert outcome.code == 0, outcome.err
    (folder,) = run_paths(output)
    recorded = read_run(folder).config["command"]
    escaped = os.fsencode(str(output)).decode("utf-8", "surrogateescape").replace("\udce9", "\\udce9")
    assert shlex.split(recorded)[-3] == escaped
    assert not list(place.rglob("pwned"))
    assert {".html", ".pdf"} <= {path.suffix for path in (place / "reports").iterdir()}


def test_a_link_in_place_of_a_report_is_replaced_and_not_followed(
    recorded_run: Callable[..., RecordedRun], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.html"
    elsewhere.write_text("mine")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / f"{SUITE}.html").symlink_to(elsewhere)
    (path,) = write_report([recorded_run()], SUITE, tmp_path / "reports", formats=("html",))
    assert elsewhere.read_text() == "mine"
    assert not path.is_symlink()


# Archives


def archive_with(member: str, tmp_path: Path) -> bytes:
    """A .tar.gz as of CIFAR-100 with one member that leads elsewhere."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo("cifar-100-python/train")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
        if member == "link":
            link = tarfile.TarInfo("cifar-100-python/link")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            archive.addfile(link)
            member = "cifar-100-python/link/pwned"
        elif member == "hard link":
            (tmp_path / "secret").write_text("secret")
            link = tarfile.TarInfo("cifar-100-python/test")
            link.type, link.linkname = tarfile.LNKTYPE, str(tmp_path / "secret")
            archive.addfile(link)
            member = "cifar-100-python/meta"
        info = tarfile.TarInfo(member)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"pwned"))
    return file.getvalue()


@pytest.mark.parametrize("published", [False, True], ids=["unknown", "published"])
@pytest.mark.parametrize("member", ["../../pwned", "absolute", "link", "hard link"])
def test_an_archive_that_leads_out_of_its_folder_writes_nothing_there(
    member: str, published: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even if its digest were the published one, which would be torchvision's mistake and no attacker's choice; it
    # unpacks, and is relied on not to follow such members.
    content = archive_with(str(tmp_path / "pwned") if member == "absolute" else member, tmp_path)
    dataset = torchvision.datasets.CIFAR100
    if published:
        monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(content).hexdigest())

    class Response(io.BytesIO):
        length = len(content)

    def urlopen(request: urllib.request.Request, *_: object, **__: object) -> Response:
        response = Response(content)
        response.url = request.full_url  # type: ignore[attr-defined]
        return response

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(DataError, match="could not be downloaded"):
        load_images("cifar100", root)
    assert not list(tmp_path.rglob("pwned"))
    assert [path for path in root.rglob("*") if path.is_file() or path.is_symlink()] == []
