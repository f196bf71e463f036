"""The command that takes a network out of a run: export."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.options import OutputOption

if TYPE_CHECKING:
    from rich.table import Table

    from clbench.export.exported import Exported


def export_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, its id, or its first digits, four or more.")],
    task: Annotated[int, typer.Option("--task", min=1, help="Which task's network, from 1.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write into.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX as well, checked in ONNX Runtime.")] = False,
    output: OutputOption = Path("clbench-runs"),
) -> None:
    """Take the network that a task needs out of a run: plain PyTorch that needs no clbench, and what it costs.

    The run must have been trained with --keep-weights. Keep the machine idle meanwhile: times are measured.
    """
    from clbench.records.removal import named_folder
    from clbench.screen import Screen

    folder = named_folder(output, run)
    # What is imported next warns of a machine that has CUDA's compiler and no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from clbench.export.exported import export

    found = export(folder, task, out, onnx=onnx)
    screen = Screen(quiet=False)
    screen.show(costs_table(found))
    screen.show(f"logits as in the run, within {found.difference:.1g} of the largest")
    if found.onnx_difference is not None:
        screen.show(f"in ONNX Runtime within {found.onnx_difference:.1g}")
    if found.is_constant:
        screen.warn("the network gives every image the same answer: the task was left without units, or not learned")
    for path in found.paths:
        screen.show(f"written: {path}")


def costs_table(found: "Exported") -> "Table":
    """The network beside the whole one, and their ratio."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in (f"task {found.about['task']}", "whole network", "ratio"):
        table.add_column(heading, justify="right")
    own, whole = found.own, found.whole
    rows = [
        ("parameters", own.parameters, whole.parameters, ",.0f"),
        ("megabytes", own.megabytes, whole.megabytes, ",.2f"),
        ("multiply-adds an image", own.multiply_adds, whole.multiply_adds, ",.0f"),
        *(
            (f"milliseconds, batch {batch}, one thread", own.milliseconds[batch], whole.milliseconds[batch], ",.3f")
            for batch in own.milliseconds
        ),
    ]
    for name, first, second, form in rows:
        table.add_row(name, format(first, form), format(second, form), f"{first / second:.2f}" if second else "-")
    return table
