"""What a report promises: honest averages, nothing mixed, nothing executed, the same bytes twice."""

import base64
import hashlib
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clbench.errors import RecordError, SettingError
from clbench.methods.table import METHODS, resolve_settings
from clbench.records.identity import settings_of
from clbench.records.reading import RecordedRun
from clbench.reports import figures, write_report
from clbench.reports.analysis.groups import Group, select
from clbench.reports.analysis.statistics import estimate
from clbench.reports.compose import MODIFIED, compose
from clbench.reports.figures import accuracy as accuracy_figures
from clbench.reports.figures.accuracy import average_accuracy
from clbench.reports.figures.looks import line_of, look_of
from clbench.reports.formatting import percent, readable_bytes, signed_percent
from clbench.reports.model import Report, Table
from clbench.suites.files import SUITES, find_suite

SUITE = "permuted-mnist"
MakeRun = Callable[..., RecordedRun]
MakeRuns = Callable[..., list[RecordedRun]]
Counted = Callable[..., pd.DataFrame]
HOSTILE = "<script>alert('x')</script> $a_b$ #emph[x] \\{}*_`"


def report_on(runs: list[RecordedRun]) -> Report:
    return compose(select(runs, SUITE), SUITE)


def table(report: Report, caption: str) -> Table:
    found = [item for item in report.items if isinstance(item, Table) and caption in item.caption]
    assert found, f"no table '{caption}'"
    return found[0]


def column(shown: Table, heading: str) -> list[str]:
    place = [part.heading for part in shown.columns].index(heading)
    return [f"{row[place].text} {row[place].detail}".strip() for row in shown.rows]


def pdf_text(path: Path) -> str:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    done = subprocess.run([program, "-layout", str(path), "-"], capture_output=True, text=True, check=True)
    return done.stdout


# Statistics


def test_the_interval_is_students_t_over_seeds() -> None:
    values = [0.97, 0.98, 0.96, 0.975]
    got = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert got.mean == pytest.approx(0.97125)
    assert got.half_width == pytest.approx((high - low) / 2, rel=1e-12)
    # By hand: three values 1, 2, 3 have s = 1, and t(0.975, 2) = 4.302653.
    assert estimate([1, 2, 3]).half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_the_table_shows_mean_and_interval_in_per_cent(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("clnp", 0.90, 0.91, 0.92))
    results = table(report, "Results")
    assert column(results, "Average accuracy, %") == ["91.00 ± 2.48"]
    assert column(results, "Forgetting, points") == ["9.00 ± 2.48"]
    assert column(results, "Training time") == ["20.0 s"]
    assert column(table(report, "Transfer"), "Forward transfer, points") == ["+10.00 ± 0.00"]
    accuracy = results.rows[0][[part.heading for part in results.columns].index("Average accuracy, %")]
    assert accuracy.value == pytest.approx(91)
    assert accuracy.half_width == pytest.approx(100 * 0.01 * 4.302653 / math.sqrt(3), rel=1e-6)


def test_ours_and_the_published_value_stand_side_by_side(recorded_seeds: MakeRuns) -> None:
    settings = {"n_tasks": 2, "hidden_sizes": [2000, 2000], "scenario": "permuted"}
    runs = [
        *recorded_seeds("clnp", 0.98, 0.985, 0.99, suite_settings=settings),
        *recorded_seeds("si", 0.9, 0.9, 0.9, method_settings={"epochs": 10, "strength": 0.1}),
    ]
    published = table(report_on(runs), "published, ours")
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in published.rows}
    # 98.5 ± 1.24 overlaps 98.42 ± 0.04.
    assert shown["[2]"] == ["clnp", "98.42 ± 0.04", "98.50 ± 1.24", "+0.08", "inside", "n tasks 2 (there 10)"]
    assert shown["[4]"][:5] == ["si", "97.2", "90.00 ± 0.00", "−7.20", "below"]
    assert shown["[5]"][:5] == ["si", "96.94", "90.00 ± 0.00", "−6.94", "below"]
    # The strength is the same on both sides, so it is not listed.
    assert shown["[5]"][5].startswith(
        "n tasks 2 (there 10); hidden sizes 20-20 (there 2000-2000); epochs 10 (there 20)"
    )
    assert shown["[6]"] == ["ewc", "97.0", "not run", "–", "–", "–"]


