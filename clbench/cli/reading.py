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
    from clbench.suites.files import find_suite

    screen = Screen(quiet=quiet)
    names = list(dict.fromkeys(find_suite(name).name for name in suite))
    recorded = {name: recorded_runs(name, runs, tracking_uri) for name in names}
    paths = [path for name in names for path in write_suite_report(recorded[name], name, reports, screen, template)]
    if len(names) > 1:
        from clbench.reports.across import compose_across

        across = compose_across([run for found in recorded.values() for run in found], names)
        with shown(ReportWarning, screen.warn):
            paths += write_files(across, "suites", reports, templates=template)
    for path in paths:
        screen.show(f"report:  {path}")


def compare_command(
    first: Annotated[str, typer.Argument(help="A method, or the id of a run.")],
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
    from clbench.suites.files import find_suite

    screen = Screen(quiet=quiet)
    chosen = find_suite(suite)
    pair = find_pair(recorded_runs(chosen.name, runs, tracking_uri), chosen.name, first, second)
    screen.show(comparison_table(pair))
    name = f"{chosen.name}-{first}-and-{second}"
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
    from clbench.screen import Screen
    from clbench.suites.files import find_suite
    from clbench.tracking.connection import tracking_uri as resolve_uri
    from clbench.tracking.sync import sync

    screen = Screen(quiet=quiet)
    uri = resolve_uri(tracking_uri)
    done = sync(runs, uri, None if suite is None else find_suite(suite).name, screen.warn)
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
    from clbench.suites.files import find_suite

    chosen = find_suite(suite)
    found = verify(recorded_runs(chosen.name, runs, tracking_uri), chosen.name)
    screen = Screen(quiet=False)
    if not found.verdicts:
        others = [f"in another setting: {'; '.join(found.other_settings)}"] if found.other_settings else []
        if found.left_out:
            others.append(f"modified, unfinished or repeating a seed: {found.left_out}")
        what_there_is = f" ({'; '.join(others)})" if others else ""
        raise RecordError(
            f"no finished run of the suite '{chosen.name}' in its own setting was found{what_there_is}; run it with: "
            f"clbench run --suite {chosen.name}"
        )
    screen.show(verification_table(found))
    for verdict in found.verdicts:
        if verdict.misses:
            screen.show(f"{verdict.label} misses its goal: {'; '.join(verdict.misses)}")
    if found.not_recorded:
        screen.show(f"not recorded: {', '.join(found.not_recorded)}")
    for said in found.other_settings:
        screen.show(f"left out because the suite's setting is another here: {said}")
    if found.left_out:
        screen.show(f"left out because modified, unfinished or repeating a seed: {found.left_out}")
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
    from clbench.records.reading import read_runs

    if folder is not None:
        runs = [run for run in read_runs(folder) if run.suite == suite]
        where = f"the folder {folder}"
    else:
        from clbench.tracking.connection import tracking_uri as resolve_uri
        from clbench.tracking.sync import load_runs

        runs = load_runs(suite, resolve_uri(uri))
        where = f"the MLflow store {resolve_uri(uri)}"
    if not runs:
        raise RecordError(f"{where} holds no run of the suite '{suite}'; record some with clbench run --suite {suite}")
    return runs


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
