"""The tables that wait for a GPU, by one command: the full CIFAR suites, their methods, three seeds.

    python benchmarks/gpu_tables.py [--suites ...] [--methods NAMES] [--seeds 0-2] [--jobs N] [--output DIR]
        [--data-root DIR] [--dry-run]

Runs go into `DIR/<suite>`. Recorded ones are not repeated and unfinished ones go on, so the same command can be given
again. At the end every suite is held against what was published and against its goals, unless `--set` changes it.
Without a GPU it refuses, unless `--device cpu` says that it shall take days.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

SUITES = ("split-cifar100-10", "split-cifar100-10-batch-norm", "cifar10-cifar100")


def main() -> int:
    """The exit code: that of the first command that fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--methods", help="as for clbench run; the suite's, where none are named")
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--jobs", default="1", help="runs to train at once on the GPU")
    parser.add_argument("--output", type=Path, default=Path("gpu-tables"))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="show the grids and stop")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="as for clbench run; unverified"
    )
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU; give --device cpu to train on the processor")
    found = 0
    for suite in given.suites:
        folder = given.output / suite
        command = ["run", "--suite", suite, "--seeds", given.seeds, "--jobs", given.jobs, "--device", given.device]
        command += ["--output", str(folder), "--tracking-uri", f"sqlite:///{(given.output / 'mlflow.db').absolute()}"]
        command += ["--reports", str(given.output / "reports"), *(f"--set={each}" for each in given.set)]
        command += ["--methods", given.methods] if given.methods else []
        command += ["--data-root", str(given.data_root)] if given.data_root else []
        code = _clbench(*command, *(["--dry-run"] if given.dry_run else []))
        found = found or code
        if not given.dry_run and not code and not given.set:
            # A goal that is missed (1) is a result. Records that cannot be read (2) are none.
            judged = _clbench("verify", "--suite", suite, "--runs", str(folder))
            found = found or (judged if judged > 1 else 0)
    return found


def _clbench(*arguments: str) -> int:
    print("clbench", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", "clbench", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