@pytest.mark.parametrize("accuracies", [(0.9,), (0.9, 0.92)])
def test_below_three_seeds_there_is_no_interval_but_every_value(
    recorded_seeds: MakeRuns, accuracies: tuple[float, ...]
) -> None:
    results = table(report_on(recorded_seeds("ewc", *accuracies)), "Results")
    (shown,) = column(results, "Average accuracy, %")
    assert "±" not in shown
    assert "no interval" in shown
    assert any(", ".join(f"{100 * value:.2f}" for value in accuracies) in note for note in results.notes)


def test_methods_are_sorted_by_accuracy(recorded_seeds: MakeRuns) -> None:
    report = report_on([*recorded_seeds("ewc", 0.5), *recorded_seeds("si", 0.9), *recorded_seeds("clnp", 0.7)])
    assert column(table(report, "Results"), "Method") == ["si", "clnp", "ewc"]


def test_an_undefined_metric_is_not_available_and_never_zero(recorded_seeds: MakeRuns) -> None:
    runs = recorded_seeds("joint", 0.9, 0.9, 0.9)
    runs[1].accuracy_matrix[1, 1] = np.nan
    results = table(report_on(runs), "Transfer")
    assert column(results, "Forward transfer, points") == ["n/a"]
    assert column(results, "Backward transfer, points") != ["n/a"]


def test_costs_that_were_not_recorded_are_not_available(recorded_seeds: MakeRuns) -> None:
    runs = recorded_seeds("ewc", 0.9)
    runs[0].tasks["peak_memory_bytes"] = None
    report = report_on(runs)
    assert column(table(report, "Time and memory"), "Peak memory") == ["n/a"]
    assert column(table(report, "Time and memory"), "Training, s in all") == ["20.0"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(-0.000001), "0.00"),
        (percent(-0.0123), "−1.23"),
        (signed_percent(0.0123), "+1.23"),
        (signed_percent(0.0), "0.00"),
        (readable_bytes(0), "0 B"),
        (readable_bytes(40000), "39.1 KiB"),
        (readable_bytes(1023.9 * 1024), "1.00 MiB"),
        (readable_bytes(1.5 * 2**30), "1.50 GiB"),
    ],
)
def test_numbers_are_written_for_readers(shown: str, expected: str) -> None:
    assert shown == expected


# What may be averaged


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


def test_capacity_is_the_mean_over_seeds_by_layer_and_task(recorded_run: MakeRun, counted: Counted) -> None:
    runs = []
    for seed, free in enumerate((60, 70, 80)):
        rows = [
            (1, "layer_1", "neuron", 100, free, 100 - free, 0, 0.5, 0.25),
            (2, "layer_1", "neuron", 100, free - 50, 50, 30, 0.125, -0.5),
        ]
        runs.append(replace(recorded_run("clnp", seed), capacity=counted(rows)))
    shown = table(report_on(runs), "capacity")
    assert column(shown, "Task") == ["1", "2"]
    assert column(shown, "Used") == ["30.0", "80.0"]
    assert column(shown, "Free") == ["70.0", "20.0"]
    assert column(shown, "New") == ["30.0", "50.0"]
    assert column(shown, "Reused") == ["0.0", "30.0"]
    assert column(shown, "Threshold") == ["0.5", "0.125"]
    assert column(shown, "Margin spent, points") == ["0.25", "−0.50"]


def test_reuse_is_the_share_of_what_earlier_tasks_claimed(recorded_run: MakeRun, counted: Counted) -> None:
    # Task 1 claims 40 of 100; task 2 claims 10 more and reuses 30 of the 40; task 3 reuses 20 of the 50.
    rows = [
        (1, "layer_1", "neuron", 100, 60, 40, 0, 0.5, 0.5),
        (2, "layer_1", "neuron", 100, 50, 10, 30, 0.5, 0.5),
        (3, "layer_1", "neuron", 100, 50, 0, 20, 0.5, 1.5),
    ]
    run = replace(recorded_run("clnp"), capacity=counted(rows))
    run = replace(run, config={**run.config, "method_settings": {"margin": 2}})
    (group,) = select([run], SUITE).groups
    # Nothing was claimed before the first task, so it has no share.
    assert group.reused_shares["layer_1"].to_dict() == {2: 0.75, 3: 0.4}
    note = table(report_on([run]), "capacity").notes[0]
    assert "may spend 2 points on all layers together; spent were 0.83 on average over tasks and seeds, 1.50 at" in note


