"""What a verification shows, and the command: its exit codes, what it leaves out, what it refuses."""

import io
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.published import goals
from clbench.reports.verify import verification_table, verify

PERMUTED_MNIST = runpy.run_path(str(Path(__file__).with_name("permuted_mnist.py")))
SUITE, PLENTY, EXPECTED = (PERMUTED_MNIST[name] for name in ("SUITE", "PLENTY", "EXPECTED"))

MakeRun = Callable[..., RecordedRun]


# What is shown


def shown(runs: list[RecordedRun]) -> list[list[str]]:
    """The table's rows, their cells apart."""
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(verification_table(verify(runs, SUITE)))
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in console.export_text().splitlines()]


def test_the_table_shows_ours_beside_the_published_value_and_the_goal(own_run: MakeRun) -> None:
    rows = shown(
        [
            *(own_run("clnp", seed, 0.985 + 0.001 * (seed - 1), free=PLENTY) for seed in range(3)),
            own_run("psp", accuracy=0.97),
            own_run("naive", accuracy=0.5),
            own_run("joint", accuracy=0.4),
        ]
    )
    assert rows[0] == ["method", "seeds", "published, %", "ours, %", "ours is", "goal, %", "goal reached"]
    assert rows[1:5] == [
        ["clnp", "3", "98.42 ± 0.04", "98.50 ± 0.25", "inside", "98.42", "yes"],
        ["psp", "1", "97.6", "97.00", "below", "97.6", "no"],
        ["naive", "1", "57.4", "50.00", "below", "-", "-"],
        ["joint", "1", "-", "40.00", "-", "-", "-"],
    ]
    assert rows[5:] == [
        ["± is the 95 % interval over seeds; there is none below 3 seeds"],
        ["without one, above and below compare the mean alone"],
    ]


def test_a_goal_about_three_seeds_is_not_reached_by_fewer(own_run: MakeRun) -> None:
    runs = [own_run("psp", seed, 0.98) for seed in range(3)]
    assert [shown(runs[:seeds])[1][-1] for seeds in (1, 2, 3)] == [
        "so far (1 of 3 seeds)",
        "so far (2 of 3 seeds)",
        "yes",
    ]


def test_a_verification_is_complete_once_every_goal_has_its_seeds(own_run: MakeRun) -> None:
    methods = [goal.method for goal in goals(SUITE)]
    runs = [own_run(method, seed, 0.99, free=PLENTY) for method in methods for seed in range(3)]
    assert verify(runs, SUITE).is_complete
    assert not verify(runs[1:], SUITE).is_complete
    assert not verify(runs[3:], SUITE).is_complete


def test_the_table_says_whose_published_value_a_variant_stands_beside(own_run: MakeRun) -> None:
    runs = [own_run(method, seed, 0.98) for method in ("si", "si:10-epochs") for seed in range(3)]
    assert shown(runs)[3:] == [["si:10-epochs stands beside what is published for si"]]


def test_the_table_explains_a_missing_interval_only_where_one_is_missing(own_run: MakeRun) -> None:
    runs = [own_run("psp", seed, 0.97) for seed in range(3)]
    assert shown(runs)[1:] == [["psp", "3", "97.6", "97.00 ± 0.00", "below", "97.6", "no"]]
    assert len(shown(runs[:2])) == 4


def test_the_table_tells_groups_of_a_method_apart(own_run: MakeRun) -> None:
    runs = [own_run("psp", 0, 0.98), own_run("psp", 0, 0.97, precision="bfloat16", run_id="b")]
    assert [row[0] for row in shown(runs)[1:3]] == ["psp precision=float32", "psp precision=bfloat16"]


# The command


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where this test's run folders lie."""
    return tmp_path / "my runs"


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_exit_code_is_0_where_every_goal_is_reached(
    clbench: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path
) -> None:
    for run in (own_run("clnp", 0, 0.985, free=PLENTY), own_run("clnp", 1, 0.986, free=PLENTY), own_run("naive")):
        write_run(runs, run)
    before = {path: path.read_bytes() for path in files_below(tmp_path)}
    outcome = clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs)
    assert (outcome.code, outcome.err) == (0, "")
    assert re.search(
        r"^clnp +2 +98\.42 ± 0\.04 +98\.55 +above +98\.42 +so far \(2 of 3 seeds\)", outcome.out, re.MULTILINE
    )
    missing = [name for name in EXPECTED if name not in ("clnp", "naive")]
    assert outcome.out.endswith(f"not recorded: {', '.join(missing)}\n")
    assert clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs, "--complete").code == 1
    # It reads, and neither creates a store nor changes a folder.
    assert {path: path.read_bytes() for path in files_below(tmp_path)} == before


