"""What the command line promises of runs: their output, their folders, reports on them, variants of methods."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

from clbench.methods.table import METHODS
from clbench.records.reading import read_run
from clbench.runs.spec import make_specs
from clbench.suites.files import SUITES, find_suite
from clbench.tracking.sync import load_runs

RUN_FOLDERS = runpy.run_path(str(Path(__file__).with_name("run_folders.py")))
SUITE = RUN_FOLDERS["SUITE"]
folders = RUN_FOLDERS["folders"]
assert_nothing_recorded = RUN_FOLDERS["assert_nothing_recorded"]

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


# Running


@pytest.mark.long
def test_every_method_runs_and_its_output_is_a_timestamped_line_per_task(run, place):
    outcome = run(place, "--no-report", methods="all", seeds="7")
    assert outcome.code == 0, outcome.out
    # In one epoch not every method learns something.
    (said,) = [line for line in outcome.err.splitlines() if "hardly learned" not in line]
    assert said.startswith("clbench: warning: avalanche-si seed 7: Avalanche's plugin protects nothing")
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


def test_a_variant_of_another_suite_is_refused_with_that_suite_and_capitals_are_forgiven(run, assert_refused, tmp_path):
    assert_refused(run(tmp_path, methods="wsn:less"), "unknown method 'wsn:less', which permuted-mnist-small has: ")
    assert_refused(run(tmp_path, methods="HAT"), "unknown method 'HAT': did you mean 'hat'?")
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
