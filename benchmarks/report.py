"""How long `clbench report` takes for 500 runs, beside merely reading their files.

    python benchmarks/report.py

The runs are made up (ten methods, fifty seeds, ten tasks), because only their number and size matter here. The command
is timed whole, imports included; the reference reads the same files with json and pandas in a process of its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from clbench.records.folder import RunFolder
from clbench.records.format import CAPACITY_COLUMNS, FORMAT, TASK_COLUMNS
from clbench.records.identity import run_id_of
from clbench.records.reading import read_run, run_paths
from clbench.records.result import RunResult

METHODS = ("clnp", "ewc", "online-ewc", "mas", "si", "psp", "naive", "joint", "single-task", "avalanche-ewc")
RECORDED = Path(__file__).parent.parent / "docs" / "results" / "permuted-mnist"  # whose configuration serves for all
SEEDS = 50
TASKS = 10
REPEATS = 3

READ_ALONE = """
import json, sys
from pathlib import Path
import pandas as pd
for folder in Path(sys.argv[1]).iterdir():
    if (folder / "config.json").exists():
        json.loads((folder / "config.json").read_text())
        for table in folder.glob("*.csv"):
            pd.read_csv(table)
"""


def write_runs(root: Path) -> None:
    draw = np.random.default_rng(0)
    recorded = read_run(next(iter(run_paths(RECORDED)))).config
    for method in METHODS:
        for seed in range(SEEDS):
            learned = draw.uniform(0.97, 0.98, TASKS)
            forgotten = np.tril(np.cumsum(draw.uniform(0, 0.01, (TASKS, TASKS)), axis=0))
            matrix = np.vstack([np.full(TASKS, 0.1), np.where(np.tri(TASKS), learned - forgotten, 0.1)])
            config = {**recorded, "format": FORMAT, "method": method, "seed": seed}
            config["run_id"] = run_id_of(config)
            tasks = [
                dict.fromkeys(TASK_COLUMNS, 1.0) | {"task": task, "train_images_per_second": draw.uniform(4e3, 5e3)}
                for task in range(1, TASKS + 1)
            ]
            capacity = [
                dict.fromkeys(CAPACITY_COLUMNS, 0)
                | {
                    "task": task,
                    "group": f"layer_{layer}",
                    "unit": "neuron",
                    "units": 2000,
                    "free": 2000 - 150 * task,
                    "new": 150,
                    "reused": 75 * task,
                }
                for task in range(1, TASKS + 1)
                for layer in (1, 2)
            ]
            folder = RunFolder(root, config["run_id"])
            folder.begin(config, "")
            folder.write_tables(RunResult(matrix, tasks, capacity if method == "clnp" else []))
            folder.set_status("finished", "")


def seconds_of(*command: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        runs, reports = Path(scratch) / "runs", Path(scratch) / "reports"
        write_runs(runs)
        report = [sys.executable, "-m", "clbench", "report", "--suite", "permuted-mnist"]
        report += ["--runs", str(runs), "--reports", str(reports)]
        pairs = [(seconds_of(sys.executable, "-c", READ_ALONE, runs), seconds_of(*report)) for _ in range(REPEATS)]
        result = {
            "runs": len(METHODS) * SEEDS,
            "report_seconds": round(statistics.median(made for _, made in pairs), 2),
            "reading_seconds": round(statistics.median(read for read, _ in pairs), 2),
            "ratio": round(statistics.median(made / read for read, made in pairs), 2),
            "html_megabytes": round((reports / "permuted-mnist.html").stat().st_size / 1e6, 2),
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
