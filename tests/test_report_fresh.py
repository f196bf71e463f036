"""A report is made again when something in it would be another, and not before."""

import sqlite3

import pytest

from clbench.tracking.glance import state_of


@pytest.fixture
def reported(run, tmp_path):
    """A folder with a run and its report."""
    assert run(tmp_path).code == 0
    return tmp_path


def page_of(folder):
    return folder / "clbench-reports" / "permuted-digits.html"


@pytest.mark.long
def test_without_a_new_run_a_report_stays_as_it_is_unless_something_of_it_is_gone_or_unreadable(run, reported):
    before = page_of(reported).stat().st_mtime_ns
    again = run(reported)
    assert "permuted-digits.html (up to date)" in again.out
    assert page_of(reported).stat().st_mtime_ns == before

    page_of(reported).unlink()
    assert "(up to date)" not in run(reported).out
    assert page_of(reported).exists()

    (reported / "clbench-runs" / ".reports.json").write_text("{")
    assert "(up to date)" not in run(reported).out


@pytest.mark.long
def test_a_run_that_is_added_removed_or_trained_anew_makes_it_again(run, clbench, reported):
    before = page_of(reported).read_bytes()
    assert "(up to date)" not in run(reported, seeds="1").out
    assert page_of(reported).read_bytes() != before
    # Of the first command the runs are the same, and the store has one more.
    assert "(up to date)" in run(reported).out

    (one, *_) = [path.name for path in (reported / "clbench-runs").iterdir() if path.is_dir()]
    assert clbench(reported, "rm", one).code == 0
    assert "(up to date)" not in run(reported, seeds="0-1").out
    assert "(up to date)" not in run(reported, "--rerun", seeds="0-1").out


def test_a_store_that_is_no_file_says_nothing_of_its_state(tmp_path):
    assert state_of("http://127.0.0.1:1", "permuted-digits") == ""
    sqlite3.connect(tmp_path / "empty.db").close()
    assert state_of(f"sqlite:///{tmp_path}/empty.db", "permuted-digits") == ""
