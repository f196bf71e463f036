"""Several suites at once: every method's accuracy in each, average ranks, and what of that a test confirms.

A suite counts once, whatever its seeds: seeds of one suite are no independent data sets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from clbench.errors import RecordError
from clbench.records.reading import RecordedRun
from clbench.reports import figures
from clbench.reports.analysis.groups import Group, select
from clbench.reports.analysis.statistics import FEWEST_METHODS, FEWEST_SUITES, SIGNIFICANCE, Ranks, ranks_over_suites
from clbench.reports.cells import accuracy_cell, points_cell
from clbench.reports.compose import newest_end
from clbench.reports.formatting import counted, percent, plain
from clbench.reports.model import Cell, Column, Figure, Report, Section, Table
from clbench.reports.sections.bibliography import bibliography
from clbench.reports.sections.inference import UPPER_BOUNDS, is_upper_bound, p_cell
from clbench.reports.sections.provenance import provenance, threads_differ


def compose_across(runs: Sequence[RecordedRun], suites: Sequence[str]) -> Report:
    """The report over suites, from their own (unmodified, finished) runs.

    Raises:
        RecordError: if a suite has no such run.
    """
    by_suite: dict[str, dict[str, Group]] = {}
    for suite in suites:
        own = [group for group in select(runs, suite).groups if not group.is_modified]
        if not own:
            raise RecordError(
                f"no finished run of the suite '{suite}' in its own setting was found; run it with: clbench run "
                f"--suite {suite}"
            )
        # Of a method's groups the one with most seeds; of several with as many, the one recorded first.
        by_suite[suite] = {}
        for group in sorted(own, key=lambda group: (-len(group.runs), min(run.started for run in group.runs))):
            by_suite[suite].setdefault(group.method, group)
    groups = [group for found in by_suite.values() for group in found.values()]
    in_all = set.intersection(*(set(found) for found in by_suite.values()))
    everywhere = {method for method in in_all if not is_upper_bound(method)}
    ranks = _ranks(by_suite, sorted(everywhere))
    return Report(
        suite=", ".join(suites),
        title=f"Methods over {counted(len(suites), 'suite')}",
        dated=newest_end([run for group in groups for run in group.runs]),
        summary=(
            f"Average accuracy after the last task in {', '.join(suites)}, each in its own setting.",
            f"{counted(len(everywhere), 'method')} {'has' if len(everywhere) == 1 else 'have'} runs in every suite: "
            f"{', '.join(sorted(everywhere)) or 'none'}. Upper bounds ({' and '.join(UPPER_BOUNDS)}) are not ranked.",
            *_passed_over(runs, suites, by_suite),
        ),
        headline=(_accuracies(by_suite), _forgetting(by_suite)),
        sections=(
            Section("ranks", "Ranks", () if ranks else (_NOTHING_TO_RANK,), tuple(ranks)),
            Section("provenance", "Provenance", (), provenance(_by_suite_label(by_suite))),
        ),
        bibliography=bibliography(groups),
    )


_NOTHING_TO_RANK = (
    "Nothing is ranked: it takes two methods of a kind (told the task at test or not) that have runs in every suite."
)


def _passed_over(
    runs: Sequence[RecordedRun], suites: Sequence[str], by_suite: Mapping[str, Mapping[str, Group]]
) -> Iterator[str]:
    """Which of a method's groups stands for it, how many runs enter nothing here, and where threads differ."""
    for suite in suites:
        chosen = by_suite[suite]
        several = [group.label for method, group in chosen.items() if group.label != method]
        if several:
            yield f"{suite}: of a method with several groups, the one with most seeds is shown: {', '.join(several)}."
        count = sum(run.suite == suite for run in runs) - sum(len(group.runs) for group in chosen.values())
        if count:
            yield f"{suite}: {counted(count, 'further run')} in no number here; the suite's own report says which."
        for said in threads_differ(list(chosen.values())):
            yield f"{suite}: {said}"


def _by_suite_label(by_suite: Mapping[str, Mapping[str, Group]]) -> list[Group]:
    """Every group with its suite in its name, because methods return from suite to suite."""
    return [
        replace(group, label=f"{group.label}, {suite}") for suite, found in by_suite.items() for group in found.values()
    ]


