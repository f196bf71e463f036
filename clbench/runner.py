"""One run: (suite, method, seed) in, accuracy matrix and diagnostics out. Reads from top to bottom."""

import os
import platform
import shlex
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clbench import __version__, metrics
from clbench.data import ImageSet
from clbench.errors import ClbenchError, Interrupted, SettingError, unknown_name
from clbench.methods import EVALUATION_BATCH, Method, MethodSettings, Workplace, find_method, resolve_settings
from clbench.records import RunFolder, run_id_of
from clbench.seeding import RandomStreams
from clbench.suites import OVERRIDABLE, Suite

if TYPE_CHECKING:
    import torch

    from clbench.streams import Task

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides what a run computes.

    Attributes:
        suite: with overrides applied.
        method, settings: the method's name and its resolved hyper-parameters.
        seed: of all random streams.
        precision: of training; evaluation is always float32.
        overrides: what `--set` changed, as given; empty for a canonical run.
        data: source, digest and counts of the images.
        device: type of the device, `cpu` or `cuda`.
    """

    suite: Suite
    method: str
    settings: MethodSettings
    seed: int
    precision: Precision
    overrides: Mapping[str, Any]
    data: Mapping[str, Any]
    device: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run id is the hash of; documentation and the other methods' settings have no part in it."""
        suite = self.suite.model_dump(mode="json", exclude={"title", "source", "seeds", "methods", "method_settings"})
        return {
            "clbench": __version__,
            "suite_settings": suite,
            "method": self.method,
            "method_settings": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "data_sha256": self.data["sha256"],
        }

    @property
    def run_id(self) -> str:
        """Hash of the resolved configuration."""
        return run_id_of(self.identity)


def make_specs(
    suite: Suite,
    methods: list[str],
    seeds: list[int],
    overrides: Mapping[str, Any],
    images: ImageSet,
    precision: Precision,
    device: str,
) -> list[RunSpec]:
    """The grid of runs, seed by seed, so that a comparison is complete early.

    Overrides without a dot are the suite's; `method.setting` is one method's. One that says what the suite says
    anyway changes nothing and does not mark the run as modified.

    Raises:
        SettingError: for an unknown method or setting, or a value that does not fit.
    """
    of_suite: dict[str, Any] = {}
    of_method: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        owner, dot, setting = key.partition(".")
        if not dot:
            of_suite[key] = value
        elif owner in methods:
            of_method.setdefault(owner, {})[setting] = value
        else:
            find_method(owner)
            raise SettingError(f"--set {key}: '{owner}' is not among the methods of this run ({', '.join(methods)})")
    unknown = [key for key in of_suite if key not in OVERRIDABLE]
    if unknown:
        raise unknown_name("setting", unknown[0], [*OVERRIDABLE, *(f"{name}.SETTING" for name in methods)])
    changed = suite.with_overrides(of_suite)
    data = {
        "source": images.source,
        "sha256": images.sha256,
        "train_images": len(images.train_labels),
        "test_images": len(images.test_labels),
    }
    specs = []
    for seed in seeds:
        for name in methods:
            canonical = resolve_settings(changed, name, {})
            settings = resolve_settings(changed, name, of_method.get(name, {}))
            effective = {
                **{k: getattr(changed, k) for k in of_suite if getattr(changed, k) != getattr(suite, k)},
                **{
                    f"{name}.{k}": getattr(settings, k)
                    for k in of_method.get(name, {})
                    if getattr(settings, k) != getattr(canonical, k)
                },
            }
            specs.append(RunSpec(changed, name, settings, seed, precision, effective, data, device))
    return specs


@dataclass
class Progress:
    """Where a run stands; changed in place while it trains.

    Attributes:
        task, n_tasks: the task being learned, from 1, of how many.
        images, images_per_task: trained on within the task, and expected.
        images_trained, images_total: in the whole run.
        seconds: spent in training so far.
    """

    n_tasks: int
    task: int = 0
    images: int = 0
    images_per_task: int = 0
    images_trained: int = 0
    images_total: int = 0
    seconds: float = 0.0


