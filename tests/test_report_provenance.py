"""What a report says about where its numbers come from: seals, missing digests, runs of other versions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clbench.errors import RecordError
from clbench.records.reading import RecordedRun, read_run, read_runs
from clbench.reports import write_report
from clbench.reports.across import compose_across
from clbench.reports.analysis.groups import select
from clbench.reports.compare import comparison_table, compose_comparison, find_pair
from clbench.reports.compose import compose
from clbench.reports.formats.terminal import summary_table
from clbench.reports.model import Table
from clbench.reports.verify import verification_table, verify

SUITE = "permuted-mnist"
MakeRuns = Callable[..., list[RecordedRun]]


def versions(**changed: str) -> dict[str, Any]:
    return {"versions": {"python": "3.11.0", "torch": "2.9.0", "clbench": "0.1.0"} | changed}


def runs_table(runs: list[RecordedRun]) -> Table:
    report = compose(select(runs, SUITE), SUITE)
    (table,) = (
        item for part in report.sections for item in part.items if isinstance(item, Table) and item.caption == "Runs"
    )
    return table


def results_details(runs: list[RecordedRun]) -> dict[str, str]:
    """What stands below each method's name in the table of results."""
    return {group.label: group.differs for group in select(runs, SUITE).groups}


def test_every_row_of_a_run_has_the_seal_of_its_folder(
    recorded_seeds: MakeRuns, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [write_run(tmp_path, run) for run in recorded_seeds("ewc", 0.9, 0.8)]
    table = runs_table(read_runs(tmp_path))
    column = [part.heading for part in table.columns].index("Seal")
    shown = {row[0].text: row[column].text for row in table.rows}
    recorded = {folder.name: json.loads((folder / "status.json").read_text())["seal"] for folder in folders}
    assert shown == {name: seal[:16] for name, seal in recorded.items()}
    assert len(set(shown.values())) == 2
    assert any("verify-run" in note for note in table.notes)
    assert not any(note.startswith("No digests") for note in table.notes)


def test_runs_without_digests_are_shown_and_marked(recorded_seeds: MakeRuns) -> None:
    first, *others = recorded_seeds("ewc", 0.9, 0.8, 0.7)
    table = runs_table([replace(first, seal="ab" * 32), *others])
    assert [row[-1].text for row in table.rows] == ["ab" * 8, "no digests", "no digests"]
    assert any(note.startswith("No digests: 2 runs recorded by a version that kept none") for note in table.notes)


def test_the_runs_that_came_with_the_repository_are_reported_as_without_digests(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1] / "docs" / "results" / SUITE
    runs = read_runs(root)
    unsealed = [run for run in runs if not run.seal]
    assert unsealed
    (path,) = write_report(unsealed, SUITE, tmp_path, formats=("html",))
    assert path.read_text(encoding="utf-8").count("no digests") == len(unsealed)


def test_no_report_is_made_of_a_run_whose_digests_do_not_hold(
    recorded_seeds: MakeRuns, write_run: Callable[..., Path], clbench: Any, assert_refused: Any, tmp_path: Path
) -> None:
    good, bad = [write_run(tmp_path / "runs", run) for run in recorded_seeds("ewc", 0.9, 0.8)]
    table = bad / "accuracy_matrix.csv"
    table.write_text(table.read_text().replace("0.95", "0.96", 1))
    read_run(good)
    with pytest.raises(RecordError, match="SHA-256"):
        read_run(bad)
    outcome = clbench(tmp_path, "report", "--suite", SUITE, "--runs", "runs")
    assert_refused(outcome, str(table.relative_to(tmp_path)), "SHA-256")
    assert not (tmp_path / "clbench-reports").exists()


@pytest.mark.parametrize(("package", "other"), [("clbench", "0.0.9"), ("torch", "2.8.0")])
def test_a_run_of_another_version_beside_others_is_named(recorded_seeds: MakeRuns, package: str, other: str) -> None:
    runs = [
        *recorded_seeds("ewc", 0.9, 0.8, 0.7, **versions()),
        *recorded_seeds("si", 0.6, 0.5, **versions(**{package: other})),
    ]
    usual = versions()["versions"][package]
    assert results_details(runs) == {"ewc": "", "si": f"{package}={other}"}
    assert (
        f"Made with another {package} than {usual}, which most runs have: si seed 0 ({other}), si seed 1 ({other})."
        in runs_table(runs).notes
    )


def test_one_run_of_another_torch_within_a_method_is_named(recorded_seeds: MakeRuns) -> None:
    runs = recorded_seeds("ewc", 0.9, 0.8, **versions()) + [
        replace(run, config={**run.config, "seed": 2}) for run in recorded_seeds("ewc", 0.7, **versions(torch="2.8.0"))
    ]
    assert results_details(runs) == {"ewc": "torch=2.8.0"}
    assert any("torch than 2.9.0, which most runs have: ewc seed 2 (2.8.0)." in note for note in runs_table(runs).notes)


def test_runs_of_one_version_are_not_remarked_upon(recorded_seeds: MakeRuns) -> None:
    runs = [*recorded_seeds("ewc", 0.9, 0.8, 0.7), *recorded_seeds("si", 0.6)]
    assert results_details(runs) == {"ewc": "", "si": ""}
    assert not any("Made with another" in note for note in runs_table(runs).notes)


THREADS = "Sums on a processor depend on the number of threads"


def about_threads(words: tuple[str, ...]) -> list[str]:
    return [sentence for sentence in words if sentence.startswith(THREADS)]


@pytest.mark.long
def test_numbers_of_threads_that_differ_between_groups_or_seeds_on_a_processor_are_said_once(
    recorded_seeds: MakeRuns, recorded_run: Callable[..., RecordedRun]
) -> None:
    def said(runs: list[RecordedRun]) -> list[str]:
        (results,) = (item for item in compose(select(runs, SUITE), SUITE).headline if isinstance(item, Table))
        return about_threads(results.notes)

    alike = [*recorded_seeds("ewc", 0.9, 0.8), *recorded_seeds("si", 0.7, 0.75)]
    assert said(alike) == []
    assert said([*alike, *recorded_seeds("naive", 0.5, 0.6, threads=8)]) == [
        f"{THREADS}, and so may an accuracy; it differs here: 1 (ewc, si), 8 (naive)."
    ]
    assert said([*alike, recorded_run("si", 2, threads=2)]) == [
        f"{THREADS}, and so may an accuracy; it differs here: 1 (ewc, si seed 0 and 1), 2 (si seed 2)."
    ]
    # On a GPU none of the sums is the processor's, and other tasks are no comparison.
    assert said([*alike, *recorded_seeds("naive", 0.5, 0.6, threads=8, device="cuda:0")]) == []
    other = {"suite_settings": {"n_tasks": 2, "scenario": "permuted", "hidden_sizes": [9], "epochs": 5}}
    assert said([*alike, *recorded_seeds("naive", 0.5, 0.6, threads=8, **other)]) == []


def test_a_comparison_and_the_report_over_suites_say_so_as_well(recorded_seeds: MakeRuns) -> None:
    runs = [*recorded_seeds("ewc", 0.9, 0.8, threads=2), *recorded_seeds("si", 0.9, 0.8)]
    words = f"{THREADS}, and so may an accuracy; it differs here: 1 (si), 2 (ewc)."
    pair = find_pair(runs, SUITE, "ewc", "si")
    assert about_threads(compose_comparison(pair).summary) == [words]
    assert words in str(comparison_table(pair).caption)
    assert f"{SUITE}: {words}" in compose_across(runs, [SUITE]).summary


def test_a_suite_that_clbench_does_not_have_counts_as_in_its_own_setting_and_is_said_to_be_the_users(
    recorded_seeds: MakeRuns,
) -> None:
    own = "This is a suite of the user's own, so there is nothing to compare its setting with."
    runs = recorded_seeds("ewc", 0.9, 0.8, suite="mine", method_settings={"strength": 1.0})
    modified = recorded_seeds("ewc", 0.7, suite="mine", modified=True, overrides={"epochs": 1})
    report = compose(select([*runs, *modified], "mine"), "mine")
    assert [sentence for sentence in report.summary if sentence == own] == [own]
    assert "not in the setting" not in str(report)
    assert own in str(summary_table(runs, "mine").caption)
    found = verify([*runs, *modified], "mine")
    assert [(verdict.label, verdict.seeds) for verdict in found.verdicts] == [("ewc", 2)]
    assert (found.left_out, found.other_settings, found.not_recorded) == (1, (), ())
    assert own in str(verification_table(found).caption)
    pair = find_pair([*runs, *recorded_seeds("si", 0.9, suite="mine")], "mine", "ewc", "si")
    assert own in compose_comparison(pair).summary
    assert own not in compose(select(recorded_seeds("ewc", 0.9), SUITE), SUITE).summary


def test_groups_on_other_images_are_named_with_their_digests(recorded_seeds: MakeRuns) -> None:
    def said(runs: list[RecordedRun]) -> list[str]:
        words = compose(select(runs, SUITE), SUITE).summary
        return [sentence for sentence in words if "on different images" in sentence]

    alike = [*recorded_seeds("ewc", 0.9, 0.8), *recorded_seeds("si", 0.7, 0.75)]
    assert said(alike) == []
    other = {"source": "made up", "sha256": "cd" * 32, "train_images": 60000, "test_images": 10000}
    (sentence,) = said([*alike, *recorded_seeds("naive", 0.5, 0.6, data=other)])
    assert sentence.endswith(f"SHA-256: {'ab' * 8} (ewc, si); {'cd' * 8} (naive).")