def _accuracies(by_suite: Mapping[str, Mapping[str, Group]]) -> Table:
    return _table(
        "accuracies",
        "Average accuracy after the last task by suite, in %",
        by_suite,
        lambda group: accuracy_cell(group.metric("average_accuracy")),
        ("Mean ± half the 95 % confidence interval over seeds (Student's t), from 3 seeds on.",),
    )


def _forgetting(by_suite: Mapping[str, Mapping[str, Group]]) -> Table:
    return _table(
        "forgetting",
        "Forgetting by suite, in percentage points",
        by_suite,
        lambda group: points_cell(group.metric("forgetting"), percent),
    )


def _table(
    name: str,
    caption: str,
    by_suite: Mapping[str, Mapping[str, Group]],
    cell: Callable[[Group], Cell],
    notes: tuple[str, ...] = (),
) -> Table:
    methods = sorted({method for found in by_suite.values() for method in found})

    def told(method: str) -> str:
        known = {plain(found[method].is_told_the_task) for found in by_suite.values() if method in found}
        return known.pop() if len(known) == 1 else "by suite"

    return Table(
        name,
        caption,
        (
            Column("Method", "text", 1.6),
            Column("Task known at test", "text", 0.9),
            *(Column(suite) for suite in by_suite),
        ),
        tuple(
            (
                Cell(method),
                Cell(told(method)),
                *(cell(found[method]) if method in found else Cell("not run") for found in by_suite.values()),
            )
            for method in methods
        ),
        notes,
    )


def _ranks(by_suite: Mapping[str, Mapping[str, Group]], methods: Sequence[str]) -> list[Table | Figure]:
    """Average ranks of the methods told the task and of the others, each with its test where suites suffice."""
    items: list[Table | Figure] = []
    for told, words in ((True, "told the task at test"), (False, "not told the task at test")):
        alike = [
            method
            for method in methods
            if all(bool(found[method].is_told_the_task) is told for found in by_suite.values())
        ]
        if len(alike) < 2:
            continue
        scores = pd.DataFrame(
            {method: [found[method].average_accuracy for found in by_suite.values()] for method in alike},
            index=list(by_suite),
        )
        ranks = ranks_over_suites(scores)
        name = "ranks-told" if told else "ranks-not-told"
        items.append(_rank_table(scores, ranks, name, words))
        if ranks.critical_difference is not None:
            items.append(_diagram(ranks, f"{name}-diagram", words))
    return items


def _rank_table(scores: pd.DataFrame, ranks: Ranks, name: str, words: str) -> Table:
    placed = scores.rank(axis=1, ascending=False)
    if ranks.critical_difference is None:
        note = (
            f"No test: it takes at least {FEWEST_SUITES} suites and {FEWEST_METHODS} methods; below that the critical "
            "difference is about as large as ranks can differ at all."
        )
    else:
        friedman = p_cell(ranks.friedman_p).text
        note = (
            f"Friedman's test over {len(scores)} suites: p {friedman}. Nemenyi's critical difference at "
            f"{SIGNIFICANCE}: {ranks.critical_difference:.2f}; ranks that lie nearer are not shown to differ."
        )
    return Table(
        name,
        f"Ranks of the methods {words}; 1 is best, ties share a rank",
        (Column("Method", "text", 1.6), Column("Average rank"), *(Column(suite) for suite in scores.index)),
        tuple(
            (
                Cell(str(method)),
                Cell(f"{rank:.2f}", "", float(rank)),
                *(Cell(f"{place:g}", "", float(place)) for place in placed[method]),
            )
            for method, rank in ranks.average.sort_values(kind="stable").items()
        ),
        (note,),
    )


def _diagram(ranks: Ranks, name: str, words: str) -> Figure:
    listed = ", ".join(f"{method} {rank:.2f}" for method, rank in ranks.average.sort_values(kind="stable").items())
    return Figure(
        name,
        f"Critical-difference diagram of the methods {words}: average ranks, 1 is best; a thick bar joins methods that "
        "are not shown to differ (Nemenyi, 5 %).",
        f"Critical-difference diagram of average ranks: {listed}.",
        partial(figures.critical_difference, ranks, name),
    )
