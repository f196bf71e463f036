"""One run: (suite, method, seed) in, accuracy matrix and diagnostics out. Reads from top to bottom."""

import math
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clbench import metrics
from clbench.data import ImageSet
from clbench.data.streams import Stream
from clbench.errors import ClbenchError, DivergenceError, Interrupted, MethodWarning, RecordError
from clbench.methods.learned import chance, warn_if_not_learned
from clbench.methods.method import Method, Workplace, images_to_train, share_right
from clbench.methods.table import find_method
from clbench.own.code import said_by
from clbench.records.folder import RunFolder
from clbench.records.result import RunResult
from clbench.records.samples import sample_strip
from clbench.runs.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from clbench.runs.memory import keep_freed_memory, peak_memory_bytes, reset_peak_memory
from clbench.runs.samples import sample_images
from clbench.runs.spec import RunSpec, check_unchanged
from clbench.runs.watching import Progress, Watch
from clbench.seeding import RandomStreams

if TYPE_CHECKING:
    from clbench.data.streams import Task


def train(
    spec: RunSpec,
    images: ImageSet | Stream,
    device: torch.device,
    on_task: Callable[[RunResult], None],
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    saved: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda state: None,
) -> Method:
    """Trains one method on one suite with one seed and measures it after every task.

    Args:
        spec: what to run.
        images: its data, or the stream that was made of them.
        device: where.
        on_task: called with the result so far, first before any training, then after every task.
        on_progress: called after every batch.
        should_stop: asked after every batch.
        saved: the state to go on from, as an interrupted run handed it to `save`; bit for bit as if uninterrupted.
        save: called with the state after every task, before `on_task`.

    Returns:
        The trained method.

    Raises:
        Interrupted: if `should_stop` said so; whole tasks have been handed to `on_task`.
        DivergenceError: if the loss is no longer finite.
    """
    keep_freed_memory()
    check_unchanged(spec)
    stream = images if isinstance(images, Stream) else spec.stream(images)
    workplace = Workplace(spec.suite, stream, RandomStreams(spec.seed), device, spec.precision)
    method = find_method(spec.method)(spec.settings, workplace)
    progress = Progress(n_tasks=len(stream.tasks), images_total=images_to_train(method, stream.tasks))
    watch = Watch(progress, on_progress, should_stop)
    method.prepare(observers=[watch])

    n_tasks = len(stream.tasks)
    if saved is None:
        result = RunResult(np.full((n_tasks + 1, n_tasks), np.nan))
        measure(method, stream.tasks, 0, result.matrix)
    else:
        result = RunResult.from_state(saved["result"])
        method.load_state_dict(saved["method"])
        trained = [row["train_images_per_second"] * row["train_seconds"] for row in result.tasks]
        progress.images_trained = sum(map(round, trained))
        progress.images_total = progress.images_trained + images_to_train(method, stream.tasks[result.learned :])
        progress.seconds = sum(row["train_seconds"] for row in result.tasks)
    on_task(result)
    for task in stream.tasks[result.learned :]:
        progress.task = task.index + 1
        progress.images = 0
        progress.images_per_task = images_to_train(method, [task])
        reset_peak_memory(device)
        trained_before, start = progress.images_trained, time.perf_counter()
        method.learn(task)
        check_finite(method, task)
        train_seconds = time.perf_counter() - start
        # A task may end before its last epoch.
        progress.images_total -= progress.images_per_task - progress.images
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
                "optimizer_state_bytes": method.optimizer_state_bytes(),
            }
        )
        if not method.says_what_it_hardly_learned:
            right, by_chance = float(result.matrix[task.index + 1, task.index]), chance(task.test.labels)
            warn_if_not_learned("the network", task.index, right, by_chance, "the images that it is tested on")
        result.capacity += method.capacity()
        result.pruning += method.pruning()
        result.measures += [
            {"task": result.learned, "name": name, "value": float(value)} for name, value in method.measures().items()
        ]
        # Nothing is left to go on with after the last task.
        if method.resumes and result.learned < n_tasks:
            save({"method": method.state_dict(), "result": result.state()})
        on_task(result)
    return method


def check_finite(method: Method, task: "Task") -> None:
    """Ends a run whose last step of a task has spoilt its weights, which no later loss would show.

    Raises:
        DivergenceError: naming the task and the parameter.
    """
    for name, value in (*method.model.named_parameters(), *method.model.named_buffers()):
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DivergenceError(
                f"{name} of the network is no longer finite after task {task.index + 1}; try a lower rate, or a "
                "weaker penalty if the method has one"
            )


def measure(method: Method, tasks: "Sequence[Task]", learned: int, matrix: metrics.Matrix) -> None:
    """Fills row `learned` of the accuracy matrix: the tasks learned so far and, if it can be tried, the next.

    The next task's accuracy before it is learned is what forward transfer compares with the untrained network
    (row 0, where every task is tried).
    """
    for task in tasks:
        if learned == 0 or task.index <= learned:
            matrix[learned, task.index] = accuracy(method, task)


