"""Commands on recorded runs: report, compare, sync, verify, verify-run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.options import (
    FromMlflowOption,
    QuietOption,
    ReportsOption,
    RunsOption,
    SuiteOption,
    SuitesOption,
    TemplateOption,
    UriOption,
)
from clbench.errors import RecordError, ReportWarning, shown

if TYPE_CHECKING:
    from clbench.records.reading import RecordedRun
    from clbench.screen import Screen


def report_command(
    suite: SuitesOption,
    reports: ReportsOption = Path("clbench-reports"),
    runs: RunsOption = None,
    tracking_uri: FromMlflowOption = None,
    template: TemplateOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make the report of a suite from what MLflow holds, or from run folders: HTML, PDF, JSON, and files for authors.

    With several suites, one report each, and one over all of them with average ranks.
    """
    from clbench.reports import write_files
    from clbench.screen import Screen

    screen = Screen(quiet=quiet)
    names = list(dict.fromkeys(map(recorded_name, suite)))
    recorded = {name: recorded_runs(name, runs, tracking_uri) for name in names}
    paths = [path for name in names for path in write_suite_report(recorded[name], name, reports, screen, template)]
    if len(names) > 1:
        from clbench.reports.across import compose_across

        try:
            across = compose_across([run for found in recorded.values() for run in found], names)
        except RecordError as error:
            screen.warn(f"there is no report over all suites: {error}")
        else:
            with shown(ReportWarning, screen.warn):
                paths += write_files(across, "suites", reports, templates=template)
    for path in paths:
        screen.show(f"report:  {path}")


