"""What may be averaged in a report and what is said of it: nothing mixed, nothing left out in silence."""

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.text import Text

from clbench.methods.table import resolve_settings
from clbench.records.identity import settings_of
from clbench.records.reading import RecordedRun
from clbench.reports import write_report
from clbench.reports.analysis.groups import select
from clbench.reports.compose import MODIFIED
from clbench.reports.formats.terminal import summary_table
from clbench.reports.model import Table
from clbench.suites.files import find_suite

REPORT_TABLES = runpy.run_path(str(Path(__file__).with_name("report_tables.py")))
SUITE = REPORT_TABLES["SUITE"]
report_on = REPORT_TABLES["report_on"]
table = REPORT_TABLES["table"]
column = REPORT_TABLES["column"]
pdf_text = REPORT_TABLES["pdf_text"]

MakeRun = Callable[..., RecordedRun]
MakeRuns = Callable[..., list[RecordedRun]]


def test_modified_runs_are_never_mixed_with_the_suites_own(recorded_seeds: MakeRuns) -> None:
    own = recorded_seeds("ewc", 0.9, 0.9, 0.9)
    modified = recorded_seeds("ewc", 0.2, 0.2, 0.2, modified=True, overrides={"epochs": 1})
    report = report_on([*own, *modified])
    assert column(table(report, "Results"), "Average accuracy, %") == ["90.00 ± 0.00"]
    (section,) = [section for section in report.sections if section.heading == MODIFIED]
    shown = section.items[0]
    assert isinstance(shown, Table)
    assert column(shown, "Method") == ["ewc epochs=1"]
    assert column(shown, "Average accuracy, %") == ["20.00 ± 0.00"]
    assert "Compared, by test" not in [part.heading for part in shown.columns]
    assert "20.00" not in str(report.headline)
    assert "20.00" not in " ".join(column(table(report, "published, ours"), "Ours, %"))


def test_modified_runs_with_other_overrides_are_groups_of_their_own(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("ewc", 0.5, modified=True, overrides={"epochs": 1}),
        *recorded_seeds("ewc", 0.6, modified=True, overrides={"epochs": 2}),
        *recorded_seeds("ewc", 0.4, modified=True, overrides={"ewc.momentum": None}),
    ]
    groups = select(runs, SUITE).groups
    assert [group.overrides for group in groups] == ["epochs=2", "epochs=1", "momentum=none"]


def test_what_was_overridden_is_said_once_in_the_name_if_it_tells_groups_apart_and_else_below(
    recorded_seeds: MakeRuns,
) -> None:
    runs = []
    for number, overrides in enumerate(({"epochs": 1}, {"epochs": 2})):
        settings = {"method_settings": overrides, "suite_settings": overrides, "run_id": str(number)}
        given = {**overrides, "n_tasks": 2}
        runs += recorded_seeds("ewc", 0.5, modified=True, overrides=given, **settings)
    shown = table(report_on(runs), "Results")
    assert column(shown, "Method") == ["ewc epochs=1", "ewc epochs=2"]
    assert "Not the suite's own setting: n_tasks=2." in shown.notes
    assert "(modified" not in str(report_on(runs))