def test_reuse_and_margin_are_taken_by_run_before_any_mean(recorded_run: MakeRun, counted: Counted) -> None:
    runs = []
    # Means over three seeds that no binary fraction is equal to: 2000 less them is not exactly 0.
    for seed, (claimed, spent) in enumerate(((70, 0.1), (69, 0.1), (70, 2.0))):
        rows = [
            (1, "layer_1", "neuron", 2000, 2000 - claimed, claimed, 0, 0.5, spent),
            (2, "layer_1", "neuron", 2000, 2000 - claimed, 0, 35, 0.5, 0.1),
        ]
        run = replace(recorded_run("clnp", seed), capacity=counted(rows))
        runs.append(replace(run, config={**run.config, "method_settings": {"margin": 1}}))
    (group,) = select(runs, SUITE).groups
    assert group.reused_shares["layer_1"].to_dict() == {2: pytest.approx((35 / 70 + 35 / 69 + 35 / 70) / 3)}
    assert (
        "spent were 0.42 on average over tasks and seeds, 2.00 at most" in table(report_on(runs), "capacity").notes[0]
    )


def test_forgetting_by_task_is_the_drop_from_its_best(recorded_run: MakeRun) -> None:
    matrix = np.array([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.95, 0.8, 0.1], [0.5, 0.85, 0.9]])
    run = replace(recorded_run(), accuracy_matrix=matrix)
    (group,) = select([run], SUITE).groups
    # Task 1: from 0.95 to 0.5. Task 2: from 0.8 to 0.85, a gain.
    assert group.forgetting_per_task[0] == pytest.approx([0.45, -0.05])
    mean = group.metric("forgetting")
    assert mean is not None
    assert group.forgetting_per_task.mean() == pytest.approx(mean.mean)


def test_what_a_method_keeps_grows_by_its_slope_and_testing_has_its_share(recorded_run: MakeRun) -> None:
    run = recorded_run("ewc")
    run.tasks["extra_state_bytes"] = [1024, 3072]
    run.tasks["eval_seconds"] = [1.0, 4.0]
    costs = table(report_on([run]), "Time and memory")
    assert column(costs, "Extra state") == ["3.00 KiB"]
    assert column(costs, "Extra state per task") == ["2.00 KiB"]
    # 5 seconds of 25.
    assert column(costs, "Testing, % of time") == ["20.0"]


def test_fronts_are_marked_apart_for_the_methods_told_the_task(recorded_run: MakeRun) -> None:
    runs = []
    for method, accuracy, seconds, told in (
        ("clnp", 0.90, 30.0, True),
        ("psp", 0.80, 40.0, True),
        ("ewc", 0.70, 20.0, False),
        ("naive", 0.50, 10.0, False),
        ("si", 0.60, 25.0, False),
    ):
        run = recorded_run(method, 0, accuracy, task_known_at_test=told)
        run.tasks["train_seconds"] = seconds
        run.tasks["extra_state_bytes"] = 100
        runs.append(run)
    costs = table(report_on(runs), "Time and memory")
    fronts = dict(zip(column(costs, "Method"), column(costs, "On the front of"), strict=True))
    # With equal extra state, the best of each kind alone is on that front.
    assert fronts == {"clnp": "time, extra state", "psp": "–", "ewc": "time, extra state", "naive": "time", "si": "–"}


def test_every_command_line_stands_once(recorded_seeds: MakeRuns) -> None:
    report = report_on([*recorded_seeds("ewc", 0.9, 0.9, command="one"), *recorded_seeds("si", 0.8, command="two")])
    assert column(table(report, "Runs"), "Command") == ["[1]", "[1]", "[2]"]
    assert column(table(report, "Command lines"), "Command") == ["one", "two"]


# Figures


def test_a_methods_look_depends_on_its_name_alone(recorded_run: MakeRun) -> None:
    def groups(*names: str) -> list[Group]:
        return list(select([recorded_run(name) for name in names], SUITE).groups)

    for method in ("clnp", "somebody-elses"):
        colour = look_of(method).colour.lower()
        for others in ((), ("ewc", "si"), ("aaa", "zzz", "joint")):
            assert colour in average_accuracy(groups(method, *others), "x").lower()


@pytest.mark.parametrize("values", [(0.3, 0.4, 0.5), (0.9, 0.9, 0.99)])
def test_every_interval_lies_within_the_axes(
    recorded_seeds: MakeRuns, monkeypatch: pytest.MonkeyPatch, values: tuple[float, ...]
) -> None:
    groups = select([*recorded_seeds("ewc", *values), *recorded_seeds("si", 0.4, 0.4, 0.41)], SUITE).groups
    drawn = []
    priced = accuracy_figures._priced

    def noting(axes: Any, prices: Any) -> Any:
        drawn.append(axes)
        return priced(axes, prices)

    monkeypatch.setattr(accuracy_figures, "_priced", noting)
    figures.average_accuracy(groups, "name")
    low, high = drawn[0].get_ylim()
    for group in groups:
        found = group.metric("average_accuracy")
        assert found is not None
        assert found.half_width is not None
        assert low < 100 * (found.mean - found.half_width) < 100 * (found.mean + found.half_width) < high