@dataclass
class RunResult:
    """What a run measured so far.

    Attributes:
        matrix: accuracy [T + 1, T], NaN where not measured (see `clbench.metrics`).
        tasks: per task learned, the columns `records.TASK_COLUMNS`.
        capacity: per task and layer, the columns `records.CAPACITY_COLUMNS`.
    """

    matrix: metrics.Matrix
    tasks: list[dict[str, Any]] = field(default_factory=list)
    capacity: list[dict[str, Any]] = field(default_factory=list)

    @property
    def learned(self) -> int:
        """Tasks learned so far."""
        return len(self.tasks)

    def metrics(self) -> dict[str, float]:
        """What MLflow gets after the last task: see `README.md` for the names."""
        row = self.matrix[self.learned]
        values = {f"accuracy/task_{j + 1:02d}": float(v) for j, v in enumerate(row) if not np.isnan(v)}
        if not self.learned:
            return values
        values |= metrics.summarise(self.matrix, self.learned)
        values |= {key: float(value) for key, value in self.tasks[-1].items() if key != "task"}
        rows = [row for row in self.capacity if row["task"] == self.learned]
        for kind in ("free", "reused", "new"):
            if rows:
                values[f"{kind}_neurons"] = float(sum(row[kind] for row in rows))
            for row_ in rows:
                values[f"{kind}_neurons/layer_{row_['layer']}"] = float(row_[kind])
        return values