def test_a_suite_with_modified_runs_alone_is_reported_and_marked(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("clnp", 0.9, 0.8, 0.7, modified=True, overrides={"margin": 2}))
    assert "published" not in [section.name for section in report.sections]
    assert "nothing here is the suite's own result" in " ".join(report.summary)
    assert report.summary[0].startswith("Modified runs.")
    results = [section for section in report.sections if section.name in ("accuracy", "costs", "statistics")]
    captions = [item.caption for item in [*report.headline, *(item for s in results for item in s.items)]]
    assert len(captions) > 8
    assert all(caption.startswith("Modified runs.") for caption in captions)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "bfloat16"}, "precision=bfloat16"),
        ({"method_settings": {"lambda": 3}}, "lambda=3"),
        ({"versions": {"clbench": "0.2.0"}}, "clbench=0.2.0"),
        ({"data": {"sha256": "cd" * 32}}, "data=cdcdcdcd"),
        ({"task_known_at_test": True}, "told_the_task=yes"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(
    recorded_seeds: MakeRuns, change: dict[str, Any], said: str
) -> None:
    report = report_on([*recorded_seeds("ewc", 0.9, 0.9, 0.9), *recorded_seeds("ewc", 0.5, **change)])
    shown = column(table(report, "Results"), "Method")
    assert [text.split(" ")[0] for text in shown] == ["ewc", "ewc"]
    # A version is marked below the name of every group that has another than most.
    assert shown[1] == f"ewc {said}"
    assert column(table(report, "Results"), "Seeds") == ["3", "1"]


def test_a_run_added_later_leaves_the_letters_of_the_others_as_they_are(recorded_run: MakeRun) -> None:
    def modified(hour: int, momentum: float, seed: int = 0) -> RecordedRun:
        settings = {name: momentum for name in ("momentum", "strength", "fisher_images", "weight_decay")}
        overrides = {f"ewc.{name}": value for name, value in settings.items()}
        changes = {"overrides": overrides, "method_settings": settings, "run_id": f"{9 - hour}"}
        run = recorded_run("ewc", seed, modified=True, **changes)
        return replace(run, started=f"2025-01-01T0{hour}:00:00+00:00")

    runs = [modified(0, 0.9), modified(1, 0.5), modified(2, 0.1), modified(3, 0.1, seed=1)]
    labels = [{group.overrides[-3:]: group.label for group in select(runs[:n], SUITE).groups} for n in (2, 3, 4)]
    assert labels[0] == {"0.9": "ewc (a)", "0.5": "ewc (b)"}
    # However many seeds it has.
    assert labels[1] == labels[2] == labels[0] | {"0.1": "ewc (c)"}


def test_host_device_and_commit_do_not_split_a_group_but_are_told(recorded_run: MakeRun) -> None:
    runs = [
        recorded_run("ewc", 0),
        recorded_run("ewc", 1, host="there", device="cuda", git_commit="9999fff", command="x"),
    ]
    report = report_on(runs)
    results = table(report, "Results")
    assert column(results, "Seeds") == ["2"]
    notes = " ".join(results.notes)
    assert "here, there" in notes
    assert "cpu, cuda" in notes
    assert "0123abc, 9999fff" in notes


def test_the_same_seed_counts_once(recorded_run: MakeRun) -> None:
    early = recorded_run("ewc", 0, 0.5)
    late = replace(recorded_run("ewc", 0, 0.9, run_id="late"), started="2025-02-01T00:00:00+00:00")
    selection = select([early, late], SUITE)
    assert [kept.run_id for group in selection.groups for kept in group.runs] == ["late"]
    assert "repeats seed 0 of the later run late" in selection.left_out[0].reason


def test_runs_that_did_not_finish_are_named_with_the_reason_and_enter_no_number(
    recorded_run: MakeRun, recorded_seeds: MakeRuns
) -> None:
    failed = replace(recorded_run("si", 7, 0.1, run_id="bad1"), status="failed", reason="loss became nan")
    running = replace(recorded_run("ewc", 8, 0.1, run_id="bad2"), status="running", ended="")
    half = recorded_run("ewc", 9, run_id="bad3")
    half.accuracy_matrix[2] = np.nan
    report = report_on([*recorded_seeds("ewc", 0.9, 0.9, 0.9), failed, running, half])
    left_out = table(report, "Runs that no number contains")
    assert sorted(column(left_out, "Run")) == ["bad1", "bad2", "bad3"]
    reasons = " ".join(column(left_out, "Reason"))
    assert "loss became nan" in reasons
    assert "still running" in reasons
    assert "holds 1 of 2 tasks" in reasons
    assert column(table(report, "Results"), "Average accuracy, %") == ["90.00 ± 0.00"]
    assert "3 runs are in no number" in report.summary[-1]


def test_runs_of_other_suites_are_passed_over(recorded_run: MakeRun) -> None:
    report = report_on([recorded_run("ewc"), recorded_run("si", suite="rotated-mnist")])
    assert column(table(report, "Results"), "Method") == ["ewc"]


def test_absent_settings_are_said_to_be_not_recorded(recorded_run: MakeRun) -> None:
    bare = recorded_run("ewc")
    essential = ("run_id", "suite", "method", "seed", "modified")
    report = report_on([replace(bare, config={key: bare.config[key] for key in essential})])
    assert "not recorded" in " ".join(report.summary)
    assert column(table(report, "What the runs were made with"), "Value")[0] == "not recorded"


def test_variants_stand_beside_what_is_published_for_their_method(recorded_seeds: MakeRuns) -> None:
    runs = [
        *recorded_seeds("clnp", 0.9),
        *recorded_seeds("clnp:best", 0.98, 0.985, 0.99, method_settings={"epochs": 30}),
        *recorded_seeds("si:10-epochs", 0.93, method_settings={"epochs": 10, "strength": 0.1}),
    ]
    report = report_on(runs)
    shown = table(report, "published, ours")
    rows = [[cell.text for cell in row] for row in shown.rows]
    assert [row[1] for row in rows if row[2] == "98.42 ± 0.04"] == ["clnp:best", "clnp"]
    assert [row[1] for row in rows if row[1].startswith("si:")] == ["si:10-epochs"] * 2
    differs = next(row[-1] for row in rows if row[2] == "96.94")
    assert "epochs 10 (there 20)" in differs
    # What a record leaves out, because it changes nothing, differs all the same.
    assert "train on validation no (there yes)" in differs
    # What was trained, not what the suite says.
    assert "epochs per task: 5 (clnp:best 30, si:10-epochs 10)." in report.summary[0]


def test_a_setting_that_the_suite_has_no_more_is_named(recorded_seeds: MakeRuns) -> None:
    suite = find_suite("permuted-mnist")
    settings = settings_of(suite, resolve_settings(suite, "psp", {}))
    notes = table(report_on(recorded_seeds("psp", 0.9, **settings)), "Results after the last task").notes
    assert not any("in this version of clbench" in note for note in notes)
    settings["method_settings"] |= {"kind": "complex"}
    notes = table(report_on(recorded_seeds("psp", 0.9, **settings)), "Results after the last task").notes
    said = (
        'psp is not in the setting that the suite gives it in this version of clbench: kind="complex" (here "binary").'
    )
    assert said in notes


def test_a_variant_says_how_it_differs_from_its_method(recorded_seeds: MakeRuns) -> None:
    runs = [
        # A setting at the value that changes nothing is not recorded.
        *recorded_seeds(
            "clnp",
            0.9,
            method_settings={"epochs": 10, "margin": 0.7, "l1_activities": [0.0], "margin_shares": [0.2, 0.8]},
        ),
        *recorded_seeds(
            "clnp:best", 0.98, method_settings={"epochs": 30, "margin": 0.7, "l1_activities": [4e-4, 5e-4]}
        ),
    ]
    notes = table(report_on(runs), "Results after the last task").notes
    said = (
        "clnp:best is clnp with margin shares none (there 0.2, 0.8); epochs 30 (there 10); "
        "l1 activities 0.0004, 0.0005 (there 0.0)."
    )
    assert said in notes


def test_what_is_known_of_our_own_number_stands_beside_it(recorded_seeds: MakeRuns) -> None:
    shown = table(report_on(recorded_seeds("avalanche-si", 0.5)), "published, ours")
    (row,) = [[cell.text for cell in row] for row in shown.rows if row[1].text == "avalanche-si"]
    assert row[-1].startswith("on a CPU, Avalanche 0.6 computes every importance as 0")


def test_epochs_that_all_runs_share_are_said_once(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("clnp", 0.9, 0.91, method_settings={"epochs": 30}))
    assert "epochs per task: 30." in report.summary[0]


def test_runs_of_other_trainings_are_told_apart_and_their_epochs_are_said_once(recorded_run: MakeRun) -> None:
    whole = recorded_run("psp").config["suite_settings"]
    other = {**whole, "epochs": 3, "batch_size": 7}
    made = {"psp": whole, "naive": other, "ewc": whole, "si": other}
    accuracies = {"psp": 0.5, "ewc": 0.4, "naive": 0.9, "si": 0.8}
    runs = []
    for method, settings in made.items():
        run = recorded_run(method, run_id=method, suite_settings=settings, method_settings={})
        matrix = run.accuracy_matrix.copy()
        matrix[-1] = accuracies[method]
        runs.append(replace(run, accuracy_matrix=matrix))
    report = report_on(runs)
    assert f"epochs per task: 3 or {whole['epochs']}." in report.summary[0]
    shown = table(report, "Results after the last task, by tasks and training, then by average accuracy")
    order = [row[0].text for row in shown.rows]
    assert {tuple(order[:2]), tuple(order[2:])} == {("psp", "ewc"), ("naive", "si")}
    printed = summary_table(runs, runs[0].suite)
    assert list(printed.columns[0].cells) == [*map(Text, order[:2]), "", *map(Text, order[2:])]
    assert "an empty line parts other tasks" in str(printed.caption)
    alike = [run for run in runs if run.method in ("psp", "ewc")]
    assert "" not in list(summary_table(alike, runs[0].suite).columns[0].cells)
    assert table(report_on(alike), "Results after the last task, by average accuracy")


def test_epochs_that_are_counted_in_steps_are_said_to_be(recorded_run: MakeRun) -> None:
    suite_settings = {"n_tasks": 2, "scenario": "permuted", "hidden_sizes": [20], "epochs": 1, "steps_per_epoch": 1000}
    report = report_on([recorded_run("psp", suite_settings=suite_settings)])
    assert "epochs per task: 1, of 1000 steps each." in report.summary[0]


def test_methods_with_output_weights_of_each_task_are_named_beside_the_single_head(recorded_seeds: MakeRuns) -> None:
    single = find_suite("permuted-mnist").model_copy(update={"n_tasks": 2})
    runs = {
        name: recorded_seeds(name, 0.9, **settings_of(single, resolve_settings(single, name, given)))
        for name, given in (("clnp", {"output_weights": "shared"}), ("clnp:best", {}))
    }
    summary = report_on([*runs["clnp"], *runs["clnp:best"]]).summary[0]
    assert "and a single head (with output weights of each task: clnp:best); epochs" in summary
    assert "and a single head; epochs" in report_on(runs["clnp"]).summary[0]


def test_the_pdf_parts_the_name_of_a_setting_at_its_joints_alone(recorded_seeds: MakeRuns, tmp_path: Path) -> None:
    settings = {f"{letter * 11}_{letter * 14}_rate": 0.1 for letter in "abdfghkmnpqrstuvwxyz"}
    (path,) = write_report(recorded_seeds("naive", 0.9, method_settings=settings), SUITE, tmp_path, formats=("pdf",))
    _, shown = re.split(r"Table \d+\. Settings\n", pdf_text(path))
    for name in settings:
        assert all(part in shown for part in name.split("_"))


def test_every_published_entry_is_listed_with_its_source(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("si", 0.9))
    published = table(report, "Where the published values stand")
    assert {"97.2", "96.94"} <= set(column(published, "Published, %"))
    assert len(published.rows) == 10
