"""A run as a job: it travels, it reports what happens as data, and its warnings are heard by nobody else."""

import pickle
import threading
import warnings
from dataclasses import replace

import pytest
import torch

from clbench.baselines.naive import Naive
from clbench.errors import Interrupted, MethodWarning, ReportWarning, shown
from clbench.events import Began, Ended, Learned, Observers, Over, Planned, Progressed, Said
from clbench.execution.grid import run_grid
from clbench.execution.job import Images, Job
from clbench.execution.plan import choose, chosen_methods
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run
from clbench.runs.spec import make_specs
from clbench.suites.files import find_suite

SMALL = {"n_tasks": 2, "epochs": 1, "hidden_sizes": [64]}


@pytest.fixture
def make_job(digits, tmp_path):
    """(method, changes) -> a small job below the test's folder."""

    def make(method="naive", folder="runs", **changes):
        (spec,) = make_specs(find_suite("permuted-digits"), [method], [0], SMALL, digits, "float32", "cpu")
        images = choose("permuted-digits", [method]).loader(offline=True)
        job = Job(spec, torch.device("cpu"), tmp_path / folder, Images(images, digits), 1, False, 1, "clbench run")
        return replace(job, **changes)

    return make


@pytest.fixture
def heard():
    """An observer that keeps what it hears."""

    class Kept(list):
        hear = list.append

    return Kept()


def kinds(events):
    return [type(event) for event in events if not isinstance(event, Progressed)]


# Jobs


def test_a_job_reports_what_happens_in_its_order(make_job, heard):
    job = make_job()
    assert job.run(heard.append) == "finished"
    assert kinds(heard) == [Began, Learned, Learned, Ended]
    assert {event.run_id for event in heard} == {job.run_id}
    assert heard[-1] == Ended(job.run_id, "finished")
    assert any(isinstance(event, Progressed) and event.n_tasks == 2 for event in heard)


def test_a_job_and_its_events_travel_and_the_images_stay(make_job, heard, outcome_of, digits):
    here, there = make_job(), make_job(folder="there")
    packed = pickle.dumps(there)
    # Far less than the images: they are read where the job is run.
    assert len(packed) < digits.train_images.numel() / 4
    assert here.run(heard.append) == pickle.loads(packed).run(lambda event: pickle.loads(pickle.dumps(event)))
    folders = [RunFolder(job.output, job.run_id) for job in (here, there)]
    assert outcome_of(folders[0]) == outcome_of(folders[1])


def test_what_is_recorded_is_said_and_not_trained_again(make_job, heard, monkeypatch):
    make_job().run(lambda event: None)
    monkeypatch.setattr(Naive, "learn", lambda *args: pytest.fail("it was trained again"))
    job = make_job()
    assert job.look(heard.append) == job.run(heard.append) == "finished"
    assert heard == [Ended(job.run_id, "recorded before")] * 2


def test_looking_at_an_open_job_trains_and_says_nothing(make_job, heard):
    job = make_job()
    assert job.look(heard.append) == "open"
    assert heard == []
    with RunFolder(job.output, job.run_id).lease():
        assert job.look(heard.append) == job.run(heard.append) == "elsewhere"
    assert not (job.output / job.run_id).exists()


def test_a_record_names_the_command_of_the_job_wherever_it_is_trained(make_job):
    job = make_job(command="clbench run --suite 'mine'")
    job.run(lambda event: None)
    assert read_run(job.output / job.run_id).config["command"] == "clbench run --suite 'mine'"


def test_images_that_changed_meanwhile_fail_the_job(make_job, heard, digits):
    job = make_job(images=Images(lambda: replace(digits, sha256="0" * 64)))
    assert job.run(heard.append) == "failed"
    assert "have changed since the command began" in heard[-1].detail


