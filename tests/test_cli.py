"""What the command line promises: refusals in one sentence, runs that go on, exit codes that tell the truth."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clbench import __version__
from clbench.baselines.joint import Joint
from clbench.baselines.naive import Naive
from clbench.data import SOURCES
from clbench.errors import Interrupted, MethodError
from clbench.methods.table import METHODS, entry_of, method_names
from clbench.networks.table import network_names
from clbench.records.reading import read_run, run_paths
from clbench.runs.spec import make_specs
from clbench.suites.files import SUITES, find_suite
from clbench.tracking.sync import load_runs

SUITE = "permuted-digits"
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


@pytest.fixture(autouse=True)
def _own_environment(own_environment, monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def folders(place):
    """Run folders by (method, seed), those moved aside left out."""
    found = {}
    for path in run_paths(place / "clbench-runs"):
        if "." not in path.name:
            config = json.loads((path / "config.json").read_text())
            found[config["method"], config["seed"]] = path
    return found


def status_of(folder):
    return json.loads((folder / "status.json").read_text())


def assert_nothing_recorded(folder):
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert not (folder / "clbench-runs").exists() or list((folder / "clbench-runs").iterdir()) == []


# Refusals


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
            ["the setting hidden_sizes with 0 in it does not fit: input should be greater"],
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
        (["--set", "joint.reset_optimizer=1", "--methods", "joint"], ["joint.reset_optimizer=1", "valid boolean"]),
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
        ["run", "--suite", SUITE, "--epochs", "3"],
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
    assert_refused(clbench(tmp_path, command, *arguments), "unknown suite 'mnist'", *SUITES)
    assert list(tmp_path.iterdir()) == []


def test_a_validation_share_that_leaves_no_image_is_refused_before_anything_runs(run, assert_refused, place):
    outcome = run(place, "--set", "validation_share=0.0001")
    assert_refused(outcome, "validation_share=0.0001")
    assert not (place / "clbench-runs").exists()


def test_the_process_itself_exits_with_2_and_one_line(assert_refused, tmp_path):
    command = [sys.executable, "-m", "clbench", "run", "--suite", "mnist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_refused(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr), "unknown suite 'mnist'")
    assert done.stdout == ""


# Looking


def test_list_names_every_suite_and_every_method(clbench, tmp_path):
    outcome = clbench(tmp_path, "list")
    assert (outcome.code, outcome.err) == (0, "")
    suites, methods, networks, images = outcome.out.split("\n\n")
    assert re.findall(r"^  (\S+)", suites, re.MULTILINE) == list(SUITES)
    assert re.findall(r"^  (\S+)", networks, re.MULTILINE) == network_names()
    assert f"\n  {next(iter(SOURCES))}," in images
    assert sorted(re.findall(r"^    (\S+)", methods, re.MULTILINE)) == sorted(method_names())
    told, *families = re.findall(r"^  (\S.*)$", methods, re.MULTILINE)
    assert told.startswith("With a head per task every method is told the task")
    assert families == list(dict.fromkeys(entry_of(name).family for name in method_names()))
    for suite in SUITES.values():
        said = f"variants of methods: {', '.join(suite.variants)}\n"
        (below,) = re.findall(rf"^  {suite.name} .*\n(.*\n)", outcome.out, re.MULTILINE)
        assert below.endswith(said) == bool(suite.variants)


@pytest.mark.parametrize("suite", SUITES)
def test_show_tells_every_setting_of_a_suite_and_of_every_method(clbench, tmp_path, suite):
    outcome = clbench(tmp_path, "show", suite)
    assert (outcome.code, outcome.err) == (0, "")
    chosen = find_suite(suite)
    assert outcome.out.startswith(f"{suite}: {chosen.title}\n")
    assert chosen.source in outcome.out
    for key, value in (("n_tasks", chosen.n_tasks), ("epochs", chosen.epochs), ("head", chosen.head)):
        assert re.search(rf"^  {key} +{value}$", outcome.out, re.MULTILINE)
    for name in METHODS:
        assert re.search(rf"^  {re.escape(name)}( \*)? +\S+=.*epochs=\d+", outcome.out, re.MULTILINE)
    # With a head per task every method is told the task; CLNP always is, a plain network otherwise not.
    assert re.search(r"^  clnp \*", outcome.out, re.MULTILINE)
    assert bool(re.search(r"^  naive \*", outcome.out, re.MULTILINE)) == (chosen.head == "multi")


def test_the_version_is_shown(clbench, tmp_path):
    assert clbench(tmp_path, "--version").out == f"clbench {__version__}\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['clbench', 'run', '--help']\n"
        "from clbench.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'mlflow', 'avalanche', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--dry-run" in done.stdout


def test_a_dry_run_prints_the_grid_and_creates_nothing(run, tmp_path, digits):
    outcome = run(tmp_path, "--dry-run", methods="clnp,naive", seeds="0-1,5")
    assert (outcome.code, outcome.err) == (0, "")
    rows = re.findall(r"^\S+ +(clnp|naive) .* (\d+) +1 +([\d,]+) +(\d+) ", outcome.out, re.MULTILINE)
    # 1,437 training images or so less 15 %, twice, in batches of 64.
    images = 2 * round(len(digits.train_labels) * 0.85)
    assert [(method, seed) for method, seed, *_ in rows] == [
        (method, seed) for seed in "015" for method in ("clnp", "naive")
    ]
    for *_, trained, steps in rows:
        assert int(trained.replace(",", "")) == pytest.approx(images, abs=4)
        assert int(steps) == 2 * -(-images // 2 // 64)
    assert "6 runs of 2 tasks: " in outcome.out
    assert "Nothing was run" in outcome.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_dry_run_counts_the_steps_that_a_run_makes(run, tmp_path, monkeypatch):
    made = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *given, **more: made.append(1) or step(*given, **more))
    for more in ([], ["--set", "batch_size=1000000"], ["--set", "steps_per_epoch=7"]):
        outcome = run(tmp_path, "--dry-run", *more, methods="naive,joint")
        planned = [int(steps) for steps in re.findall(r"^\w{16} .* (\d+) +\S+ \w+$", outcome.out, re.MULTILINE)]
        assert len(planned) == 2
        made.clear()
        assert run(tmp_path, "--no-report", *more, methods="naive,joint").code == 0
        assert len(made) == sum(planned)


def test_a_dry_run_prints_whole_run_ids(run, tmp_path, digits):
    outcome = run(tmp_path, "--dry-run", small=[])
    (spec,) = make_specs(find_suite(SUITE), ["naive"], [0], {}, digits, "float32", "cpu")
    assert spec.run_id in outcome.out


def test_a_narrow_terminal_cuts_no_number_of_a_dry_run(run, tmp_path, monkeypatch):
    small = ["--set", "n_tasks=1000", "--set", "hidden_sizes=16", "--set", "epochs=1000"]

    def numbers(columns):
        monkeypatch.setenv("COLUMNS", columns)
        outcome = run(tmp_path, "--dry-run", methods="avalanche-ewc", small=small)
        assert max(map(len, outcome.out.splitlines()[:3])) <= int(columns)
        return re.findall(r"\d+(?:,\d{3})+", outcome.out.splitlines()[1])

    assert len(numbers("80")) == 2  # images and steps
    assert numbers("80") == numbers("200")


@pytest.mark.parametrize(
    ("threads", "rates", "said"), [(2, (100, 300), True), (2, (100, 90), False), (1, (100, 300), False)]
)
def test_a_dry_run_says_where_one_thread_would_be_faster(run, tmp_path, monkeypatch, threads, rates, said):
    # What it would measure depends on who else is at work.
    measured = iter(rates)
    monkeypatch.setattr("clbench.estimate.images_per_second", lambda method: next(measured))
    before = torch.get_num_threads()
    try:
        outcome = run(tmp_path, "--dry-run", "--threads", str(threads))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert ("With --threads 1 they would take 8 s" in outcome.out) is said


def test_a_dry_run_counts_no_run_that_is_recorded(run, place):
    assert run(place, "--no-report", seeds="0").code == 0
    before = sorted(place.rglob("*"))
    outcome = run(place, "--dry-run", seeds="0-2")
    assert re.search(r"naive.* 0 .* recorded$", outcome.out, re.MULTILINE)
    assert "2 runs of 2 tasks, beside 1 recorded in clbench-runs: " in outcome.out
    assert sorted(place.rglob("*")) == before


def test_a_dry_run_counts_the_tasks_that_a_begun_run_still_has_to_learn(run, place):
    def planned(*arguments):
        (line,) = re.findall(r"^[0-9a-f]{16} .*", run(place, "--dry-run", *arguments).out, re.MULTILINE)
        return line.split()[-4:]

    whole = planned()
    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    (folder / "status.json").write_text(json.dumps({"status": "stopped", "started": "", "ended": "", "reason": ""}))
    lines = (folder / "tasks.csv").read_text().splitlines(keepends=True)
    (folder / "tasks.csv").write_text("".join(lines[:2]))
    assert int(planned()[0].replace(",", "")) * 2 == int(whole[0].replace(",", ""))
    (folder / "status.json").unlink()
    assert planned()[-1] == "damaged"


def test_a_run_that_lost_its_status_is_not_trained_over(run, place):
    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    (folder / "status.json").unlink()
    outcome = run(place, "--no-report")
    assert outcome.code == 1
    assert f"{folder.relative_to(place) / 'status.json'} cannot be read" in outcome.err
    assert sorted(path.name for path in (place / "clbench-runs").iterdir() if path.is_dir()) == [".leases", folder.name]


def processor_has_bfloat16():
    # An independent word on its instructions: "flags" on x86, "Features" on ARM.
    (flags, *_) = re.findall(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return bool({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "svebf16"} & set(flags.split()))


@pytest.mark.parametrize("command", ["run", "tune"])
@pytest.mark.long
def test_bfloat16_on_a_processor_that_has_none_is_warned_of(command, run, clbench, tmp_path):
    options = ["--precision", "bfloat16", "--device", "cpu"]
    if command == "run":
        outcome = run(tmp_path, "--dry-run", *options)
    else:
        grid = tmp_path / "grid.toml"
        grid.write_text(f'suite = "{SUITE}"\nn_tasks = 1\nseed = 9\n[trials]\nnaive = [{{ epochs = 1 }}]\n')
        outcome = clbench(tmp_path, "tune", "--suite", SUITE, "--grid", str(grid), *options)
    assert outcome.code == 0
    warned = "no instructions for bfloat16: training in it may take many times as long as in float32" in outcome.err
    assert warned == (not processor_has_bfloat16())


def test_float32_is_warned_of_nowhere(run, tmp_path):
    assert run(tmp_path, "--dry-run", "--precision", "float32").err == ""


def test_an_override_that_a_methods_own_setting_hides_is_warned_of_with_the_one_that_does_it(run, tmp_path):
    small = ["--set", "learning_rate=0.01", "--set", "hidden_sizes=64,64"]
    outcome = run(tmp_path, "--dry-run", methods="naive,si,psp", small=small)
    assert outcome.err == (
        "clbench: warning: --set learning_rate=0.01 has no effect on si, psp, with learning_rate of their own; "
        "use --set si.learning_rate=0.01 --set psp.learning_rate=0.01\n"
    )
    reached = run(tmp_path, "--dry-run", methods="naive,si", small=[*small, "--set", "si.learning_rate=0.01"])
    assert (reached.code, reached.err) == (0, "")


# Running


@pytest.mark.long
def test_every_method_runs_and_its_output_is_a_timestamped_line_per_task(run, place):
    outcome = run(place, "--no-report", methods="all", seeds="7")
    assert outcome.code == 0, outcome.out
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("clbench: warning: avalanche-si seed 7: Avalanche's plugin protects nothing")
    assert folders(place).keys() == {(name, 7) for name in [*METHODS, "clnp:best"]}
    lines = outcome.out.splitlines()
    for name in METHODS:
        said = [line for line in lines if re.match(rf"{STAMP}{re.escape(name)} seed 7: ", line)]
        assert len(said) == 3
        for task, line in enumerate(said[:2], 1):
            wanted = rf".*: task {task}/2 learned, average accuracy \d+\.\d\d %, [\d,]+ images/s"
            assert re.fullmatch(wanted, line)
        assert said[2].endswith(": finished")
        run_ = read_run(folders(place)[name, 7])
        accuracy = run_.accuracy_matrix[2].mean() * 100
        assert f"average accuracy {accuracy:.2f} %" in said[1]
    assert "\x1b" not in outcome.out
    assert "runs:    clbench-runs" in lines
    assert f"compare: mlflow ui --backend-store-uri sqlite:///{place}/mlflow.db" in lines


def test_quiet_prints_nothing_and_the_report_is_made_all_the_same(clbench, run, place):
    outcome = run(place, "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    made = {f"{SUITE}.html", f"{SUITE}.pdf", f"{SUITE}.json", SUITE}
    assert {path.name for path in (place / "clbench-reports").iterdir()} == made
    again = clbench(place, "report", "--suite", SUITE, "--quiet")
    assert (again.code, again.out, again.err) == (0, "", "")


def test_folders_with_spaces_and_brackets_work_and_are_printed_as_they_are(run, place):
    names = ("my [red]runs[/red]", "my [/bold] reports", "my store.db")
    output, reports, database = (place / "an [i]odd place" / name for name in names)
    database.parent.mkdir()
    shutil.copy(place / "mlflow.db", database)
    outcome = run(place, "--output", output, "--reports", reports, "--tracking-uri", f"sqlite:///{database}")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(list(output.glob("*/status.json"))) == 1
    assert f"runs:    {output}" in outcome.out.splitlines()
    assert sum(line == f"report:  {path}" for line in outcome.out.splitlines() for path in reports.iterdir()) == 4
    assert f"compare: mlflow ui --backend-store-uri 'sqlite:///{database}'" in outcome.out.splitlines()


def test_overrides_make_another_run_that_is_recorded_as_modified(digits):
    def spec(**overrides):
        return make_specs(find_suite(SUITE), ["naive"], [0], overrides, digits, "float32", "cpu")[0]

    canonical = spec()
    assert not canonical.overrides
    others = [spec(epochs=2), spec(epochs=3), spec(n_tasks=2), spec(**{"naive.epochs": 4})]
    assert all(other.overrides for other in others)
    assert len({item.run_id for item in [canonical, *others]}) == 5
    # What the suite says anyway changes nothing.
    same = spec(epochs=canonical.suite.epochs, **{"naive.weight_decay": 0})
    assert (same.run_id, dict(same.overrides)) == (canonical.run_id, {})


def test_a_modified_run_says_so_in_its_folder(run, place):
    outcome = run(place, "--no-report", "--set", "naive.weight_decay=0.5", methods="naive,joint")
    assert outcome.code == 0
    of_suite = {"n_tasks": 2, "epochs": 1, "hidden_sizes": [64, 64]}
    for (method, _), folder in folders(place).items():
        config = json.loads((folder / "config.json").read_text())
        assert config["modified"] is True
        assert config["overrides"] == of_suite | ({"naive.weight_decay": 0.5} if method == "naive" else {})
        assert config["method_settings"]["weight_decay"] == (0.5 if method == "naive" else 0.0)
        assert config["run_id"] == folder.name


def test_seeds_methods_and_ranges_given_twice_run_once(run, tmp_path):
    outcome = run(tmp_path, "--dry-run", methods="naive, joint,naive", seeds="0,2,1-3, 2")
    assert "8 runs of 2 tasks: " in outcome.out


def test_a_finished_folder_is_never_touched(run, place):
    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert run(place, "--no-report", seeds="0-1").code == 0
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert len(list((place / "clbench-runs").glob("*/status.json"))) == 2


# Reports and verdicts from folders


@pytest.mark.long
def test_a_report_from_run_folders_is_that_from_the_store_to_the_byte_and_needs_no_store(clbench, run, place, tmp_path):
    assert run(place, methods="clnp,naive", seeds="0-1").code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome = clbench(elsewhere, "report", "--suite", SUITE, "--runs", place / "clbench-runs")
    assert (outcome.code, outcome.err) == (0, "")
    assert [path.name for path in elsewhere.iterdir()] == ["clbench-reports"]
    for name in (f"{SUITE}.html", f"{SUITE}.pdf", f"{SUITE}.json"):
        ours, theirs = (folder / "clbench-reports" / name for folder in (elsewhere, place))
        assert ours.read_bytes() == theirs.read_bytes()
        assert f"report:  clbench-reports/{name}\n" in outcome.out
    # Its artifacts are all it takes: the run folders are gone.
    (place / "clbench-runs").rename(tmp_path / "moved")
    outcome = clbench(elsewhere, "report", "--suite", SUITE, "--from-mlflow", f"sqlite:///{place / 'mlflow.db'}", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    page = f"clbench-reports/{SUITE}.html"
    assert (elsewhere / page).read_bytes() == (place / page).read_bytes()


def test_run_folders_and_the_store_are_verified_alike(clbench, run, place, tmp_path, monkeypatch, plain):
    # Small enough to be trained here as it stands: a modified run would not count.
    small = plain.model_copy(
        update={"name": "small-digits", "n_tasks": 2, "epochs": 1, "network_settings": {"hidden_sizes": (16,)}}
    )
    monkeypatch.setitem(SUITES, "small-digits", small)
    assert run(place, "--no-report", suite="small-digits", methods="clnp,naive", small=[]).code == 0
    from_store = clbench(place, "verify", "--suite", "small-digits")
    from_folder = clbench(tmp_path, "verify", "--suite", "small-digits", "--runs", place / "clbench-runs")
    assert vars(from_folder) == vars(from_store)
    assert from_folder.code == 0
    assert re.search(r"^clnp +1 ", from_folder.out, re.MULTILINE)
    assert re.search(r"^naive +1 ", from_folder.out, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("command", ["report", "verify"])
def test_a_folder_without_runs_of_the_suite_is_refused(clbench, assert_refused, tmp_path, command):
    arguments = [command, "--suite", SUITE, "--runs", tmp_path / "runs"]
    assert_refused(clbench(tmp_path, *arguments), f"there is no folder {tmp_path / 'runs'}")
    (tmp_path / "runs").mkdir()
    assert_refused(clbench(tmp_path, *arguments), f"clbench run --suite {SUITE}")
    assert not (tmp_path / "mlflow.db").exists()


# Variants of methods


@pytest.fixture
def variants(monkeypatch, digits_with_variants):
    """The name of a suite on the embedded digits that has variants of PSP."""
    monkeypatch.setitem(SUITES, digits_with_variants.name, digits_with_variants)
    return digits_with_variants.name


def test_variants_run_beside_their_method_each_under_its_own_name_and_settings(run, place, variants):
    change = ["--set", "psp:complex.learning_rate=0.125"]
    outcome = run(place, *change, suite=variants, methods="psp,psp:complex,psp:rotation")
    assert outcome.code == 0
    found = folders(place)
    assert found.keys() == {("psp", 0), ("psp:complex", 0), ("psp:rotation", 0)}
    assert len(set(found.values())) == 3
    settings = {key: json.loads((path / "config.json").read_text()) for (key, _), path in found.items()}
    assert {key: config["method_settings"]["kind"] for key, config in settings.items()} == {
        "psp": "binary",
        "psp:complex": "complex",
        "psp:rotation": "rotation",
    }
    rates = {key: config["method_settings"]["learning_rate"] for key, config in settings.items()}
    assert rates == {"psp": 0.5, "psp:complex": 0.125, "psp:rotation": 0.5}
    assert [key for key, config in settings.items() if "psp:complex.learning_rate" in config["overrides"]] == [
        "psp:complex"
    ]
    assert all(config["task_known_at_test"] for config in settings.values())
    assert "psp:rotation seed 0: finished" in outcome.out
    loaded = load_runs(variants, f"sqlite:///{place / 'mlflow.db'}")
    assert [run_.method for run_ in loaded] == ["psp", "psp:complex", "psp:rotation"]
    for path in (place / "clbench-reports").glob("*.html"):
        assert all(name in path.read_text() for name in ("psp:complex", "psp:rotation"))


def test_all_methods_are_those_of_the_table_and_the_suites_variants(run, tmp_path, variants, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    outcome = run(tmp_path, "--dry-run", suite=variants, methods="all")
    assert (outcome.code, outcome.err) == (0, "")
    named = re.findall(r"^[0-9a-f]{16} +(\S+) ", outcome.out, re.MULTILINE)
    assert named == [*METHODS, "psp:complex", "psp:rotation"]


def test_a_suites_own_methods_may_be_variants(clbench, tmp_path, variants, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    outcome = clbench(tmp_path, "run", "--suite", variants, "--dry-run", "--seeds", "0")
    assert re.findall(r"^[0-9a-f]{16} +(\S+) ", outcome.out, re.MULTILINE) == ["psp", "psp:complex", "psp:rotation"]


def test_show_tells_the_settings_of_a_suites_variants(clbench, tmp_path, variants):
    outcome = clbench(tmp_path, "show", variants)
    assert re.search(r"^  psp:complex \* .*learning_rate=0\.5, .*kind=complex", outcome.out, re.MULTILINE)
    assert re.search(r"^  psp:rotation \* .*weight_decay=0\.25, .*kind=rotation", outcome.out, re.MULTILINE)


@pytest.mark.parametrize("name", ["psp:rotation", "psp:", "naive:rotation", ":rotation"])
def test_a_variant_that_the_suite_lacks_is_refused_with_what_it_has(run, assert_refused, tmp_path, variants, name):
    assert_refused(run(tmp_path, methods=f"naive,{name}"), f"unknown method '{name}'", *METHODS)
    if name != "psp:rotation":
        assert_refused(run(tmp_path, suite=variants, methods=name), f"unknown method '{name}'", "psp:complex, psp:rot")
    assert_nothing_recorded(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("psp:rotation.momentum=0.5", ["'psp:rotation' is not among the methods of this run (psp:complex)"]),
        ("psp:complex.momentun=0.5", ["unknown setting of psp:complex 'momentun'", "did you mean 'momentum'?"]),
        ("psp.momentum=0.5", ["'psp' is not among the methods of this run (psp:complex)"]),
        ("psp:complex.kind=bent", ["psp:complex.kind=bent", "'rotation'"]),
    ],
)
def test_an_override_that_fits_no_variant_of_the_run_is_refused(run, assert_refused, tmp_path, variants, change, said):
    assert_refused(run(tmp_path, "--set", change, suite=variants, methods="psp:complex"), *said)
    assert_nothing_recorded(tmp_path)


# Runs that fail


def test_an_unexpected_failure_is_recorded_with_its_traceback_and_the_others_go_on(run, place, monkeypatch):
    def fail(method, task):
        raise RuntimeError("out of luck [bold]")

    monkeypatch.setattr(Naive, "learn", fail)
    outcome = run(place, "--no-report", methods="naive,joint", seeds="0-1")
    assert outcome.code == 1
    found = folders(place)
    assert {key: status_of(path)["status"] for key, path in found.items()} == {
        ("naive", 0): "failed",
        ("naive", 1): "failed",
        ("joint", 0): "finished",
        ("joint", 1): "finished",
    }
    for seed in (0, 1):
        folder = found["naive", seed]
        assert status_of(folder)["reason"] == "RuntimeError: out of luck [bold]"
        assert 'raise RuntimeError("out of luck [bold]")' in (folder / "traceback.txt").read_text()
        assert f"naive seed {seed}: failed: RuntimeError: out of luck [bold] (see " in outcome.err
    assert not (found["joint", 0] / "traceback.txt").exists()
    assert outcome.err.endswith(
        "clbench: warning: some runs failed, for the reasons above; the same command tries them again\n"
    )


def test_an_expected_failure_is_recorded_without_a_traceback(run, place, monkeypatch):
    def refuse(method, observers=()):
        raise MethodError("this method needs a single head; take another suite")

    monkeypatch.setattr(Naive, "prepare", refuse)
    outcome = run(place, "--no-report", methods="naive,joint")
    assert outcome.code == 1
    found = folders(place)
    status = status_of(found["naive", 0])
    assert status["status"] == "failed"
    assert status["reason"] == "MethodError: this method needs a single head; take another suite"
    assert not (found["naive", 0] / "traceback.txt").exists()
    assert "naive seed 0: failed: this method needs a single head; take another suite\n" in outcome.err
    assert status_of(found["joint", 0])["status"] == "finished"


def test_a_run_that_failed_before_it_began_does_not_prevent_the_report_on_the_others(run, place, monkeypatch):
    def refuse(method, observers=()):
        raise MethodError("no")

    monkeypatch.setattr(Naive, "prepare", refuse)
    outcome = run(place, methods="naive,joint")
    assert outcome.code == 1
    assert "no report" not in outcome.err
    assert len(list((place / "clbench-reports").iterdir())) == 4


def test_a_loss_that_is_no_longer_finite_fails_the_run_with_a_reason(run, place):
    wild = ["--set", "naive.optimizer=sgd", "--set", "naive.learning_rate=10", "--set", "naive.weight_decay=1"]
    outcome = run(place, "--no-report", *wild, methods="naive,joint")
    assert outcome.code == 1
    found = folders(place)
    assert status_of(found["naive", 0])["status"] == "failed"
    assert "loss of task 1 is no longer finite" in status_of(found["naive", 0])["reason"]
    assert status_of(found["joint", 0])["status"] == "finished"


def test_the_reason_of_a_failure_is_said_even_when_quiet(run, place, monkeypatch):
    def fail(method, task):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Naive, "learn", fail)
    outcome = run(place, "--no-report", "-q")
    assert outcome.out == ""
    assert "out of luck" in outcome.err


def test_a_failed_run_is_tried_again_and_the_attempt_is_kept(run, place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Naive, "learn", lambda method, task: 1 / 0)
        assert run(place, "--no-report").code == 1
    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    assert status_of(folder)["status"] == "finished"
    (aside,) = (place / "clbench-runs").glob(f"{folder.name}.unfinished-*")
    assert status_of(aside)["reason"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in (aside / "traceback.txt").read_text()


def test_a_status_that_cannot_be_read_is_refused_and_the_invocation_closed(run, place):
    from mlflow import MlflowClient

    assert run(place, "--no-report").code == 0
    (folder,) = folders(place).values()
    (folder / "status.json").write_text("{")
    outcome = run(place, "--no-report")
    assert outcome.code == 1
    assert str(folder.relative_to(place) / "status.json") in outcome.err
    assert "move the folder away" in outcome.err
    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    (experiment,) = (item.experiment_id for item in client.search_experiments() if item.name == SUITE)
    assert [item.info.status for item in client.search_runs([experiment], "attributes.status = 'RUNNING'")] == []


# Stopping


def test_a_stop_ends_the_grid_and_keeps_what_is_done(run, place, monkeypatch):
    def stop(method, task):
        raise Interrupted

    monkeypatch.setattr(Joint, "learn", stop)
    outcome = run(place, methods="naive,joint", seeds="0-1")
    assert outcome.code == 130
    found = folders(place)
    assert {key: status_of(path)["status"] for key, path in found.items()} == {
        ("naive", 0): "finished",
        ("joint", 0): "stopped",
    }
    assert status_of(found["joint", 0])["reason"] == "stopped before its end, by the user or a signal"
    assert "The same command goes on" in outcome.err
    assert list((place / "clbench-reports").iterdir()) == []


def test_signal_handlers_are_put_back(run, place):
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    assert run(place, "--no-report").code == 0
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_signal_stops_after_the_batch_and_the_same_command_goes_on(run, place, number):
    # Long enough to be caught in the midst of it, short enough to be finished afterwards.
    small = ["--set", "n_tasks=8", "--set", "epochs=15", "--set", "hidden_sizes=64,64"]
    # Another number of threads would be another run.
    small += ["--threads", str(torch.get_num_threads())]
    arguments = ["run", "--suite", SUITE, "--methods", "naive", "--seeds", "0", "--no-report", *small]
    process = subprocess.Popen(
        [sys.executable, "-m", "clbench", *arguments],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if "task 1/8 learned" in line:
                process.send_signal(number)
                break
        out, err = process.communicate()
    finally:
        watchdog.cancel()
    assert process.returncode == 130
    assert out.splitlines()[-1].endswith("naive seed 0: stopped")
    assert err == (
        "clbench: warning: stopped; tasks that were learned to the end are recorded. The same command goes on after "
        "them\n"
    )
    (folder,) = folders(place).values()
    assert status_of(folder)["status"] == "stopped"
    learned = len(read_run(folder).tasks)
    assert 1 <= learned < 8
    first = read_run(folder).accuracy_matrix[: learned + 1]

    again = run(place, "--no-report", small=small)
    assert (again.code, again.err) == (0, "")
    status = status_of(folder)
    assert status["status"] == "finished"
    assert len(status["resumed"]) == 1
    assert list(folders(place).values()) == [folder]
    assert not list((place / "clbench-runs").glob("*.unfinished-*"))
    np.testing.assert_array_equal(read_run(folder).accuracy_matrix[: learned + 1], first)
    (loaded,) = load_runs(SUITE, f"sqlite:///{place / 'mlflow.db'}")
    assert loaded.status == "finished"
