"""What a run folder promises: files whole or not at all, nothing overwritten, damage refused by name."""

import hashlib
import json
import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clbench.errors import RecordError
from clbench.records.files import check_writable
from clbench.records.folder import RunFolder
from clbench.records.format import CAPACITY_COLUMNS, FORMAT, REQUIRED_FILES, TASK_COLUMNS
from clbench.records.identity import run_id_of
from clbench.records.reading import read_run, read_runs
from clbench.records.result import RunResult

RUN_ID = "0123456789abcdef"
CONFIG = {
    "format": FORMAT,
    "run_id": RUN_ID,
    "suite": "permuted-digits",
    "method": "clnp",
    "seed": 3,
    "modified": True,
    "suite_settings": {"n_tasks": 3},
}
ENVIRONMENT = "python: 3.11\nnaïve==1.0\n"
# Two of three tasks learned; the third was tried before it was learned.
MATRIX = np.array([[0.1, 1 / 3, 0.12], [0.9, 0.2, np.nan], [0.7, 0.95, 0.15], [np.nan, np.nan, np.nan]])
TASKS = [
    {
        "task": task,
        "train_seconds": 0.1 + task,
        "train_images_per_second": 1e5 / 3,
        "eval_seconds": 1e-4,
        "peak_memory_bytes": 2**31,
        "extra_state_bytes": 44 * task,
        "optimizer_state_bytes": 0,
    }
    for task in (1, 2)
]
CAPACITY = [
    {
        "task": task,
        "group": f"layer_{layer}",
        "unit": "neuron",
        "units": 16,
        "free": 8,
        "new": 5,
        "reused": 3,
        "used": 8,
        "threshold": 1 / 7,
        "margin_spent": 0.0,
        "weights_used": 1 / 3,
        "weights": 48,
    }
    for task in (1, 2)
    for layer in (1, 2)
]


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    made = RunFolder(tmp_path / "runs", RUN_ID)
    made.begin(CONFIG, ENVIRONMENT)
    made.write_tables(RunResult(MATRIX, TASKS, CAPACITY))
    made.set_status("finished")
    return made


@pytest.fixture
def unsealed(folder):
    """The same as clbench 0.1.0 recorded it, without digests: what it holds must stand for itself."""
    path = folder.path / "status.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: content[key] for key in ("status", "started", "ended", "reason")}, indent=2) + "\n"
    )
    return folder


def contents(root):
    """Every file below, hidden ones as well, with its bytes."""
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# Reading back


def test_a_run_comes_back_as_it_was_recorded(folder):
    run = read_run(folder.path)
    assert (run.run_id, run.suite, run.method, run.seed) == (RUN_ID, "permuted-digits", "clnp", 3)
    assert run.is_modified
    assert run.config == CONFIG
    assert run.environment == ENVIRONMENT
    assert run.status == "finished"
    assert run.reason == ""
    assert run.started <= run.ended
    # The very same numbers, NaN for NaN: what is written must not lose a digit.
    np.testing.assert_array_equal(run.accuracy_matrix, MATRIX)
    assert run.tasks.to_dict("records") == TASKS
    assert run.capacity.to_dict("records") == CAPACITY


def test_a_run_without_units_to_count_has_an_empty_capacity_table(tmp_path):
    folder = RunFolder(tmp_path, RUN_ID)
    folder.begin(CONFIG, ENVIRONMENT)
    folder.write_tables(RunResult(MATRIX, TASKS))
    run = read_run(folder.path)
    assert not (folder.path / "capacity.csv").exists()
    assert list(run.capacity.columns) == list(CAPACITY_COLUMNS)
    assert run.capacity.empty


def test_a_run_that_has_learned_nothing_yet_can_be_read(tmp_path):
    folder = RunFolder(tmp_path, RUN_ID)
    folder.begin(CONFIG, ENVIRONMENT)
    matrix = np.full((4, 3), np.nan)
    matrix[0] = 0.1
    folder.write_tables(RunResult(matrix))
    run = read_run(folder.path)
    assert run.status == "running"
    assert run.ended == ""
    assert run.tasks.empty
    np.testing.assert_array_equal(run.accuracy_matrix, matrix)