@pytest.mark.parametrize("raised", [Interrupted, KeyboardInterrupt])
def test_a_job_that_is_stopped_says_so(make_job, heard, during_task, raised):
    def stop():
        raise raised

    during_task(2, stop)
    assert make_job().run(heard.append) == "stopped"
    assert kinds(heard) == [Began, Learned, Ended]
    assert heard[-1].status == "stopped"


# The grid


def test_every_observer_hears_the_whole_command(make_job, heard):
    job = make_job(label="a trial")
    assert run_grid([job], Observers(heard, heard)) == "finished"
    assert kinds(heard[::2]) == [Planned, Began, Learned, Learned, Ended, Over]
    assert heard[::2] == heard[1::2]
    (listed,) = heard[0].runs
    assert (listed.name, listed.n_tasks, listed.epochs) == ("naive a trial", 2, 1)
    assert (heard[0].command, heard[-1].outcome) == ("clbench run", "finished")


def test_an_executor_of_ones_own_takes_the_place_of_ours(make_job, heard):
    def nowhere(jobs, observer, stop, patience):
        for job in jobs:
            observer.hear(Ended(job.run_id, "failed", "no machine is free", has_record=False))
            yield job, "failed"

    assert run_grid([make_job()], heard, nowhere) == "failed"
    assert [event.detail for event in heard if isinstance(event, Ended)] == ["no machine is free"]


# Warnings


def test_a_warning_of_a_run_is_an_event_and_said_once(make_job, heard, monkeypatch):
    learn = Naive.learn

    def warn_and_learn(method, task):
        warnings.warn("it protects nothing", MethodWarning, stacklevel=2)
        learn(method, task)

    monkeypatch.setattr(Naive, "learn", warn_and_learn)
    job = make_job()
    job.run(heard.append)
    assert [event for event in heard if isinstance(event, Said)] == [Said(job.run_id, "it protects nothing")]


def test_two_threads_hear_their_own_warnings_whichever_ends_first():
    heard, first_listens, second_is_over = {"first": [], "second": []}, threading.Event(), threading.Event()

    def work(name, before, after):
        with shown(MethodWarning, heard[name].append):
            before()
            warnings.warn(f"of the {name}", MethodWarning, stacklevel=1)
        after()

    def first_waits():
        first_listens.set()
        assert second_is_over.wait(60)

    threads = [
        threading.Thread(target=work, args=("first", first_waits, lambda: None)),
        threading.Thread(target=work, args=("second", lambda: first_listens.wait(60), second_is_over.set)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"first": ["of the first"], "second": ["of the second"]}


def test_warnings_that_nobody_listens_to_are_pythons():
    heard = []
    with shown(MethodWarning, heard.append), pytest.warns(ReportWarning, match="of a report"):
        warnings.warn("of a report", ReportWarning, stacklevel=1)
    with pytest.warns(MethodWarning, match="outside"):
        warnings.warn("outside", MethodWarning, stacklevel=1)
    assert heard == []


def test_of_two_listeners_the_inner_one_hears():
    outer, inner = [], []
    with shown(MethodWarning, outer.append):
        with shown(MethodWarning, inner.append):
            warnings.warn("within", MethodWarning, stacklevel=1)
        warnings.warn("without", MethodWarning, stacklevel=1)
    assert (outer, inner) == (["without"], ["within"])


# Methods


def test_a_method_that_suite_and_command_name_is_loaded_once(tmp_path, monkeypatch, no_method_is_left):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting.py").write_text(
        "from pathlib import Path\nfrom clbench.baselines.naive import Naive\n"
        "with Path('loaded').open('a') as file:\n    file.write('x')\nclass Mine(Naive): pass\n"
    )
    suite = find_suite("permuted-digits").model_copy(
        update={"name": "mine", "methods": ("naive", str(tmp_path / "counting.py:Mine"))}
    )
    assert chosen_methods(["./counting.py:Mine", "naive"], suite) == ["Mine", "naive"]
    assert (tmp_path / "loaded").read_text() == "x"