def compare_command(
    first: Annotated[str, typer.Argument(help="A method, a name of the report ('ewc strength=1000'), or a run's id.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    suite: SuiteOption,
    reports: ReportsOption = Path("clbench-reports"),
    runs: RunsOption = None,
    tracking_uri: FromMlflowOption = None,
    template: TemplateOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare two methods, or two runs, on the seeds they share: differences, intervals, tests, and a page on them."""
    from clbench.reports import write_files
    from clbench.reports.compare import comparison_table, compose_comparison, find_pair
    from clbench.screen import Screen

    screen = Screen(quiet=quiet)
    of_suite = recorded_name(suite)
    pair = find_pair(recorded_runs(of_suite, runs, tracking_uri), of_suite, first, second)
    screen.show(comparison_table(pair))
    name = f"{of_suite}-{first}-and-{second}"
    with shown(ReportWarning, screen.warn):
        paths = write_files(compose_comparison(pair), name, reports, templates=template)
    for path in paths:
        screen.show(f"report:  {path}")


def sync_command(
    suite: Annotated[str | None, typer.Option("--suite", help="Only this one's runs. Default: all.")] = None,
    runs: Annotated[Path, typer.Option("--runs", "--output", help="Folder that holds a folder per run.")] = Path(
        "clbench-runs"
    ),
    tracking_uri: UriOption = None,
    quiet: QuietOption = False,
) -> None:
    """Bring MLflow up to date from the run folders, after an outage or on another store.

    What is there is completed, what is missing is added, nothing is there twice; exit code 1 if a folder is damaged.
    """
    from clbench.records.standing import standings
    from clbench.screen import Screen
    from clbench.tracking.connection import tracking_uri as resolve_uri
    from clbench.tracking.sync import sync

    screen = Screen(quiet=quiet)
    uri = resolve_uri(tracking_uri)
    wanted = None if suite is None else recorded_name(suite)
    if wanted is not None and not any(item.suite == wanted for item in standings(runs)):
        check_known(wanted, f"the folder {runs}")
    done = sync(runs, uri, wanted, screen.warn)
    counts = ", ".join(f"{number} {what}" for what, number in done.items() if number or what != "unreadable")
    screen.show(f"{uri}: runs {counts}")
    if done["unreadable"]:
        raise SystemExit(1)


def verify_command(
    suite: SuiteOption,
    runs: RunsOption = None,
    tracking_uri: FromMlflowOption = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Exit code 1, too, if a goal has not all the seeds it is about.")
    ] = False,
) -> None:
    """Compare recorded runs with the published numbers and our goals; exit code 1 if a goal is missed.

    Only runs in the suite's own setting count.
    """
    from clbench.reports.verify import verification_table, verify
    from clbench.screen import Screen
    from clbench.suites.files import find_suite, is_file

    of_suite = recorded_name(suite)
    # Goals may have been written into the file after its runs.
    stated = find_suite(suite) if is_file(suite) else None
    found = verify(recorded_runs(of_suite, runs, tracking_uri), of_suite, stated)
    screen = Screen(quiet=False)
    if not found.verdicts:
        others = [f"in another setting: {'; '.join(found.other_settings)}"] if found.other_settings else []
        if found.left_out:
            others.append(f"modified, unfinished, trials of a search, or repeating a seed: {found.left_out}")
        what_there_is = f" ({'; '.join(others)})" if others else ""
        raise RecordError(
            f"no finished run of the suite '{of_suite}' in its own setting was found{what_there_is}; run it with: "
            f"clbench run --suite {suite}"
        )
    screen.show(verification_table(found))
    for verdict in found.verdicts:
        if verdict.misses:
            screen.show(f"{verdict.label} misses its goal: {'; '.join(verdict.misses)}")
        if verdict.waits:
            screen.show(f"{verdict.label}'s goal waits for records of: {', '.join(verdict.waits)}")
    if found.not_recorded:
        screen.show(f"not recorded: {', '.join(found.not_recorded)}")
    for said in found.other_settings:
        screen.show(f"left out because the suite's setting is another here: {said}")
    if found.left_out:
        screen.show(f"left out because modified, unfinished, trials of a search, or repeating a seed: {found.left_out}")
    if not found.holds or (complete and not found.is_complete):
        raise SystemExit(1)


def verify_run_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run folders, or folders that hold some, however deep.")
    ],
) -> None:
    """Check recorded runs: their digests, their ids, their tables; recompute every metric. Nothing is trained.

    A line per run, with the seal that the report prints beside it, and one for all of them; exit code 1 if one does
    not hold.
    """
    from clbench.records.audit import audit, run_folders
    from clbench.screen import Screen

    screen = Screen(quiet=False)
    findings = []
    # All paths first: a slip of the pen in the last should not show after the others' lines.
    for folder in [folder for path in paths for folder in run_folders(path)]:
        findings.append(audit(folder))
        screen.show(findings[-1].line)
    held = [finding for finding in findings if finding.holds]
    if len(findings) > 1:
        unsealed = sum(finding.run is not None and not finding.run.seal for finding in held)
        without = f", {unsealed} of them without digests" if unsealed else ""
        screen.show(f"{len(held)} of {len(findings)} runs hold{without}")
    if len(held) < len(findings):
        raise SystemExit(1)


def recorded_runs(suite: str, folder: Path | None, uri: str | None) -> "list[RecordedRun]":
    """The suite's runs from a folder of run folders, else from MLflow; at least one."""
    runs, where = _read(suite, folder, uri)
    if not runs:
        check_known(suite, where)
        raise RecordError(
            f"the suite '{suite}' is not recorded: {where} holds no run of it; record some with clbench run --suite "
            f"{suite}"
        )
    return runs


def recorded_name(suite: str) -> str:
    """The name of a suite as records have it: of one of ours, of the user's, or of the user's file."""
    from clbench.suites.files import find_suite, is_file
    from clbench.suites.suite import NAME

    # A name that no suite can have was never recorded.
    return suite if NAME.fullmatch(suite) and not is_file(suite) else find_suite(suite).name


def check_known(suite: str, where: str) -> None:
    """Refuses a name that neither clbench nor a record has, most likely a slip of the pen.

    Args:
        suite: its name.
        where: what was read, which holds no run of it.

    Raises:
        RecordError: listing the right ones.
    """
    from clbench.errors import unknown_name
    from clbench.suites.files import SUITES

    if suite not in SUITES:
        raise RecordError(f"{unknown_name('suite', suite, SUITES)}, or one of yours, but {where} holds no run of it")


def _read(suite: str, folder: Path | None, uri: str | None) -> "tuple[list[RecordedRun], str]":
    from clbench.records.reading import read_runs

    if folder is not None:
        runs = [run for run in read_runs(folder) if run.suite == suite]
        return runs, f"the folder {folder}"
    from clbench.tracking.connection import tracking_uri as resolve_uri
    from clbench.tracking.sync import load_runs

    return load_runs(suite, resolve_uri(uri)), f"the MLflow store {resolve_uri(uri)}"


def write_suite_report(
    runs: "list[RecordedRun]", suite: str, folder: Path, screen: "Screen", template: Path | None = None
) -> list[Path]:
    """Writes the report of a suite and shows its summary; returns the paths."""
    from clbench.reports import write_report
    from clbench.reports.formats.terminal import summary_table

    screen.say(f"writing the report on {suite}")
    with shown(ReportWarning, screen.warn):
        paths = write_report(runs, suite, folder, templates=template)
    screen.show(summary_table(runs, suite))
    return paths
