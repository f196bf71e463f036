"""The command line: reads arguments, composes the parts, and says what went wrong in one sentence.

The only module that imports everything, and it does so inside the commands: `clbench --help` answers at once.
"""

import io
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench import __version__
from clbench.errors import (
    INTERRUPTED,
    ClbenchError,
    Interrupted,
    RecordError,
    ReportWarning,
    SettingError,
    TrackingError,
    shown,
)

if TYPE_CHECKING:
    import torch

    from clbench.grid import Outcome
    from clbench.records import RecordedRun
    from clbench.screen import Screen
    from clbench.specs import Precision
    from clbench.suites import Suite
    from clbench.tracking import Tracker

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Continual-learning benchmarks with faithful baselines, checked claims and traceable numbers.",
)

SuiteOption = Annotated[str, typer.Option("--suite", help="The benchmark; `clbench list` shows all.")]
UriOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow store. Default: MLFLOW_TRACKING_URI, else mlflow.db in this folder."),
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Folder for HTML and PDF.")]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", help="Folder of run folders to read instead of MLflow.", show_default=False),
]
OutputOption = Annotated[Path, typer.Option(help="Folder that holds a folder per run.")]
# Named twice: to a report it is where to read from.
FromMlflowOption = Annotated[
    str | None,
    typer.Option(
        "--from-mlflow",
        "--tracking-uri",
        help="MLflow store to read; its artifacts are all it takes. Default: MLFLOW_TRACKING_URI, else mlflow.db in "
        "this folder.",
    ),
]
SuitesOption = Annotated[
    list[str], typer.Option("--suite", help="The benchmark; `clbench list` shows all. Repeatable.")
]
TemplateOption = Annotated[
    Path | None,
    typer.Option(
        "--template",
        help="Folder with report.html.j2, style.css, script.js or report.typ of your own, to be used instead of ours.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: epochs=2, clnp.margin=0.5. Repeat for more. Recorded as modified."),
]

DataRootOption = Annotated[
    Path | None, typer.Option(help="Folder of the data. Default: CLBENCH_DATA, else the user's cache folder.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never download.")]
PrecisionOption = Annotated[str, typer.Option(help="float32, bfloat16 (training under autocast), or auto: float32.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print warnings and errors only.")]


