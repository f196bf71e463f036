"""The seal of a run folder: what was changed, added or replaced after the end is refused by name."""

import hashlib
import json
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.format import REQUIRED_FILES
from clbench.records.reading import read_run, read_runs
from clbench.records.result import RunResult

CLNP_RUN = runpy.run_path(str(Path(__file__).with_name("clnp_run.py")))
RUN_ID = CLNP_RUN["RUN_ID"]
CONFIG = CLNP_RUN["CONFIG"]
ENVIRONMENT = CLNP_RUN["ENVIRONMENT"]
MATRIX = CLNP_RUN["MATRIX"]
TASKS = CLNP_RUN["TASKS"]
CAPACITY = CLNP_RUN["CAPACITY"]
contents = CLNP_RUN["contents"]


# The seal


def test_the_end_of_a_run_seals_every_recorded_file(tmp_path):
    folder = RunFolder(tmp_path, RUN_ID)
    folder.begin(CONFIG, ENVIRONMENT)
    folder.write_tables(RunResult(MATRIX, TASKS, CAPACITY))
    folder.write("traceback.txt", "Traceback (most recent call last)\n")
    assert read_run(folder.path).seal
    assert json.loads((folder.path / "status.json").read_text())["sha256"] == {}
    for status in ("finished", "stopped", "failed"):
        folder.set_status(status)
        sealed = json.loads((folder.path / "status.json").read_text())["sha256"]
        assert sealed == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.path.iterdir()
            if path.name != "status.json"
        }


def test_runs_that_differ_in_one_digit_have_different_seals(tmp_path, monkeypatch):
    monkeypatch.setattr("clbench.records.folder.now", lambda: "2026-01-01T00:00:00+00:00")
    seals = []
    for number, matrix in enumerate([MATRIX, MATRIX, np.where(MATRIX == 0.95, np.nextafter(0.95, 1), MATRIX)]):
        folder = RunFolder(tmp_path / str(number), RUN_ID)
        folder.begin(CONFIG, ENVIRONMENT)
        folder.write_tables(RunResult(matrix, TASKS, CAPACITY))
        folder.set_status("finished")
        seals.append(read_run(folder.path).seal)
    assert seals[0] == seals[1] != seals[2]


def test_a_file_that_came_after_the_end_is_refused_by_name(tmp_path):
    folder = RunFolder(tmp_path, RUN_ID)
    folder.begin(CONFIG, ENVIRONMENT)
    folder.write_tables(RunResult(MATRIX, TASKS))
    folder.set_status("finished")
    folder.write_tables(RunResult(MATRIX, TASKS, CAPACITY))
    with pytest.raises(RecordError, match=r"capacity\.csv is not as clbench recorded it .*status\.json has none"):
        read_run(folder.path)


def test_another_whole_files_content_is_refused_by_name(folder):
    text = (folder.path / "accuracy_matrix.csv").read_text()
    (folder.path / "accuracy_matrix.csv").write_text(text.replace("0.95", "0.96"))
    with pytest.raises(RecordError, match=r"accuracy_matrix\.csv is not as clbench recorded it .*SHA-256"):
        read_run(folder.path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"finished"', '"failed"'),
        ('"reason": ""', '"reason": "x"'),
        ('  "status"', '   "status"'),
        ('"seal"', '"sealed"'),
    ],
)
def test_a_status_that_was_rewritten_is_refused_by_name(folder, old, new):
    path = folder.path / "status.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RecordError, match=r"status\.json is not as clbench recorded it .*seal"):
        read_run(folder.path)
    with pytest.raises(RecordError, match=r"status\.json cannot be read .*seal"):
        _ = folder.status


def test_a_run_of_version_0_1_0_is_read_and_has_no_seal(unsealed):
    run = read_run(unsealed.path)
    assert (run.status, run.seal, unsealed.status) == ("finished", "", "finished")
    np.testing.assert_array_equal(run.accuracy_matrix, MATRIX)


# Links and other things that are no files


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "capacity.csv"])
def test_a_link_in_place_of_a_file_is_refused_by_name_and_not_handed_on(folder, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    (folder.path / name).rename(elsewhere)
    (folder.path / name).symlink_to(elsewhere)
    with pytest.raises(RecordError, match=re.escape(f"{folder.path / name} is a symbolic link")):
        read_run(folder.path)
    assert folder.path / name not in folder.files()
    before = elsewhere.read_bytes()
    folder.write(name, "new")
    assert elsewhere.read_bytes() == before
    assert not (folder.path / name).is_symlink()


def test_a_link_in_place_of_a_run_folder_is_refused_by_name(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    folder.path.rename(elsewhere)
    folder.path.symlink_to(elsewhere)
    for refused in (lambda: read_run(folder.path), lambda: read_runs(folder.path.parent), lambda: folder.status):
        with pytest.raises(RecordError, match=re.escape(f"{folder.path} is a symbolic link")):
            refused()
    before = contents(elsewhere)
    # Whoever begins anyway gets a folder of their own; the link is set aside, what it leads to is left alone.
    folder.begin(CONFIG, "another\n")
    assert not folder.path.is_symlink()
    assert contents(elsewhere) == before


def test_a_link_that_leads_nowhere_is_refused_by_name(folder, tmp_path):
    (folder.path / "status.json").unlink()
    (folder.path / "status.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecordError, match="is a symbolic link"):
        _ = folder.status
    dangling = RunFolder(tmp_path, "link")
    dangling.path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecordError, match="cannot be created"):
        dangling.begin(CONFIG, ENVIRONMENT)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", [*REQUIRED_FILES])
def test_a_pipe_in_place_of_a_file_is_refused_and_never_waited_for(folder, name):
    (folder.path / name).unlink()
    os.mkfifo(folder.path / name)
    with pytest.raises(RecordError, match=re.escape(str(folder.path / name))):
        read_run(folder.path)
