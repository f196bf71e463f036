"""Two methods, two runs, several suites: what is paired, what is tested, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from clbench.errors import RecordError, SettingError
from clbench.records.reading import RecordedRun
from clbench.reports.across import compose_across
from clbench.reports.analysis.statistics import FEWEST_SUITES, holm
from clbench.reports.compare import compare_metrics, compose_comparison, find_pair, verdict
from clbench.reports.model import Report, Table

SUITE = "permuted-mnist"
MakeRun = Callable[..., RecordedRun]
MakeRuns = Callable[..., list[RecordedRun]]
OURS, THEIRS = (0.90, 0.88, 0.92, 0.91), (0.85, 0.86, 0.87, 0.85)


@pytest.fixture
def runs(recorded_seeds: MakeRuns) -> list[RecordedRun]:
    """EWC with seeds 0 to 3, SI with the same and two more that are worse."""
    return [*recorded_seeds("ewc", *OURS), *recorded_seeds("si", *THEIRS, 0.1, 0.1)]


def table(report: Report, name: str) -> Table:
    (found,) = [item for item in report.items if isinstance(item, Table) and item.name == name]
    return found


def texts(shown: Table) -> list[list[str]]:
    return [[f"{cell.text} {cell.detail}".strip() for cell in row] for row in shown.rows]


# Two of them


def test_methods_are_compared_on_shared_seeds_with_the_paired_t_test(runs: list[RecordedRun]) -> None:
    pair = find_pair(runs, SUITE, "ewc", "si")
    assert pair.shared_seeds == (0, 1, 2, 3)
    accuracy = texts(table(compose_comparison(pair), "comparison"))[0]
    assert accuracy[:5] == ["Average accuracy", "90.25", "60.50", "4", "+4.50 ± 2.76"]
    p = stats.ttest_rel(OURS, THEIRS).pvalue
    assert accuracy[7:] == [f"{p:.3f}", f"{p:.3f}"]
    assert verdict(pair) == (
        f"ewc is 4.50 points of average accuracy above si (95 % interval ± 2.76, p {p:.3f}, 4 shared seeds)."
    )
    assert "si is 4.50 points of average accuracy below ewc" in verdict(find_pair(runs, SUITE, "si", "ewc"))


def test_the_first_question_is_not_corrected_and_the_others_are(runs: list[RecordedRun]) -> None:
    found = [item for item in compare_metrics(find_pair(runs, SUITE, "ewc", "si")) if item.comparison is not None]
    p_values = [item.comparison.p for item in found if item.comparison is not None]
    others = [p for p in p_values[1:] if p is not None]
    assert len(others) == 5
    assert [item.corrected_p for item in found] == pytest.approx([p_values[0], *holm(others)])


def test_swapping_the_two_turns_every_sign(runs: list[RecordedRun]) -> None:
    one = compare_metrics(find_pair(runs, SUITE, "ewc", "si"))
    other = compare_metrics(find_pair(runs, SUITE, "si", "ewc"))
    for first, second in zip(one, other, strict=True):
        assert first.comparison is not None
        assert second.comparison is not None
        assert first.comparison.difference.mean == pytest.approx(-second.comparison.difference.mean)
        assert first.corrected_p == pytest.approx(second.corrected_p)


def test_a_page_says_what_makes_the_two_unlike_and_takes_no_modified_run_for_a_method(
    recorded_seeds: MakeRuns,
) -> None:
    runs = recorded_seeds("ewc", 0.9, 0.91, 0.92)
    runs += recorded_seeds("clnp", 0.95, 0.96, 0.97, task_known_at_test=True)
    runs += recorded_seeds("naive", 0.5, modified=True, overrides={"epochs": 3})
    summary = compose_comparison(find_pair(runs, SUITE, "clnp", "ewc")).summary
    assert "clnp is told the task at test and ewc is not, so clnp has the easier problem." in summary
    with pytest.raises(
        SettingError, match="'naive' has no run in the suite's own setting; name one of 'naive epochs=3'"
    ):
        find_pair(runs, SUITE, "clnp", "naive")
    summary = compose_comparison(find_pair(runs, SUITE, "ewc", "naive epochs=3")).summary
    assert summary[-1] == "naive epochs=3 is not the suite's own setting: epochs=3."


def test_two_runs_are_named_by_the_beginning_of_their_ids_and_compared_without_a_test(runs: list[RecordedRun]) -> None:
    pair = find_pair(_with_long_ids(runs), SUITE, "ewc-run-2", "si-run-2")
    assert verdict(pair) == (
        "ewc seed 2 less si seed 2: +5.00 points of average accuracy on 1 shared seed; below 3 there is no interval "
        "and no test."
    )


def _with_long_ids(runs: list[RecordedRun]) -> list[RecordedRun]:
    return [replace(run, run_id=f"{run.method}-run-{run.seed}-of-mine") for run in runs]


def test_runs_without_a_common_seed_are_not_paired(runs: list[RecordedRun]) -> None:
    pair = find_pair(_with_long_ids(runs), SUITE, "ewc-run-2", "si-run-3")
    assert verdict(pair) == (
        "ewc seed 2 and si seed 3 share no seed, so nothing is paired or tested: 92.00 % against 85.00 %."
    )
    report = compose_comparison(pair)
    assert texts(table(report, "comparison"))[0][3:] == ["0", "n/a", "n/a", "n/a", "n/a", "n/a"]
    assert "task-differences" not in [item.name for item in report.items]


def test_the_settings_that_differ_are_listed_and_no_others(recorded_seeds: MakeRuns) -> None:
    of_si = {"strength": 0.1, "epochs": 5, "momentum": 0.9, "initial_weights": "glorot"}
    runs = [
        *recorded_seeds("ewc", 0.9, 0.9, method_settings={"strength": 3, "epochs": 5, "momentum": None}),
        *recorded_seeds("si", 0.9, 0.9, method_settings=of_si, task_known_at_test=True),
    ]
    report = compose_comparison(find_pair(runs, SUITE, "ewc", "si"))
    assert texts(table(report, "settings-that-differ")) == [
        # EWC's record leaves it out.
        ["initial_weights", "pytorch", "glorot"],
        # Off, not unknown.
        ["momentum", "none", "0.9"],
        ["strength", "3", "0.1"],
        ["task known at test", "no", "yes"],
        # A setting that the record leaves out, and that the other method does not have.
        ["train_on_validation", "–", "no"],
    ]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [("ewc", "nothing", "expected one of"), ("ewc", "ewc", "same runs"), ("ewc", "si", "different numbers of tasks")],
)
def test_what_cannot_be_compared_is_refused(recorded_seeds: MakeRuns, first: str, second: str, said: str) -> None:
    runs = recorded_seeds("ewc", 0.9, 0.9)
    for run in recorded_seeds("si", 0.8, 0.8):
        object.__setattr__(run, "accuracy_matrix", run.accuracy_matrix[:2, :1])
        runs.append(run)
    with pytest.raises(SettingError, match=said):
        find_pair(runs, SUITE, first, second)


def test_a_name_that_means_several_groups_by_now_is_answered_with_all_of_them(recorded_seeds: MakeRuns) -> None:
    runs = []
    for strength, momentum in ((5, 0), (70, 0), (70, 0.9)):
        settings = {"strength": strength, "momentum": momentum}
        runs += recorded_seeds("ewc", 0.5, method_settings=settings, run_id=f"{strength}-{momentum}")
    with pytest.raises(
        SettingError, match=r"several groups.*'ewc momentum=0 strength=70', 'ewc momentum=0\.9 strength=70'"
    ):
        find_pair(runs, SUITE, "ewc strength=70", "ewc strength=5")
    # Where there is one, it is what the name means, whatever else its label says.
    pair = find_pair(runs, SUITE, "ewc strength=5", "ewc momentum=0.9")
    assert [pair.first.label, pair.second.label] == ["ewc momentum=0 strength=5", "ewc momentum=0.9 strength=70"]


def test_without_runs_it_says_what_to_do() -> None:
    with pytest.raises(RecordError, match=f"clbench run --suite {SUITE}"):
        find_pair([], SUITE, "ewc", "si")


# Several suites


def over(suites: int, recorded_seeds: MakeRuns) -> tuple[list[RecordedRun], list[str]]:
    names = [f"suite-{number}" for number in range(suites)]
    runs = [
        run
        for number, suite in enumerate(names)
        for method, accuracy in (("ewc", 0.9), ("si", 0.8), ("mas", 0.7), ("naive", 0.5), ("clnp", 0.95))
        for run in recorded_seeds(
            method, accuracy - 0.01 * number, accuracy, suite=suite, task_known_at_test=method == "clnp"
        )
    ]
    return runs, names


def test_ranks_count_a_suite_once_and_methods_of_one_kind_among_themselves(recorded_seeds: MakeRuns) -> None:
    runs, suites = over(2, recorded_seeds)
    report = compose_across(runs, suites)
    ranks = texts(table(report, "ranks-not-told"))
    assert [row[:2] for row in ranks] == [["ewc", "1.00"], ["si", "2.00"], ["mas", "3.00"], ["naive", "4.00"]]
    assert all(len(row) == 2 + len(suites) for row in ranks)
    # CLNP is the only one that is told the task.
    assert "ranks-told" not in [item.name for item in report.items]


def test_upper_bounds_and_their_variants_are_in_no_rank(recorded_seeds: MakeRuns) -> None:
    runs, suites = over(2, recorded_seeds)
    bounds = [
        run
        for suite in suites
        for method in ("joint", "joint:multitask")
        for run in recorded_seeds(method, 0.98, 0.99, suite=suite)
    ]
    with_them, without = compose_across([*runs, *bounds], suites), compose_across(runs, suites)
    assert texts(table(with_them, "ranks-not-told")) == texts(table(without, "ranks-not-told"))


def test_a_diagram_is_drawn_only_where_there_are_enough_suites(recorded_seeds: MakeRuns) -> None:
    few = compose_across(*over(FEWEST_SUITES - 1, recorded_seeds))
    assert "No test" in table(few, "ranks-not-told").notes[0]
    assert "ranks-not-told-diagram" not in [item.name for item in few.items]
    enough = compose_across(*over(FEWEST_SUITES, recorded_seeds))
    # Demsar's q is 2.569 for four methods: 2.569 * sqrt(4 * 5 / (6 * 5)) = 2.10.
    assert "critical difference at 0.05: 2.10" in table(enough, "ranks-not-told").notes[0]
    assert "ranks-not-told-diagram" in [item.name for item in enough.items]


def test_modified_runs_are_in_no_rank(recorded_seeds: MakeRuns) -> None:
    runs, suites = over(2, recorded_seeds)
    modified = [*recorded_seeds("psp", 1.0, suite=suites[0], modified=True, overrides={"epochs": 1})]
    with_them, without = compose_across([*runs, *modified], suites), compose_across(runs, suites)
    assert (with_them.headline, with_them.sections) == (without.headline, without.sections)
    assert f"{suites[0]}: 1 further run in no number here; the suite's own report says which." in with_them.summary


def test_what_cannot_be_ranked_says_why_and_which_group_stands_for_a_method(recorded_seeds: MakeRuns) -> None:
    runs = [run for suite in ("one", "two") for run in recorded_seeds("ewc", 0.9, 0.91, suite=suite)]
    runs += recorded_seeds("ewc", 0.8, suite="one", method_settings={"strength": 7})
    runs += recorded_seeds("joint", 0.99, suite="one")
    report = compose_across(runs, ["one", "two"])
    (ranks, made) = report.sections
    assert ranks.items == ()
    assert ranks.paragraphs[0].startswith("Nothing is ranked: it takes two methods of a kind")
    assert (
        "one: of a method with several groups, the one with most seeds is shown: ewc strength=unrecorded."
        in report.summary
    )
    assert (
        "1 method has runs in every suite: ewc. Upper bounds (joint and single-task) are not ranked." in report.summary
    )
    assert texts(table(report, "forgetting"))[0][0] == "ewc"
    assert [row[1] for row in texts(table(report, "runs")) if "ewc" in row[1]][::2] == [
        "ewc strength=unrecorded, one float32",
        "ewc, two float32",
    ]
    assert made.name == "provenance"


def test_of_a_methods_groups_the_one_with_most_seeds_stands_for_it_however_late_it_was_recorded(
    recorded_seeds: MakeRuns,
) -> None:
    early, *late = recorded_seeds("ewc", 0.5, 0.9, 0.91, 0.92, suite="one")
    early = replace(early, config={**early.config, "method_settings": {"strength": 7}})
    report = compose_across([early, *late], ["one"])
    assert (
        "one: of a method with several groups, the one with most seeds is shown: ewc strength=unrecorded."
        in report.summary
    )
    assert "one: 1 further run in no number here; the suite's own report says which." in report.summary
    assert texts(table(report, "accuracies"))[0][-1].startswith("91.00 ±")


def test_a_suite_without_runs_of_its_own_is_named(recorded_seeds: MakeRuns) -> None:
    runs, suites = over(2, recorded_seeds)
    with pytest.raises(RecordError, match="'suite-9' in its own setting"):
        compose_across(runs, [*suites, "suite-9"])


# The command line


def test_the_command_compares_on_the_terminal_and_as_a_page(
    clbench: Callable, write_run: Callable, runs: list[RecordedRun], tmp_path: Path
) -> None:
    for run in runs:
        write_run(tmp_path / "runs", run)
    outcome = clbench(tmp_path, "compare", "ewc", "si", "--suite", SUITE, "--runs", "runs")
    assert (outcome.code, outcome.err) == (0, "")
    assert "+4.50 ± 2.76" in outcome.out
    page = tmp_path / "clbench-reports" / f"{SUITE}-ewc-and-si.html"
    assert "ewc is 4.50 points of average accuracy above si" in page.read_text(encoding="utf-8")


def test_reports_of_single_suites_are_made_where_the_one_over_all_cannot_be(
    clbench: Callable, write_run: Callable, recorded_seeds: MakeRuns, tmp_path: Path
) -> None:
    modified = recorded_seeds("si", 0.9, suite="split-mnist", modified=True, overrides={"epochs": 1})
    for run in [*recorded_seeds("ewc", 0.9), *modified]:
        write_run(tmp_path / "runs", run)
    outcome = clbench(tmp_path, "report", "--suite", SUITE, "--suite", "split-mnist", "--runs", "runs")
    assert outcome.code == 0
    assert "there is no report over all suites: no finished run of the suite 'split-mnist' in its own" in outcome.err
    assert sorted(path.name for path in (tmp_path / "clbench-reports").glob("*.html")) == [
        f"{SUITE}.html",
        "split-mnist.html",
    ]


def test_the_command_refuses_a_name_that_means_nothing(
    clbench: Callable, write_run: Callable, assert_refused: Callable, runs: list[RecordedRun], tmp_path: Path
) -> None:
    write_run(tmp_path / "runs", runs[0])
    arguments = ("compare", "ewc", "zzz", "--suite", SUITE, "--runs", "runs")
    assert_refused(clbench(tmp_path, *arguments), "no finished run of 'zzz' is recorded", "ewc")
    assert_refused(clbench(tmp_path, "compare", "ecw", *arguments[2:]), "did you mean 'ewc'?")


@pytest.mark.long
def test_several_suites_make_a_report_each_and_one_over_all(
    clbench: Callable, write_run: Callable, recorded_seeds: MakeRuns, tmp_path: Path
) -> None:
    for suite in (SUITE, "rotated-mnist"):
        for method, accuracy in (("ewc", 0.9), ("si", 0.8)):
            for run in recorded_seeds(method, accuracy, suite=suite):
                write_run(tmp_path / "runs", _renamed(run, f"{suite}-{method}"))
    both = ("--suite", SUITE, "--suite", "rotated-mnist")
    outcome = clbench(tmp_path, "report", *both, "--runs", "runs")
    assert (outcome.code, outcome.err) == (0, "")
    names = {path.name for path in (tmp_path / "clbench-reports").glob("*.html")}
    assert names == {f"{SUITE}.html", "rotated-mnist.html", "suites.html"}
    assert "Average rank" in (tmp_path / "clbench-reports" / "suites.html").read_text(encoding="utf-8")


def _renamed(run: RecordedRun, run_id: str) -> RecordedRun:
    return replace(run, run_id=run_id, config={**run.config, "run_id": run_id})


def test_templates_of_ones_own_replace_ours_one_by_one(
    clbench: Callable, write_run: Callable, runs: list[RecordedRun], assert_refused: Callable, tmp_path: Path
) -> None:
    write_run(tmp_path / "runs", runs[0])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "style.css").write_text("h1 { color: teal; }")
    (mine / "report.typ").write_text('#set document(title: "mine")\n= #json("report.json").title of my own')
    report = ("report", "--suite", SUITE, "--runs", "runs", "--template", "mine")
    assert clbench(tmp_path, *report).code == 0
    page = (tmp_path / "clbench-reports" / f"{SUITE}.html").read_text(encoding="utf-8")
    assert "teal" in page
    assert "<h1>Permuted MNIST</h1>" in page
    (mine / "report.html.j2").write_text("{{ report.no_such_thing }}")
    assert_refused(clbench(tmp_path, *report), "report.html.j2", "no_such_thing")
    (mine / "report.html.j2").write_text("<h1>{{ report.title }}</h1>")
    (mine / "report.typ").write_text("#no-such-thing")
    assert_refused(clbench(tmp_path, *report), "report.typ does not compile")
    assert_refused(clbench(tmp_path, *report[:-1], "absent"), "there is no folder absent")
    (tmp_path / "misspelt").mkdir()
    (tmp_path / "misspelt" / "reprot.typ").write_text("= Mine")
    assert_refused(clbench(tmp_path, *report[:-1], "misspelt"), "misspelt holds no template", "report.typ")


def test_a_pdf_that_is_no_archive_says_so(
    clbench: Callable, write_run: Callable, runs: list[RecordedRun], tmp_path: Path
) -> None:
    write_run(tmp_path / "runs", runs[0])
    # No font that Typst brings has this letter.
    write_run(tmp_path / "runs", _renamed(replace(runs[1], config={**runs[1].config, "host": "\U000130a7"}), "glyph"))
    outcome = clbench(tmp_path, "report", "--suite", SUITE, "--runs", "runs")
    assert outcome.code == 0
    assert outcome.err.count("the PDF is neither PDF/A-2a nor PDF/UA-1: ") == 1
