"""The numbers of a report: means, intervals, shares and costs as computed by hand."""

import math
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clbench.records.reading import RecordedRun
from clbench.reports.analysis.groups import select
from clbench.reports.analysis.statistics import estimate
from clbench.reports.formatting import percent, readable_bytes, signed_percent

REPORT_TABLES = runpy.run_path(str(Path(__file__).with_name("report_tables.py")))
SUITE, report_on, table, column = (REPORT_TABLES[name] for name in ("SUITE", "report_on", "table", "column"))

MakeRun = Callable[..., RecordedRun]
MakeRuns = Callable[..., list[RecordedRun]]
Counted = Callable[..., pd.DataFrame]


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


# Units, forgetting and costs


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


def test_what_an_optimiser_keeps_counts_as_state_everywhere(recorded_run: MakeRun) -> None:
    ours, theirs = recorded_run("ewc"), recorded_run("classp")
    for run, of_method, of_optimizer in ((ours, 2048, 0), (theirs, 0, 1024)):
        run.tasks["extra_state_bytes"], run.tasks["optimizer_state_bytes"] = of_method, of_optimizer
    report = report_on([ours, theirs])
    costs = table(report, "Time and memory")
    state = dict(zip(column(costs, "Method"), column(costs, "Extra state"), strict=True))
    assert state == {"ewc": "2.00 KiB", "classp": "1.00 KiB"}
    assert sorted(column(costs, "Of it by the optimiser")) == ["0 B", "1.00 KiB"]
    ours.tasks["optimizer_state_bytes"] = float("nan")
    assert column(table(report_on([ours]), "Time and memory"), "Extra state") == ["2.00 KiB"]


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
