"""Commands with a small grid, what they say, and what they leave in run folders and in MLflow."""

import json
import runpy
from pathlib import Path

from clbench.records.reading import read_run, run_paths

GRID = ["run", "--suite", "permuted-digits", "--seeds", "0", "--no-report", "--threads", "1"]
GRID += ["--set", "epochs=2", "--set", "hidden_sizes=24,24"]


def start(processes, place, methods, *arguments, tasks=4, output=None):
    grid = [*GRID, "--set", f"n_tasks={tasks}", "--methods", methods, *arguments]
    return begin(processes, place, grid, output)


def begin(processes, place, arguments, output=None):
    given = {"folder": place, "arguments": arguments, "output": output or place / "said.txt"}
    # A script, because the other process cannot import a test module.
    script = Path(__file__).with_name("clbench.py")
    process = processes.Process(target=runpy.run_path, args=(str(script), given))
    process.start()
    return process


def points(place):
    """By method, every accuracy that MLflow holds, as (metric, step, value), sorted."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    (experiment,) = (item.experiment_id for item in client.search_experiments() if item.name == "permuted-digits")
    found = {}
    for run in client.search_runs([experiment]):
        # Whoever begins a command ends it, or the next one does.
        assert run.info.status != "RUNNING"
        if run.data.tags["clbench.kind"] == "invocation" or run.info.status == "KILLED":
            continue
        # One run for each of ours, and no second one left behind.
        assert run.data.tags["clbench.method"] not in found
        assert run.info.status == "FINISHED"
        found[run.data.tags["clbench.method"]] = sorted(
            (point.key, point.step, point.value)
            for name in run.data.metrics
            if "accuracy" in name or "neurons" in name
            for point in client.get_metric_history(run.info.run_id, name)
        )
    return found


def wait_for(file, words, process):
    """Returns once the words stand in the file."""
    # Nothing tells when another process has written to a file; it ends in any case.
    while not (file.exists() and words in file.read_text()):
        process.join(0.05)
        assert process.is_alive(), file.read_text()


def statuses(place):
    """By method, status.json of its run."""
    paths = run_paths(place / "clbench-runs")
    return {read_run(path).method: json.loads((path / "status.json").read_text()) for path in paths}