def _show_version(value: bool) -> None:
    if value:
        print(f"clbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_command() -> None:
    """Show every suite and every method."""
    from clbench.methods import METHODS, method_names
    from clbench.suites import SUITES

    print("suites (clbench show SUITE tells more):")
    for suite in SUITES.values():
        print(f"  {suite.name:<24}{suite.title}: {suite.n_tasks} tasks, {suite.head} head, data {suite.data}")
        if suite.variants:
            print(f"  {'':<24}variants of methods: {', '.join(suite.variants)}")
    print("\nmethods:")
    for name in method_names():
        print(f"  {name:<24}{METHODS[name].summary if name in METHODS else 'of an installed package'}")


@app.command("show")
def show_command(suite: Annotated[str, typer.Argument(help="Name of the suite.")]) -> None:
    """Show a suite: its data, tasks, network, training, every method's settings, and where they come from."""
    from clbench.methods import find_method, method_names, resolve_settings
    from clbench.suites import OVERRIDABLE, find_suite

    chosen = find_suite(suite)
    print(f"{chosen.name}: {chosen.title}\n")
    for key, value in chosen.model_dump(exclude={"name", "title", "source", "method_settings"}).items():
        if value is not None or key in OVERRIDABLE:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else _setting(value)
            print(f"  {key:<24}{shown}")
    print(f"\nsource: {chosen.source}\n\nmethods (* is told the task at test time):")
    for name in [*method_names(), *chosen.variants]:
        known = chosen.head == "multi" or find_method(name).task_known_at_test
        settings = resolve_settings(chosen, name, {}).model_dump()
        shown = ", ".join(f"{key}={_setting(value)}" for key, value in settings.items())
        print(f"  {name + (' *' if known else ''):<18}{shown}")


def _setting(value: Any) -> str:
    """A setting as `--set` takes it."""
    if isinstance(value, tuple | list):
        return str(value[0]) if len(value) == 1 else ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@app.command("run")
def run_command(
    suite: SuiteOption,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated names, or 'all' that fit the suite. Default: its own."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0-2 or 0,3,5. Default: the suite's.")] = None,
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
    from clbench.records import check_writable
    from clbench.screen import Screen
    from clbench.suites import find_suite, parse_overrides

    chosen = find_suite(suite)
    names = _method_names(methods, chosen)
    seed_list = _seeds(seeds, chosen)
    changes = parse_overrides(overrides or [])
    training_precision = _precision(precision)
    screen = Screen(quiet=quiet)
    if not dry_run:
        check_writable(output, "--output")
        check_writable(reports, "--reports")

    from clbench.data import load_images

    images = load_images(chosen.data, data_root, offline=offline)

    import torch

    from clbench.seeding import RandomStreams
    from clbench.specs import make_specs, unreached
    from clbench.streams import make_stream

    place = _device(device)
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
    _warn_of_slow_precision(screen, training_precision, place)
    specs = make_specs(
        chosen,
        names,
        seed_list,
        changes,
        images,
        training_precision,
        place.type,
    )
    for said in unreached(specs, changes):
        screen.warn(said)
    # A suite that its data cannot fill is refused now rather than in every run.
    make_stream(specs[0].suite, images, RandomStreams(specs[0].seed))
    if dry_run:
        from clbench.estimate import show_plan

        show_plan(screen, specs, images, place, output)
        return

    from clbench.grid import Grid, run_grid
    from clbench.invocation import remember
    from clbench.provenance import command_line
    from clbench.tracking import Tracker
    from clbench.tracking import tracking_uri as resolve_uri

    uri = resolve_uri(tracking_uri)
    screen.say(
        f"{chosen.title}: {len(specs)} run{'' if len(specs) == 1 else 's'} on {place}; the MLflow store is {uri}"
    )
    tracker = Tracker(uri, screen.warn, output)
    tracker.begin(chosen.name, command_line(), len(specs))
    remember(output, sys.argv[1:])
    # What was just loaded is on disk now.
    load = partial(load_images, chosen.data, data_root, offline=True)
    grid = Grid(place, output, images, load, jobs)
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
            runs = _recorded(suite.name, output if tracker.is_behind else None, uri)
            paths = _write_report(runs, suite.name, reports, screen)
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


@app.command("status")
def status_command(output: OutputOption = Path("clbench-runs")) -> None:
    """Show every recorded run and how it stands."""
    from clbench.invocation import standings, status_table
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


@app.command("resume")
def resume_command(output: OutputOption = Path("clbench-runs")) -> None:
    """Go on with the last `clbench run`: the same as giving the same command again, in the same folder."""
    from clbench.invocation import last_invocation

    arguments, folder = last_invocation(output)
    os.chdir(folder)
    sys.argv = [sys.argv[0], *arguments]
    print(shlex.join(["clbench", *arguments]), flush=True)
    app(arguments, prog_name="clbench")


@app.command("report")
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
    from clbench.suites import find_suite

    screen = Screen(quiet=quiet)
    names = list(dict.fromkeys(find_suite(name).name for name in suite))
    recorded = {name: _recorded(name, runs, tracking_uri) for name in names}
    paths = [path for name in names for path in _write_report(recorded[name], name, reports, screen, template)]
    if len(names) > 1:
        from clbench.reports.across import compose_across

        across = compose_across([run for found in recorded.values() for run in found], names)
        with shown(ReportWarning, screen.warn):
            paths += write_files(across, "suites", reports, templates=template)
    for path in paths:
        screen.show(f"report:  {path}")


@app.command("compare")
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
    from clbench.suites import find_suite

    screen = Screen(quiet=quiet)
    chosen = find_suite(suite)
    pair = find_pair(_recorded(chosen.name, runs, tracking_uri), chosen.name, first, second)
    screen.show(comparison_table(pair))
    name = f"{chosen.name}-{first}-and-{second}"
    with shown(ReportWarning, screen.warn):
        paths = write_files(compose_comparison(pair), name, reports, templates=template)
    for path in paths:
        screen.show(f"report:  {path}")


@app.command("sync")
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
    from clbench.suites import find_suite
    from clbench.tracking import sync
    from clbench.tracking import tracking_uri as resolve_uri

    screen = Screen(quiet=quiet)
    uri = resolve_uri(tracking_uri)
    done = sync(runs, uri, None if suite is None else find_suite(suite).name, screen.warn)
    counts = ", ".join(f"{number} {what}" for what, number in done.items() if number or what != "unreadable")
    screen.show(f"{uri}: runs {counts}")
    if done["unreadable"]:
        raise SystemExit(1)


