"""What a run folder promises to whoever reads it: what was recorded, and damage refused by name."""

import json
import os
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clbench.errors import RecordError
from clbench.records.folder import RunFolder
from clbench.records.format import CAPACITY_COLUMNS, REQUIRED_FILES, TASK_COLUMNS
from clbench.records.reading import read_run, read_runs
from clbench.records.result import RunResult

CLNP_RUN = runpy.run_path(str(Path(__file__).with_name("clnp_run.py")))
RUN_ID = CLNP_RUN["RUN_ID"]
CONFIG = CLNP_RUN["CONFIG"]
ENVIRONMENT = CLNP_RUN["ENVIRONMENT"]
MATRIX = CLNP_RUN["MATRIX"]
TASKS = CLNP_RUN["TASKS"]
CAPACITY = CLNP_RUN["CAPACITY"]


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
