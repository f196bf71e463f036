"""Where a number comes from: versions, commit, machine and command of a run."""

import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench import __version__
from clbench.methods import Method
from clbench.specs import RunSpec

if TYPE_CHECKING:
    import torch

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


def config_of(spec: RunSpec, method_class: type[Method], device: "torch.device", jobs: int = 1) -> dict[str, Any]:
    """The content of config.json: the identity, and what a reader needs to trace and repeat the run.

    Args:
        spec: what to run.
        method_class: of its method.
        device: that it trains on.
        jobs: runs that the same command trains at once.
    """
    import torch

    commit, changes = git_state()
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
        "jobs": jobs,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "data": dict(spec.data),
        "versions": package_versions(),
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
        "git_changes": changes or "",
        "command": command_line(),
        "host": socket.gethostname(),
    }


def command_line() -> str:
    """The command that runs, for a shell; bytes of it that are no text are written as escapes."""
    return shlex.join(["clbench", *sys.argv[1:]]).encode("utf-8", "backslashreplace").decode()


def recorded_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run, whose hash is its id (`RunSpec.identity`), as its config.json holds it.

    Raises:
        KeyError, TypeError, AttributeError: if config.json lacks a part of it.
    """
    suite = config["suite_settings"]
    return {
        "clbench": config["versions"]["clbench"],
        "suite_settings": {key: value for key, value in suite.items() if key not in ("title", "source")},
        **{key: config[key] for key in ("method", "method_settings", "seed", "precision")},
        "device": config["device"].partition(":")[0],
        "data_sha256": config["data"]["sha256"],
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            # Of clbench, the code that runs counts: an editable installation's metadata may be older.
            found[name] = __version__ if name == "clbench" else version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment_text() -> str:
    """The machine and every installed package, one per line."""
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
def git_state() -> tuple[str, str | None]:
    """Commit of the checkout that this code runs from, and the SHA-256 of what was changed since, empty if nothing was.

    ("", None) elsewhere. Asked once per process: the code that runs is the one that was imported then.
    """
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return "", None

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, timeout=10, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        if not git("status", "--porcelain").strip():
            return commit, ""
        changes = hashlib.sha256(git("diff", "HEAD"))
        for name in git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0"):
            changes.update(name + (here / os.fsdecode(name)).read_bytes() if name else b"")
    except (OSError, subprocess.SubprocessError):
        return "", None
    return commit, changes.hexdigest()
