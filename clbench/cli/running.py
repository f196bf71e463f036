"""Commands that train: run, resume, status."""

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.listing import show_grid
from clbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OfflineOption,
    OutputOption,
    PrecisionOption,
    QuietOption,
    ReportsOption,
    SeedsOption,
    SetOption,
    SuiteOption,
    ThreadsOption,
    UriOption,
    are_named,
    chosen_device,
    chosen_methods,
    chosen_precision,
    chosen_seeds,
    warn_of_slow_precision,
)
from clbench.cli.reading import recorded_runs, write_suite_report
from clbench.errors import INTERRUPTED, AbsentDataError, RecordError, SettingError, TrackingError, shown

if TYPE_CHECKING:
    from clbench.execution.job import Outcome
    from clbench.screen import Screen
    from clbench.suites.suite import Suite
    from clbench.tracking.tracker import Tracker


def run_command(
    suite: SuiteOption,
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated names, or 'all' that fit the suite. Repeatable. Default: its own."),
    ] = None,
    seeds: SeedsOption = None,
    data_root: DataRootOption = None,
    offline: OfflineOption = False,
    overrides: SetOption = None,
    output: OutputOption = Path("clbench-runs"),
    reports: ReportsOption = Path("clbench-reports"),
    tracking_uri: UriOption = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Runs to train at once, each in a process of its own; on a CPU together with --threads.",
        ),
    ] = 1,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Let torch use deterministic algorithms only (needed on a GPU).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the grid and what it costs, then stop.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Make no report at the end.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Train every method with every seed on a suite, record it, and report.

    Runs that are recorded already are not repeated, unfinished ones go on after the last task they learned. Ctrl-C
    stops after the batch; the same command goes on. The same command started several times shares the work.
    """
    from clbench.runs.spec import fitting, sorted_overrides
    from clbench.screen import Screen
    from clbench.suites.files import find_suite, is_file, suite_files
    from clbench.suites.settings import parse_overrides

    chosen = find_suite(suite)
    names = chosen_methods(methods, chosen)
    seed_list = chosen_seeds(seeds, chosen)
    changes = parse_overrides(overrides or [])
    try:
        changed = chosen.with_overrides(sorted_overrides(chosen, names, changes)[0]).complete()
    except SettingError as error:
        # Without overrides it is the file that is at fault.
        if changes or not is_file(suite):
            raise
        raise SettingError(f"the suite {suite}: {error}") from None
    training_precision = chosen_precision(precision)
    screen = Screen(quiet=quiet)

    from clbench.data import DataWarning, data_folder, load_images

    load = partial(load_images, changed.data, data_root, image_size=changed.image_size)
    try:
        with shown(DataWarning, screen.warn):
            images = load(offline=offline or dry_run)
    except AbsentDataError as error:
        if not dry_run:
            raise
        screen.warn(f"{error}; without images the plan has no run ids and no time")
        leave_out = None if are_named(methods) else screen.warn
        show_grid(screen, changed, fitting(chosen, names, changes, leave_out), seed_list)
        return

    import torch

    from clbench.data.streams import make_stream
    from clbench.execution.invocation import check_as_before, materials, remember
    from clbench.records.files import check_writable
    from clbench.runs.spec import make_specs, unreached
    from clbench.seeding import RandomStreams

    place = chosen_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    elif jobs > 1 and place.type == "cpu":
        raise SettingError(
            f"--jobs {jobs} on a CPU needs --threads, the threads of each run, such as --threads "
            f"{max(1, torch.get_num_threads() // jobs)} here: what is computed depends on them to the last bit, so "
            "they are yours to say"
        )
    if deterministic:
        # cuBLAS needs to be told before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    warn_of_slow_precision(screen, training_precision, place)
    specs = make_specs(
        chosen,
        names,
        seed_list,
        changes,
        images,
        training_precision,
        place.type,
        files=suite_files(suite),
        # What the user names is not left out in silence, nor with a line that is easily overlooked.
        leave_out=None if are_named(methods) else screen.warn,
    )
    for said in unreached(specs, changes):
        screen.warn(said)
    # A suite that its data cannot fill is refused now rather than in every run.
    make_stream(specs[0].suite, images, RandomStreams(specs[0].seed))
    if dry_run:
        from clbench.estimate import show_plan

        show_plan(screen, specs, images, place, output)
        return

    check_writable(output, "--output")
    check_writable(reports, "--reports")
    found = materials(specs, data_folder(data_root), suite_files(suite))
    check_as_before(output, found, screen.warn)

    from clbench.execution.grid import run_grid
    from clbench.execution.job import Grid
    from clbench.runs.config import command_line
    from clbench.tracking.connection import tracking_uri as resolve_uri
    from clbench.tracking.tracker import Tracker

    uri = resolve_uri(tracking_uri)
    screen.say(
        f"{chosen.title}: {len(specs)} run{'' if len(specs) == 1 else 's'} on {place}; the MLflow store is {uri}"
    )
    described = specs[0].network
    size = "x".join(map(str, described["image_shape"]))
    screen.say(
        f"network {described['name']}, {described['parameters']:,} parameters; images {size} of {images.source}, "
        f"SHA-256 {images.sha256[:16]}"
    )
    tracker = Tracker(uri, screen.warn, output)
    tracker.begin(chosen.name, command_line(), len(specs), title=chosen.title)
    remember(output, sys.argv[1:], found)
    # What was just loaded is on disk now.
    grid = Grid(place, output, images, partial(load, offline=True), jobs)
    outcome: Outcome = "failed"
    try:
        outcome = run_grid(grid, specs, tracker, screen)
    except KeyboardInterrupt:
        outcome = "stopped"
        raise
    finally:
        tracker.end(status=outcome)
    _finish(chosen, output, reports, uri, screen, tracker, outcome, no_report)


def _finish(
    suite: "Suite",
    output: Path,
    reports: Path,
    uri: str,
    screen: "Screen",
    tracker: "Tracker",
    outcome: str,
    no_report: bool,
) -> None:
    """Summary, report, and how to go on; then the exit code."""
    if outcome == "stopped":
        screen.warn("stopped; whole tasks are recorded. The same command goes on after them")
        raise SystemExit(INTERRUPTED)
    if not no_report:
        try:
            # The run folders have everything, also where MLflow lacks some of it.
            runs = recorded_runs(suite.name, output if tracker.is_behind else None, uri)
            paths = write_suite_report(runs, suite.name, reports, screen)
        except (RecordError, TrackingError) as error:
            # Nothing finished, or the folder or the store is gone: what was trained is recorded all the same.
            screen.warn(f"no report: {error}")
            paths = []
        tracker.keep_report(paths)
        for path in paths:
            screen.show(f"report:  {path}")
    screen.show(f"runs:    {output}")
    screen.show(f"compare: mlflow ui --backend-store-uri {shlex.quote(uri)}")
    if outcome == "failed":
        screen.warn("some runs failed, for the reasons above; the same command tries them again")
        raise SystemExit(1)


def status_command(output: OutputOption = Path("clbench-runs")) -> None:
    """Show every recorded run and how it stands."""
    from clbench.records.standing import standings, status_table
    from clbench.screen import Screen

    found = standings(output)
    if not found:
        raise RecordError(f"{output} holds no runs; give the folder that does with --output")
    screen = Screen(quiet=False)
    screen.show(status_table(found))
    # Below the table, where a path has room.
    for item in found:
        if item.detail:
            screen.show(f"{item.run_id}: {item.detail}")


def rm_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Ids of runs, or the first digits of them, four or more.")
    ],
    output: OutputOption = Path("clbench-runs"),
    tracking_uri: UriOption = None,
) -> None:
    """Remove recorded runs: their folders, and their entries in MLflow, which MLflow can restore.

    Nothing is removed if one of them is being trained.
    """
    from clbench.records.removal import check_idle, named_runs, remove_runs
    from clbench.screen import Screen
    from clbench.tracking.connection import tracking_uri as resolve_uri
    from clbench.tracking.sync import forget

    chosen = named_runs(output, runs)
    check_idle(output, chosen)
    # MLflow first: what it still held, a report would show.
    uri = resolve_uri(tracking_uri)
    entries = forget(chosen, uri)
    remove_runs(output, chosen)
    Screen(quiet=False).show(f"removed {', '.join(chosen)} from {output}, and {entries} of their entries from {uri}")


def resume_command(
    context: typer.Context, output: OutputOption = Path("clbench-runs"), quiet: QuietOption = False
) -> None:
    """Go on with the last `clbench run`: the same as giving the same command again, in the same folder."""
    from clbench.execution.invocation import last_invocation, resuming

    arguments, folder = last_invocation(output)
    if quiet and not {"-q", "--quiet"} & {*arguments}:
        arguments = [*arguments, "-q"]
    os.chdir(folder)
    sys.argv = [sys.argv[0], *arguments]
    print(shlex.join(["clbench", *arguments]), flush=True)
    with resuming():
        context.find_root().command.main(arguments, prog_name="clbench")
