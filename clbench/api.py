"""clbench from Python: train methods on a suite, and work with what was recorded.

runs = clbench.run("permuted-digits", methods=["naive", "ewc"], seeds=range(3))
runs.table()
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clbench.errors import RunError, SettingError
from clbench.events import Ended, Event, Observer, Observers
from clbench.recorded import Runs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm
    from clbench.methods.method import Method
    from clbench.suites.suite import Suite

    Array: TypeAlias = NDArray[Any] | Tensor
    Data: TypeAlias = str | Path | tuple[Array, Array, Array, Array] | tuple[Dataset[Any], Dataset[Any]]
    Network: TypeAlias = str | Callable[..., nn.Module]


def load(folder: str | Path = "clbench-runs") -> Runs:
    """The runs below a folder of run folders.

    Raises:
        RecordError: if there is no such folder, or a run in it is damaged.

    Example:
        clbench.load("clbench-runs").table()
    """
    from clbench.records.reading import read_runs

    return Runs(read_runs(Path(folder)))


def load_suite(name: "str | PathLike[str]") -> "Suite":
    """A suite to look at, to change and to run.

    Args:
        name: of a suite that comes with clbench, or the path of a file, such as `./mine.toml`.

    Raises:
        SettingError: for an unknown name, or a file that is no suite.

    Example:
        suite = clbench.load_suite("permuted-digits")
        longer = suite.model_copy(update={"name": "longer-digits", "n_tasks": 20})
        clbench.run(longer, methods=["naive", "ewc"])
    """
    from clbench.suites.files import find_suite

    return find_suite(str(name))


def run(
    suite: "str | Path | Suite",
    methods: "Sequence[str | type[Method]] | None" = None,
    seeds: Sequence[int] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    network: "Network | None" = None,
    data: "Data | None" = None,
    data_root: str | Path | None = None,
    offline: bool = False,
    output: str | Path = "clbench-runs",
    tracking: str | None = None,
    rerun: bool = False,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    threads: int | None = None,
    jobs: int = 1,
    executor: "Slurm | Ray | None" = None,
    keep_weights: bool = False,
    quiet: bool = False,
) -> Runs:
    """Trains every method with every seed, as `clbench run` does, and returns the recorded runs.

    Runs that are recorded in `output` already are not repeated. A run that was cut off goes on after its last task.

    Args:
        suite: a name, the path of a file, or a suite. One of ours that was changed is recorded as modified.
        methods: names, `./file.py:Class`, or classes. None for the suite's own, without those that cannot run.
        seeds: None for the suite's own.
        overrides: settings to change, such as `{"epochs": 2, "ewc.strength": 100.0}`.
        sweep: settings of which every value is run, such as `{"ewc.strength": [100.0, 1000.0]}`; of several, every
            combination.
        network: a name, `./file.py:Class`, or a class or function of your own, called as
            `Net(image_shape=(C, H, W), n_outputs=K)`; its other parameters are settings. None for the suite's.
        data: a name or a path; `(x_train, y_train, x_test, y_test)`, arrays or tensors, uint8 or floats from 0 to 1,
            [N, H, W], [N, H, W, C] or [N, C, H, W], with whole numbers [N]; or `(train, test)`, data sets of torch of
            pairs of such an image and its label. None for the suite's.
        data_root, offline: where images are, and whether none may be downloaded.
        output: the folder of run folders.
        tracking: URI of an MLflow store, such as `sqlite:///mlflow.db`. None keeps run folders alone.
        rerun: whether to train recorded runs anew. The record from before is kept beside the new one, and it is said
            whether the weights are the same.
        precision: of training.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`.
        threads: of the CPU. None for torch's. Torch has its own number again afterwards.
        jobs: runs to train at once, each in a process of its own.
        executor: `clbench.Slurm(...)` or `clbench.Ray(...)`. None for this machine. On Slurm the call submits workers
            and returns what is recorded already. The same call later returns the rest, without `rerun`.
        keep_weights: whether runs keep the network of every task, for `clbench export`.
        quiet: whether to say warnings and errors only.

    Raises:
        SettingError, DataError, RecordError: for what cannot be run, before anything is.
        RunError: if a run failed, after the others ended; its `runs` has all that have a record.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.

    Example:
        class L2(Method): ...
        runs = clbench.run("permuted-digits", methods=["naive", L2], seeds=range(3), overrides={"epochs": 4})
        runs = clbench.run("permuted-digits", network=Net, data=(x_train, y_train, x_test, y_test), threads=1)
    """
    from clbench.cli.options import check_home, chosen_precision

    check_home()
    import torch

    from clbench.execution.engines import ready, submit
    from clbench.execution.grid import run_grid
    from clbench.execution.objects import named
    from clbench.execution.on_ray import Ray
    from clbench.execution.on_slurm import Slurm
    from clbench.execution.place import device_for, set_threads
    from clbench.execution.plan import choose, labels_of, make_jobs
    from clbench.execution.processes import check_not_importing
    from clbench.execution.rerun import compare, set_aside
    from clbench.records.files import check_writable
    from clbench.records.folder import all_recorded
    from clbench.records.reading import read_run
    from clbench.screen import Screen

    if isinstance(methods, str):
        raise SettingError(f"methods={methods!r} is one name; give a list, such as [{methods!r}]")
    if jobs < 1:
        raise SettingError(f"jobs={jobs} trains nothing; expected 1 or more")
    if not isinstance(executor, Slurm | Ray | None):
        raise SettingError(f"executor={executor!r} is no executor; give clbench.Slurm(...) or clbench.Ray(...)")
    if executor is not None and jobs > 1:
        raise SettingError(f"jobs={jobs} is for this machine; give the executor its workers")
    check_not_importing()
    folder, screen = Path(output), Screen(quiet=quiet)
    root = None if data_root is None else Path(data_root)
    # Where runs are trained elsewhere, another process must find what they are made of.
    at_once = 2 if executor else jobs
    given = named(suite, network, data, overrides or {}, sweep or {}, at_once=at_once)
    choice = choose(
        given.suite, methods, seeds, given.overrides, root, sweep=given.sweep, at_once=at_once, images=given.images
    )
    images, place = choice.images(screen.warn, offline=offline), device_for(device, executor)
    specs = choice.specs(images, chosen_precision(precision), place, screen.warn)
    run_ids = [spec.run_id for spec in specs]
    check_writable(folder, "output")
    command = f"clbench.run({choice.suite.name!r}, methods={choice.methods!r}, overrides={choice.overrides!r})"
    before = torch.get_num_threads()
    try:
        set_threads(threads, jobs, place, ("jobs=", "threads="), executor)
        ends = _Ends()
        observer = Observers(_tracker(tracking, screen.warn, folder), ends, screen)
        if rerun:
            set_aside(folder, run_ids, tracking, screen.warn)
        labels = labels_of(choice, specs)
        planned = make_jobs(
            choice,
            specs,
            images,
            place,
            folder,
            command,
            at_once=jobs,
            labels=labels,
            keep_weights=keep_weights,
            gpus=executor.gpus if executor else None,
        )
        if isinstance(executor, Slurm) and not all_recorded(folder, run_ids):
            submit(executor, planned, screen, tracking, rerun=rerun)
            return Runs([read_run(folder / run_id) for run_id in run_ids if all_recorded(folder, [run_id])])
        with ready(executor, planned[0].threads, screen.say) as engine:
            outcome = run_grid(planned, observer, engine)
    finally:
        torch.set_num_threads(before)
    if rerun:
        compare(folder, run_ids, screen.say, screen.warn)
    if outcome == "stopped":
        raise KeyboardInterrupt
    runs = Runs([read_run(folder / run_id) for run_id in run_ids if run_id not in ends.without_record])
    if outcome == "failed":
        failed = [
            f"{each.method} seed {each.seed}: {ends.why[each.run_id]}" for each in specs if each.run_id in ends.why
        ]
        raise RunError(f"{len(failed)} of {len(specs)} runs failed: {'; '.join(failed)}", runs)
    return runs


class _Ends:
    """Hears of the runs that failed: why, and which of them have no record that says so."""

    def __init__(self) -> None:
        self.why: dict[str, str] = {}
        self.without_record: set[str] = set()

    def hear(self, event: Event) -> None:
        """Is told of an event."""
        if isinstance(event, Ended) and event.status == "failed":
            self.why[event.run_id] = event.detail
            if not event.has_record:
                self.without_record.add(event.run_id)


def _tracker(uri: str | None, warn: Callable[[str], None], output: Path) -> Observer:
    if uri is None:
        from clbench.tracking.untracked import Untracked

        return Untracked()
    from clbench.tracking.tracker import Tracker

    return Tracker(uri, warn, output)


__all__ = ["Runs", "load", "load_suite", "run"]
