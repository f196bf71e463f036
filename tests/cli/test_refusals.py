"""What the command line refuses: in one sentence, and before anything is recorded."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from clbench.methods.table import METHODS
from clbench.suites.files import SUITES

RUN_FOLDERS = runpy.run_path(str(Path(__file__).with_name("run_folders.py")))
SUITE, assert_nothing_recorded = (RUN_FOLDERS[name] for name in ("SUITE", "assert_nothing_recorded"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "permuted-digit"], ["unknown suite 'permuted-digit'", "did you mean 'permuted-digits'?", *SUITES]),
        (["--suite", ""], ["unknown suite ''", *SUITES]),
        (["--methods", "clmp"], ["unknown method 'clmp'", "did you mean 'clnp'?", *METHODS]),
        (["--methods", "naive,EWC"], ["unknown method 'EWC'"]),
        (["--methods", " , "], ["--methods names none"]),
        (["--set", "epoch=2"], ["unknown setting 'epoch'", "did you mean 'epochs'?", "n_tasks", "naive.SETTING"]),
        (["--set", "scenario=split"], ["--set cannot change scenario; set it in a file"]),
        (["--set", "momentum=0.5"], ["the suite has no such setting, but naive has; give naive.momentum"]),
        (
            ["--set", "hidden_sizes=100,0"],
            ["the setting hidden_sizes with 0 in it does not fit: expected a value greater"],
        ),
        (
            ["--methods", "naive,clnp", "--set", "clnp.margin_shares=1,2,3"],
            ["clnp cannot run here: CLNP's margin_shares has 3 values for 2 groups of units"],
        ),
        (
            ["--methods", "clnp", "--set", "clnp.l1_activities=0.1,0.2", "--set", "hidden_sizes=9,9,9"],
            ["l1_activities has 2 values for 3 groups of units"],
        ),
        (["--set", "naive.learning_rate=inf"], ["naive.learning_rate=inf does not fit: expected a finite number"]),
        (["--set", "naive.learning_rate=NaN"], ["naive.learning_rate=nan does not fit: expected a finite number"]),
        (["--set", "hidden_sizes=a,b"], ["hidden_sizes=a,b", "values with commas between them, such as 100,100"]),
        (["--set", "naive.margin=1"], ["unknown setting of naive 'margin'", "learning_rate"]),
        (["--set", "nayve.epochs=1"], ["unknown method 'nayve'", "did you mean 'naive'?"]),
        (["--set", "clnp.margin=1"], ["'clnp' is not among the methods of this run (naive); add it to --methods"]),
        (["--set", "epochs=0"], ["epochs=0", "greater than or equal to 1"]),
        (["--set", "epochs=many"], ["epochs=many", "expected a whole number"]),
        (["--set", "epochs="], ["epochs="]),
        (["--set", "n_tasks=1000000"], ["n_tasks=1000000"]),
        (["--set", "hidden_sizes=16,0"], ["hidden_sizes", "greater than or equal to 1"]),
        (["--set", "hidden_sizes=16,x"], ["hidden_sizes"]),
        (["--set", "learning_rate=-1"], ["learning_rate=-1"]),
        (["--set", "learning_rate=NaN"], ["learning_rate=nan"]),
        (["--set", "optimizer=adagrad"], ["optimizer=adagrad", "expected one of adam, adamw, sgd, rmsprop"]),
        (["--set", "validation_share=1"], ["validation_share=1"]),
        (["--set", "naive.momentum=1"], ["naive.momentum=1", "less than 1"]),
        (["--set", "naive.momentum=NaN"], ["naive.momentum=nan"]),
        (
            ["--set", "naive.momentum=0.9"],
            ["momentum=0.9 would change nothing with optimizer=adam; give optimizer=sgd"],
        ),
        (
            ["--set", "joint.reset_optimizer=1", "--methods", "joint"],
            ["joint.reset_optimizer=1", "expected true or false"],
        ),
        (["--set", "epochs"], ["--set expects NAME=VALUE", "'epochs'"]),
        (["--set", "=2"], ["--set expects NAME=VALUE", "'=2'"]),
        (["--set", "epochs=2", "--set", "epochs=3"], ["--set gives 'epochs' twice"]),
        (["--jobs", "2"], ["--jobs 2 on a CPU needs --threads", "such as --threads"]),
        (["--seeds", "2-0"], ["the seed range '2-0' runs backwards; write 0-2"]),
        (["--seeds", "a"], ["the seeds 'a' cannot be read", "0-2 or 0,3,5"]),
        (["--seeds", ""], ["the seeds '' cannot be read"]),
        (["--seeds", "0,,1"], ["the seeds '0,,1' cannot be read"]),
        (["--seeds", "-1"], ["the seeds '-1' cannot be read"]),
        (["--seeds", "1.5"], ["the seeds '1.5' cannot be read"]),
        (["--seeds", "٣"], ["cannot be read"]),
        (["--seeds", "0-99999999999"], ["the seed range '0-99999999999' has more than 10,000 seeds"]),
        (["--seeds", "9" * 5000], ["seed"]),
        (["--precision", "float16"], ["unknown precision 'float16'", "float32"]),
        (["--device", "gpu"], ["unknown device 'gpu'", "cpu, cuda"]),
        (["--device", "meta"], ["'meta' is not supported"]),
        (["--device", "cuda:99"], ["'cuda:99' is not there"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_no_run(clbench, assert_refused, tmp_path, arguments, said):
    defaults = {"--suite": SUITE, "--methods": "naive", "--seeds": "0"}
    for name in arguments[::2]:
        defaults.pop(name, None)
    given = [word for pair in defaults.items() for word in pair]
    assert_refused(clbench(tmp_path, "run", *given, *arguments), *said)
    assert_nothing_recorded(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--suite"],
        ["run", "--suite", SUITE, "--epoch", "3"],
        ["run", "--suite", SUITE, "--threads", "0"],
        ["run", "--suite", SUITE, "--threads", "two"],
        ["run", "--suite", SUITE, "extra"],
        ["show"],
        ["train"],
        ["--offline"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_leaves_nothing(clbench, tmp_path, arguments):
    outcome = clbench(tmp_path, *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Error" in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_data_that_are_absent_offline_are_refused_with_what_is_wanted_and_what_needs_none(
    run, assert_refused, tmp_path
):
    (tmp_path / "data").mkdir()
    outcome = run(tmp_path, "--offline", "--data-root", tmp_path / "data", suite="permuted-mnist", small=[])
    folder = str(tmp_path / "data")
    assert_refused(outcome, folder, "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "permuted-digits")
    assert_nothing_recorded(tmp_path)


def test_a_data_root_that_is_not_there_is_refused(run, assert_refused, tmp_path):
    outcome = run(tmp_path, "--data-root", tmp_path / "dtaa", suite="permuted-mnist", small=[])
    assert_refused(outcome, str(tmp_path / "dtaa"), "--data-root")
    assert not (tmp_path / "dtaa").exists()


@pytest.mark.parametrize("option", ["--output", "--reports"])
def test_an_output_folder_that_cannot_be_written_is_refused_naming_its_option(
    clbench, assert_refused, tmp_path, option
):
    (tmp_path / "file").write_text("in the way")
    outcome = clbench(tmp_path, "run", "--suite", SUITE, option, tmp_path / "file" / "out put")
    assert_refused(outcome, str(tmp_path / "file" / "out put"), "cannot be written", option)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_refused(run, assert_refused, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)
    assert_refused(run(tmp_path, "--output", tmp_path / "runs"), str(tmp_path / "runs"), "Permission denied")


@pytest.mark.parametrize(
    "uri",
    [
        "nonsense://here",
        "some-folder",
        "sqlte:///mlflow.db",
        "s3://bucket/store",
        "http://[",
        "http://127.0.0.1:99999",
        "postgresql+nonsense://here/store",
    ],
)
@pytest.mark.parametrize("command", ["run", "report", "sync"])
def test_a_store_that_cannot_exist_is_refused(clbench, assert_refused, tmp_path, uri, command):
    (tmp_path / "clbench-runs").mkdir()
    arguments = [command, "--suite", SUITE, "--tracking-uri", uri]
    assert_refused(clbench(tmp_path, *arguments), f"the MLflow store {uri} cannot be used (", "--tracking-uri")
    assert_nothing_recorded(tmp_path)


@pytest.mark.parametrize("command", ["report", "sync"])
def test_a_store_that_does_not_answer_is_refused_where_it_is_needed(clbench, assert_refused, tmp_path, command):
    (tmp_path / "clbench-runs").mkdir()
    arguments = [command, "--suite", SUITE, "--tracking-uri", "http://127.0.0.1:1"]
    assert_refused(clbench(tmp_path, *arguments), "the MLflow store http://127.0.0.1:1 does not answer (")


def test_a_report_on_an_empty_store_is_refused_with_what_to_do(clbench, assert_refused, place):
    assert_refused(clbench(place, "report", "--suite", SUITE), f"clbench run --suite {SUITE}", "mlflow.db")
    assert not (place / "clbench-reports").exists()


@pytest.mark.parametrize("command", ["show", "report", "verify", "tune", "sync"])
def test_every_command_refuses_an_unknown_suite(clbench, assert_refused, tmp_path, command):
    arguments = ["mnist"] if command == "show" else ["--suite", "mnist"]
    said = "unknown suite, method or network 'mnist'" if command == "show" else "unknown suite 'mnist'"
    assert_refused(clbench(tmp_path, command, *arguments), said, *SUITES)
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_are_refused_and_what_is_recorded_stays(run, clbench, assert_refused, place):
    assert run(place).code == 0
    before = {path: path.read_bytes() for path in (place / "clbench-runs").rglob("*") if path.is_file()}
    too_small = clbench(place, "run", "--suite", SUITE, "--methods", "naive", "--set", "network=alexnet-hat")
    assert_refused(too_small, "alexnet-hat", "at least", "have 8 x 8")
    for part, name, count in [("train", "a", 1), ("train", "b", 40), ("test", "a", 2), ("test", "b", 2)]:
        (place / "photos" / part / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place / "photos" / part / name / f"{number}.png")
    command = ["run", "--suite", "image-folder", "--data-root", "photos", "--methods", "naive", "--set", "n_tasks=1"]
    # Whether the only image is held out depends on the seed.
    refused = clbench(place, *command, "--set", "image_size=32", "--seeds", "0-39", "--threads", "1", "--no-report")
    assert_refused(refused, "the class 'a' of task 1 has no training image beside the 1 held out", "leave it out")
    assert {path: path.read_bytes() for path in (place / "clbench-runs").rglob("*") if path.is_file()} == before


def test_a_validation_share_that_leaves_no_image_is_refused_before_anything_runs(run, assert_refused, place):
    outcome = run(place, "--set", "validation_share=0.0001")
    assert_refused(outcome, "validation_share=0.0001")
    assert not (place / "clbench-runs").exists()


def test_the_process_itself_exits_with_2_and_one_line(assert_refused, tmp_path):
    command = [sys.executable, "-m", "clbench", "run", "--suite", "mnist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_refused(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr), "unknown suite 'mnist'")
    assert done.stdout == ""
