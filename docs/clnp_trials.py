"""Draws docs/clnp-trials.svg, the logged trials of CLNP on permuted MNIST, from the logs in baselines/tuning.

Every point has its trial's run_id as its id. Trials below `LEAST_ACCURACY` are left out: they would press the others
together.

python docs/clnp_trials.py docs/clnp-trials.svg
"""

import csv
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clbench.search.trials import load_grid
from clbench.suites.files import find_suite

PERMUTED_MNIST = find_suite("permuted-mnist")

TUNING = Path(__file__).resolve().parents[1] / "baselines" / "tuning"
LOGS = ("permuted-mnist-clnp-paper", "permuted-mnist", "permuted-mnist-clnp")

PAPERS_LOSS = "L1 on weights, the paper's loss"
PROXIMAL, BOTH = "L1 on weights, proximal", "L1 on weights and activities"
NORMS = {PAPERS_LOSS: "#0072b2", PROXIMAL: "#cc79a7", BOTH: "#d55e00"}
EPOCHS = {10: "o", 20: "s", 30: "^"}

# What the paper has free after ten tasks, as neurons of 2000 that a task may claim (see
# clbench/suites/permuted-mnist.toml).
PAPERS_CLAIMS = (164, 120)
LEAST_ACCURACY = 97.0  # per cent
FAIR_SHARE = 200

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "clbench",
    "svg.fonttype": "path",
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
}


def main(target: Path) -> None:
    trials = [trial for log in LOGS for trial in logged_trials(log)]
    with matplotlib.rc_context(STYLE):
        target.write_text(drawing(trials))


def logged_trials(log: str) -> list[dict[str, Any]]:
    """CLNP's trials in a log, in its order, each with all settings that the grid gives it."""
    grid = load_grid(PERMUTED_MNIST, TUNING / f"{log}.toml").trials["clnp"]
    with open(TUNING / f"{log}.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["method"] == "clnp"]
    trials = []
    for line, planned in zip(lines, grid, strict=False):  # the last ones of a grid may not have run yet
        given = json.loads(line["settings"])
        if {**planned, **given} != planned:
            raise SystemExit(f"{log}.csv is not in the order of {log}.toml: {given} is not {planned}")
        layers = [layer.split("/") for layer in line["free_neurons"].split()]
        claimed = [(int(size) - int(free)) / int(line["n_tasks"]) for free, size in layers]
        trials.append(
            {
                **planned,
                "run_id": line["run_id"],
                "claimed": claimed,
                "accuracy": 100 * float(line["validation_accuracy"]),
            }
        )
    return trials


def norm_of(trial: Mapping[str, Any]) -> str:
    if any(trial["l1_activities"]):
        return BOTH
    return PROXIMAL if trial.get("l1_proximal") else PAPERS_LOSS


def drawing(trials: list[dict[str, Any]]) -> str:
    figure = Figure(figsize=(8.4, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    # What most trials do not say.
    usual = {"learning_rate_schedule": PERMUTED_MNIST.learning_rate_schedule, "initial_scale": 1.0}
    ours = usual | PERMUTED_MNIST.method_settings["clnp"]
    for layer, axes in enumerate(panels):
        axes.axvspan(FAIR_SHARE, 800, color="#f0f0f0", zorder=0)
        axes.axvline(PAPERS_CLAIMS[layer], color="#555555", linestyle="--", linewidth=0.9, zorder=1)
        for trial in trials:
            if trial["accuracy"] < LEAST_ACCURACY:
                continue
            x, y = trial["claimed"][layer], trial["accuracy"]
            axes.plot(
                x,
                y,
                EPOCHS[trial["epochs"]],
                color=NORMS[norm_of(trial)],
                fillstyle="none" if (usual | trial)["learning_rate_schedule"] == "constant" else "full",
                markersize=5.5,
                zorder=3,
                gid=f"{trial['run_id']}-{layer + 1}",
            )
            if all((usual | trial).get(key) == value for key, value in ours.items()):
                axes.plot(x, y, "o", markerfacecolor="none", markeredgecolor="black", markersize=10, zorder=2)
        axes.set_xscale("log")
        axes.set_xlim(60, 800)
        axes.set_xticks([75, 100, 150, 200, 300, 400, 600], ["75", "100", "150", "200", "300", "400", "600"])
        axes.minorticks_off()
        axes.set_title(f"Layer {layer + 1}", loc="left")
        axes.set_xlabel("neurons that a task claims, of 2000")
        axes.grid(color="#d0d0d1", linewidth=0.4)
    panels[0].set_ylabel("validation accuracy after three tasks, %")
    marks = [Line2D([], [], linestyle="", marker="o", color=colour, label=name) for name, colour in NORMS.items()]
    marks += [
        Line2D([], [], linestyle="", marker=marker, color="#777777", label=f"{epochs} epochs")
        for epochs, marker in EPOCHS.items()
    ]
    marks += [
        Line2D([], [], linestyle="", marker="o", fillstyle="none", color="#777777", label="hollow: at a constant rate"),
        Line2D([], [], color="#555555", linestyle="--", linewidth=0.9, label="what the paper's ten tasks claimed"),
        Line2D([], [], linestyle="", marker="s", color="#e4e4e4", markersize=9, label="ten tasks do not fit"),
        Line2D(
            [], [], linestyle="", marker="o", fillstyle="none", color="black", markersize=9, label="the suite's clnp"
        ),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False)
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