@pytest.mark.parametrize(
    "bad",
    [
        {"accuracy": 0.98, "free": PLENTY},
        {"accuracy": 0.985, "forgetting": 1e-4, "free": PLENTY},
        {"accuracy": 0.985, "free": (600, 100)},
        {"accuracy": 0.985},
    ],
    ids=["accuracy", "forgetting", "free neurons", "no free neurons recorded"],
)
def test_the_exit_code_is_1_where_a_goal_is_missed(
    clbench: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path, bad: dict[str, Any]
) -> None:
    write_run(runs, own_run("psp", 0, 0.98))
    assert clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs).code == 0
    write_run(runs, own_run("clnp", **bad))
    outcome = clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs)
    assert (outcome.code, outcome.err) == (1, "")
    assert "\nclnp misses its goal: " in outcome.out


def test_a_modified_run_is_left_out_and_counted(
    clbench: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path
) -> None:
    write_run(runs, own_run("psp", 0, 0.98))
    before = clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs)
    write_run(runs, own_run("psp", 1, 0.1, modified=True, overrides={"epochs": 1}))
    after = clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs)
    assert (
        after.out == before.out + "left out because modified, unfinished, trials of a search, or repeating a seed: 1\n"
    )
    assert (after.code, after.err) == (0, "")


def test_what_is_no_folder_of_runs_is_refused_in_one_sentence(
    clbench: Any, assert_refused: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path
) -> None:
    command = ["verify", "--suite", SUITE, "--runs", runs]
    assert_refused(clbench(tmp_path, *command), f"there is no folder {runs}", "clbench-runs")
    runs.mkdir()
    assert_refused(
        clbench(tmp_path, *command), f"'{SUITE}' is not recorded: the folder {runs} holds no run of it", "clbench run"
    )
    write_run(runs, own_run("psp", suite="rotated-mnist"))
    assert_refused(clbench(tmp_path, *command), f"'{SUITE}' is not recorded: the folder {runs} holds no run of it")
    write_run(runs, own_run("naive", modified=True, overrides={"epochs": 3}))
    assert_refused(clbench(tmp_path, *command), f"no finished run of the suite '{SUITE}' in its own setting was found")
    assert list(tmp_path.iterdir()) == [runs]


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-5])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", cut),
        ("status.json", cut),
        ("tasks.csv", cut),
        ("capacity.csv", cut),
        ("tasks.csv", Path.unlink),
        ("status.json", Path.unlink),
        ("environment.txt", Path.unlink),
        ("accuracy_matrix.csv", lambda path: path.write_text(path.read_text().replace("0.985", "9.85"))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_run_is_refused_by_the_name_of_its_file(
    clbench: Any,
    assert_refused: Any,
    own_run: MakeRun,
    write_run: Any,
    tmp_path: Path,
    runs: Path,
    name: str,
    damage: Callable[[Path], object],
) -> None:
    write_run(runs, own_run("psp", 0, 0.98))
    folder = write_run(runs, own_run("clnp", 0, 0.985, free=PLENTY))
    damage(folder / name)
    assert_refused(clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs), str(folder / name))


def test_a_set_aside_attempt_is_no_run(
    clbench: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path
) -> None:
    folder = write_run(runs, own_run("psp", 0, 0.1))
    folder.rename(runs / f"{folder.name}.unfinished-20250101T000000Z")
    write_run(runs, own_run("psp", 0, 0.98))
    outcome = clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs)
    assert (outcome.code, outcome.out.count("psp")) == (0, 1)


def test_without_a_folder_it_is_the_store_that_is_verified(clbench: Any, assert_refused: Any, place: Path) -> None:
    outcome = clbench(place, "verify", "--suite", SUITE)
    assert_refused(outcome, f"is not recorded: the MLflow store sqlite:///{place / 'mlflow.db'} holds no run")


def test_an_unknown_suite_is_refused(clbench: Any, assert_refused: Any, tmp_path: Path, runs: Path) -> None:
    runs.mkdir()
    assert_refused(clbench(tmp_path, "verify", "--suite", "mnist", "--runs", runs), "unknown suite 'mnist'")


def test_a_report_is_made_from_folders_alone(
    clbench: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path
) -> None:
    write_run(runs, own_run("psp", 0, 0.98))
    outcome = clbench(tmp_path, "report", "--suite", SUITE, "--runs", runs)
    assert (outcome.code, outcome.err) == (0, "")
    reports = tmp_path / "clbench-reports"
    assert "98.00" in (reports / f"{SUITE}.html").read_text()
    assert (reports / f"{SUITE}.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clbench-reports", "my runs"]


def test_where_nothing_is_left_to_verify_what_was_left_out_is_told(
    clbench: Any, assert_refused: Any, own_run: MakeRun, write_run: Any, tmp_path: Path, runs: Path
) -> None:
    write_run(runs, own_run("naive", modified=True, overrides={"epochs": 3}))
    earlier = own_run("psp", method_settings={**own_run("psp").config["method_settings"], "kind": "complex"})
    write_run(runs, earlier)
    outcome = clbench(tmp_path, "verify", "--suite", SUITE, "--runs", runs)
    assert_refused(
        outcome,
        'psp (1): kind="complex" (here "binary")',
        "modified, unfinished, trials of a search, or repeating a seed: 1",
    )
