"""The command that looks at what a run has left: inspect."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.options import DataRootOption, DeviceOption, OfflineOption, OutputOption, ThreadsOption

if TYPE_CHECKING:
    from rich.table import Table

    from clbench.data import ImageSet
    from clbench.records.reading import RecordedRun
    from clbench.repair import Repaired
    from clbench.runs.spec import RunSpec


def inspect_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, its id, or its first digits, four or more.")],
    repair: Annotated[
        float | None,
        typer.Option(
            "--repair",
            help="Destroy this share of a task's units, such as 0.3, and learn the task again. Trains the run's tasks.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        int | None, typer.Option("--task", help="Which task --repair damages, from 1. Default: 1.", show_default=False)
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="With --repair, where the run's network is your own: the network as ./file.py:Class.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = Path("clbench-runs"),
    data_root: DataRootOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Show how much of a network a run's tasks use, and what is free; try whether a damaged task can be repaired.

    The repair is no part of the record. It takes as long as the run, and one task more.
    """
    from clbench.errors import MethodWarning, SettingError, shown
    from clbench.records.reading import read_run
    from clbench.records.removal import named_folder
    from clbench.screen import Screen

    if repair is None and task is not None:
        raise SettingError("--task says which task --repair damages; give --repair as well, such as --repair 0.3")
    if repair is None and network is not None:
        raise SettingError("--network is the one that --repair trains; give --repair as well, such as --repair 0.3")
    if repair is not None and not 0 < repair <= 1:
        raise SettingError(f"--repair {repair:g} is no share of units to destroy; expected one above 0, up to 1")
    folder = named_folder(output, run)
    found, screen = read_run(folder), Screen(quiet=False)
    n_tasks, chosen = int(found.config["suite_settings"]["n_tasks"]), 1 if task is None else task
    if not 1 <= chosen <= n_tasks:
        raise SettingError(f"the run has tasks 1 to {n_tasks}, but got --task {chosen}")
    counted = f"; new and reused are of task {len(found.tasks)}" if len(found.capacity) else ""
    screen.show(f"{found.suite}, {found.method} seed {found.seed}, {len(found.tasks)} tasks learned{counted}")
    if found.capacity.empty:
        screen.show(f"{found.method} counts neither units nor weights")
    else:
        screen.show(capacity_table(found))
    if repair is None:
        return
    import torch

    from clbench.execution.place import chosen_device
    from clbench.repair import repair as tried

    if threads is not None:
        torch.set_num_threads(threads)
    place = chosen_device(device)
    spec, images = _again(found, network, data_root, offline=offline, warn=screen.warn)

    def learned(done: int) -> None:
        screen.say(f"task {done}/{n_tasks} learned" if done <= n_tasks else f"task {chosen} learned again")

    with shown(MethodWarning, screen.warn):
        measured = tried(spec, images, place, chosen, repair, learned)
    screen.show(repair_table(measured))
    screen.show(
        f"trained again, in a network planned for {n_tasks + 1} tasks; units count dead ones that the task reads"
    )
    kept = "to the bit" if measured.moved == 0 else f"but for {measured.moved:.2g} in a logit"
    screen.show(f"learning again left the other tasks as they were, {kept}")


def _again(
    run: "RecordedRun", network: str | None, data_root: Path | None, *, offline: bool, warn: Callable[[str], None]
) -> "tuple[RunSpec, ImageSet]":
    """The recorded run, to be trained again, and its images.

    Args:
        run: the recorded one.
        network: the user's own, where the run has one.
        data_root, offline, warn: as for a run.

    Raises:
        RecordError: if today's suite, method or images are others.
        SettingError: for a network of the user's own that is not given.
    """
    import torch

    from clbench.errors import RecordError, SettingError
    from clbench.execution.plan import choose

    config = run.config
    settings = config["suite_settings"]
    if "network_sha256" in settings and network is None:
        name = settings["network"]
        raise SettingError(f"the run's network '{name}' was a file of yours; give it with --network ./FILE.py:{name}")
    own = {} if network is None else {"network": network}
    choice = choose(run.suite, [run.method], [run.seed], {**config["overrides"], **own}, data_root)
    images = choice.images(warn, offline=offline)
    (spec,) = choice.specs(images, config["precision"], torch.device(config["device"]), warn)
    if spec.run_id != run.run_id:
        raise RecordError(
            f"the run {run.run_id} cannot be trained again: suite, method or images are others now, or were files of "
            "yours; run it anew and inspect that one"
        )
    return spec, images


def capacity_table(run: "RecordedRun") -> "Table":
    """Units after the last task, group by group, and what that task claimed and reused."""
    from rich.table import Table

    last = run.capacity[run.capacity["task"] == run.capacity["task"].max()]
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "of", "in all", "used", "free", "free, %", "new", "reused"):
        table.add_column(heading, justify="left" if heading in ("group", "of") else "right")
    for row in last.to_dict("records"):
        share = 100 * row["free"] / row["units"]
        units, used, free, new, reused = (f"{int(row[key]):,}" for key in ("units", "used", "free", "new", "reused"))
        table.add_row(str(row["group"]), f"{row['unit']}s", units, used, free, f"{share:.1f}", new, reused)
    return table


def repair_table(found: "Repaired") -> "Table":
    """Accuracy before the damage, after it, and after learning again."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("before", "damaged", "learned again"):
        table.add_column(heading, justify="right")
    shares = [f"{100 * value:.2f}" for value in (found.before, found.damaged, found.repaired)]
    table.add_row(f"task {found.task}, %", *shares)
    if found.others_before == found.others_before:
        others = found.others_before, found.others_damaged, found.others_repaired
        table.add_row("other tasks, %", *(f"{100 * value:.2f}" for value in others))
    for group, (there, hit, then) in found.units.items():
        table.add_row(f"units of {group}", str(there), str(there - hit), str(then))
    return table
