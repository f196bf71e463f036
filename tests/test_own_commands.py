"""A folder with a suite, a network and images of the user's, through the commands: run, resumed and read again."""

import json
import multiprocessing
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clbench.records.folder import RunFolder
from clbench.records.reading import run_paths

# Every load leaves a line beside the file, so that it shows who ran it.
NET = """
from pathlib import Path
from torch import nn
import helper

Path(__file__).with_name("loaded.txt").open("a").write("loaded\\n")

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs, width=8):
        channels, height, side = image_shape
        first = nn.Linear(channels * height * side, width)
        super().__init__(nn.Flatten(), first, nn.ReLU(), nn.Dropout(helper.SHARE), nn.Linear(width, n_outputs))
"""
SUITE = """
name = "mine"
title = "My digits"
source = "Made up."
extends = "permuted-digits"
network = "./net.py:Net"
n_tasks = 2
epochs = 1
methods = ["naive", "ewc"]
seeds = [0]
"""
# Nothing that looks into a network knows what a group norm does.
UNSUITED = NET.replace("nn.Flatten(), first", "nn.GroupNorm(1, 1), nn.Flatten(), first")
PHOTOS = """
name = "photos"
title = "My photos"
source = "Made up."
extends = "image-folder"
data = "./photos"
image_size = 12
network = "./net.py:Net"
n_tasks = 2
epochs = 1
batch_size = 4
methods = ["naive", "si", "clnp"]
seeds = [0]
"""


@pytest.fixture
def lab(tmp_path, make_store):
    """A folder of the user's with a suite, a network and its helper."""
    folder = make_store(tmp_path / "lab")
    (folder / "net.py").write_text(NET)
    (folder / "helper.py").write_text("SHARE = 0.1\n")
    (folder / "mine.toml").write_text(SUITE)
    return folder


