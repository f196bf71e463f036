"""Formats of a record: a newer one is refused, and files of the user come back as they were."""

import json
import os
import re
import runpy
from pathlib import Path

import pytest

from clbench.errors import RecordError
from clbench.records.audit import audit
from clbench.records.folder import RunFolder
from clbench.records.format import FORMAT, STATUS_KEYS
from clbench.records.reading import read_run

SMALL_RECORD = runpy.run_path(str(Path(__file__).with_name("small_record.py")))
CONFIG, FILES, SAMPLES = (SMALL_RECORD[name] for name in ("CONFIG", "FILES", "SAMPLES"))


# Formats


def test_a_record_of_a_newer_format_is_refused_in_one_sentence_that_says_to_upgrade(record):
    folder = record(config={**CONFIG, "format": FORMAT + 1})
    (folder.path / "something.new").write_text("unknown here\n")
    path = folder.path / "config.json"
    for read in (lambda: read_run(folder.path), folder.config):
        with pytest.raises(RecordError) as error:
            read()
        assert str(error.value) == (
            f"{path} is of format 4, which a newer clbench wrote, and this one reads formats up to 3; upgrade clbench "
            "to read it"
        )


@pytest.mark.parametrize("wrong", [0, "2", True, 1.0, None])
def test_what_is_no_format_is_refused(record, wrong):
    folder = record(config={**CONFIG, "format": wrong})
    with pytest.raises(RecordError, match="expected a format from 1 to 3"):
        read_run(folder.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "resnet18"),
        ("network", {"name": 18}),
        ("network", {"name": "a\x1b[2J"}),
        ("network", {"name": "a", "parameters": "many"}),
        ("network", {"name": "a", "image_shape": [1, "8", 8]}),
        ("network", {"name": "a", "layers": ["b"]}),
        ("samples", ["all"]),
        ("samples", {"tasks": "all", "per_task": 8, "side": 8}),
        ("samples", {"tasks": ["a\nb"], "per_task": 8, "side": 8}),
        ("samples", {"tasks": [], "per_task": -1, "side": 8}),
        ("stream_sha256", 3),
    ],
)
def test_what_a_report_shows_of_the_network_and_the_images_is_checked_when_it_is_written_and_read(record, key, value):
    with pytest.raises(RecordError, match="the run cannot be recorded: expected "):
        record(config={**CONFIG, key: value})
    folder = record()
    # Without digests, as the first version wrote it, the form is all that tells.
    (folder.path / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    status = json.loads((folder.path / "status.json").read_text())
    (folder.path / "status.json").write_text(json.dumps({name: status[name] for name in STATUS_KEYS}))
    with pytest.raises(RecordError, match=r"config\.json is not as clbench recorded it \(expected "):
        read_run(folder.path)


# Files of the user


def test_files_and_samples_come_back_byte_for_byte_and_nothing_runs_them(record):
    folder = record()
    run = read_run(folder.path)
    assert run.files == FILES
    assert run.samples == SAMPLES
    digests = json.loads((folder.path / "status.json").read_text())["sha256"]
    assert {"files/net.py", "files/helpers/blocks.py", "samples.png"} <= digests.keys()
    assert audit(folder.path).run is not None
    assert read_run(record(files={}).path).files == {}


@pytest.mark.parametrize("name", ["files/net.py", "files/helpers/blocks.py", "samples.png"])
@pytest.mark.parametrize("how", ["altered", "missing", "a link", "a folder"])
def test_a_copy_that_is_not_as_it_was_recorded_is_refused_by_name(record, name, how, tmp_path):
    folder = record()
    path = folder.path / name
    content = path.read_bytes()
    if how == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.unlink()
    if how == "a link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    if how == "a folder":
        path.mkdir()
    with pytest.raises(RecordError, match=re.escape(str(path))) as error:
        read_run(folder.path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["files/more.py", "files/helpers/.hidden", "files/__pycache__/net.pyc"])
def test_an_added_file_is_refused_by_name(record, name):
    folder = record()
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_text("added")
    with pytest.raises(RecordError, match=re.escape(f"{folder.path / name} is not as clbench recorded it")) as error:
        read_run(folder.path)
    assert "status.json has none" in str(error.value)


def test_a_linked_folder_of_files_and_a_pipe_in_it_are_refused(record, tmp_path):
    folder = record()
    (folder.path / "files" / "helpers").rename(tmp_path / "helpers")
    (folder.path / "files" / "helpers").symlink_to(tmp_path / "helpers")
    with pytest.raises(RecordError, match="helpers is a symbolic link"):
        read_run(folder.path)
    (folder.path / "files" / "helpers").unlink()
    (tmp_path / "helpers").rename(folder.path / "files" / "helpers")
    read_run(folder.path)
    os.mkfifo(folder.path / "files" / "pipe")
    with pytest.raises(RecordError, match="not a regular file"):
        read_run(folder.path)


@pytest.mark.parametrize(
    "name", ["", "/net.py", "../net.py", "a/../../net.py", "./net.py", "a//b", "a/", "a\\b", "a\nb", "..", "\udc80.py"]
)
def test_a_path_that_leads_out_of_the_folder_of_copies_is_refused_before_anything_is_written(tmp_path, name):
    folder = RunFolder(tmp_path / "runs", CONFIG["run_id"])
    with pytest.raises(RecordError, match="cannot be kept with a run") as error:
        folder.begin(CONFIG, "", {name: b""})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
