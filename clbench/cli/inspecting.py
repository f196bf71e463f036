"""The command that looks at what a run has left: inspect."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench.cli.options import DataRootOption, DeviceOption, OfflineOption, OutputOption, ThreadsOption

if TYPE_CHECKING:
    from rich.table import Table

    from clbench.records.reading import RecordedRun
    from clbench.repair import Repaired
    from clbench.runs.spec import RunSpec


def inspect_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, its id, or its first digits, four or more.")],
    repair: Annotated[
        float | None,
        typer.Option(
            "--repair",
            min=0.0,
            max=1.0,
            help="Destroy this share of a task's units and learn the task again. Trains the run's tasks for it.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[int, typer.Option("--task", min=1, help="Which task is damaged, from 1.")] = 1,
    output: OutputOption = Path("clbench-runs"),
    data_root: DataRootOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Show how much of a network a run's tasks use, and what is free; try whether a damaged task can be repaired.

    The repair is no part of the record. It takes as long as the run, and one task more.
    """
    from clbench.records.reading import read_run
    from clbench.records.removal import named_runs
    from clbench.screen import Screen

    folder = Path(run) if (Path(run) / "status.json").exists() else output / named_runs(output, [run])[0]
    found, screen = read_run(folder), Screen(quiet=False)
    screen.show(f"{found.suite}, {found.method} seed {found.seed}, {len(found.tasks)} tasks learned")
    if found.capacity.empty:
        screen.show(f"{found.method} counts no units")
    else:
        screen.show(capacity_table(found))
    if repair is None:
        return
    import torch

    from clbench.data import load_images
    from clbench.execution.place import chosen_device
    from clbench.repair import repair as tried

    if threads is not None:
        torch.set_num_threads(threads)
    images = load_images(str(found.config["data"]["source"]), data_root, offline=offline)
    spec = _spec_of(found, images)
    n_tasks = spec.suite.n_tasks
    place = chosen_device(device)
    measured = tried(spec, images, place, task, repair, lambda done: screen.say(f"task {done}/{n_tasks + 1} learned"))
    screen.show(repair_table(measured))
    kept = "to the bit" if measured.moved == 0 else f"but for {measured.moved:.2g} in a logit"
    screen.show(f"learning again left the other tasks as they were, {kept}")


def _spec_of(run: "RecordedRun", images: Any) -> "RunSpec":
    """The recorded run, to be trained again.

    Raises:
        RecordError: if today's suite, method or images are others.
    """
    from clbench.errors import RecordError
    from clbench.runs.spec import make_specs
    from clbench.suites.files import find_suite

    config = run.config
    (spec,) = make_specs(
        find_suite(run.suite), [run.method], [run.seed], config["overrides"], images, config["precision"],
        config["device"].partition(":")[0],
    )  # fmt: skip
    if spec.run_id != run.run_id:
        raise RecordError(
            f"the run {run.run_id} cannot be trained again: suite, method or images are others now, or were files of "
            "yours; run it anew and inspect that one"
        )
    return spec


def capacity_table(run: "RecordedRun") -> "Table":
    """Units after the last task, group by group."""
    from rich.table import Table

    last = run.capacity[run.capacity["task"] == run.capacity["task"].max()]
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "of", "in all", "used", "free", "free, %"):
        table.add_column(heading, justify="left" if heading in ("group", "of") else "right")
    for row in last.to_dict("records"):
        share = 100 * row["free"] / row["units"]
        numbers = [f"{int(row[key]):,}" for key in ("units", "used", "free")]
        table.add_row(str(row["group"]), f"{row['unit']}s", *numbers, f"{share:.1f}")
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
        table.add_row("other tasks, %", f"{100 * found.others_before:.2f}", f"{100 * found.others_damaged:.2f}", "")
    for group, (there, hit) in found.units.items():
        table.add_row(f"units of {group}", str(there), str(there - hit), "")
    return table
