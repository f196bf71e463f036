"""Goals judged by the numbers: accuracy, forgetting, free units, capacity, margins, other methods."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clbench.records.format import ALL_GROUPS, pruning_table
from clbench.records.reading import RecordedRun
from clbench.reports.verify import Verdict, verification_table, verify
from clbench.suites.files import find_suite
from clbench.suites.published import Goal

PERMUTED_MNIST = runpy.run_path(str(Path(__file__).with_name("permuted_mnist.py")))
SUITE, PLENTY, capacity_of = (PERMUTED_MNIST[name] for name in ("SUITE", "PLENTY", "capacity_of"))

MakeRun = Callable[..., RecordedRun]


@pytest.mark.parametrize(
    ("method", "accuracies"),
    [
        ("single-task", (0.9845,)),
        ("psp", (0.976, 0.976, 0.976)),
        # The mean counts, not each seed.
        ("psp", (0.970, 0.976, 0.983)),
        # Only a goal that says so asks for more than the accuracy.
        ("ewc", (0.9701,)),
        ("si", (0.97, 0.97)),
    ],
)
def test_a_goal_is_reached_by_the_mean_over_the_seeds(
    judge: Callable[..., Verdict], method: str, accuracies: tuple[float, ...]
) -> None:
    verdict = judge(method, *accuracies, forgetting=0.01)
    assert verdict.goal is not None
    assert verdict.misses == ()


@pytest.mark.parametrize(
    ("method", "accuracies", "said"),
    [
        ("single-task", (0.98449,), "average accuracy 98.449 % is below 98.45 %"),
        ("psp", (0.99, 0.97, 0.96), "average accuracy 97.333 % is below 97.60 %"),
        ("ewc", (0.96,), "average accuracy 96.000 % is below 97.00 %"),
    ],
)
def test_a_goal_that_the_mean_lies_below_is_missed_and_both_are_told(
    judge: Callable[..., Verdict], method: str, accuracies: tuple[float, ...], said: str
) -> None:
    assert judge(method, *accuracies).misses == (said,)


def test_a_method_without_a_goal_misses_none(judge: Callable[..., Verdict]) -> None:
    for method in ("naive", "joint", "avalanche-ewc"):
        verdict = judge(method, 0.2, forgetting=0.5)
        assert (verdict.goal, verdict.misses) == (None, ())


def test_a_goal_of_no_forgetting_is_missed_by_one_image_in_one_run(own_run: MakeRun) -> None:
    runs = [own_run("clnp", seed, 0.985, free=PLENTY) for seed in range(3)]
    assert verify(runs, SUITE).verdicts[0].misses == ()
    runs[1] = own_run("clnp", 1, 0.985, forgetting=1e-4, free=PLENTY)
    said = "the accuracy on task 1 changed after it was learned (seed 1)"
    assert verify(runs, SUITE).verdicts[0].misses == (said,)
    # Nor does a gain count for nothing.
    runs[1] = own_run("clnp", 1, 0.985, forgetting=-1e-4, free=PLENTY)
    assert verify(runs, SUITE).verdicts[0].misses == (said,)


def test_what_one_task_gains_does_not_make_up_for_what_another_loses(own_run: MakeRun) -> None:
    run = own_run("clnp", 0, 0.985, free=PLENTY)
    kept = np.array([[0.1] * 3, [0.98, 0.1, 0.1], [0.98, 0.99, 0.1], [0.98, 0.99, 0.985]])
    assert verify([replace(run, accuracy_matrix=kept)], SUITE).verdicts[0].misses == ()
    exchanged = kept.copy()
    exchanged[3, :2] += [-0.01, 0.01]
    assert verify([replace(run, accuracy_matrix=exchanged)], SUITE).verdicts[0].misses == (
        "the accuracy on task 1 changed after it was learned (seed 0)",
    )


@pytest.mark.parametrize(
    ("free", "misses"),
    [
        ((360, 800), ()),
        ((350, 800), ("17.5 % of layer 1 is free, below 18.0 %",)),
        ((360, 790), ("39.5 % of layer 2 is free, below 40.0 %",)),
        (
            (0, 600),
            ("0.0 % of layer 1 is free, below 18.0 %", "30.0 % of layer 2 is free, below 40.0 %"),
        ),
        ((600,), ("no free neurons are recorded for layer 2",)),
        ((), ("no free neurons are recorded for layer 1", "no free neurons are recorded for layer 2")),
    ],
)
def test_a_goal_for_free_neurons_is_held_against_each_layer_after_the_last_task(
    judge: Callable[..., Verdict], free: tuple[int, ...], misses: tuple[str, ...]
) -> None:
    assert judge("clnp", 0.985, free=free).misses == misses


@pytest.mark.parametrize("free", [(359, 800), (360, 799)])
def test_a_single_neuron_too_few_misses_the_goal(judge: Callable[..., Verdict], free: tuple[int, ...]) -> None:
    assert len(judge("clnp", 0.985, free=free).misses) == 1


def test_free_neurons_count_as_the_mean_over_the_seeds(own_run: MakeRun) -> None:
    runs = [own_run("clnp", seed, 0.985, free=(free, 1000)) for seed, free in enumerate((160, 360, 560))]
    assert verify(runs, SUITE).verdicts[0].misses == ()
    runs[2] = own_run("clnp", 2, 0.985, free=(550, 1000))
    assert len(verify(runs, SUITE).verdicts[0].misses) == 1


def test_everything_that_is_missed_is_told(judge: Callable[..., Verdict]) -> None:
    misses = judge("clnp", 0.9, forgetting=0.01, free=(600, 100)).misses
    assert len(misses) == 3
    assert [
        words
        for words in ("average accuracy", "after it was learned", "layer 2")
        if any(words in miss for miss in misses)
    ] == [
        "average accuracy",
        "after it was learned",
        "layer 2",
    ]


def verdict_of(runs: list[RecordedRun], **goal: Any) -> Verdict:
    """What CLNP's runs show of a goal of 90 % with these changes."""
    wanted = Goal(method="clnp", **{"average_accuracy": Decimal("0.90"), **goal})
    suite = find_suite(SUITE).model_copy(update={"goals": (wanted,)})
    return next(verdict for verdict in verify(runs, SUITE, suite).verdicts if verdict.method == "clnp")