def test_the_close_up_is_on_the_best_of_those_that_are_judged(
    recorded_seeds: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        *recorded_seeds("joint:multitask", 0.99, 0.99, 0.99),
        # Beyond reach of a close-up on joint training.
        *recorded_seeds("ewc", 0.85, 0.86, 0.87),
        *recorded_seeds("si", 0.84, 0.83, 0.84),
        # Its interval reaches into the close-up, it does not.
        *recorded_seeds("naive", 0.60, 0.70, 0.80),
    ]
    for run in runs:
        if run.method == "naive":
            run.accuracy_matrix[1:, 0] = 0.1
    drawn = {}
    priced = accuracy_figures._priced

    def noting(axes: Any, prices: Any) -> Any:
        drawn["limits"] = axes.get_ylim()
        drawn["methods"] = [group.method for group, _ in prices]
        return priced(axes, prices)

    monkeypatch.setattr(accuracy_figures, "_priced", noting)
    figures.average_accuracy(select(runs, SUITE).groups, "name")
    assert drawn["limits"][0] > 60
    assert drawn["methods"] == ["joint:multitask", "ewc", "si"]
    # Nor is it on runs that had it easier than most.
    easier = {"modified": True, "overrides": {"n_tasks": 2}, "suite_settings": {"n_tasks": 2}}
    modified = [replace(run, config={**run.config, "modified": True, "overrides": {"epochs": 1}}) for run in runs]
    figures.average_accuracy(select([*modified, *recorded_seeds("mas", 0.97, **easier)], SUITE).groups, "name")
    assert drawn["methods"] == ["joint:multitask", "ewc", "si", "mas"]


def test_the_known_methods_can_be_told_apart_in_colour_and_in_grey() -> None:
    names = [*METHODS, *(name for suite in SUITES.values() for name in suite.variants)]
    names = list(dict.fromkeys(names))
    looks = [look_of(name) for name in names]
    assert {"clnp:best", "psp:rotation", "mas"} <= set(names)
    assert len({look.colour for look in looks}) == len(names)
    # Without lines, as in a scatter plot, the marker alone must do.
    assert len({look.marker for look in looks}) == len(names)


def test_further_groups_of_a_method_are_told_apart_by_the_filling_of_their_markers(recorded_run: MakeRun) -> None:
    runs = [recorded_run("clnp", n, 0.9, run_id=f"{n}", method_settings={"margin": n}) for n in range(4)]
    groups = select(runs, SUITE).groups
    assert len(groups) == 4
    drawn = {(line["fillstyle"], line["markerfacecolor"]) for line in map(line_of, groups)}
    assert len(drawn) == 4
    # A whole figure of them can be drawn.
    assert figures.average_accuracy(groups, "several").count("<svg") == 1


# The files