def accuracy(method: Method, task: "Task") -> float:
    """Share of the task's test images that are classified correctly, in float32, always in the same batches.

    NaN where the method has no answers for the task.
    """
    device = method.workplace.device
    answering = method.network_for(task)
    if answering is None:
        return math.nan
    with torch.inference_mode(), answering as network:
        return share_right(network, task.test, device)


def execute(
    spec: RunSpec,
    stream: Stream,
    device: torch.device,
    folder: RunFolder,
    config: Mapping[str, Any],
    environment: str,
    on_task: Callable[[RunResult], None],
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    keep_weights: bool = False,
) -> None:
    """Trains a run and writes its folder: a checkpoint and the tables after every task, and how it ended.

    An attempt that ended early goes on after the last task it learned, if nothing has changed since; otherwise a
    warning says what, and the run begins anew.

    Args:
        spec, stream, device: what is trained, on what and where.
        folder: of the run.
        config: the content of its config.json.
        environment: the text of its environment.txt.
        on_task, on_progress, should_stop: as for `train`.
        keep_weights: whether the network of every task is kept.

    Raises:
        Exception: whatever `train` raised, after status.json says so.
    """
    if folder.status in ("running", "stopped", "failed"):
        if not find_method(spec.method).resumes:
            _warn_of_beginning("the method does not say that it can go on from what it saves (Method.resumes)")
        elif not folder.checkpoint.exists():
            _warn_of_beginning("it had learned no task to go on after")
    saved = _resumable(folder, config, spec.files)
    if saved is None:
        folder.begin(config, environment, spec.files)
        _, samples = sample_images(stream)
        if samples is not None:
            folder.write_bytes("samples.png", sample_strip(samples))
        # A run that fails before anything was measured leaves whole, empty tables.
        n_tasks = spec.suite.n_tasks
        folder.write_tables(RunResult(np.full((n_tasks + 1, n_tasks), np.nan)))
    else:
        folder.resume()

    def record(result: RunResult) -> None:
        folder.write_tables(result)
        on_task(result)

    def save(state: dict[str, Any]) -> None:
        folder.check_held()
        save_checkpoint(folder.checkpoint, {"run_id": config["run_id"], **state})

    try:
        method = train(spec, stream, device, record, on_progress, should_stop, saved=saved, save=save)
        weights = weights_digest({**method.state_dict()["model"], **method.extra_state()})
        networks = {}
        if keep_weights:
            from clbench.export.kept import keep_networks

            try:
                networks = keep_networks(method, folder, config, weights)
            except Exception as error:
                # What was learned is recorded all the same.
                said = str(error) if isinstance(error, ClbenchError) else said_by(error)
                warnings.warn(f"the networks are not kept: {said}", MethodWarning, stacklevel=2)
        folder.set_status("finished", weights_sha256=weights, networks=networks)
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        reason = "stopped before its end, by the user or a signal" if stopped else f"{type(error).__name__}: {error}"
        if not isinstance(error, ClbenchError) and not stopped:
            folder.write("traceback.txt", traceback.format_exc())
        folder.set_status("stopped" if stopped else "failed", reason)
        raise
    folder.discard_checkpoint()


# What two attempts must have in common to be one run.
_SAME_IN_ALL_ATTEMPTS = (
    "format",
    "versions",
    "git_commit",
    "git_changes",
    "device",
    "device_name",
    "threads",
    "deterministic",
    "data",
)


def _resumable(folder: RunFolder, config: Mapping[str, Any], files: Mapping[str, bytes]) -> Mapping[str, Any] | None:
    """The checkpoint of an earlier attempt to go on from, if there is one that fits."""
    if not folder.checkpoint.exists():
        return None
    try:
        before = folder.config()
        for key in _SAME_IN_ALL_ATTEMPTS:
            if before.get(key) != config[key]:
                if key == "git_changes":
                    raise RecordError("the code of clbench was edited since, without a commit")
                raise RecordError(f"its {key} was {before.get(key)}, and is {config[key]} now")
        if folder.own_files() != files:
            raise RecordError("the files of yours that it used are others now")
        saved = load_checkpoint(folder.checkpoint)
        if saved.get("run_id") != config["run_id"]:
            raise RecordError(f"the checkpoint {folder.checkpoint} is another run's")
        return saved
    except RecordError as error:
        _warn_of_beginning(f"it cannot go on: {error}")
        return None


def _warn_of_beginning(why: str) -> None:
    said = f"begins anew, and the earlier attempt is kept beside it, because {why}"
    warnings.warn(said, MethodWarning, stacklevel=3)
