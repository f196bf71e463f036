"""The commands that a user begins with, on real images where they lie beside the repository, else on generated ones."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from clbench.errors import INTERRUPTED
from clbench.records.folder import RunFolder
from clbench.records.reading import read_runs

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# As few steps as show that it works.
BRIEF = ["--set", "steps_per_epoch=2", "--set", "epochs=1", "--seeds", "0", "--threads", "1"]

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture(scope="module")
def mnist():
    if not (SHARED / "MNIST").is_dir():
        pytest.skip("../shared/data/MNIST is not beside the repository")
    return SHARED


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty classes of Tiny ImageNet."""
    archive = SHARED / "tiny-imagenet-20.tar.gz"
    if not archive.is_file():
        pytest.skip("../shared/data/tiny-imagenet-20.tar.gz is not beside the repository")
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "tiny-imagenet-20"


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """(number of classes) -> a file of colour images of 32 x 32 pixels, which a class can be told by."""

    def make(n_classes):
        folder = tmp_path_factory.mktemp("coloured")
        random = np.random.default_rng(0)

        def part(count):
            labels = np.repeat(np.arange(n_classes), count)
            tint = np.random.default_rng(1).integers(0, 200, (n_classes, 1, 1, 3))
            noise = random.integers(0, 56, (len(labels), 32, 32, 3))
            return (tint[labels] + noise).astype(np.uint8), labels

        x_train, y_train = part(24)
        x_test, y_test = part(4)
        path = folder / f"{n_classes}.npz"
        np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        return path

    return make


def test_a_suite_is_shown_as_a_file_changed_and_run(clbench, place, mnist):
    shown = clbench(place, "show", "permuted-mnist", "--toml")
    text = shown.out.replace("hidden_sizes = [2000, 2000]", "hidden_sizes = [20, 20]").replace(
        "n_tasks = 10", "n_tasks = 2"
    )
    (place / "mine.toml").write_text(text)
    done = clbench(place, "run", "--suite", "mine.toml", "--methods", "clnp,ewc", "--data-root", mnist, *BRIEF)
    assert done.code == 0, done.err
    runs = read_runs(place / "clbench-runs")
    assert {(run.suite, run.method, run.status) for run in runs} == {
        ("my-permuted-mnist", "clnp", "finished"),
        ("my-permuted-mnist", "ewc", "finished"),
    }
    assert all(run.config["suite_settings"]["hidden_sizes"] == [20, 20] for run in runs)
    assert all(run.files["mine.toml"] == text.encode() for run in runs)
    assert (place / "clbench-reports" / "my-permuted-mnist.html").exists()


@pytest.mark.long
def test_a_folder_of_photographs_is_learned(clbench, place, photos):
    methods = "naive,si,joint,single-task"
    arguments = ["--suite", "image-folder", "--data-root", photos, "--set", "n_tasks=5", "--methods", methods]
    done = clbench(place, "run", *arguments, *BRIEF, "--no-report")
    assert done.code == 0, done.err
    runs = read_runs(place / "clbench-runs")
    assert {run.method for run in runs} == set(methods.split(","))
    for run in runs:
        assert run.config["network"]["image_shape"] == [3, 32, 32]
        assert (run.config["data"]["train_images"], run.config["data"]["test_images"]) == (10_000, 1_000)
        assert run.samples


@pytest.mark.parametrize(
    ("suite", "n_classes"),
    [
        pytest.param("split-cifar10", 10, marks=pytest.mark.slow),
        pytest.param("split-cifar100-10-short", 100, marks=pytest.mark.long),
    ],
)
def test_a_suite_of_convolutions_is_interrupted_and_goes_on_to_the_same_bits(
    clbench, place, make_store, tmp_path, coloured, during_task, outcome_of, suite, n_classes
):
    images = coloured(n_classes)
    arguments = ["run", "--suite", suite, "--methods", "naive", "--set", f"data={images}", "--set", "n_tasks=3"]
    arguments += [*BRIEF, "--no-report"]

    def interrupt():
        raise KeyboardInterrupt

    during_task(3, interrupt)
    assert clbench(place, *arguments).code == INTERRUPTED
    (stopped,) = read_runs(place / "clbench-runs")
    assert (stopped.status, len(stopped.tasks)) == ("stopped", 2)
    assert clbench(place, "resume").code == 0
    whole = make_store(tmp_path / "whole")
    assert clbench(whole, *arguments).code == 0
    folders = [RunFolder(each / "clbench-runs", stopped.run_id) for each in (place, whole)]
    assert outcome_of(folders[0]) == outcome_of(folders[1])
    assert "resumed" in json.loads((folders[0].path / "status.json").read_text())