class Reader(HTMLParser):
    """Collects what an HTML file would load, its ids, its scripts and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "svg":
            self.labels.append(dict(attrs).get("aria-label"))
            assert dict(attrs).get("role") == "img"

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"]:
            self.text += data


@pytest.fixture(scope="module")
def hostile_files(
    recorded_run: MakeRun, recorded_seeds: MakeRuns, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    runs = [
        *recorded_seeds("ewc", 0.9, 0.9, 0.9),
        recorded_run(HOSTILE, 0, 0.8, command=f'clbench run --method "{HOSTILE}"', title=HOSTILE),
        replace(recorded_run("psp", run_id="failed1"), status="failed", reason=HOSTILE),
        recorded_run("ewc", 0, 0.3, modified=True, overrides={HOSTILE: HOSTILE}),
    ]
    return write_report(runs, SUITE, tmp_path_factory.mktemp("hostile"))


def test_hostile_names_stand_literally_in_the_html(hostile_files: list[Path]) -> None:
    reader = Reader()
    reader.feed(hostile_files[0].read_text(encoding="utf-8"))
    # One script, ours, and the page lets no other run.
    assert reader.tags.count("script") == 1
    assert reader.text.count(HOSTILE) >= 5


def test_hostile_names_stand_literally_in_the_pdf(hostile_files: list[Path]) -> None:
    text = re.sub(r"\s+", "", pdf_text(hostile_files[1]))
    assert re.sub(r"\s+", "", HOSTILE) in text


def test_the_html_needs_nothing_beside_itself(hostile_files: list[Path]) -> None:
    content = hostile_files[0].read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(content)
    assert reader.references
    assert all(reference.startswith("#") for reference in reader.references)
    assert {reference[1:] for reference in reader.references} <= set(reader.ids)
    assert not re.search(r"@import|url\((?!#)|https?://", content)
    assert not {"link", "img", "image", "iframe"} & set(reader.tags)
    script = re.search(r"<script>(.*?)</script>", content, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in content


def test_ids_are_unique_and_every_drawing_is_described(hostile_files: list[Path]) -> None:
    reader = Reader()
    reader.feed(hostile_files[0].read_text(encoding="utf-8"))
    assert len(reader.ids) == len(set(reader.ids))
    assert len(reader.labels) >= 4
    assert all(label and len(label) > 40 for label in reader.labels)


def test_the_pdf_holds_text_page_numbers_and_the_suite_as_running_head(
    recorded_seeds: MakeRuns, tmp_path: Path
) -> None:
    (path,) = write_report(recorded_seeds("clnp", 0.90, 0.91, 0.92), SUITE, tmp_path, formats=("pdf",))
    text = pdf_text(path)
    pages = text.split("\f")[:-1]
    assert all(page.lstrip().startswith(SUITE) for page in pages)
    for number, page in enumerate(pages, start=1):
        assert re.search(rf"\b{number}\s*/\s*{len(pages)}\s*$", page)
    assert "91.00 ± 2.48" in text
    assert "98.42 ± 0.04" in text


def test_a_letter_that_no_font_has_does_not_prevent_the_pdf(recorded_run: MakeRun, tmp_path: Path) -> None:
    (path,) = write_report([recorded_run("\U00010383\ue123")], SUITE, tmp_path, formats=("pdf",))
    assert path.read_bytes().startswith(b"%PDF")


def test_the_same_runs_in_any_order_give_the_same_bytes(recorded_seeds: MakeRuns, tmp_path: Path) -> None:
    runs = [
        *recorded_seeds("clnp", 0.9, 0.91, 0.92),
        *recorded_seeds("ewc", 0.8, 0.7),
        *recorded_seeds("si", 0.5, modified=True),
    ]
    first = write_report(runs, SUITE, tmp_path / "a")
    write_report(runs[::-1], SUITE, tmp_path / "b")
    assert [path.name for path in first] == [f"{SUITE}.html", f"{SUITE}.pdf", f"{SUITE}.json", SUITE]
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert len(one) > 30
    assert one == other


def test_the_report_is_dated_by_its_newest_run(recorded_seeds: MakeRuns) -> None:
    report = report_on(recorded_seeds("ewc", 0.9, 0.9, 0.9))
    assert report.dated.isoformat() == "2025-01-01T02:30:00+00:00"


# Refusals


def test_without_a_finished_run_it_says_what_to_do(recorded_run: MakeRun, tmp_path: Path) -> None:
    stopped = replace(recorded_run("ewc"), status="stopped", reason="interrupted")
    with pytest.raises(RecordError, match=f"clbench run --suite {SUITE}"):
        write_report([stopped], SUITE, tmp_path)
    with pytest.raises(RecordError, match="no finished run"):
        write_report([], SUITE, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(recorded_run: MakeRun, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RecordError, match=r"file/permuted-mnist\.html cannot be written"):
        write_report([recorded_run()], SUITE, blocked, formats=("html",))


def test_an_unknown_format_is_refused_with_the_known_ones(recorded_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="expected one of html, json, parts, pdf"):
        write_report([recorded_run()], SUITE, tmp_path, formats=("docx",))


def test_a_failed_replacement_leaves_the_old_file_and_no_rest(
    recorded_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (path,) = write_report([recorded_run()], SUITE, tmp_path, formats=("html",))
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(RecordError, match="No space left"):
        write_report([recorded_run("ewc")], SUITE, tmp_path, formats=("html",))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_suites_name_cannot_lead_out_of_the_folder(recorded_run: MakeRun, tmp_path: Path) -> None:
    name = "../../up"
    (path,) = write_report([recorded_run(suite=name)], name, tmp_path, formats=("html",))
    assert path.parent == tmp_path


def test_reporting_imports_no_training_library() -> None:
    script = (
        "import sys\n"
        "import clbench.reports, clbench.reports.compose, clbench.reports.formats.html, clbench.reports.formats.pdf\n"
        "print([name for name in ('torch', 'mlflow', 'avalanche') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
