"""How fast the methods train here, as a share of a bare PyTorch loop measured beside them.

A share tells more than images per second: the bare loop has the suite's network, batches and optimiser on tensors in
memory, and nothing else, so what a share lacks to 1 is what the method and the framework cost. Each method is measured
between two bare loops, several times over, because a machine that others use as well is not always equally fast; the
share is of the mean of the two, and the median of the shares counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from clbench.data import ImageSet, load_images
from clbench.data.streams import Stream, make_stream
from clbench.errors import DataError
from clbench.records.result import RunResult
from clbench.runs.memory import keep_freed_memory
from clbench.runs.runner import train
from clbench.runs.spec import make_specs
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    from clbench.runs.spec import Precision

METHODS = ("naive", "ewc", "si", "psp", "clnp")
STOCK = ("avalanche-stock-naive", "avalanche-stock-ewc", "avalanche-stock-si")
AUGMENTED = "naive, crop and flip"


@dataclass(frozen=True)
class Measured:
    """One measurement of a method, or of one of its tasks.

    Attributes:
        rate: training images per second.
        evaluation_share: share of the time that went into testing, after every task, all tasks seen and the next; None
            for a single task, for Avalanche's own, and where few images were trained or tested on.
        state_copies: what the method keeps between tasks beside network and optimiser, after the last task, in copies
            of the network's weights; None as above.
    """

    rate: float
    evaluation_share: float | None = None
    state_copies: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        name: the method; `clnp-first-task` is its first task alone, pruning included; from three tasks on, the second
            and the last are beside it.
        images_per_second: trained on, what a method does between tasks included; median over the repeats.
        bare_images_per_second: of the bare loop, median over the repeats.
        share_of_bare_loop: median over the repeats of the ratio to the bare loop measured before and after.
        shares: the ratio of every repeat.
        evaluation_share: median over the repeats, see `Measured`.
        state_copies: see `Measured`.
    """

    name: str
    images_per_second: float
    bare_images_per_second: float
    share_of_bare_loop: float
    shares: tuple[float, ...]
    evaluation_share: float | None = None
    state_copies: float | None = None


def bench_suite(network: str, n_tasks: int) -> Suite:
    """What is measured: permuted-mnist for its own network, `mlp`; for others tasks of ten classes, with a single head.

    Raises:
        SettingError: for an unknown network.
    """
    if network == "mlp":
        return find_suite("permuted-mnist").with_overrides({"n_tasks": n_tasks})
    changes = {"network": network, "head": "single", "n_tasks": n_tasks, "classes_per_task": 10}
    return find_suite("split-cifar10").with_overrides(changes)


def bench_images(data_root: Path | None, network: str = "mlp", n_tasks: int = 1) -> ImageSet:
    """Images to train on, of which only the size matters here.

    For `mlp` MNIST where it lies on disk, else as many images made of the embedded digits. For other networks CIFAR-10
    where it lies on disk, else as many of noise, and of either only 1,000 test images. Each of the tasks has its share
    of all ten classes, under labels of its own.
    """
    if network != "mlp":
        try:
            images = load_images("cifar10", data_root, offline=True)
        except DataError:
            images = _noise()
        else:
            # They come class by class.
            images = replace(images, test_images=images.test_images[::10], test_labels=images.test_labels[::10])
        return replace(
            images,
            train_labels=_dealt(images.train_labels, n_tasks),
            test_labels=_dealt(images.test_labels, n_tasks),
            class_names=images.class_names * n_tasks,
        )
    try:
        return load_images("mnist", data_root, offline=True)
    except DataError:
        return _enlarged_digits()


def _dealt(labels: Tensor, n_tasks: int) -> Tensor:
    """Labels 0 to 9 become 0 to 10 * n_tasks - 1: of every class, each task in turn gets an image."""
    order = labels.argsort(stable=True)
    turn = torch.empty_like(labels)
    turn[order] = torch.arange(len(labels)) % n_tasks
    return labels + 10 * turn