def misses_of(runs: list[RecordedRun], **goal: Any) -> str:
    """What CLNP misses of it."""
    return "; ".join(verdict_of(runs, **goal).misses)


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [(0.8899, "88.990 % is below 89.00 %"), (0.8901, ""), (0.9099, ""), (0.9101, "91.010 % is above 91.00 %")],
)
def test_a_goal_with_a_bound_on_either_side_is_missed_outside_of_it(
    own_run: MakeRun, accuracy: float, said: str
) -> None:
    found = misses_of([own_run("clnp", 0, accuracy)], within=Decimal("0.01"))
    assert (said in found) if said else found == ""


@pytest.mark.parametrize(
    ("used", "misses"),
    [
        (0.77, ""),
        (0.75, ""),
        (0.74, "CAP is 74.0 %, more than 2.0 points from 77.0 %"),
        (0.80, "CAP is 80.0 %, more than 2.0 points from 77.0 %"),
        (None, "its CAP is not recorded"),
    ],
)
def test_a_goal_about_capacity_is_missed_on_either_side(own_run: MakeRun, used: float | None, misses: str) -> None:
    run = own_run("clnp", 0, 0.95)
    if used is not None:
        rows = capacity_of(10, 20).assign(weights_used=[0, 0, used - 0.05, used + 0.05], weights=100)
        run = replace(run, capacity=rows)
    assert misses_of([run], capacity_used=Decimal("0.77")) == misses
    below = "" if used is None or used < 0.77 else f"CAP is {100 * used:.1f} %, not below 77.0 %"
    assert misses_of([run], capacity_below=Decimal("0.77")) == (misses if used is None else below)


def test_a_goal_without_a_number_is_held_against_the_other_methods_alone(own_run: MakeRun, capsys: Any) -> None:
    runs = [own_run(name, seed, right) for name, right in (("clnp", 0.12), ("si", 0.11)) for seed in range(3)]
    assert misses_of(runs, average_accuracy=None, above=("si",)) == ""
    assert "is below that of si" in misses_of(
        [*runs[:3], own_run("si", 3, 0.13)], average_accuracy=None, not_below=("si",)
    )
    goal = Goal(method="clnp", above=("si",), not_below=("naive",))
    suite = find_suite(SUITE).model_copy(update={"goals": (goal,)})
    Console(width=200).print(verification_table(verify(runs, SUITE, suite)))
    assert "> si, >= naive" in capsys.readouterr().out
    with_a_number = goal.model_copy(update={"average_accuracy": Decimal("0.1")})
    suite = suite.model_copy(update={"goals": (with_a_number,)})
    Console(width=200).print(verification_table(verify(runs, SUITE, suite)))
    said = capsys.readouterr().out
    assert "10, and more" in said
    assert "the goal of clnp is also > si, >= naive" in said


