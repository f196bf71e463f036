"""What the command line shows without training: suites, methods, settings, help, and what a run would do."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clbench import __version__
from clbench.data import SOURCES
from clbench.methods.table import METHODS, entry_of, method_names
from clbench.networks.table import network_names
from clbench.runs.spec import make_specs
from clbench.suites.files import SUITES, find_suite

RUN_FOLDERS = runpy.run_path(str(Path(__file__).with_name("run_folders.py")))
SUITE, folders = (RUN_FOLDERS[name] for name in ("SUITE", "folders"))


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


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("hat", "always, which chooses units"),
        ("single-task", "always, which chooses a network"),
        ("frozen-trunk", "always"),
        ("lwf", "with a head per task"),
    ],
)
def test_show_says_what_a_method_is_told_at_test(clbench, tmp_path, method, told):
    outcome = clbench(tmp_path, "show", method)
    assert f"\n\ntold the task at test: {told}\n" in outcome.out


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