def _enlarged_digits() -> ImageSet:
    digits = load_images("digits")
    generator = torch.Generator().manual_seed(0)

    def enlarge(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(images), (count,), generator=generator)
        whole = nn.functional.interpolate(images[chosen].float(), (28, 28), mode="bilinear")
        noise = torch.randint(0, 64, whole.shape, generator=generator)
        return (whole + noise * (whole > 0)).clamp(0, 255).to(torch.uint8), labels[chosen]

    train_images, train_labels = enlarge(digits.train_images, digits.train_labels, 60_000)
    test_images, test_labels = enlarge(digits.test_images, digits.test_labels, 10_000)
    return replace(
        digits,
        source="digits, enlarged",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _noise() -> ImageSet:
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return images, torch.arange(count) % 10

    return ImageSet("noise", *drawn(50_000), *drawn(1_000), class_names=tuple("0123456789"), sha256="")


def bench(
    images: ImageSet,
    device: torch.device,
    precision: "Precision",
    methods: Sequence[str] = METHODS,
    n_tasks: int = 2,
    epochs: int = 1,
    repeats: int = 3,
    suite: Suite | None = None,
    on_measured: Callable[[str], None] = lambda what: None,
) -> Iterator[Row]:
    """Measures method after method with a suite's network and settings.

    Args:
        images: what to train on.
        device, precision: where and in which arithmetic.
        methods: names of ours, or of `STOCK`, which are Avalanche's own strategies on its own data loaders, or
            `AUGMENTED`.
        n_tasks, epochs: of each measurement.
        repeats: measurements of every method.
        suite: whose; None for permuted-mnist.
        on_measured: told in words what each measurement gave.
    """
    keep_freed_memory()
    suite = (suite or find_suite("permuted-mnist")).with_overrides({"n_tasks": n_tasks, "epochs": epochs})
    stream = make_stream(suite, images, RandomStreams(0))
    # As fast in every epoch and on every task.
    plain = suite.with_overrides({"epochs": 1})
    stream = replace(stream, tasks=stream.tasks[:2])
    # The first pass finds caches cold and memory not yet taken from the system.
    bare_loop(stream, plain, device, precision)
    for name in methods:
        found: dict[str, list[Measured]] = {}
        shares: dict[str, list[float]] = {}
        bare_rates = [bare_loop(stream, plain, device, precision)]
        for repeat in range(repeats):
            measured = (
                stock(name, suite, images, device) if name in STOCK else ours(name, suite, images, device, precision)
            )
            bare_rates.append(bare_loop(stream, plain, device, precision))
            bare = statistics.mean(bare_rates[-2:])
            for row, measurement in measured.items():
                found.setdefault(row, []).append(measurement)
                shares.setdefault(row, []).append(measurement.rate / bare)
            on_measured(
                f"{name}, {repeat + 1} of {repeats}: {measured[name].rate:,.0f} images/s beside the bare loop's "
                f"{bare:,.0f}"
            )
        for row, measurements in found.items():
            tested = [m.evaluation_share for m in measurements if m.evaluation_share is not None]
            yield Row(
                row,
                statistics.median(measurement.rate for measurement in measurements),
                statistics.median(bare_rates),
                statistics.median(shares[row]),
                tuple(shares[row]),
                statistics.median(tested) if tested else None,
                measurements[-1].state_copies,
            )


def bare_loop(stream: Stream, suite: Suite, device: torch.device, precision: str) -> float:
    """Images per second of plain PyTorch on the stream's tasks: tensors in memory, one gather per batch.

    An epoch is a pass over a task's images, or as many batches as the suite says, pass after pass.
    """
    model = suite.build_network(stream.image_shape, stream.n_outputs, seed=0).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    count, seconds = 0, 0.0
    for task in stream.tasks:
        x, y = (tensor.to(device) for tensor in task.train.tensors())
        optimizer = torch.optim.Adam(model.parameters(), lr=suite.learning_rate, fused=True)
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(suite.epochs):
            order = _epoch(len(x), suite, device)
            count += len(order)
            for chosen in order.split(suite.batch_size):
                optimizer.zero_grad()
                with autocast:
                    output = model(x[chosen])
                nn.functional.cross_entropy(output.float(), y[chosen]).backward()
                optimizer.step()
        _wait_for(device)
        seconds += time.perf_counter() - start
    return count / seconds


def _epoch(n_images: int, suite: Suite, device: torch.device) -> Tensor:
    if suite.steps_per_epoch is None:
        return torch.randperm(n_images, device=device)
    wanted = suite.steps_per_epoch * suite.batch_size
    passes = [torch.randperm(n_images, device=device) for _ in range(-(-wanted // n_images))]
    return torch.cat(passes)[:wanted]


def ours(
    name: str, suite: Suite, images: ImageSet, device: torch.device, precision: "Precision"
) -> dict[str, Measured]:
    """A method in our runner, everything that it does between tasks included."""
    method_name = "naive" if name == AUGMENTED else name
    # A method may have epochs of its own in the suite (SI has); the bare loop has the suite's.
    changes: dict[str, Any] = {f"{method_name}.epochs": suite.epochs}
    if name == AUGMENTED:
        changes["augmentation"] = ["crop", "flip"]
    (spec,) = make_specs(suite, [method_name], [0], changes, images, precision, device.type)
    results: list[RunResult] = []
    method = train(spec, images, device, results.append)
    weights = sum(parameter.nbytes for parameter in method.model.parameters())
    tasks = results[-1].tasks
    seconds = [task["train_seconds"] for task in tasks]
    counts = [task["train_images_per_second"] * task["train_seconds"] for task in tasks]
    tested = sum(task["eval_seconds"] for task in tasks)
    # Of a few steps, or with few test images, the share would mean nothing.
    is_whole = suite.network == "mlp" and suite.steps_per_epoch is None
    measured = {
        name: Measured(
            sum(counts) / sum(seconds),
            tested / (tested + sum(seconds)) if is_whole else None,
            None if tasks[-1]["extra_state_bytes"] is None else tasks[-1]["extra_state_bytes"] / weights,
        )
    }
    if name == "clnp":
        # What is frozen or pruned makes later tasks faster than the first.
        chosen = {"first": 0, "second": 1, "last": len(tasks) - 1} if len(tasks) > 2 else {"first": 0}
        measured |= {f"clnp-{which}-task": Measured(counts[task] / seconds[task]) for which, task in chosen.items()}
    return measured


def stock(name: str, suite: Suite, images: ImageSet, device: torch.device) -> dict[str, Measured]:
    """Avalanche's own strategy on its own loaders, in float32."""
    from avalanche.training import Naive
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, SynapticIntelligencePlugin

    plugins = {
        "avalanche-stock-naive": list,
        "avalanche-stock-ewc": lambda: [EWCPlugin(ewc_lambda=1.0)],
        "avalanche-stock-si": lambda: [SynapticIntelligencePlugin(si_lambda=0.1)],
    }[name]()
    stream = make_stream(suite, images, RandomStreams(0))
    model = suite.build_network(stream.image_shape, stream.n_outputs, seed=0).to(device)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=suite.learning_rate, fused=True),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=suite.batch_size,
        train_epochs=suite.epochs,
        device=device,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
    )
    start = time.perf_counter()
    for experience in stream.benchmark.train_stream:
        strategy.train(experience)
    _wait_for(device)
    count = sum(len(task.train) for task in stream.tasks) * suite.epochs
    return {name: Measured(count / (time.perf_counter() - start))}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


LEGEND = (
    "images/s: trained on, with all that a method does between tasks (Fisher information, pruning); share: of the bare "
    "PyTorch loop measured before and after, median of the repeats; testing: share of the time for testing, after "
    "every task, all tasks seen and the next; state: kept between tasks beside network and optimiser, in copies of the "
    "weights."
)


def bench_table(rows: Sequence[Row]) -> Table:
    """The rows for the terminal; `LEGEND` says what the columns are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True, overflow="fold")
    for heading in ("images/s", "bare loop's", "share", "lowest", "highest", "testing", "state"):
        table.add_column(heading, justify="right")
    for row in rows:
        extremes = (f"{min(row.shares):.2f}", f"{max(row.shares):.2f}") if len(row.shares) > 1 else ("", "")
        table.add_row(
            Text(row.name),
            f"{row.images_per_second:,.0f}",
            f"{row.bare_images_per_second:,.0f}",
            f"{row.share_of_bare_loop:.2f}",
            *extremes,
            "" if row.evaluation_share is None else f"{100 * row.evaluation_share:.1f} %",
            "" if row.state_copies is None else f"{row.state_copies:.2g}",
        )
    return table


def as_json(
    rows: Sequence[Row], images: ImageSet, device: torch.device, precision: str, **settings: int | str | None
) -> dict[str, Any]:
    """The rows with everything that is needed to compare them with another machine's."""
    from clbench.records.environment import git_state, package_versions, processor_name

    commit, changes = git_state()
    return {
        "rows": [asdict(row) for row in rows],
        "reference": "bare PyTorch loop, the suite's network, batches and optimiser, measured before and after",
        "data": images.source,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "settings": settings,
        "versions": package_versions(),
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
    }
