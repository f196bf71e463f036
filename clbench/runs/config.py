"""What config.json says of a run: its settings, and what a reader needs to trace and repeat it."""

import socket
from typing import TYPE_CHECKING, Any

from clbench.data.streams import Stream
from clbench.methods.table import find_method
from clbench.records.environment import Environment, environment, processor_name
from clbench.runs.samples import sample_images
from clbench.runs.spec import RunSpec
from clbench.suites.files import SUITES
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    import torch


def config_of(
    spec: RunSpec,
    device: "torch.device",
    stream: Stream,
    jobs: int = 1,
    command: str = "",
    found: Environment | None = None,
    gpus: float | None = None,
) -> dict[str, Any]:
    """The content of config.json: the identity, and what a reader needs to trace and repeat the run.

    Args:
        spec: what to run.
        device: that it trains on.
        stream: its tasks.
        jobs: runs that the same command trains at once.
        command: what the runs were asked for by.
        found: the code that runs and what it runs with. None looks.
        gpus: how many the run has, or which share of one; None on a CPU.
    """
    import torch

    found = found or environment()
    return {
        **spec.nameable,
        "run_id": spec.run_id,
        "suite": spec.suite.name,
        "title": spec.suite.title,
        "network": dict(spec.network),
        "stream_sha256": stream.digest,
        "samples": sample_images(stream)[0],
        **_said_of(spec.suite),
        "suite_settings": spec.recorded["suite_settings"] | {"title": spec.suite.title, "source": spec.suite.source},
        "task_known_at_test": spec.suite.head == "multi" or find_method(spec.method).task_known_at_test,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "jobs": jobs,
        **({} if gpus is None else {"gpus": gpus}),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "versions": dict(found.versions),
        "git_commit": found.commit,
        "git_dirty": None if found.changes is None else bool(found.changes),
        "git_changes": found.changes or "",
        "command": command,
        "host": socket.gethostname(),
    }


def _said_of(suite: Suite) -> dict[str, Any]:
    """The published results and goals of a user's suite, as text where they are decimals; of ours, clbench knows."""
    if suite.name in SUITES:
        return {}
    found = suite.model_dump(mode="json", include={"published", "goals"})
    return {key: value for key, value in found.items() if value}