@pytest.fixture
def photographed():
    """(folder, seed) -> photos of four classes in two sizes and two modes lie below the folder."""

    def make(folder, seed=0):
        draw = np.random.default_rng(seed)
        for number, name in enumerate(("ants", "bees", "cats", "dogs")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for image in range(10):
                pixels = draw.integers(0, 60, (12 + image % 2 * 4, 14, 3), dtype=np.uint8) + np.uint8(50 * number)
                picture = Image.fromarray(pixels if image else pixels[:, :, 0])
                picture.save(folder / name / f"{image}.png")

    return make


@pytest.fixture(scope="module")
def child():
    """(folder, arguments) -> what `clbench` gives in a process of its own, with one thread, working in the folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clbench.cli.running", "clbench.runs.runner", "clbench.tracking", "mlflow"])

    def execute(folder, *arguments, script="clbench.py"):
        given = {"folder": folder, "arguments": arguments, "output": folder / "said.txt"}
        path = Path(__file__).parent / "processes" / script
        process = context.Process(target=runpy.run_path, args=(str(path), given))
        process.start()
        process.join()
        said = given["output"].read_text()
        given["output"].unlink()
        return SimpleNamespace(code=process.exitcode, said=said)

    return execute


def folders(place):
    return [RunFolder(path.parent, path.name) for path in run_paths(place / "clbench-runs")]


def configs(place):
    return {folder.path.name: json.loads((folder.path / "config.json").read_text()) for folder in folders(place)}


@pytest.mark.long
def test_a_suite_a_network_and_photos_from_one_folder_are_run_and_reported(clbench, lab, photographed, outcome_of):
    photographed(lab / "photos")
    (lab / "photos.toml").write_text(PHOTOS)
    outcome = clbench(lab, "run", "--suite", "photos.toml")
    assert outcome.code == 0, outcome.err
    found = configs(lab)
    assert {config["method"] for config in found.values()} == {"naive", "si", "clnp"}
    for folder in folders(lab):
        config = found[folder.path.name]
        assert (config["suite"], config["title"], config["modified"]) == ("photos", "My photos", False)
        assert (config["suite_settings"]["network"], config["suite_settings"]["data"]) == ("Net", "image-folder")
        assert config["network"]["image_shape"] == [3, 12, 12]
        assert set(folder.own_files()) == {"photos.toml", "net.py", "helper.py"}
        # The command is what was typed, and holds no path of this machine.
        assert str(lab) not in (folder.path / "config.json").read_text()
        assert outcome_of(folder)
    assert (lab / "clbench-reports" / "photos.html").is_file()


def test_the_ids_do_not_depend_on_where_the_folder_lies_or_the_command_works(clbench, lab, photographed, tmp_path):
    photographed(lab / "photos")
    (lab / "photos.toml").write_text(PHOTOS)
    assert clbench(lab, "run", "--suite", "photos.toml", "--methods", "naive", "--no-report").code == 0
    (tmp_path / "work").mkdir()
    shutil.copytree(lab, tmp_path / "copy", ignore=shutil.ignore_patterns("clbench*", "ml*"))
    outcome = clbench(
        tmp_path / "work",
        *("run", "--suite", "../copy/photos.toml", "--methods", "naive", "--no-report"),
        *("--tracking-uri", f"sqlite:///{lab}/mlflow.db"),
    )
    assert outcome.code == 0, outcome.err
    assert list(configs(tmp_path / "work")) == list(configs(lab))


def test_a_method_that_the_suite_lists_and_the_network_does_not_suit_is_left_out_with_one_line(clbench, lab):
    (lab / "net.py").write_text(UNSUITED)
    outcome = clbench(lab, "run", "--suite", "mine.toml", "--no-report")
    assert outcome.code == 0
    assert [line for line in outcome.err.splitlines() if "ewc is left out: " in line and "linear" in line]
    assert [config["method"] for config in configs(lab).values()] == ["naive"]


def test_with_all_methods_each_that_does_not_suit_is_left_out_with_one_line(clbench, lab):
    (lab / "net.py").write_text(UNSUITED)
    outcome = clbench(lab, "run", "--suite", "mine.toml", "--methods", "all", "--set", "head=multi", "--dry-run")
    assert outcome.code == 0, outcome.err
    left_out = [line.split(" is left out: ")[0].split()[-1] for line in outcome.err.splitlines() if "left out" in line]
    assert set(left_out) == {"clnp", "hat", "ewc", "online-ewc", "mas", "avalanche-si"}
    assert len(left_out) == 6


@pytest.mark.parametrize("method", ["clnp", "ewc", "mas"])
def test_a_method_that_the_user_names_and_the_network_does_not_suit_stops_the_command(
    clbench, assert_refused, lab, method
):
    (lab / "net.py").write_text(UNSUITED)
    outcome = clbench(lab, "run", "--suite", "mine.toml", "--methods", f"naive,{method}")
    assert_refused(outcome, "is a GroupNorm" if method == "clnp" else "linear")
    assert not (lab / "clbench-runs").exists()


@pytest.mark.long
def test_reading_never_runs_what_the_user_brought_and_needs_none_of_it(clbench, lab, tmp_path, make_store):
    assert clbench(lab, "run", "--suite", "mine.toml", "--methods", "naive", "--seeds", "0-1", "--no-report").code == 0
    place = make_store(tmp_path / "elsewhere")
    shutil.copytree(lab / "clbench-runs", place / "clbench-runs")
    for path in lab.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ids = sorted(configs(place))
    for arguments in (
        ["status"],
        ["verify-run", "clbench-runs"],
        ["sync", "--suite", "mine"],
        ["report", "--suite", "mine"],
        ["report", "--suite", "mine", "--runs", "clbench-runs"],
        ["compare", *ids, "--suite", "mine"],
        ["verify", "--suite", "mine"],
        # The suite's own copy does as well as the suite.
        ["report", "--suite", f"clbench-runs/{ids[0]}/files/mine.toml"],
        ["show", f"clbench-runs/{ids[0]}/files/mine.toml"],
        ["show", f"clbench-runs/{ids[0]}/files/mine.toml", "--toml"],
    ):
        outcome = clbench(place, *arguments)
        assert outcome.code == 0, (arguments, outcome.err)
        assert "Traceback" not in outcome.err
    assert not list(lab.iterdir())
    assert not list(place.rglob("loaded.txt"))
    assert not [name for name in sys.modules if name.startswith("clbench_own") and str(place) in str(sys.modules[name])]


def test_a_suite_without_runs_is_refused_by_its_name(clbench, assert_refused, lab):
    outcome = clbench(lab, "report", "--suite", "mine.toml")
    assert_refused(outcome, "'mine'", "or one of yours, but the MLflow store", "holds no run of it")


@pytest.mark.slow
def test_several_runs_at_once_load_the_network_anew_and_learn_the_same(child, lab, outcome_of):
    once = ["run", "--suite", "mine.toml", "--methods", "naive,ewc", "--no-report", "--threads", "1"]
    assert child(lab, *once).code == 0
    one = {folder.path.name: outcome_of(folder) for folder in folders(lab)}
    loaded = (lab / "loaded.txt").read_text().count("loaded")
    shutil.rmtree(lab / "clbench-runs")
    outcome = child(lab, *once, "--jobs", "2")
    assert outcome.code == 0, outcome.said
    assert {folder.path.name: outcome_of(folder) for folder in folders(lab)} == one
    # The same command, and its two processes beside it.
    assert (lab / "loaded.txt").read_text().count("loaded") == 2 * loaded + 2
    assert not list(lab.rglob("__pycache__"))


RUN = ["run", "--suite", "mine.toml", "--methods", "naive", "--no-report", "--threads", "1", "--set", "n_tasks=3"]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits(child, lab, outcome_of):
    assert child(lab, *RUN).code == 0
    (whole,) = folders(lab)
    expected = outcome_of(whole)
    shutil.rmtree(lab / "clbench-runs")
    assert child(lab, *RUN, script="killed.py").code == 9
    outcome = child(lab, "resume")
    assert outcome.code == 0, outcome.said
    assert "goes on" in outcome.said
    (folder,) = folders(lab)
    assert folder.path.name == whole.path.name
    assert outcome_of(folder) == expected


@pytest.mark.long
def test_a_network_that_was_edited_meanwhile_is_not_gone_on_with_and_begins_as_another_run(child, lab):
    assert child(lab, *RUN, script="killed.py").code == 9
    (before,) = folders(lab)
    (lab / "helper.py").write_text("SHARE = 0.2\n")
    refused = child(lab, "resume")
    assert refused.code == 2
    assert "changed since the last clbench run" in refused.said
    outcome = child(lab, *RUN)
    assert outcome.code == 0, outcome.said
    (said,) = [line for line in outcome.said.splitlines() if "changed since the last clbench run" in line]
    assert "net.py:Net" in said
    found = {folder.path.name: folder.status for folder in folders(lab)}
    assert len(found) == 2
    assert found.pop(before.path.name) == "running"
    assert list(found.values()) == ["finished"]
    assert before.own_files()["helper.py"] == b"SHARE = 0.1\n"
    assert child(lab, *RUN).said.count("changed since") == 0


def test_a_network_that_is_edited_while_a_command_trains_is_for_the_next_command(clbench, lab, during_task):
    during_task(1, lambda: (lab / "net.py").write_text("def broken(:\n"))
    outcome = clbench(lab, "run", "--suite", "mine.toml", "--methods", "naive", "--seeds", "0-1", "--no-report")
    assert outcome.code == 0, outcome.err
    assert all(folder.own_files()["net.py"] == NET.encode() for folder in folders(lab))


def test_changed_images_end_a_resume_and_let_a_new_command_begin_anew(
    clbench, assert_refused, lab, photographed, outcome_of, monkeypatch
):
    photographed(lab / "photos")
    (lab / "photos.toml").write_text(PHOTOS)
    arguments = ["run", "--suite", "photos.toml", "--methods", "naive", "--no-report"]
    assert clbench(lab, *arguments).code == 0
    # A command of another suite in between does not make it forgotten.
    assert clbench(lab, "run", "--suite", "mine.toml", "--methods", "naive", "--no-report").code == 0
    before = {folder.path.name: outcome_of(folder) for folder in folders(lab)}
    kept = sorted(path for path in (lab / "clbench-runs").rglob("*"))
    photographed(lab / "photos", seed=1)
    assert clbench(lab, "resume").code == 0
    last = json.loads((lab / "clbench-runs" / ".last-invocation.json").read_text())
    assert last["arguments"][2] == "mine.toml"
    outcome = clbench(lab, *arguments)
    assert outcome.code == 0
    (said,) = [line for line in outcome.err.splitlines() if "changed since the last clbench run" in line]
    assert "photos" in said
    assert "trained anew where no run with it is recorded" in said
    assert len(folders(lab)) == 3
    photographed(lab / "photos", seed=2)
    outcome = clbench(lab, "resume")
    assert_refused(outcome, "photos", "put back what was there to go on, or give the clbench run command again")
    assert len(folders(lab)) == 3
    photographed(lab / "photos", seed=1)
    assert clbench(lab, "resume").code == 0
    assert {name: outcome_of(RunFolder(lab / "clbench-runs", name)) for name in before} == before
    assert set(kept) <= set((lab / "clbench-runs").rglob("*"))


def test_other_images_that_were_asked_for_are_no_change(clbench, lab, photographed):
    photographed(lab / "photos")
    photographed(lab / "others", seed=1)
    (lab / "photos.toml").write_text(PHOTOS)
    arguments = ["run", "--suite", "photos.toml", "--methods", "naive", "--no-report"]
    for more in ([], ["--set", "data=./others"], ["--set", "image_size=8"], []):
        outcome = clbench(lab, *arguments, *more)
        assert (outcome.code, "changed since" in outcome.err) == (0, False)
    assert len(folders(lab)) == 3


def test_a_search_tries_the_users_network(clbench, lab):
    (lab / "mine.toml").write_text(
        SUITE + "[search]\nn_tasks = 2\nseed = 7\n[search.trials]\nnaive = [{ epochs = 1 }, { epochs = 2 }]\n"
    )
    outcome = clbench(lab, "tune", "--suite", "mine.toml")
    assert outcome.code == 0, outcome.err
    rows = (lab / "clbench-tuning" / "mine.csv").read_text().splitlines()
    assert len(rows) == 3


def test_published_values_of_a_suite_of_ones_own_are_kept_with_the_run(clbench, lab):
    text = SUITE + '[[published]]\nmethod = "naive"\naverage_accuracy = 0.5\nsource = "S"\nsetting = "T"\n'
    (lab / "mine.toml").write_text(text)
    assert clbench(lab, "run", "--suite", "mine.toml", "--methods", "naive", "--no-report").code == 0
    (folder,) = folders(lab)
    assert folder.own_files()["mine.toml"] == text.encode()


def test_the_folder_of_the_user_is_left_as_it_was(clbench, lab):
    before = {path for path in lab.rglob("*") if path.is_file()}
    assert clbench(lab, "run", "--suite", "mine.toml", "--methods", "naive", "--no-report").code == 0
    added = {path.relative_to(lab).parts[0] for path in lab.rglob("*") if path.is_file() and path not in before}
    assert added <= {"clbench-runs", "clbench-reports", "mlartifacts", "loaded.txt"}
    assert (lab / "helper.py").read_text() == "SHARE = 0.1\n"


SAID = """
[[published]]
method = "naive"
average_accuracy = 0.970
spread = 0.002
source = "Somebody 2020"
setting = "Theirs."
known = {learning_rate = 0.25}

[[goals]]
method = "naive"
average_accuracy = 0.999
seeds = 1
"""


def test_published_results_and_goals_of_a_users_suite_count_also_from_the_record_alone(clbench, lab):
    (lab / "mine.toml").write_text(SUITE + SAID)
    assert clbench(lab, "run", "--suite", "mine.toml", "--methods", "naive", "--no-report").code == 0
    by_file = clbench(lab, "verify", "--suite", "mine.toml")
    assert by_file.code == 1
    assert "97.0 ± 0.2" in by_file.out
    assert re.search(r"naive misses its goal: average accuracy [\d.]+ % is below 99\.90 %", by_file.out)
    (lab / "mine.toml").unlink()
    for folder in ([], ["--runs", "clbench-runs"]):
        by_name = clbench(lab, "verify", "--suite", "mine", *folder)
        assert (by_name.code, by_name.out) == (1, by_file.out)
    assert clbench(lab, "report", "--suite", "mine").code == 0
    page = (lab / "clbench-reports" / "mine.html").read_text()
    assert "Somebody 2020" in page
    assert "97.0 ± 0.2" in page


def test_what_is_said_of_a_suite_has_no_part_in_the_id_and_the_newest_run_tells(clbench, lab, monkeypatch):
    one_seed = ("run", "--suite", "mine.toml", "--methods", "naive", "--no-report")
    (lab / "mine.toml").write_text(SUITE + SAID)
    assert clbench(lab, *one_seed).code == 0
    (recorded,) = configs(lab).values()
    assert recorded["published"][0]["average_accuracy"] == "0.970"
    (lab / "mine.toml").write_text(SUITE)
    # It is there already.
    assert clbench(lab, *one_seed).code == 0
    assert len(configs(lab)) == 1
    assert clbench(lab, "verify", "--suite", "mine").code == 1
    # Records tell times to the second, and two short runs may begin within one.
    monkeypatch.setattr("clbench.records.folder.now", lambda: "2100-01-01T00:00:00+00:00")
    assert clbench(lab, *one_seed, "--seeds", "1").code == 0
    (newer,) = (config for config in configs(lab).values() if config["seed"] == 1)
    assert not {"published", "goals"} & newer.keys()
    assert clbench(lab, "verify", "--suite", "mine").code == 0
    (lab / "mine.toml").write_text(SUITE + SAID)
    # The file says it now, whatever the runs were told.
    assert clbench(lab, "verify", "--suite", "mine.toml").code == 1
