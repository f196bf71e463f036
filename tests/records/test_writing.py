"""What a run folder promises to whoever writes it: files whole or not at all, nothing overwritten; and run ids."""

import hashlib
import os
import re
import runpy
import stat
from pathlib import Path

import pytest

from clbench.errors import RecordError
from clbench.records.files import check_writable
from clbench.records.folder import RunFolder
from clbench.records.format import REQUIRED_FILES
from clbench.records.identity import run_id_of

CLNP_RUN = runpy.run_path(str(Path(__file__).with_name("clnp_run.py")))
RUN_ID, CONFIG, ENVIRONMENT, contents = (CLNP_RUN[name] for name in ("RUN_ID", "CONFIG", "ENVIRONMENT", "contents"))


# Writing


def test_a_write_that_fails_leaves_the_old_content(folder, monkeypatch):
    before = contents(folder.path)

    def full(*args):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(RecordError, match=r"config\.json cannot be written \(No space left on device\)"):
                folder.write("config.json", "{}")
        assert {name: before[name] for name in before} == {name: contents(folder.path)[name] for name in before}


def test_a_write_that_fails_leaves_no_scrap_behind(folder, monkeypatch):
    before = contents(folder.path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError):
        folder.write("config.json", "{}")
    assert contents(folder.path) == before


def test_a_reader_never_sees_a_part_of_a_file(folder, monkeypatch):
    path = folder.path / "environment.txt"
    seen = []
    replace = os.replace

    def look_first(source, target):
        seen.append((path.read_text(), Path(source).read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_first)
    folder.write("environment.txt", "new\n" * 10_000)
    assert seen == [(ENVIRONMENT, "new\n" * 10_000)]
    assert path.read_text() == "new\n" * 10_000


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_and_write_recorded_files_is_what_the_umask_says(umask, mode, tmp_path, recorded_run, write_run):
    before = os.umask(umask)
    try:
        path = write_run(tmp_path / "runs", recorded_run())
        with RunFolder(path.parent, path.name).lease():
            pass
    finally:
        os.umask(before)
    files = [found for found in (tmp_path / "runs").rglob("*") if found.is_file()]
    assert {"config.json", "status.json", f"{path.name}.lock"} <= {found.name for found in files}
    assert {stat.S_IMODE(found.stat().st_mode) for found in files} == {mode}


def test_files_are_the_recorded_ones_and_nothing_else(folder):
    folder.write("notes.txt", "not a record")
    folder.write("traceback.txt", "Traceback")
    assert [path.name for path in folder.files()] == [*REQUIRED_FILES, "capacity.csv", "traceback.txt"]
    (folder.path / "capacity.csv").unlink()
    (folder.path / "traceback.txt").unlink()
    assert [path.name for path in folder.files()] == list(REQUIRED_FILES)


def test_an_unfinished_folder_is_moved_aside_with_everything_in_it(tmp_path, folder):
    folder.set_status("stopped", "stopped by the user")
    first = contents(folder.path)
    (folder.path / "notes.txt").write_text("mine")
    for attempt in range(1, 4):
        again = RunFolder(tmp_path / "runs", RUN_ID)
        again.begin(CONFIG, f"attempt {attempt}\n")
        aside = sorted(path for path in (tmp_path / "runs").iterdir() if path != again.path)
        # Three attempts within a second get three names.
        assert len(aside) == attempt
        assert all(path.name.startswith(f"{RUN_ID}.unfinished-") for path in aside)
        assert not any(c in path.name for path in aside for c in ":+ ")
    kept = [contents(path) for path in aside]
    assert {**first, Path("notes.txt"): b"mine"} in kept
    told = {held[Path("environment.txt")] for held in kept}
    assert told == {ENVIRONMENT.encode(), b"attempt 1\n", b"attempt 2\n"}
    assert again.status == "running"


def test_the_status_of_a_folder_that_is_not_there_is_absent(tmp_path):
    assert RunFolder(tmp_path, RUN_ID).status == "absent"


@pytest.mark.parametrize("text", ["", "{", "[]", '"finished"', '{"state": "finished"}', "\ud800"])
def test_a_status_that_cannot_be_read_is_refused_by_name(folder, text):
    (folder.path / "status.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(RecordError, match=r"status\.json cannot be read .*move the folder away"):
        _ = folder.status


# Folders that cannot be written


def test_a_folder_below_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(RecordError, match=re.escape(f"the folder {path} cannot be written")) as error:
            check_writable(path, "--output")
        assert "\n" not in str(error.value)
    with pytest.raises(RecordError, match=r"the run folder .* cannot be created"):
        RunFolder(tmp_path / "file", RUN_ID).begin(CONFIG, ENVIRONMENT)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)
    with pytest.raises(RecordError, match="cannot be written \\(Permission denied\\)"):
        check_writable(tmp_path / "runs", "--output")
    with pytest.raises(RecordError, match="cannot be created \\(Permission denied\\)"):
        RunFolder(tmp_path / "runs", RUN_ID).begin(CONFIG, ENVIRONMENT)


def test_the_check_creates_the_folder_and_leaves_nothing_in_it(tmp_path):
    root = tmp_path / "with spaces" / "runs"
    check_writable(root, "--output")
    check_writable(root, "--output")
    assert list(root.iterdir()) == []


# Run ids


def test_a_run_id_is_the_hash_of_the_canonical_json():
    wanted = hashlib.sha256(b'{"a":1,"b":[1.5,null,"\\u00e4"]}').hexdigest()[:16]
    assert run_id_of({"b": [1.5, None, "ä"], "a": 1}) == wanted
    assert re.fullmatch("[0-9a-f]{16}", wanted)


def test_run_ids_tell_apart_what_differs_and_nothing_else():
    base = {"method": "clnp", "seed": 0, "settings": {"margin": 0.2, "epochs": 1}}
    same = {"settings": {"epochs": 1, "margin": 0.2}, "seed": 0, "method": "clnp"}
    others = [{**base, "seed": 1}, {**base, "seed": "0"}, {**base, "settings": {"margin": 0.2}}, {**base, "x": None}]
    assert run_id_of(base) == run_id_of(same)
    assert len({run_id_of(identity) for identity in [base, *others]}) == 5


def test_an_identity_without_a_number_has_no_id():
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_id_of({"learning_rate": float("nan")})
