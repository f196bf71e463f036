"""Who is best by test: every method against the best of its kind, on shared seeds, corrected for their number.

Methods that are told the task at test solve an easier problem, so the two kinds are judged apart; so are runs of other
tasks or another network, which modified runs may have. Joint training and a network per task bound what continual
learning can reach; they are shown and not judged.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.statistics import (
    SEEDS_FOR_INTERVAL,
    SIGNIFICANCE,
    PairedComparison,
    bootstrap_interval,
    compare_paired,
    holm,
)
from clbench.reports.formatting import percent, plain, signed_percent
from clbench.reports.model import Cell, Column, Section, Table
from clbench.suites.settings import base_name

UPPER_BOUNDS = ("joint", "single-task")

# How a method compares with the others of its kind; the report's notes say what each means.
BEST, BEST_TESTED, BEST_SO_FAR = "best of its kind", "best of all tested", "best tested, not highest"
NOT_TOLD_APART, WORSE, NOT_TESTED = "not told apart", "worse than the best", "not tested"
UPPER_BOUND, ALONE = "upper bound", "nothing to compare"

BOOTSTRAP_NOTE = (
    "The bootstrap's intervals (BCa) assume no normal distribution, but with three to five seeds are narrower than "
    "95 % warrants."
)


@dataclass(frozen=True)
class Judgement:
    """The best group of a kind against another one of it.

    Attributes:
        best, other: the groups.
        comparison: best less other; None where they share no seed.
        corrected_p: Holm's, over the comparisons of this kind; None where there was no test.
    """

    best: Group
    other: Group
    comparison: PairedComparison | None
    corrected_p: float | None

    @property
    def verdict(self) -> str:
        """How the other one compares with the best, or why there was no test."""
        if self.comparison is None:
            return "no shared seed"
        if self.corrected_p is None:
            return "too few shared seeds"
        return WORSE if self.corrected_p < SIGNIFICANCE else NOT_TOLD_APART


def is_upper_bound(method: str) -> bool:
    """Whether a method, or what it is a variant of, sees all tasks at once or has a network for each."""
    return base_name(method) in UPPER_BOUNDS


def kinds(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups that may be compared with each other, those that are told the task first.

    Two groups may be compared if they had the same tasks and network, and both or neither are told the task at test
    time. A group whose record does not say so is left out. So are upper bounds.
    """
    found: dict[tuple[bool, str], list[Group]] = {}
    for group in groups:
        if not is_upper_bound(group.method) and group.is_told_the_task is not None:
            found.setdefault((not group.is_told_the_task, group.circumstances), []).append(group)
    return [alike for _, alike in sorted(found.items(), key=lambda item: item[0][0])]


def judge(groups: Sequence[Group]) -> list[Judgement]:
    """Every group against the best of its kind by average accuracy.

    The best is one of those with seeds enough for a test, where there are any.
    """
    judgements = []
    for alike in kinds(groups):
        if len(alike) < 2:
            continue
        # One lucky seed should not keep all others from being tested.
        candidates = [group for group in alike if len(group.runs) >= SEEDS_FOR_INTERVAL] or alike
        # `select` sorts by accuracy, but not across the suite's own and modified groups.
        best = max(candidates, key=lambda group: group.average_accuracy)
        accuracy = best.by_seed("average_accuracy")
        pairs = [
            (other, compare_paired(accuracy, other.by_seed("average_accuracy"))) for other in alike if other is not best
        ]
        tested = [found.p for _, found in pairs if found is not None and found.p is not None]
        corrected = iter(holm(tested))
        judgements += [
            Judgement(best, other, found, next(corrected) if found is not None and found.p is not None else None)
            for other, found in pairs
        ]
    return judgements


def standings(groups: Sequence[Group], judgements: Sequence[Judgement]) -> dict[str, str]:
    """By label, how each compares with the others of its kind: one of the words above."""
    found = {group.label: UPPER_BOUND if is_upper_bound(group.method) else ALONE for group in groups}
    against: dict[str, set[str]] = {}
    # Those of which a method that has too few seeds for a test, so far, stands higher.
    surpassed: set[str] = set()
    for judgement in judgements:
        verdict = NOT_TESTED if judgement.corrected_p is None else judgement.verdict
        found[judgement.other.label] = verdict
        against.setdefault(judgement.best.label, set()).add(verdict)
        if verdict == NOT_TESTED and judgement.other.average_accuracy > judgement.best.average_accuracy:
            surpassed.add(judgement.best.label)
    for best, verdicts in against.items():
        if NOT_TOLD_APART in verdicts:
            found[best] = NOT_TOLD_APART
        elif NOT_TESTED in verdicts:
            # Those that have too few seeds leave open whether it is the best, but not what was tested.
            leads = BEST_SO_FAR if best in surpassed else BEST_TESTED
            found[best] = leads if WORSE in verdicts else NOT_TESTED
        else:
            found[best] = BEST
    return found


