"""The command that searches settings: tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.options import (
    DataRootOption,
    DeviceOption,
    GpusOption,
    JobsOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    RayAddressOption,
    SuiteOption,
    ThreadsOption,
    UriOption,
    as_option,
    chosen_executor,
    chosen_precision,
    listed,
    warn_of_slow_precision,
)
from clbench.errors import INTERRUPTED, SettingError
from clbench.reports.formatting import counted

if TYPE_CHECKING:
    import torch

    from clbench.data import ImageSet
    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm
    from clbench.execution.plan import Choice
    from clbench.runs.spec import Precision
    from clbench.screen import Screen
    from clbench.search.protocols import Budget, Found
    from clbench.search.session import Session
    from clbench.search.trials import Plan

_PROTOCOLS = ("grid", "first-k", "chf")


def tune_command(
    suite: SuiteOption,
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated names. Repeatable. Default: all of the grid, or the suite's that can be."),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="grid: the suite's own list. first-k: Optuna within each method's ranges. chf: De Lange et al. 2019."
        ),
    ] = "grid",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="With first-k and chf: trials of each method, at most. Default: 20 and 10."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="With first-k and chf: images that a method's trials train on, in all, at most."),
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=1, help="With first-k and chf: tasks of each trial. Default: as the suite's search has, or 3."
        ),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="TOML file with the trials. Default: the one that comes with the suite.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="CSV file to append to. Default: clbench-tuning/SUITE.csv.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder that holds a folder per trial. Default: the log's name, clbench-tuning/SUITE."),
    ] = None,
    data_root: DataRootOption = None,
    offline: OfflineOption = False,
    tracking_uri: UriOption = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: JobsOption = 1,
    executor: Annotated[
        str | None, typer.Option("--executor", help="ray: train on a Ray cluster. Default: here.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at once on Ray. Default: 4.", show_default=False)
    ] = None,
    ray_address: RayAddressOption = None,
    gpus_per_run: GpusOption = None,
    quiet: QuietOption = False,
) -> None:
    """Search hyper-parameters on validation images, with the same budget for every method.

    Trials that the log holds already are not repeated, unfinished ones go on after the last task they learned. Nothing
    is chosen or changed: read the log.
    """
    from clbench.execution.invocation import arguments_given, command_line
    from clbench.execution.place import device_for, set_threads
    from clbench.execution.plan import choose
    from clbench.records.files import check_writable
    from clbench.screen import Screen
    from clbench.search.protocols import Budget, can_be_searched, check_searched
    from clbench.search.session import Session, Stopped, Unfinished, alone
    from clbench.search.trials import Trial, load_grid, logged, plan_trials
    from clbench.tracking.connection import tracking_uri as resolve_uri

    _check(protocol, trials, images, tasks, grid, executor)
    engine = chosen_executor(executor, workers, None, ray_address, gpus_per_run, jobs)
    choice = choose(suite, listed(methods), data_root=data_root, at_once=2 if engine else jobs)
    training_precision = chosen_precision(precision)
    log = log or Path("clbench-tuning") / f"{choice.suite.name}.csv"
    output = output or (log.with_suffix("") if log.suffix else log.with_name(f"{log.name}-runs"))
    screen = Screen(quiet=quiet)
    found = load_grid(choice.suite, grid) if protocol == "grid" else None
    data = choice.images(screen.warn, offline=offline)
    place = device_for(device, engine)
    set_threads(threads, jobs, place, ("--jobs ", "--threads "), engine)
    if engine is None:
        warn_of_slow_precision(screen, training_precision, place)
    names = choice.methods if methods is not None else None
    plan, planned = None, list[Trial]()
    if found is not None:
        planned = plan_trials(choice.suite, found, names, data, training_precision, place, choice.files)
    else:
        plan = _plan(choice, tasks, data, training_precision, place)
        names = names or [name for name in choice.fitting(screen.warn) if can_be_searched(protocol, name)]
        if not names:
            raise SettingError(f"no method of {choice.suite.name} can be searched with {protocol}; name some")
        for name in names:
            check_searched(protocol, plan, name)
    budget = Budget(trials or (10 if protocol == "chf" else 20), images)
    # A file that is no log is refused before anything is made beside it.
    logged(log)
    check_writable(log.parent, "--log")
    check_writable(output, "--output")
    asked = command_line(arguments_given())
    session = Session(choice, data, place, log, output, resolve_uri(tracking_uri), asked, screen, jobs, _ray(engine))
    results: dict[str, list[Found]] = {}
    try:
        with session, alone(output, protocol):
            if plan is None:
                screen.say(f"{choice.suite.name}: {counted(len(planned), 'trial')} in the grid")
                for each in session.train(planned):
                    results.setdefault(each.trial.spec.method, []).append(each)
            else:
                results = _searched(protocol, plan, names or [], budget, session, log.with_suffix(".journal"))
    except Stopped:
        screen.warn("stopped; the same command goes on after the tasks that are learned")
        raise SystemExit(INTERRUPTED) from None
    except Unfinished as error:
        screen.warn(str(error))
        raise SystemExit(1) from None
    for name, tried in results.items():
        _show_best(screen, name, tried, protocol, budget)
    screen.show(f"runs:    {output}")
    screen.show(f"log:     {log}")


# Where a suite has no search of its own.
_TASKS, _SEED = 3, 1000


def _plan(
    choice: "Choice", tasks: int | None, images: "ImageSet", precision: "Precision", device: "torch.device"
) -> "Plan":
    from clbench.search.trials import Plan

    suite = choice.suite
    if tasks is not None and tasks > suite.n_tasks:
        raise SettingError(f"{suite.name} has {suite.n_tasks} tasks, but got --tasks {tasks}")
    n_tasks = tasks or (suite.search.n_tasks if suite.search else min(_TASKS, suite.n_tasks))
    seed = suite.search.seed if suite.search else _SEED
    if seed in suite.seeds:
        raise SettingError(f"a search has seed {seed}, which is one that the suite reports; give the suite other seeds")
    return Plan(suite, n_tasks, seed, images, precision, device, choice.files)


def _searched(
    protocol: str, plan: "Plan", names: list[str], budget: "Budget", session: "Session", journal: Path
) -> "dict[str, list[Found]]":
    """By method, what a protocol that asks for trials has found."""
    from clbench.search.protocols import DROP, RATES, chf, first_k, plain_fine_tuning

    for name in names if budget.images else ():
        if (needed := session.images_of(plan.trial(name, {}))) > (budget.images or 0):
            raise SettingError(f"a trial of {name} trains on {needed:,} images, but got --images {budget.images}")
    say, tasks = session.screen.say, counted(plan.n_tasks, "task")
    limit = f" and {budget.images:,} images" if budget.images else ""
    say(f"{plan.suite.name}, {protocol}: at most {counted(budget.trials, 'trial')} of {tasks}{limit} for each method")
    if protocol == "chf":
        say(f"first plain fine-tuning at {len(RATES)} rates, which all methods share")
        plain = plain_fine_tuning(plan, session.train)
        learned = plain.learning_accuracy or 0.0
        say(
            f"at {plain.trial.label} it learns most, {100 * learned:.2f} % of a task right after it; methods shall "
            f"learn {100 * (1 - DROP) * learned:.2f} %"
        )
        return {name: chf(plan, name, budget, session.train, plain) for name in names}
    return {name: first_k(plan, name, budget, session.train, journal, session.width) for name in names}


def _ray(engine: "Slurm | Ray | None") -> "Ray | None":
    from clbench.execution.on_ray import Ray

    return engine if isinstance(engine, Ray) else None


def _show_best(screen: "Screen", name: str, tried: "list[Found]", protocol: str, budget: "Budget") -> None:
    """Shows what came out best, as options of a command."""
    learned = [each for each in tried if each.accuracy is not None]
    trials = counted(len(tried), "trial")
    is_spent = budget.images is not None and len(tried) < budget.trials
    if not learned:
        screen.show(f"{name}: {trials}, of which all diverged")
        return
    if protocol == "chf" and not tried[-1].learns_enough:
        more = "--images" if is_spent else "--trials"
        screen.show(f"{name}: {trials}, of which none learns within 20 % of plain fine-tuning; give more {more}")
        return
    best = learned[-1] if protocol == "chf" else max(learned, key=lambda each: each.accuracy or 0.0)
    options = " ".join(f"--set {name}.{key}={as_option(value)}" for key, value in best.trial.settings.items())
    if protocol == "chf":
        trials = f"the first that learns enough, trial {len(tried)}"
    elif is_spent:
        trials = f"{trials}, as many as --images allows"
    screen.show(
        f"{name}: {100 * (best.accuracy or 0.0):.2f} % on validation images after "
        f"{counted(best.trial.spec.suite.n_tasks, 'task')}, {trials}: {options or 'as the suite has it'}"
    )


def _check(
    protocol: str,
    trials: int | None,
    images: int | None,
    tasks: int | None,
    grid: Path | None,
    executor: str | None,
) -> None:
    if protocol not in _PROTOCOLS:
        raise SettingError(f"unknown protocol '{protocol}': expected {', '.join(_PROTOCOLS)}")
    if protocol == "grid":
        for option, value in (("--trials", trials), ("--images", images), ("--tasks", tasks)):
            if value is not None:
                raise SettingError(f"{option} is for --protocol first-k and chf; a grid says what is tried")
    elif grid is not None:
        raise SettingError(f"--grid is for --protocol grid; {protocol} chooses by itself what to try")
    if executor == "slurm":
        raise SettingError(
            "a search asks what to try next, so that its command stays; give --executor ray, or give the command in a "
            "job of Slurm"
        )