def runs_the_short_suite(clbench, place, *arguments):
    methods = "naive,si,single-task,clnp,ewc,online-ewc,mas,psp"
    arguments = ["run", "--suite", "split-cifar100-10-short", "--methods", methods, *arguments, "--set", "n_tasks=2"]
    done = clbench(place, *arguments, *BRIEF, "--no-report")
    assert done.code == 0, done.err
    runs = read_runs(place / "clbench-runs")
    assert {(run.method, run.status) for run in runs} == {(name, "finished") for name in methods.split(",")}
    return runs


@pytest.mark.long
def test_the_methods_that_learn_convolutions_do(clbench, place, coloured):
    runs_the_short_suite(clbench, place, "--set", f"data={coloured(100)}")


@pytest.mark.slow
def test_cifar_is_learned_from_folders_by_class(clbench, place, tmp_path):
    if not (SHARED / "unpack_sheets.py").is_file():
        pytest.skip("../shared/data is not beside the repository")
    subprocess.run([sys.executable, SHARED / "unpack_sheets.py", "cifar100", tmp_path], check=True)
    for run in runs_the_short_suite(clbench, place, "--data-root", tmp_path):
        assert run.config["data"]["source"] == "cifar100"
        assert run.config["data"]["train_images"] == 50_000


def test_the_methods_that_cannot_learn_a_suite_are_left_out_or_refused(clbench, place, assert_refused, coloured):
    arguments = ["run", "--suite", "split-cifar10", "--set", f"data={coloured(10)}", "--set", "n_tasks=2"]
    arguments += ["--set", "learning_rate_schedule=plateau"]
    listed = clbench(place, *arguments, *BRIEF, "--dry-run")
    assert listed.code == 0
    assert [line.split(" is left out: ")[0] for line in listed.err.splitlines()] == ["clbench: warning: clnp"]
    assert_refused(clbench(place, *arguments, *BRIEF, "--methods", "naive,clnp"), "learning_rate_schedule plateau")
    rotated = ["--methods", "psp", "--set", "psp.kind=rotation"]
    assert_refused(clbench(place, *arguments, *BRIEF, *rotated), "psp has rotation contexts for the network mlp alone")


def test_the_images_of_a_suite_are_replaced_by_others(clbench, place, tmp_path):
    raw = tmp_path / "sets" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = np.array([0x803, count, 28, 28], dtype=">u4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        head = np.array([0x801, count], dtype=">u4").tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    small = ["--set", "n_tasks=2", "--set", "hidden_sizes=16", "--methods", "naive", "--data-root", tmp_path / "sets"]
    done = clbench(place, "run", "--suite", "permuted-mnist", "--set", "data=kmnist", *small, *BRIEF, "--no-report")
    assert done.code == 0, done.err
    (run,) = read_runs(place / "clbench-runs")
    assert run.config["data"]["source"] == run.config["suite_settings"]["data"] == run.config["overrides"]["data"]
    assert run.config["data"]["source"] == "kmnist"


def test_a_plan_without_images_has_the_methods_that_can_run(clbench, tmp_path):
    (tmp_path / "sets").mkdir()
    arguments = ["run", "--dry-run", "--suite", "split-cifar10", "--data-root", tmp_path / "sets"]
    arguments += ["--set", "learning_rate_schedule=plateau"]
    planned = clbench(tmp_path, *arguments)
    assert planned.code == 0
    assert "clnp is left out: " in planned.err
    assert "could not be downloaded" not in planned.err
    assert "ewc" in planned.out
    assert "clnp" not in planned.out
    assert_refused_later(clbench(tmp_path, *arguments, "--methods", "clnp"), "clnp cannot run here")
    assert_refused_later(clbench(tmp_path, *arguments, "--methods", "naive", "--set", "naive.foo=3"), "'foo'")


def assert_refused_later(outcome, words):
    """As `assert_refused`, behind the warning that there are no images."""
    assert outcome.code == 2
    assert words in outcome.err.splitlines()[-1]


def test_a_plan_is_shown_without_images_and_says_that_it_has_no_ids(clbench, tmp_path):
    (tmp_path / "sets").mkdir()
    arguments = ["--suite", "split-cifar10", "--data-root", tmp_path / "sets", "--offline", "--methods", "naive,si"]
    planned = clbench(tmp_path, "run", "--dry-run", *arguments)
    assert planned.code == 0
    assert "without images the plan has no run ids" in planned.err
    assert "6 runs of 5 tasks on conv-zenke" in planned.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sets"]