@app.command("verify")
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
    from clbench.suites import find_suite

    chosen = find_suite(suite)
    found = verify(_recorded(chosen.name, runs, tracking_uri), chosen.name)
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


@app.command("verify-run")
def verify_run_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run folders, or folders that hold some, however deep.")
    ],
) -> None:
    """Check recorded runs: their digests, their ids, their tables; recompute every metric. Nothing is trained.

    A line per run, with the seal that the report prints beside it, and one for all of them; exit code 1 if one does
    not hold.
    """
    from clbench.audit import audit, run_folders
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


@app.command("tune")
def tune_command(
    suite: SuiteOption,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names. Default: all of the grid.")] = None,
    grid: Annotated[
        Path | None, typer.Option(help="TOML file with the trials. Default: the one that comes with the suite.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="CSV file to append to. Default: clbench-tuning/SUITE.csv.", show_default=False)
    ] = None,
    data_root: DataRootOption = None,
    offline: OfflineOption = False,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Search hyper-parameters on validation images, with the same number of trials for every method.

    Trials that the log holds already are not repeated. Nothing is chosen or changed: read the log.
    """
    from clbench.screen import Screen
    from clbench.suites import find_suite
    from clbench.tuning import load_grid, search

    chosen = find_suite(suite)
    names = None if methods is None else _method_names(methods, chosen)
    trials = load_grid(chosen, grid)
    training_precision = _precision(precision)
    log = log or Path("clbench-tuning") / f"{chosen.name}.csv"
    screen = Screen(quiet=quiet)

    from clbench.data import load_images

    images = load_images(chosen.data, data_root, offline=offline)

    import torch

    from clbench.grid import stopping_on_signals

    if threads is not None:
        torch.set_num_threads(threads)
    place = _device(device)
    _warn_of_slow_precision(screen, training_precision, place)
    stop = threading.Event()
    with stopping_on_signals(stop):
        try:
            for trial in search(chosen, trials, names, images, training_precision, place, log, stop.is_set):
                settings = ", ".join(f"{key}={value}" for key, value in trial.settings.items())
                if trial.row is None:
                    screen.say(f"{trial.spec.method} {settings}: logged before")
                else:
                    screen.say(
                        f"{trial.spec.method} {settings}: validation accuracy {trial.row['validation_accuracy']}, "
                        f"free neurons {trial.row['free_neurons'] or '-'}"
                    )
        except Interrupted:
            screen.warn("stopped; the same command goes on after the trials that are logged")
            raise SystemExit(INTERRUPTED) from None
    screen.show(f"log:     {log}")


@app.command("bench")
def bench_command(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", show_default=False)] = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated names of methods, or 'all'; also avalanche-stock-naive, -ewc and -si.")
    ] = "naive,ewc,si,psp,clnp",
    with_avalanche: Annotated[
        bool,
        typer.Option("--with-avalanche", help="Avalanche's own strategies and loaders as well."),
    ] = False,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of each measurement.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs per task.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each method; the median counts.")] = 3,
    data_root: DataRootOption = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure training speed as a share of a bare PyTorch loop; keep the machine idle meanwhile.

    A quarter of an hour on two cores as it comes.

    Permuted MNIST's network, batches and optimiser; the data are MNIST where it lies, else made of the embedded digits.
    """
    import json

    import torch

    from clbench.bench import LEGEND, STOCK, as_json, bench, bench_images, bench_table
    from clbench.screen import Screen
    from clbench.suites import find_suite

    names = _method_names(methods, find_suite("permuted-mnist"), STOCK)
    if with_avalanche:
        names += [name for name in STOCK if name not in names]
    training_precision = _precision(precision)
    screen = Screen(quiet=quiet)
    if threads is not None:
        torch.set_num_threads(threads)
    place = _device(device)
    _warn_of_slow_precision(screen, training_precision, place)
    images = bench_images(data_root)
    if out is not None:
        _check_writable(out)
    screen.say(f"{images.source} on {place}, {training_precision}, threads: {torch.get_num_threads()}; warming up")
    rows = list(bench(images, place, training_precision, names, tasks, epochs, repeats, on_measured=screen.say))
    screen.show(bench_table(rows))
    screen.show(f"\n{LEGEND}")
    if out is not None:
        content = as_json(rows, images, place, training_precision, tasks=tasks, epochs=epochs, repeats=repeats)
        with _writing(out):
            out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(f"{out} cannot be written ({error.strerror}); give another file with --out") from None


def _check_writable(out: Path) -> None:
    """Refuses a file that cannot be written before the work that is to fill it; leaves what is in it."""
    with _writing(out):
        is_new = not out.exists()
        with out.open("a"):
            pass
        if is_new:
            out.unlink()


def _recorded(suite: str, folder: Path | None, uri: str | None) -> "list[RecordedRun]":
    """The suite's runs from a folder of run folders, else from MLflow; at least one."""
    from clbench.records import read_runs

    if folder is not None:
        runs = [run for run in read_runs(folder) if run.suite == suite]
        where = f"the folder {folder}"
    else:
        from clbench.tracking import load_runs
        from clbench.tracking import tracking_uri as resolve_uri

        runs = load_runs(suite, resolve_uri(uri))
        where = f"the MLflow store {resolve_uri(uri)}"
    if not runs:
        raise RecordError(f"{where} holds no run of the suite '{suite}'; record some with clbench run --suite {suite}")
    return runs


def _write_report(
    runs: "list[RecordedRun]", suite: str, folder: Path, screen: "Screen", template: Path | None = None
) -> list[Path]:
    from clbench.reports import write_report
    from clbench.reports.terminal import summary_table

    screen.say(f"writing the report on {suite}")
    with shown(ReportWarning, screen.warn):
        paths = write_report(runs, suite, folder, templates=template)
    screen.show(summary_table(runs, suite))
    return paths


def _method_names(given: str | None, suite: "Suite", others: tuple[str, ...] = ()) -> list[str]:
    """The methods named on the command line, each once; `others` are names that are taken beside them."""
    from clbench.errors import unknown_name
    from clbench.methods import find_method, method_names
    from clbench.suites import base_name

    if given is None:
        return list(suite.methods)
    if given == "all":
        names = [*method_names(), *suite.variants]
        return [name for name in names if not find_method(name).refusal(suite)]
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise SettingError("--methods names none; expected a comma-separated list, or 'all'")
    for name in names:
        known = base_name(name) in method_names() and (name == base_name(name) or name in suite.method_settings)
        if not known and name not in others:
            raise unknown_name("method", name, [*method_names(), *suite.variants, *others])
    return names


_MOST_SEEDS = 10_000


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _seeds(given: str | None, suite: "Suite") -> list[int]:
    if given is None:
        return list(suite.seeds)
    seeds: list[int] = []
    for part in given.split(","):
        first, dash, last = part.strip().partition("-")
        if not (_is_seed(first) and (not dash or _is_seed(last))):
            raise SettingError(f"the seeds '{given}' cannot be read; expected numbers and ranges such as 0-2 or 0,3,5")
        low, high = int(first), int(last) if dash else int(first)
        if high < low:
            raise SettingError(f"the seed range '{part.strip()}' runs backwards; write {high}-{low}")
        if high - low >= _MOST_SEEDS:
            raise SettingError(f"the seed range '{part.strip()}' has more than {_MOST_SEEDS:,} seeds")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


def _precision(given: str) -> "Precision":
    if given not in ("auto", "float32", "bfloat16"):
        raise SettingError(f"unknown precision '{given}': expected auto, float32 or bfloat16")
    return "bfloat16" if given == "bfloat16" else "float32"


def _warn_of_slow_precision(screen: "Screen", precision: str, device: "torch.device") -> None:
    from clbench.estimate import slow_precision

    said = slow_precision(precision, device)
    if said is not None:
        screen.warn(said)


def _device(given: str) -> Any:
    import torch

    if given == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(given)
    except RuntimeError:
        raise SettingError(f"unknown device '{given}': expected cpu, cuda, cuda:N or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"the device '{given}' is not supported: expected cpu, cuda, cuda:N or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(f"the device '{given}' is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def main() -> None:
    """The `clbench` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A folder's name may hold what this terminal cannot show; that is no reason to end.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="clbench")
    except ClbenchError as error:
        print(f"clbench: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
