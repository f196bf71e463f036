"""What a grid of small runs spends outside training: in records, in MLflow, in looking at the machine.

    python benchmarks/grid.py [--runs N] [--jobs N] [--epochs N] [--profile]

Trains `naive` on permuted digits in a folder of its own, N seeds one after the other or several at once, with an MLflow
store. Prints JSON: seconds of the whole, of what the runs count as training and testing, and the share outside. Both
are of the same grid, so a busy machine moves them together. `--profile` lists where the time goes, of runs that train
one after the other.
"""

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from pathlib import Path

import torch

from clbench.events import Observers
from clbench.execution.grid import run_grid
from clbench.execution.plan import choose, make_jobs
from clbench.records.reading import read_runs
from clbench.screen import Screen
from clbench.tracking.tracker import Tracker

CPU = torch.device("cpu")


def measure(folder: Path, runs: int, at_once: int, epochs: int, profile: cProfile.Profile | None) -> dict[str, float]:
    """Trains the grid below a folder; seconds, and the share of them outside training and testing."""
    screen = Screen(quiet=True)
    choice = choose("permuted-digits", ["naive"], range(runs), {"epochs": epochs})
    images = choice.images(screen.warn, offline=True)
    specs = choice.specs(images, "float32", CPU, screen.warn)
    output = folder / "runs"
    # The store is made before the clock starts: it is made once.
    observer = Observers(Tracker(f"sqlite:///{folder}/mlflow.db", screen.warn, output), screen)
    start = time.perf_counter()
    if profile is not None:
        profile.enable()
    run_grid(make_jobs(choice, specs, images, CPU, output, "benchmarks/grid.py", at_once=at_once), observer)
    if profile is not None:
        profile.disable()
    seconds = time.perf_counter() - start
    inside = sum(float(run.tasks[["train_seconds", "eval_seconds"]].sum().sum()) for run in read_runs(output))
    return {
        "runs": runs,
        "at_once": at_once,
        "seconds": seconds,
        "seconds_of_a_run": inside / runs,
        "share_outside": 1 - inside / (seconds * at_once),
    }


def main() -> None:
    """Prints the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    profile = cProfile.Profile() if given.profile else None
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), given.runs, given.jobs, given.epochs, profile), indent=2))
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumtime").print_stats(60)


if __name__ == "__main__":
    main()