def train(
    spec: RunSpec,
    images: ImageSet,
    device: "torch.device",
    on_task: Callable[[RunResult], None],
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Method:
    """Trains one method on one suite with one seed and measures it after every task.

    Args:
        spec: what to run.
        images: its data.
        device: where.
        on_task: called with the result so far, first before any training, then after every task.
        on_progress: called after every batch.
        should_stop: asked after every batch.

    Returns:
        The trained method.

    Raises:
        Interrupted: if `should_stop` said so; whole tasks have been handed to `on_task`.
        DivergenceError: if the loss is no longer finite.
    """
    from clbench.memory import keep_freed_memory, peak_memory_bytes, reset_peak_memory
    from clbench.streams import make_stream
    from clbench.watching import Watch

    keep_freed_memory()
    seeds = RandomStreams(spec.seed)
    stream = make_stream(spec.suite, images, seeds)
    method = find_method(spec.method)(spec.settings, Workplace(spec.suite, stream, seeds, device, spec.precision))
    progress = Progress(n_tasks=len(stream.tasks), images_total=images_to_train(method, stream.tasks))
    watch = Watch(progress, on_progress, should_stop)
    method.prepare(observers=[watch])

    n_tasks = len(stream.tasks)
    result = RunResult(np.full((n_tasks + 1, n_tasks), np.nan))
    measure(method, stream.tasks, 0, result.matrix)
    on_task(result)
    for task in stream.tasks:
        progress.task = task.index + 1
        progress.images = 0
        progress.images_per_task = images_to_train(method, [task])
        reset_peak_memory(device)
        trained_before, start = progress.images_trained, time.perf_counter()
        method.learn(task)
        train_seconds = time.perf_counter() - start
        start = time.perf_counter()
        measure(method, stream.tasks, task.index + 1, result.matrix)
        result.tasks.append(
            {
                "task": task.index + 1,
                "train_seconds": train_seconds,
                "train_images_per_second": (progress.images_trained - trained_before) / train_seconds,
                "eval_seconds": time.perf_counter() - start,
                "peak_memory_bytes": peak_memory_bytes(device),
                "extra_state_bytes": method.extra_state_bytes(),
            }
        )
        result.capacity += method.capacity()
        on_task(result)
    return method


def images_to_train(method: Method, tasks: "Sequence[Task]") -> int:
    """Images, each counted as often as it is used, that learning these tasks trains on."""
    return sum(method.settings.epochs * len(samples) for task in tasks for samples in method.training_samples(task))


def measure(method: Method, tasks: "Sequence[Task]", learned: int, matrix: metrics.Matrix) -> None:
    """Fills row `learned` of the accuracy matrix: the tasks learned so far and, if it can be tried, the next.

    The next task's accuracy before it is learned is what forward transfer compares with the untrained network
    (row 0, where every task is tried).
    """
    for task in tasks:
        if (learned == 0 or task.index <= learned) and method.can_predict(task, learned):
            matrix[learned, task.index] = accuracy(method, task)


def accuracy(method: Method, task: "Task") -> float:
    """Share of the task's test images that are classified correctly, in float32, always in the same batches."""
    import torch

    device = method.workplace.device
    correct = 0
    method.set_training(False)
    with torch.inference_mode():
        for positions in torch.arange(len(task.test)).split(EVALUATION_BATCH):
            x, y = task.test.batch(positions)
            correct += int((method.predict(x.to(device), task).argmax(1).cpu() == y).sum())
    method.set_training(True)
    return correct / len(task.test)


def config_of(spec: RunSpec, method_class: type[Method], device: "torch.device") -> dict[str, Any]:
    """The content of config.json: the identity, and what a reader needs to trace and repeat the run."""
    import torch

    commit, dirty = git_state()
    return {
        "run_id": spec.run_id,
        "suite": spec.suite.name,
        "title": spec.suite.title,
        "method": spec.method,
        "seed": spec.seed,
        "modified": bool(spec.overrides),
        "overrides": dict(spec.overrides),
        "suite_settings": spec.identity["suite_settings"] | {"title": spec.suite.title, "source": spec.suite.source},
        "method_settings": spec.identity["method_settings"],
        "task_known_at_test": spec.suite.head == "multi" or method_class.task_known_at_test,
        "precision": spec.precision,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "data": dict(spec.data),
        "versions": package_versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "command": shlex.join(["clbench", *sys.argv[1:]]),
        "host": socket.gethostname(),
    }


def execute(
    spec: RunSpec,
    images: ImageSet,
    device: "torch.device",
    folder: RunFolder,
    config: Mapping[str, Any],
    on_task: Callable[[RunResult], None],
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> None:
    """Trains a run and writes its folder: tables after every task, and how it ended whatever happens.

    Raises:
        Exception: whatever `train` raised, after status.json says so.
    """
    folder.begin(config, environment_text())
    # A run that fails before anything was measured leaves whole, empty tables.
    n_tasks = spec.suite.n_tasks
    folder.write_tables(np.full((n_tasks + 1, n_tasks), np.nan), [], [])

    def record(result: RunResult) -> None:
        folder.write_tables(result.matrix, result.tasks, result.capacity)
        on_task(result)

    try:
        train(spec, images, device, record, on_progress, should_stop)
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        reason = "stopped by the user" if stopped else f"{type(error).__name__}: {error}"
        if not isinstance(error, ClbenchError) and not stopped:
            folder.write("traceback.txt", traceback.format_exc())
        folder.set_status("stopped" if stopped else "failed", reason)
        raise
    folder.set_status("finished")


PACKAGES = (
    "clbench",
    "torch",
    "torchvision",
    "avalanche-lib",
    "mlflow",
    "numpy",
    "pandas",
    "scikit-learn",
)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = __version__ if name == "clbench" else "not installed"
    return found


def environment_text() -> str:
    """The machine and every installed package, one per line."""
    from importlib.metadata import distributions

    lines = [
        f"platform: {platform.platform()}",
        f"processor: {processor_name()}",
        f"cores: {os.cpu_count()}",
        f"python: {platform.python_version()}",
        "",
    ]
    packages = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"]}
    return "\n".join([*lines, *(f"{name}=={packages[name]}" for name in sorted(packages, key=str.lower))]) + "\n"


def processor_name() -> str:
    """The processor's model, as well as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def git_state() -> tuple[str, bool | None]:
    """Commit of the checkout that this code runs from, and whether it was changed since; ("", None) elsewhere.

    Asked once per process: the code that runs is the one that was imported then.
    """
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return "", None
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "", None
    return commit, bool(changes)