def test_a_goal_beside_other_methods_is_held_against_what_is_recorded_of_them(own_run: MakeRun) -> None:
    ours = [own_run("clnp", seed, 0.92 + 0.01 * (seed - 1)) for seed in range(3)]  # 92 +- 2.484 %
    beside = {"above": ("si",), "not_below": ("single-task",)}
    theirs = [own_run("si", seed, 0.89) for seed in range(3)] + [own_run("single-task", 0, 0.9199)]
    assert "not above that of si, 89.000 %, by more than" not in misses_of(ours + theirs, **beside)
    assert misses_of(ours + theirs, **beside) == ""
    closer = [own_run("si", seed, 0.896) for seed in range(3)] + [own_run("single-task", 0, 0.9201)]
    assert misses_of(ours + closer, **beside) == (
        "average accuracy 92.000 % is not above that of si, 89.600 %, by more than both intervals, 2.484 points; "
        "average accuracy 92.000 % is below that of single-task, 92.010 %"
    )
    in_bfloat16 = [own_run("si", seed, 0.896, precision="bfloat16", run_id=f"b{seed}") for seed in range(3)]
    assert "not above that of si" in misses_of(ours + in_bfloat16 + theirs, **beside)


def test_a_goal_beside_methods_that_are_not_recorded_waits_for_them(own_run: MakeRun) -> None:
    ours = [own_run("clnp", seed, 0.92) for seed in range(3)]
    beside = {"above": ("si",), "not_below": ("single-task",)}

    def said(*theirs: RecordedRun) -> tuple[str, ...]:
        verdict = verdict_of([*ours, *theirs], **beside)
        assert not verdict.misses
        assert verdict.is_complete == (verdict.goal_reached == "yes") == (not verdict.waits)
        return verdict.waits

    one = own_run("single-task", 0, 0.9)
    assert said() == ("si", "single-task")
    assert said(own_run("si", 0, 0.8), one) == ("si (1 of 3 seeds)",)
    assert said(*(own_run("si", seed, 0.8) for seed in range(3)), one) == ()


def test_a_goal_about_the_margin_looks_at_test_images_from_before_pruning_to_the_end(own_run: MakeRun) -> None:
    def run(seed: int, *cost: float) -> RecordedRun:
        """What each task lost, in margins."""
        made = own_run("clnp", seed, 0.9)
        margin = made.config["method_settings"]["margin"] / 100
        rows = [
            {"task": task, "group": ALL_GROUPS, "kept": 9, "validation_accuracy": 0.9, "validation_images": 10}
            | {"changed": 0, "chosen": 0, "test_accuracy": 0.9 + each * margin}
            for task, each in enumerate(cost, start=1)
        ]
        return replace(made, pruning=pruning_table(rows))

    def misses(*runs: RecordedRun) -> str:
        return misses_of(list(runs), within_margin=True)

    assert misses(run(0, 0.9, 1.0)) == ""
    assert "points on test images, above the margin of" in misses(run(0, 1.1))
    # What one task loses another makes up for. The interval is over seeds, not over tasks.
    assert misses(run(0, 0.4, 1.5)) == ""
    assert "above the margin of" in misses(run(0, 0.5, 1.0, 2.5))
    assert misses(*(run(seed, each, each) for seed, each in enumerate((0.5, 1.0, 2.5)))) == ""
    assert "above the margin of" in misses(*(run(seed, each, each) for seed, each in enumerate((1.9, 2.0, 2.1))))
    assert "is not recorded" in misses(own_run("clnp", 0, 0.9))


def test_a_verification_holds_if_no_goal_is_missed(own_run: MakeRun) -> None:
    good = [own_run("clnp", accuracy=0.985, free=PLENTY), own_run("naive", accuracy=0.3), own_run("psp", accuracy=0.98)]
    assert verify(good, SUITE).holds
    assert not verify([*good, own_run("si", accuracy=0.9)], SUITE).holds
