"""Runs on a Ray cluster: a task of Ray for each, while this process stays, shows them and talks to MLflow.

Ray starts tasks where there is room. Records, leases and what goes on after a loss are ours, as everywhere. All nodes
must see the folder of runs and the images.
"""

import logging
import os
import pickle
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clbench.errors import ClusterError, SettingError, first_line, not_installed, reason_of
from clbench.events import Began, Ended, Event, Learned, Observer, Said
from clbench.execution.job import SECONDS_BETWEEN_REPORTS, Job, Status
from clbench.execution.processes import recorded_as_killed
from clbench.execution.signals import Stop

if TYPE_CHECKING:
    from clbench.execution.grid import Executor

_SECONDS_TO_ANSWER = 10.0
_HOME = Path.home() / ".ray"


class Ray:
    """A Ray cluster that trains the runs of a command.

    Args:
        address: of the cluster, `HOST:PORT` or `auto`. None starts one on this machine, and ends it.
        gpus_per_run: share of a GPU for a run. None for none, so that runs train on CPUs.
        workers: runs at once, at most. None for all that there is room for.

    Raises:
        SettingError: for numbers that make no sense.

    Example:
        clbench.run("split-cifar10", executor=clbench.Ray("auto", gpus_per_run=0.25))
    """

    asks_for_gpus = "--gpus-per-run"

    def __init__(
        self, address: str | None = None, *, gpus_per_run: float | None = None, workers: int | None = None
    ) -> None:
        if workers is not None and workers < 1:
            raise SettingError(f"{workers} workers train nothing; expected 1 or more")
        share = gpus_per_run or 0.0
        if share < 0 or (share > 1 and share != int(share)):
            raise SettingError(f"a run cannot have {share:g} GPUs; expected a share such as 0.25, or a whole number")
        self.address, self.gpus_per_run, self.workers = address, share, workers
        self._killed_at: dict[str, int] = {}

    @property
    def gpus(self) -> float | None:
        """How many a run has, or which share of one; None for none."""
        return self.gpus_per_run or None

    @contextmanager
    def ready(self, threads: int) -> Iterator["Executor"]:
        """Within, the cluster is connected; the value runs jobs on it.

        Args:
            threads: of the CPU, for each run.

        Raises:
            SettingError: if Ray is not installed, the cluster does not answer, or has no room for a single run.
        """
        # It reports who uses it, unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A run without a share of a GPU does not see any.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise not_installed("the executor ray", "Ray", "ray") from None
        with ExitStack() as until_the_end:
            # In a notebook it may be connected already, and then stays so.
            if not ray.is_initialized():
                self._connect(until_the_end)
            self._check_room(threads)
            yield self._run

    def _connect(self, until_the_end: ExitStack) -> None:
        import ray

        begin: dict[str, Any] = {}
        if self.address is None:
            # Ray's own folder in /tmp belongs to whoever came first. A path of sockets must be short.
            folder = tempfile.TemporaryDirectory(prefix="clbench-ray-", dir="/tmp", ignore_cleanup_errors=True)
            begin = {"include_dashboard": False, "_temp_dir": until_the_end.enter_context(folder)}
        try:
            _knock(self.address)
            # Without a name it would take that of RAY_ADDRESS.
            ray.init(
                self.address or "local", namespace="clbench", log_to_driver=False, logging_level=logging.ERROR, **begin
            )
        # Ray raises a plain Exception where it cannot begin.
        except Exception as error:
            where = self.address or "a new one on this machine"
            raise SettingError(
                f"the Ray cluster ({where}) cannot be used: {first_line(error)}; start one with ray start --head, or "
                f"give another --ray-address{_of_tokens() if self.address else ''}"
            ) from None
        # Other users' clusters go on, and other commands of this one.
        until_the_end.callback(ray.shutdown)

    def _check_room(self, threads: int) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= self.gpus_per_run for node in nodes):
            return
        has = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes) or "nothing"
        raise SettingError(
            f"no node of the Ray cluster has room for a run, which needs {threads} CPUs (--threads) and "
            f"{self.gpus_per_run:g} GPUs (--gpus-per-run); its nodes have {has}"
        )

    def _run(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, patience: float
    ) -> Iterator[tuple[Job, Status]]:
        """An executor, see `grid.Executor`.

        Raises:
            ClusterError: if the cluster is lost.
        """
        import ray

        try:
            yield from self._on_cluster(jobs, observer, stop, patience)
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the Ray cluster was lost ({first_line(error)}); whole tasks are recorded, and the same command goes "
                "on"
            ) from None

    def _on_cluster(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, patience: float
    ) -> Iterator[tuple[Job, Status]]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        post: Any = ray.remote(_Post).options(num_cpus=0, scheduling_strategy=here).remote()
        # A lost task is ours to begin again: Ray would do so without end where memory is short.
        task = ray.remote(_train).options(
            num_cpus=jobs[0].threads, num_gpus=self.gpus_per_run, max_retries=0, name="clbench"
        )
        left, at_work, learned = deque(jobs), dict[Any, Job](), _Progress(observer, self._killed_at)
        try:
            while left or at_work:
                while left and not stop.is_set() and len(at_work) < (self.workers or len(jobs)):
                    job = left.popleft()
                    status = job.look(observer.hear, patience)
                    if status == "open":
                        # Elsewhere the working folder is another.
                        packed = pickle.dumps(replace(job, output=job.output.absolute(), environment=None))
                        at_work[task.remote(packed, job.run_id, post)] = job
                    else:
                        yield job, status
                if stop.is_set() and not at_work:
                    if left:
                        yield left[0], "stopped"
                    return
                ready, _ = ray.wait(list(at_work), timeout=SECONDS_BETWEEN_REPORTS)
                # A task that has ended has had an answer to each event, so that all of its are there.
                for event in ray.get(post.take.remote(stop.is_set())):
                    learned.hear(event)
                waiting = [each for each, job in at_work.items() if job.run_id not in learned.begun]
                for reference in waiting if stop.is_set() else []:
                    # It may wait for room, and then hears of nothing.
                    ray.cancel(reference)
                for reference in ready:
                    job = at_work.pop(reference)
                    how = _ended(reference)
                    if how is not None:
                        yield job, how
                    elif stop.is_set():
                        yield job, "stopped"
                    elif learned.is_killed_again(job.run_id):
                        recorded_as_killed(job, observer.hear)
                        yield job, "failed"
                    else:
                        observer.hear(Said(job.run_id, "its task of Ray, or its node, was lost; it goes on elsewhere"))
                        left.append(job)
        finally:
            for reference in at_work:
                with suppress(Exception):
                    ray.cancel(reference, force=True)
            with suppress(Exception):
                ray.kill(post)


