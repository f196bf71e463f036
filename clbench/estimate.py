"""What a grid of runs will cost, before it starts: images, steps, and time measured on this machine."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from rich.text import Text

from clbench.data import ImageSet
from clbench.data.streams import Stream, make_stream
from clbench.errors import RecordError
from clbench.methods.method import Method, Workplace, images_to_train, steps_to_train
from clbench.methods.table import find_method
from clbench.records.folder import RunFolder
from clbench.records.naming import names, overridden
from clbench.records.reading import read_run
from clbench.runs.memory import keep_freed_memory
from clbench.runs.spec import RunSpec
from clbench.screen import Screen, duration
from clbench.seeding import RandomStreams

if TYPE_CHECKING:
    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm

_STEPS, _WARM_UP = 12, 3
_SECONDS = 5.0


def show_plan(
    screen: Screen,
    specs: Sequence[RunSpec],
    images: ImageSet,
    device: torch.device,
    output: Path,
    engine: "Slurm | Ray | None" = None,
) -> None:
    """Prints a row per run and the sum over what `output` does not hold yet.

    The time is that of plain training steps of the suite's network, timed here for a moment. What a method does beyond
    them (penalties, Fisher information, pruning, tests) comes on top; CLNP's steps get cheaper with what it freezes.

    Args:
        screen: shows it.
        specs, images, device: what is to be run on what.
        output: the folder of run folders.
        engine: where it is to be run; None for this machine.
    """
    keep_freed_memory()
    if engine is not None and engine.gpus and not torch.cuda.is_available():
        device = torch.device("cpu")
    first = specs[0]
    # A sweep may be over settings of the suite.
    suites = {id(spec.suite): spec.suite for spec in specs}
    streams = {key: make_stream(suite, images, RandomStreams(first.seed)) for key, suite in suites.items()}
    table = Table(box=None, pad_edge=False)
    table.add_column("run id", no_wrap=True, min_width=16)
    # Where the screen is narrow it is the names that take a second line, not the numbers that lose digits.
    table.add_column("method", overflow="fold")
    for name in ("seed", "epochs", "images", "steps", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    rates: dict[tuple[int, str | None, int], float] = {}
    total, to_do, done = 0.0, 0, 0
    planned = [spec.nameable for spec in specs]
    called = names(planned)
    for spec, named in zip(specs, called, strict=True):
        stream = streams[id(spec.suite)]
        place = Workplace(spec.suite, stream, RandomStreams(spec.seed), device, spec.precision)
        method = find_method(spec.method)(spec.settings, place)
        status, learned = _progress(RunFolder(output, spec.run_id))
        left = stream.tasks[learned:]
        count, steps = images_to_train(method, left), steps_to_train(method, left)
        key = (id(spec.suite), getattr(spec.settings, "optimizer", None), spec.settings.batch_size or 1)
        if key not in rates:
            rates[key] = images_per_second(Method(spec.settings, place))
        seconds = count / rates[key]
        if not status:
            total, to_do = total + seconds, to_do + 1
        done += status == "recorded"
        table.add_row(
            spec.run_id,
            Text(named.label),
            str(spec.seed),
            str(spec.settings.epochs),
            f"{count:,}",
            f"{steps:,}",
            status or duration(seconds),
        )
    notes = [f"{name.label} has {name.differs}" for name in dict.fromkeys(called) if name.differs]
    if said := overridden(planned, [name.label for name in called]):
        notes.append(said)
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    screen.show(table)
    counts = sorted({spec.suite.n_tasks for spec in specs})
    tasks = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    beside = f", beside {done} recorded in {output}" if done else ""
    screen.show(
        f"\n{to_do} run{'' if to_do == 1 else 's'} of {tasks} tasks{beside}: {duration(total)} of plain "
        f"training steps on {device} ({first.precision}, threads: {torch.get_num_threads()}), as fast as it is right "
        "now; what a method does beside them comes on top, and CLNP saves what it has frozen. Nothing was run."
    )
    if not to_do:
        return
    if engine is not None:
        screen.show(_on_cluster(engine, to_do, total, first))
        return
    faster = _with_one_thread(first, streams[id(first.suite)], device, next(iter(rates.values())))
    if faster is not None:
        screen.show(
            f"With --threads 1 they would take {duration(total / faster)}: more threads wait for one another here."
        )


def _on_cluster(engine: "Slurm | Ray", to_do: int, seconds: float, spec: RunSpec) -> str:
    """What a cluster makes of it, in a sentence; seconds are those of this machine."""
    at_once = min(engine.workers or to_do, to_do)
    hours = seconds / 3600
    if engine.gpus:
        cost = f"{engine.gpus * hours:.1f} GPU-hours"
    else:
        cost = f"{torch.get_num_threads() * hours:.1f} core-hours"
    most = "" if engine.workers else ", if it has room for all"
    here = "processor" if spec.device == "cuda" and not torch.cuda.is_available() else "machine"
    return (
        f"On {type(engine).__name__}, {at_once} at once{most}: {duration(seconds / at_once)}, {cost}, if it is as fast "
        f"as this {here}."
    )


# Below this a difference is noise.
_FASTER = 1.15


def _with_one_thread(spec: RunSpec, stream: Stream, device: torch.device, rate: float) -> float | None:
    """How many times as fast training is with one thread; None where that is not faster, or is what there is.

    On a machine that others use as well, threads wait for one another.
    """
    threads = torch.get_num_threads()
    if threads == 1 or device.type != "cpu":
        return None
    torch.set_num_threads(1)
    try:
        place = Workplace(spec.suite, stream, RandomStreams(spec.seed), device, spec.precision)
        faster = images_per_second(Method(spec.settings, place)) / rate
    finally:
        torch.set_num_threads(threads)
    return faster if faster > _FASTER else None


def _progress(folder: RunFolder) -> tuple[str, int]:
    """`recorded`, `damaged` or nothing, and the number of tasks that are learned already."""
    try:
        status = folder.status
        return "recorded" if status == "finished" else "", 0 if status == "absent" else len(read_run(folder.path).tasks)
    except RecordError:
        return "damaged", 0


_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")


def slow_precision(precision: str, device: torch.device) -> str | None:
    """A sentence where training in that precision would be emulated on this device, as far as PyTorch can tell."""
    if precision != "bfloat16":
        return None
    if device.type == "cuda":
        lacking = not torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(device)
    else:
        # Older versions of PyTorch do not say what a processor can do.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        lacking = bool(capabilities) and not any(capabilities.get(each) for each in _BFLOAT16)
        name = capabilities.get("cpu_name") or "this processor"
    if not lacking:
        return None
    return (
        f"{name} has no instructions for bfloat16: training in it may take many times as long as in float32; "
        "--dry-run with either tells how long"
    )


def images_per_second(method: Method) -> float:
    """Speed of plain training steps with the method's network, optimiser and batches, measured for some seconds."""
    model = method.build_network()
    optimizer = method.build_optimizer(model)
    # A task's last batch is smaller than the others, and may be its only one.
    size = min(method.settings.batch_size, len(method.workplace.stream.tasks[0].train))
    device = method.workplace.device
    x = torch.rand(size, *method.workplace.stream.image_shape, device=device)
    y = torch.zeros(size, dtype=torch.long, device=device)
    labels = torch.zeros(size, dtype=torch.long, device=device)
    from clbench.networks.answer import answer

    began = time.perf_counter()
    start, done = began, 0
    for step in range(_STEPS + _WARM_UP):
        if step == _WARM_UP:
            start, done = time.perf_counter(), 0
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=method.workplace.precision == "bfloat16"):
            logits = answer(model, x, labels)
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        loss.item()
        done += 1
        if time.perf_counter() - began > _SECONDS:
            break
    return size * done / (time.perf_counter() - start)
