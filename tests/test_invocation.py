"""What `clbench status` shows and what `clbench resume` goes on with."""

import contextlib
import json
import os
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clbench.errors import DataError, RecordError
from clbench.execution.invocation import check_as_before, last_invocation, remember, resuming
from clbench.records.folder import RunFolder
from clbench.records.standing import standings


def test_the_last_invocation_is_remembered_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remember(tmp_path, ["run", "--suite", "a b"], {})
    remember(tmp_path, ["run", "--suite", "c"], {})
    assert last_invocation(tmp_path) == (["run", "--suite", "c"], tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "nothing was run yet"),
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ('{"arguments": ["run"], "folder": "/"}', "it was changed since"),
        ('{"arguments": ["run"], "folder": "/", "sha256": "00"}', "it was changed since"),
    ],
)
def test_what_is_no_invocation_is_refused(content, said, tmp_path):
    if content is not None:
        (tmp_path / ".last-invocation.json").write_text(content)
    with pytest.raises(RecordError, match=said):
        last_invocation(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["report"], "it is no clbench run"), ([], "cannot be used"), (["run", 3], "it is no clbench run")],
)
def test_what_was_remembered_of_no_run_is_refused(arguments, said, tmp_path):
    remember(tmp_path, arguments, {})
    with pytest.raises(RecordError, match=said):
        last_invocation(tmp_path)


def test_what_a_command_found_is_remembered_however_many_come_after_it(tmp_path):
    remember(tmp_path, ["run"], {"the images a of s": "1"})
    remember(tmp_path, ["run"], {"the images b of s": "2", "the network n": "3"})
    said = []
    found = {"the images a of s": "1", "the images b of s": "2", "the network n": "3", "the images c of s": "4"}
    check_as_before(tmp_path, found, said.append)
    assert said == []
    check_as_before(tmp_path, {**found, "the images a of s": "5", "the network n": "6"}, said.append)
    assert [words.split(" changed")[0] for words in said] == ["the images a of s", "the network n"]


@pytest.mark.parametrize("what", ["the images a of s", "the network n", "the suite s"])
def test_whatever_has_changed_ends_what_is_gone_on_with(tmp_path, what):
    remember(tmp_path, ["run"], {"the images a of s": "1", "the network n": "1", "the suite s": "1"})
    with resuming(["run"]):
        check_as_before(tmp_path, {what: "1"}, pytest.fail)
        with pytest.raises(DataError, match=rf"{what} changed .*; put back what was there to go on, or give the"):
            check_as_before(tmp_path, {what: "2"}, pytest.fail)
    said = []
    check_as_before(tmp_path, {what: "2"}, said.append)
    # A suite is there to be edited.
    assert len(said) == (what != "the suite s")


def test_images_of_another_folder_are_no_change_but_for_what_is_gone_on_with(tmp_path):
    remember(tmp_path, ["run"], {"the images a of s": "1 in /photos"})
    check_as_before(tmp_path, {"the images a of s": "2 in /other"}, pytest.fail)
    said = []
    check_as_before(tmp_path, {"the images a of s": "2 in /photos"}, said.append)
    assert len(said) == 1
    with resuming(["run"]), pytest.raises(DataError, match="put back what was there to go on"):
        check_as_before(tmp_path, {"the images a of s": "2 in /other"}, pytest.fail)


@pytest.mark.parametrize("content", [None, "{", "[]", "3", '{"found": 3}', "[" * 100_000])
def test_what_is_remembered_of_images_may_be_gone_or_damaged(tmp_path, content):
    if content is not None:
        (tmp_path / ".last-invocation.json").write_text(content)
    check_as_before(tmp_path, {"the images a of s": "1"}, pytest.fail)
    remember(tmp_path, ["run"], {"the images a of s": "1"})
    assert last_invocation(tmp_path) == (["run"], Path.cwd())


def test_a_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    remember(tmp_path, ["run"], {})
    gone.rmdir()
    with pytest.raises(RecordError, match="gone, which is not there any more"):
        last_invocation(tmp_path)


