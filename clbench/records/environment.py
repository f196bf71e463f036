"""Where a number comes from: versions, commit and machine."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import clbench
from clbench import __version__

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
            # Of clbench, the code that runs counts: an editable installation's metadata may be older.
            found[name] = __version__ if name == "clbench" else version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Environment:
    """The code that runs and what it runs with.

    Attributes:
        commit, changes: see `git_state`.
        versions: see `package_versions`.
        text: see `environment_text`.
    """

    commit: str
    changes: str | None
    versions: Mapping[str, str]
    text: str


@cache
def environment() -> Environment:
    """What this process found; looking takes as long as a small task."""
    return Environment(*git_state(), package_versions(), environment_text())


def environment_text() -> str:
    """The machine and every installed package, one per line."""
    lines = [
        f"platform: {platform.platform()}",
        f"processor: {processor_name()}",
        f"cores: {os.cpu_count()}",
        f"python: {platform.python_version()}",
        "",
    ]
    packages = {}
    for found in distributions():
        # Every look at it reads the package's whole description.
        metadata = found.metadata
        if metadata["Name"]:
            packages[metadata["Name"]] = metadata["Version"]
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
    # Beside the package's own folder, wherever in the package this module stands.
    here = Path(clbench.__file__).resolve().parent.parent
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