def _knock(address: str | None) -> None:
    """Raises OSError if nobody listens at HOST:PORT, for which Ray itself looks for a minute and more."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER):
            pass


class _Post:
    """An actor that keeps events until they are taken, and hands on that it is time to stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.halt = False

    def put(self, event: Event) -> bool:
        """Keeps an event. Whether to stop."""
        self.events.append(event)
        return self.halt

    def take(self, halt: bool) -> list[Event]:
        """What has come in since the last time; `halt` says whether runs shall stop."""
        self.halt, found, self.events = halt, self.events, []
        return found


class _Progress:
    """Hands events on, and remembers how far each run has come."""

    def __init__(self, observer: Observer, killed_at: dict[str, int]) -> None:
        self.observer, self.killed_at = observer, killed_at
        self.begun: dict[str, int] = {}

    def hear(self, event: Event) -> None:
        if isinstance(event, Began | Learned):
            self.begun[event.run_id] = event.result.learned
        self.observer.hear(event)

    def is_killed_again(self, run_id: str) -> bool:
        """Whether a run that was lost had been lost in the same task before."""
        learned = self.begun.pop(run_id, -1)
        again = self.killed_at.get(run_id) == learned
        self.killed_at[run_id] = learned
        return again


def _of_tokens() -> str:
    """What may help where this user has a token, which Ray then asks for, and does not show by itself."""
    has_token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or (_HOME / "auth_token").exists()
    return "; one that asks for a token needs RAY_AUTH_MODE=token" if has_token else ""


def _ended(reference: Any) -> Status | None:
    """How a task of Ray ended; None if it was lost."""
    import ray

    try:
        return cast(Status, ray.get(reference))
    except ray.exceptions.TaskCancelledError:
        return "stopped"
    except ray.exceptions.RayError:
        return None


def _train(packed: bytes, run_id: str, post: Any) -> Status:
    """Trains one run in this task of Ray."""
    import ray

    halt = False

    # A task that waits for an answer itself gives its processors back meanwhile, and Ray begins another.
    elsewhere = ThreadPoolExecutor(1)

    def send(event: Event) -> None:
        nonlocal halt
        # Whoever gave the command may be gone.
        with suppress(ray.exceptions.RayError):
            halt = bool(elsewhere.submit(ray.get, post.put.remote(event)).result())

    try:
        job: Job = pickle.loads(packed)
        if job.deterministic:
            # cuBLAS needs to be told before its first use.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return job.run(send, lambda: halt)
    except Exception as error:
        send(Ended(run_id, "failed", reason_of(error), has_record=False))
        return "failed"