def statistics_section(groups: Sequence[Group], judgements: Sequence[Judgement], mark: str) -> Section:
    """Intervals of each group by two methods, and the paired comparisons with the best."""
    items = [_intervals(groups, mark)]
    if judgements:
        items.append(_comparisons(judgements, mark))
    return Section("statistics", "Statistics", (), tuple(items))


def _intervals(groups: Sequence[Group], mark: str) -> Table:
    def rows() -> Iterator[tuple[Cell, ...]]:
        for group in groups:
            accuracy = group.metric("average_accuracy")
            assert accuracy is not None  # a finished run has its last row
            student = bootstrap = Cell(f"fewer than {SEEDS_FOR_INTERVAL} seeds")
            if accuracy.half_width is not None:
                student = _interval(accuracy.mean - accuracy.half_width, accuracy.mean + accuracy.half_width)
                found = bootstrap_interval(accuracy.values)
                bootstrap = _interval(*found) if found else bootstrap
            yield (
                Cell(group.label),
                Cell(str(len(accuracy.values)), "", float(len(accuracy.values))),
                Cell(percent(accuracy.mean), "", 100 * accuracy.mean),
                student,
                bootstrap,
                Cell(", ".join(map(percent, accuracy.values))),
            )

    return Table(
        "intervals",
        f"{mark}Average accuracy after the last task, in %: 95 % intervals of the mean, and every seed",
        (
            Column("Method", "text", 1.6),
            Column("Seeds", width=0.6),
            Column("Mean"),
            Column("Student's t", width=1.5),
            Column("BCa bootstrap", width=1.5),
            Column("By seed", "text", 2.6),
        ),
        tuple(rows()),
        (f"The intervals elsewhere in this report are Student's. {BOOTSTRAP_NOTE}",),
    )


def _comparisons(judgements: Sequence[Judgement], mark: str) -> Table:
    return Table(
        "comparisons",
        f"{mark}The best method of each kind against the others: average accuracy on shared seeds",
        (
            Column("Told the task", "text", 0.7),
            Column("Best", "text", 1.3),
            Column("Other", "text", 1.3),
            Column("Shared seeds", width=0.8),
            Column("Difference, points", width=1.2),
            Column("BCa interval", width=1.4),
            Column("Hedges' g", width=0.9),
            Column("p", width=0.8),
            Column("p, Holm", width=0.8),
            Column("The other", "text", 1.1),
        ),
        tuple(
            (
                Cell(plain(item.best.is_told_the_task)),
                Cell(item.best.label),
                Cell(item.other.label),
                *comparison_cells(item.comparison, item.corrected_p),
                Cell(item.verdict),
            )
            for item in judgements
        ),
        (
            "Difference: mean over the shared seeds, with Student's 95 % interval; p: paired t test, two-sided, "
            "corrected by Holm for the comparisons of the same kind; Hedges' g: the mean difference over the standard "
            f"deviation of the differences, corrected for few seeds. Not told apart: a corrected p of {SIGNIFICANCE} "
            f"or more, which does not show that the two are equal. {BOOTSTRAP_NOTE}",
            "The best was found in the same runs, so its lead is somewhat overstated.",
        ),
    )


def comparison_cells(found: PairedComparison | None, corrected_p: float | None) -> tuple[Cell, ...]:
    """Shared seeds, difference in points, BCa interval, Hedges' g, p and corrected p."""
    if found is None:
        return (Cell("0", "", 0.0), *[Cell("n/a")] * 5)
    difference = found.difference
    return (
        Cell(str(len(found.seeds)), "", float(len(found.seeds))),
        Cell(
            signed_percent(difference.mean),
            "no interval" if difference.half_width is None else f"± {percent(difference.half_width)}",
            100 * difference.mean,
            None if difference.half_width is None else 100 * difference.half_width,
        ),
        _interval(*found.bootstrap) if found.bootstrap else Cell("n/a"),
        _effect(found.effect),
        p_cell(found.p),
        p_cell(corrected_p),
    )


def p_cell(p: float | None) -> Cell:
    """A p value to three decimals, `< 0.001` below them."""
    if p is None:
        return Cell("n/a")
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", "", p)


def _effect(effect: float | None) -> Cell:
    if effect is None:
        return Cell("n/a")
    if math.isinf(effect):
        return Cell("∞" if effect > 0 else "−∞")
    return Cell(f"{effect:.2f}".replace("-", "−"), "", effect)


def _interval(low: float, high: float) -> Cell:
    return Cell(f"{percent(low)} to {percent(high)}", "", 50 * (low + high), bounds=(100 * low, 100 * high))