def test_the_tables_have_the_documented_columns_and_leave_unmeasured_cells_empty(folder):
    lines = (folder.path / "accuracy_matrix.csv").read_text().splitlines()
    assert lines[0] == "tasks_learned,task_01,task_02,task_03"
    assert lines[1:] == ["0,0.1,0.3333333333333333,0.12", "1,0.9,0.2,", "2,0.7,0.95,0.15", "3,,,"]
    assert (folder.path / "tasks.csv").read_text().splitlines()[0] == ",".join(TASK_COLUMNS)
    assert (folder.path / "capacity.csv").read_text().splitlines()[0] == ",".join(CAPACITY_COLUMNS)


def test_a_reason_is_kept_with_the_status(folder):
    folder.set_status("failed", "MethodError: needs one head")
    run = read_run(folder.path)
    assert (run.status, run.reason) == ("failed", "MethodError: needs one head")
    assert run.ended


# Refusals


def damaged(path, how):
    text = path.read_text(encoding="utf-8")
    if how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "not text":
        path.write_bytes(b"\xff\xfe\x00" + os.urandom(20))
    elif how == "empty":
        path.write_text("")
    elif how == "truncated":
        # In the midst of the last line that says something.
        cut = text.rstrip("3,\n}")
        path.write_text(cut[: cut.rindex("," if path.suffix == ".csv" else ":") - 1])
    elif how == "other content":
        path.write_text("[1, 2]\n")


@pytest.mark.parametrize("how", ["missing", "a folder", "not text", "empty", "truncated", "other content"])
@pytest.mark.parametrize("name", [*REQUIRED_FILES, "capacity.csv"])
def test_a_damaged_file_is_refused_by_name(folder, name, how):
    damaged(folder.path / name, how)
    with pytest.raises(RecordError, match=re.escape(str(folder.path / name))) as error:
        read_run(folder.path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["missing", "a folder", "not text", "empty", "truncated", "other content"])
@pytest.mark.parametrize("name", [*REQUIRED_FILES, "capacity.csv"])
def test_without_digests_a_damaged_file_is_refused_by_name_where_its_form_tells(unsealed, name, how):
    if name == "environment.txt" and how in ("empty", "truncated", "other content"):
        pytest.skip("free text: nothing tells what it should have been")
    if name == "capacity.csv" and how in ("missing", "a folder"):
        pytest.skip("not every method has one")
    damaged(unsealed.path / name, how)
    with pytest.raises(RecordError, match=re.escape(str(unsealed.path / name))) as error:
        read_run(unsealed.path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["accuracy_matrix.csv", "tasks.csv", "capacity.csv"])
@pytest.mark.parametrize("change", ["renamed", "left out", "swapped"])
def test_a_table_with_other_columns_is_refused_by_name(unsealed, name, change):
    path = unsealed.path / name
    frame = pd.read_csv(path)
    columns = list(frame.columns)
    if change == "renamed":
        frame = frame.rename(columns={columns[1]: "something"})
    elif change == "left out":
        frame = frame.drop(columns=columns[2])
    else:
        frame = frame[[*columns[:1], columns[2], columns[1], *columns[3:]]]
    frame.to_csv(path, index=False)
    with pytest.raises(RecordError, match=re.escape(f"{path} is not as clbench recorded it")) as error:
        read_run(unsealed.path)
    assert "expected the columns " + ", ".join(columns) in str(error.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("tasks_learned,task_01,task_02,task_03\n0,0.1,0.1,0.1\n1,0.9,0.2,\n", "4 rows"),
        ("tasks_learned,task_01,task_02,task_03\n1,,,\n0,,,\n2,,,\n3,,,\n", "4 rows"),
        ("tasks_learned,task_01,task_02,task_03\n0,,,\n1,90,,\n2,,,\n3,,,\n", "[0, 1]"),
        ("tasks_learned,task_01,task_02,task_03\n0,,,\n1,-0.5,,\n2,,,\n3,,,\n", "[0, 1]"),
        ("tasks_learned,task_01,task_02,task_03\n0,,,\n1,inf,,\n2,,,\n3,,,\n", "[0, 1]"),
        ("tasks_learned,task_01,task_02,task_03\n0,,,\n1,good,,\n2,,,\n3,,,\n", "good"),
        ("tasks_learned,task_01,task_02,task_03\n0,,,\n1,,0.5,\n2,0.5,0.5,\n3,,,\n", "row 1"),
    ],
)
def test_an_accuracy_matrix_that_cannot_be_one_is_refused(unsealed, table, said):
    (unsealed.path / "accuracy_matrix.csv").write_text(table)
    with pytest.raises(RecordError, match=r"accuracy_matrix\.csv is not as clbench recorded it") as error:
        read_run(unsealed.path)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["tasks.csv", "capacity.csv"])