def test_any_flipped_bit_of_what_is_remembered_is_refused(tmp_path):
    remember(tmp_path, ["run", "--seeds", "0-3"], {})
    path = tmp_path / ".last-invocation.json"
    whole, draw = path.read_bytes(), random.Random(1)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        # A blank that became another one changes nothing; nothing else may pass.
        with contextlib.suppress(RecordError):
            assert last_invocation(tmp_path) == (["run", "--seeds", "0-3"], Path.cwd())


def test_every_run_is_shown_as_it_stands(recorded_run, write_run, tmp_path):
    write_run(tmp_path, recorded_run("naive", 0))
    for seed, status in ((1, "failed"), (2, "stopped"), (3, "running"), (4, "running")):
        write_run(tmp_path, replace(recorded_run("naive", seed), status=status, reason=f"because {seed}"))
    broken = write_run(tmp_path, recorded_run("ewc", 0))
    (broken / "config.json").write_text("{")
    with RunFolder(tmp_path, "nai4").lease() as is_ours:
        assert is_ours
        found = {item.run_id: item for item in standings(tmp_path)}
    assert {run_id: item.status for run_id, item in found.items()} == {
        "nai0": "finished",
        "nai1": "failed",
        "nai2": "stopped",
        "nai3": "cut off",
        "nai4": "running",
        "ewc0": "damaged",
    }
    assert (found["nai1"].learned, found["nai1"].n_tasks, found["nai1"].detail) == (2, 2, "because 1")
    assert str(broken / "config.json") in found["ewc0"].detail


def test_status_shows_a_row_per_run(clbench, run, place):
    assert run(place, "--no-report", seeds="0-1").code == 0
    outcome = clbench(place, "status")
    assert (outcome.code, outcome.err) == (0, "")
    rows = outcome.out.splitlines()[1:3]
    # Once for all of them.
    assert outcome.out.count("not the suite's own setting: ") == 1
    assert [row.split()[1:] for row in rows] == [
        ["permuted-digits", "naive", seed, "2/2", "finished"] for seed in ("0", "1")
    ]


def test_a_modified_run_and_one_that_lost_its_status_are_shown_as_such(clbench, recorded_run, write_run, tmp_path):
    write_run(tmp_path, recorded_run("naive", 0, modified=True, overrides={"epochs": 2}))
    (write_run(tmp_path, recorded_run("ewc", 1)) / "status.json").unlink()
    outcome = clbench(tmp_path, "status", "--output", tmp_path)
    assert re.search(r"naive +0 +2/2 +finished", outcome.out)
    assert "permuted-mnist: not the suite's own setting: epochs=2" in " ".join(outcome.out.split())
    assert re.search(r"^ewc1 +damaged *$", outcome.out, re.MULTILINE)
    assert str(tmp_path / "ewc1" / "status.json") in outcome.out


def test_a_narrow_terminal_cuts_nothing_of_a_run_with_a_long_name(
    clbench, recorded_run, write_run, tmp_path, monkeypatch
):
    how = {"suite": "superposition-mnist-50", "modified": True, "overrides": {"epochs": 2}}
    write_run(tmp_path, recorded_run("psp:rotation", 0, run_id="0123456789abcdef", **how))
    monkeypatch.setenv("COLUMNS", "80")
    outcome = clbench(tmp_path, "status", "--output", tmp_path)
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert re.search(r"^0123456789abcdef .* 0 +2/2 +finished *$", outcome.out, re.MULTILINE)
    assert "seed  tasks  status" in outcome.out
    assert "…" not in outcome.out


def test_status_of_a_folder_without_runs_is_refused(clbench, assert_refused, tmp_path):
    assert_refused(clbench(tmp_path, "status"), "clbench-runs holds no runs", "--output")


def test_resume_gives_the_last_command_again_where_it_was_given(clbench, run, place, tmp_path):
    assert run(place, "--no-report").code == 0
    (folder,) = (path.parent for path in place.glob("clbench-runs/*/status.json"))
    config = json.loads((folder / "config.json").read_text())
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    here, argv = os.getcwd(), sys.argv
    try:
        outcome = clbench(tmp_path, "resume", "--output", place / "clbench-runs")
    finally:
        os.chdir(here)
        sys.argv = argv
    assert (outcome.code, outcome.err) == (0, "")
    again = json.loads((folder / "config.json").read_text())
    assert again["command"] == config["command"]
    assert outcome.out.startswith(config["command"])
