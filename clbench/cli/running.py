"""Commands that train: run, resume, status."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.listing import show_grid
from clbench.cli.options import (
    DataRootOption,
    DeviceOption,
    ExecutorOption,
    GpusOption,
    JobsOption,
    OfflineOption,
    OutputOption,
    PrecisionOption,
    QuietOption,
    RayAddressOption,
    ReportsOption,
    SeedsOption,
    SetOption,
    SlurmOption,
    SuiteOption,
    ThreadsOption,
    UriOption,
    WorkersOption,
    chosen_executor,
    chosen_precision,
    chosen_seeds,
    listed,
    warn_of_slow_precision,
)
from clbench.cli.reading import recorded_runs, write_suite_report
from clbench.errors import INTERRUPTED, AbsentDataError, RecordError, TrackingError
from clbench.events import Observers

if TYPE_CHECKING:
    from clbench.screen import Screen
    from clbench.suites.suite import Suite
    from clbench.tracking.tracker import Tracker
    from clbench.tracking.untracked import Untracked


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
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="Run every value of a setting: ewc.strength=100,1000. Repeat for every combination."),
    ] = None,
    output: OutputOption = Path("clbench-runs"),
    reports: ReportsOption = Path("clbench-reports"),
    tracking_uri: UriOption = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: JobsOption = 1,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    slurm: SlurmOption = None,
    ray_address: RayAddressOption = None,
    gpus_per_run: GpusOption = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Let torch use deterministic algorithms only (needed on a GPU).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the grid and what it costs, then stop.")] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Train recorded runs anew; the record from before is kept beside the new.")
    ] = False,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the network of every task, for clbench export.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Make no report at the end.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Train every method with every seed on a suite, record it, and report.

    Runs that are recorded already are not repeated, unfinished ones go on after the last task they learned. Ctrl-C
    stops after the batch; the same command goes on. The same command started several times shares the work.
    """
    from clbench.data import data_folder
    from clbench.execution.place import device_for, set_threads
    from clbench.execution.plan import choose, labels_of, make_jobs, refuse_without_network
    from clbench.screen import Screen
    from clbench.suites.settings import parse_overrides, parse_sweeps

    changes = parse_overrides(overrides or [])
    swept = parse_sweeps(sweep or [])
    engine = chosen_executor(executor, workers, slurm, ray_address, gpus_per_run, jobs)
    choice = choose(
        suite, listed(methods), chosen_seeds(seeds), changes, data_root, sweep=swept, at_once=2 if engine else jobs
    )
    training_precision = chosen_precision(precision)
    screen = Screen(quiet=quiet)
    try:
        images = choice.images(screen.warn, offline=offline or dry_run)
    except AbsentDataError as error:
        if not dry_run:
            raise
        screen.warn(f"{error}; without images the plan has no run ids and no time")
        show_grid(screen, choice.changed, choice.fitting(screen.warn), choice.seeds)
        return

    from clbench.execution.invocation import (
        Remembering,
        arguments_given,
        check_as_before,
        command_line,
        is_resuming,
        materials,
    )
    from clbench.execution.job import set_deterministic
    from clbench.records.files import check_writable

    place = device_for(device, engine)
    set_threads(threads, jobs, place, ("--jobs ", "--threads "), engine)
    if deterministic:
        # cuBLAS needs to be told before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_deterministic(deterministic)
    if engine is None:
        warn_of_slow_precision(screen, training_precision, place)
    specs = choice.specs(images, training_precision, place, screen.warn)
    if dry_run:
        from clbench.estimate import show_plan

        if keep_weights:
            refuse_without_network([spec.method for spec in specs])
        show_plan(screen, specs, images, place, output, engine)
        return

    check_writable(output, "--output")
    check_writable(reports, "--reports")
    found = materials(specs, data_folder(data_root), choice.files)
    check_as_before(output, found, screen.warn)

    from clbench.execution.engines import ready, submit
    from clbench.execution.grid import run_grid
    from clbench.execution.on_slurm import Slurm
    from clbench.execution.rerun import compare, set_aside
    from clbench.records.folder import all_recorded, without_networks
    from clbench.tracking.connection import tracking_uri as resolve_uri
    from clbench.tracking.glance import holds_all
    from clbench.tracking.tracker import Tracker
    from clbench.tracking.untracked import Untracked

    uri = resolve_uri(tracking_uri)
    screen.say(
        f"{choice.suite.title}: {len(specs)} run{'' if len(specs) == 1 else 's'} on {place}; the MLflow store is {uri}"
    )
    described = specs[0].network
    size = "x".join(map(str, described["image_shape"]))
    screen.say(
        f"network {described['name']}, {described['parameters']:,} parameters; images {size} of {images.source}, "
        f"SHA-256 {images.sha256[:16]}"
    )
    run_ids = [spec.run_id for spec in specs]
    if rerun:
        set_aside(output, run_ids, uri, screen.warn)
    arguments = arguments_given()
    labels = labels_of(choice, specs)
    planned = make_jobs(
        choice,
        specs,
        images,
        place,
        output,
        command_line(arguments),
        at_once=jobs,
        labels=labels,
        keep_weights=keep_weights,
        gpus=engine.gpus if engine else None,
    )
    # Gone on with, it must not begin anew once more.
    to_go_on = [argument for argument in arguments if argument != "--rerun"]
    if keep_weights and not rerun and (lacking := without_networks(output, run_ids)):
        screen.warn(f"{', '.join(lacking)} are recorded without networks; --rerun trains them again and keeps these")
    remembering = Remembering(output, to_go_on, found)
    if isinstance(engine, Slurm) and not all_recorded(output, run_ids):
        submit(engine, planned, screen, uri, rerun=rerun)
        remembering.remember()
        return
    is_done = all_recorded(output, run_ids) and holds_all(uri, choice.suite.name, run_ids)
    tracker = Untracked(is_behind=False) if is_done else Tracker(uri, screen.warn, output)
    with ready(engine, planned[0].threads, screen.say) as run:
        outcome = run_grid(planned, Observers(tracker, remembering, screen), run)
    # Also where a rerun was stopped and is gone on with.
    if rerun or is_resuming():
        compare(output, run_ids, screen.say, screen.warn)
    _finish(choice.suite, output, reports, uri, screen, tracker, outcome, no_report, rerun)