def test_a_table_with_words_for_numbers_is_refused_by_name(unsealed, name):
    path = unsealed.path / name
    frame = pd.read_csv(path).astype(object)
    frame.iloc[0, 2] = "many"
    frame.to_csv(path, index=False)
    with pytest.raises(RecordError, match=re.escape(str(path))):
        read_run(unsealed.path)


@pytest.mark.parametrize("key", ["suite", "method", "seed", "modified", "run_id", "suite_settings"])
def test_a_config_without_a_key_is_refused_naming_file_and_key(unsealed, key):
    unsealed.write("config.json", json.dumps({k: v for k, v in CONFIG.items() if k != key}))
    with pytest.raises(RecordError, match=rf"config\.json is not as clbench recorded it.*'{key}'"):
        read_run(unsealed.path)


@pytest.mark.parametrize("key", ["status", "started", "ended", "reason"])
def test_a_status_without_a_key_is_refused_naming_file_and_key(folder, key):
    path = folder.path / "status.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"status\.json is not as clbench recorded it.*'{key}'"):
        read_run(folder.path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecordError, match=re.escape(str(tmp_path / "gone"))):
        read_run(tmp_path / "gone")


def test_every_run_below_a_folder_is_read_in_the_order_of_its_name(folder):
    others = []
    for run_id, status in (("ffff", "stopped"), ("0000", "running")):
        other = RunFolder(folder.path.parent, run_id)
        other.begin(CONFIG | {"run_id": run_id}, ENVIRONMENT)
        other.write_tables(RunResult(MATRIX, TASKS))
        other.set_status(status)
        others.append(other)
    runs = read_runs(folder.path.parent)
    assert [(run.run_id, run.status) for run in runs] == [
        ("0000", "running"),
        (RUN_ID, "finished"),
        ("ffff", "stopped"),
    ]
    np.testing.assert_array_equal(runs[1].accuracy_matrix, MATRIX)
    assert runs[1].capacity.to_dict("records") == CAPACITY


def test_attempts_set_aside_and_whatever_else_lies_there_are_no_runs(folder):
    again = RunFolder(folder.path.parent, RUN_ID)
    again.begin(CONFIG, ENVIRONMENT)
    again.write_tables(RunResult(MATRIX, TASKS, CAPACITY))
    again.set_status("finished")
    assert len(list(folder.path.parent.iterdir())) == 2
    (folder.path.parent / "notes").mkdir()
    (folder.path.parent / "notes" / "mine.txt").write_text("{")
    (folder.path.parent / "status.json").write_text("{")
    (folder.path.parent / "deeper" / "runs").mkdir(parents=True)
    shutil.copytree(folder.path, folder.path.parent / "deeper" / "runs" / RUN_ID)
    assert [run.run_id for run in read_runs(folder.path.parent)] == [RUN_ID]


def test_an_empty_folder_holds_no_runs(tmp_path):
    assert read_runs(tmp_path) == []


def test_one_damaged_run_among_whole_ones_is_refused_by_name(folder):
    shutil.copytree(folder.path, folder.path.parent / "0000")
    (folder.path / "tasks.csv").unlink()
    with pytest.raises(RecordError, match=re.escape(str(folder.path / "tasks.csv"))):
        read_runs(folder.path.parent)


def test_a_folder_of_runs_that_is_not_there_is_refused_with_what_is_wanted(tmp_path, folder):
    for root in (tmp_path / "nowhere", folder.path / "status.json"):
        with pytest.raises(RecordError, match=f"there is no folder {root}; expected one that holds a folder per run"):
            read_runs(root)


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
