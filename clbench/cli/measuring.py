"""Commands that try and measure: check, bench."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clbench.cli.options import (
    DataRootOption,
    DeviceOption,
    PrecisionOption,
    QuietOption,
    ThreadsOption,
    chosen_precision,
    listed,
    warn_of_slow_precision,
)
from clbench.errors import RecordError, SettingError


def check_command(
    method: Annotated[str, typer.Argument(help="Its name, ./file.py:Class or package.module:Class.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of it: strength=0.5. Repeat for more.")
    ] = None,
) -> None:
    """Try whether a method holds what every method must, on three small tasks.

    The same seed gives the same bits, a killed run goes on, it learns, it trains every kind of head, and so on. The
    exit code is 1 if something does not hold.
    """
    from clbench.check import findings
    from clbench.methods.table import exists, names_of, unknown_method
    from clbench.screen import Screen
    from clbench.suites.settings import base_name, parse_overrides

    (name,) = names_of([method], Path.cwd())
    if name != base_name(name) and exists(base_name(name)):
        raise SettingError(
            f"{name} is a variant that a suite defines; give {base_name(name)}, and its settings with --set"
        )
    if not exists(name):
        raise unknown_method(name)
    screen, fails = Screen(quiet=False), 0
    given = {key.removeprefix(f"{name}."): value for key, value in parse_overrides(overrides or []).items()}

    import torch

    torch.set_num_threads(1)
    marks = {"holds": "yes", "fails": "NO", "does not apply": "-"}
    for finding in findings(name, given):
        screen.show(f"{marks[finding.verdict]:>4}  {finding.said}")
        fails += finding.verdict == "fails"
    if fails:
        screen.show(f"\n{name} does not hold {fails} of what every method must")
        raise SystemExit(1)
    screen.show(f"\n{name} holds what every method must")


def bench_command(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", show_default=False)] = None,
    network: Annotated[
        str,
        typer.Option(help="The network: mlp, conv-zenke, alexnet-hat, resnet18, vgg9, conv, or ./file.py:Class."),
    ] = "mlp",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated names of methods, or 'all'; also avalanche-stock-naive, -ewc and -si. Repeatable. "
            "Default: naive,ewc,si,psp,clnp, or for another network than mlp naive, and naive with augmentation.",
            show_default=False,
        ),
    ] = None,
    with_avalanche: Annotated[
        bool,
        typer.Option("--with-avalanche", help="Avalanche's own strategies and loaders as well."),
    ] = False,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of each measurement.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs per task.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Batches of an epoch. Default: one pass.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Images per batch. Default: 256.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each method; the median counts.")] = 3,
    data_root: DataRootOption = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure training speed as a share of a bare PyTorch loop; keep the machine idle meanwhile.

    A quarter of an hour on two cores as it comes.

    For mlp permuted MNIST's network, batches and optimiser; the data are MNIST where it lies, else made of the embedded
    digits. For any other network Adam on RGB images of 32 pixels, CIFAR-10 where it lies, else noise; say --steps 20.
    """
    import json

    import torch

    from clbench.bench import AUGMENTED, LEGEND, METHODS, STOCK, as_json, bench, bench_images, bench_suite, bench_table
    from clbench.execution.place import chosen_device
    from clbench.execution.plan import chosen_methods
    from clbench.runs.spec import make_specs
    from clbench.screen import Screen

    suite = bench_suite(network, tasks)
    changes = {"steps_per_epoch": steps, "batch_size": batch_size}
    suite = suite.with_overrides({key: value for key, value in changes.items() if value is not None})
    if methods is not None:
        names = chosen_methods(listed(methods), suite, STOCK)
    else:
        names = list(METHODS) if network == "mlp" else ["naive", AUGMENTED]
    if with_avalanche:
        names += [name for name in STOCK if name not in names]
    if steps is not None and set(names) & set(STOCK):
        raise SettingError("Avalanche's own loaders know no number of steps, but got --steps; leave it, or them, out")
    training_precision = chosen_precision(precision)
    screen = Screen(quiet=quiet)
    if threads is not None:
        torch.set_num_threads(threads)
    place = chosen_device(device)
    warn_of_slow_precision(screen, training_precision, place)
    images = bench_images(data_root, network, tasks)
    if out is not None:
        _check_writable(out)
    if methods is not None and "all" in (listed(methods) or ()):
        ours = [name for name in names if name not in STOCK]
        specs = make_specs(suite, ours, [0], {}, images, training_precision, place.type, leave_out=screen.warn)
        fitting = {spec.method for spec in specs}
        names = [name for name in names if name in STOCK or name in fitting]
    screen.say(f"{images.source} on {place}, {training_precision}, threads: {torch.get_num_threads()}; warming up")
    rows = list(bench(images, place, training_precision, names, tasks, epochs, repeats, suite, screen.say))
    screen.show(bench_table(rows))
    screen.show(f"\n{LEGEND}")
    if out is not None:
        content = as_json(
            rows,
            images,
            place,
            training_precision,
            network=suite.network,
            tasks=tasks,
            epochs=epochs,
            steps=steps,
            batch_size=suite.batch_size,
            repeats=repeats,
        )
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
