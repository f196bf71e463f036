"""What config.json says of a run: its settings, and what a reader needs to trace and repeat it."""

import shlex
import socket
import sys
from typing import TYPE_CHECKING, Any

from clbench.data.streams import Stream
from clbench.methods.table import find_method
from clbench.records.environment import git_state, package_versions, processor_name
from clbench.runs.samples import sample_images
from clbench.runs.spec import RunSpec
from clbench.suites.files import SUITES
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    import torch


def config_of(
    spec: RunSpec, device: "torch.device", stream: Stream, jobs: int = 1, command: str = ""
) -> dict[str, Any]:
    """The content of config.json: the identity, and what a reader needs to trace and repeat the run.

    Args:
        spec: what to run.
        device: that it trains on.
        stream: its tasks.
        jobs: runs that the same command trains at once.
        command: what the runs were asked for by; empty for the command line.
    """
    import torch

    commit, changes = git_state()
    return {
        **spec.recorded,
        "run_id": spec.run_id,
        "suite": spec.suite.name,
        "title": spec.suite.title,
        "network": dict(spec.network),
        "stream_sha256": stream.digest,
        "samples": sample_images(stream)[0],
        **_said_of(spec.suite),
        "modified": bool(spec.overrides),
        "overrides": dict(spec.overrides),
        "suite_settings": spec.recorded["suite_settings"] | {"title": spec.suite.title, "source": spec.suite.source},
        "task_known_at_test": spec.suite.head == "multi" or find_method(spec.method).task_known_at_test,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "jobs": jobs,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "versions": package_versions(),
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
        "git_changes": changes or "",
        "command": command or command_line(),
        "host": socket.gethostname(),
    }


def _said_of(suite: Suite) -> dict[str, Any]:
    """The published results and goals of a user's suite, as text where they are decimals; of ours, clbench knows."""
    if suite.name in SUITES:
        return {}
    found = suite.model_dump(mode="json", include={"published", "goals"})
    return {key: value for key, value in found.items() if value}


def command_line() -> str:
    """The command that runs, for a shell; bytes of it that are no text are written as escapes."""
    return shlex.join(["clbench", *sys.argv[1:]]).encode("utf-8", "backslashreplace").decode()