def _finish(
    suite: "Suite",
    output: Path,
    reports: Path,
    uri: str,
    screen: "Screen",
    tracker: "Tracker | Untracked",
    outcome: str,
    no_report: bool,
    rerun: bool,
) -> None:
    """Summary, report, and how to go on; then the exit code."""
    from clbench.reports.fresh import fresh, made_of, remember
    from clbench.tracking.glance import page_of, state_of

    if outcome == "stopped":
        again = "clbench resume" if rerun else "The same command"
        screen.warn(f"stopped; tasks that were learned to the end are recorded. {again} goes on after them")
        raise SystemExit(INTERRUPTED)
    # What was there before the runs are read: what comes in between is in the next report.
    found = "" if no_report or tracker.is_behind else made_of(state_of(uri, suite.name))
    unchanged = fresh(output, reports, suite.name, found)
    for path in [] if no_report else unchanged:
        screen.show(f"report:  {path} (up to date)")
    if not no_report and not unchanged:
        try:
            # The run folders have everything, also where MLflow lacks some of it.
            runs = recorded_runs(suite.name, output if tracker.is_behind else None, uri)
            paths = write_suite_report(runs, suite.name, reports, screen)
            remember(output, reports, suite.name, found, paths)
        except (RecordError, TrackingError) as error:
            # Nothing finished, or the folder or the store is gone: what was trained is recorded all the same.
            screen.warn(f"no report: {error}")
            paths = []
        tracker.keep_report(paths)
        for path in paths:
            screen.show(f"report:  {path}")
    screen.show(f"runs:    {output}")
    screen.show(f"compare: mlflow ui --backend-store-uri {shlex.quote(uri)}")
    if page := page_of(uri, suite.name):
        screen.show(f"         then open {page}")
    if outcome == "failed":
        again = "clbench resume" if rerun else "the same command"
        screen.warn(f"some runs failed, for the reasons above; {again} tries them again")
        raise SystemExit(1)


def status_command(output: OutputOption = Path("clbench-runs")) -> None:
    """Show every recorded run and how it stands, and the workers on clusters, asking their queue."""
    from clbench.execution.engines import show_workers
    from clbench.records.standing import standings, status_table
    from clbench.screen import Screen

    found, screen = standings(output), Screen(quiet=False)
    if found:
        screen.show(status_table(found))
    # Below the table, where a path has room.
    for item in found:
        if item.detail:
            screen.show(f"{item.run_id}: {item.detail}")
    if not show_workers(output, screen) and not found:
        raise RecordError(f"{output} holds no runs; give the folder that does with --output")


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
    """Go on with the last `clbench run` that recorded in this folder: the same as giving the same command again."""
    from clbench.execution.invocation import command_line, last_invocation, resuming

    arguments, folder = last_invocation(output)
    if quiet and not {"-q", "--quiet"} & {*arguments}:
        arguments = [*arguments, "-q"]
    os.chdir(folder)
    print(command_line(arguments), flush=True)
    with resuming(arguments):
        context.find_root().command.main(arguments, prog_name="clbench")
