"""Search for hyper-parameters that a paper does not give: the same number of trials for every method, logged.

A search trains the first few tasks of a suite with a seed that is none of the suite's, and measures on the
validation images; the test images are never looked at. Which settings are tried stands in a TOML file, one list of
trials per method; what came out is appended to a CSV file, trial by trial, so that an interrupted search goes on.
Choosing from the log is left to a person, who writes the choice and its reason into the suite.
"""

import csv
import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from clbench.errors import RecordError, SettingError, unknown_name, why_unreadable
from clbench.suites.published import Search
from clbench.suites.settings import setting_error
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    import torch

    from clbench.data import ImageSet
    from clbench.runs.spec import Precision, RunSpec

LOG_COLUMNS = (
    "run_id",
    "suite",
    "method",
    "settings",
    "n_tasks",
    "epochs",
    "seed",
    "precision",
    "validation_accuracy",
    "learning_accuracy",
    "forgetting",
    "free_neurons",
    "train_seconds",
    "clbench",
    "git_commit",
    "data_sha256",
)


class Grid(Search):
    """What a search tries, in a file of its own.

    Attributes:
        suite: name of the suite.
    """

    suite: str


def load_grid(suite: Suite, path: Path | None) -> Search:
    """Reads the search of a suite: the given file, else the suite's own.

    Raises:
        SettingError: if there is none, it is no grid, it is another suite's, or its seed is one of the suite's.
    """
    if path is None:
        if suite.search is None:
            raise SettingError(f"the suite '{suite.name}' comes without a search; give one with --grid FILE")
        grid, where = suite.search, f"of {suite.name}"
    else:
        grid, where = _read_grid(suite, path), str(path)
    if grid.seed in suite.seeds:
        raise SettingError(f"the grid {where} searches with seed {grid.seed}, which is one that the suite reports")
    return grid


def _read_grid(suite: Suite, path: Path) -> Grid:
    try:
        grid = Grid.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the grid {path} cannot be read ({why_unreadable(error)})") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"the grid {path} is no TOML: {error}") from None
    except ValidationError as error:
        strange = [str(found["loc"][0]) for found in error.errors() if found["type"] == "extra_forbidden"]
        if strange:
            raise unknown_name(f"entry of the grid {path}", strange[0], Grid.model_fields) from None
        raise SettingError(f"the grid {path}: {setting_error(error)}") from None
    if grid.suite != suite.name:
        raise SettingError(f"the grid {path} is for the suite '{grid.suite}', not for '{suite.name}'")
    return grid


@dataclass(frozen=True)
class Trial:
    """One line of the log.

    Attributes:
        spec: the run that was tried.
        settings: what the grid set.
        row: the values of `LOG_COLUMNS`, or None if the log had it already.
    """

    spec: "RunSpec"
    settings: Mapping[str, Any]
    row: Mapping[str, Any] | None


def search(
    suite: Suite,
    grid: Search,
    methods: list[str] | None,
    images: "ImageSet",
    precision: "Precision",
    device: "torch.device",
    log: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Trial]:
    """Runs the trials that the log lacks, in the grid's order, and appends each when it ends.

    Args:
        suite, grid: what to search.
        methods: of the grid's methods, which; None for all.
        images, precision, device: as for a run.
        log: the CSV file, created when absent.
        should_stop: asked after every batch.

    Raises:
        SettingError: for a method that the grid lacks, a setting that does not fit, or a trial that repeats another or
            trains on validation images.
        RecordError: if the log cannot be read or written.
    """
    from clbench.runs.spec import make_specs

    for name in methods or []:
        if name not in grid.trials:
            raise unknown_name("method of the grid", name, grid.trials)
    planned: list[tuple[RunSpec, dict[str, Any]]] = []
    for name in methods or grid.trials:
        for number, settings in enumerate(grid.trials[name], start=1):
            overrides = {"n_tasks": grid.n_tasks, **{f"{name}.{key}": value for key, value in settings.items()}}
            try:
                (spec,) = make_specs(suite, [name], [grid.seed], overrides, images, precision, device.type)
            except SettingError as error:
                raise SettingError(f"trial {number} of '{name}' in the grid: {error}") from None
            if getattr(spec.settings, "train_on_validation", False):
                raise SettingError(
                    f"trial {number} of '{name}' trains on the images that a search measures on; give it "
                    "train_on_validation = false"
                )
            # One that repeats another would be a smaller budget than it looks.
            if spec.run_id in {earlier.run_id for earlier, _ in planned}:
                raise SettingError(
                    f"trial {number} of '{name}' in the grid sets what an earlier one sets, given the suite's own "
                    "settings; change or remove it"
                )
            planned.append((spec, settings))
    done = _logged(log)
    for spec, settings in planned:
        if spec.run_id in done:
            yield Trial(spec, settings, None)
            continue
        row = _try(spec, settings, images, device, should_stop)
        _append(log, row)
        yield Trial(spec, settings, row)


def _try(
    spec: "RunSpec",
    settings: Mapping[str, Any],
    images: "ImageSet",
    device: "torch.device",
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    from clbench import __version__, metrics
    from clbench.errors import DivergenceError
    from clbench.records.environment import git_state
    from clbench.records.result import RunResult
    from clbench.runs.runner import train

    results: list[RunResult] = []
    start = time.perf_counter()
    row: dict[str, Any] = dict.fromkeys(LOG_COLUMNS, "")
    try:
        train(spec, images, device, results.append, should_stop=should_stop, split="validation")
        result = results[-1]
        row["validation_accuracy"] = f"{metrics.average_accuracy(result.matrix):.6f}"
        for metric in (metrics.learning_accuracy, metrics.forgetting):
            value = metric(result.matrix)
            row[metric.__name__] = "" if value is None else f"{value:.6f}"
        last = [group for group in result.capacity if group["task"] == result.learned]
        row["free_neurons"] = " ".join(f"{group['free']}/{group['units']}" for group in last)
    except DivergenceError:
        row["validation_accuracy"] = "diverged"
    commit, dirty = git_state()
    return row | {
        "run_id": spec.run_id,
        "suite": spec.suite.name,
        "method": spec.method,
        "settings": json.dumps(settings, sort_keys=True),
        "n_tasks": spec.suite.n_tasks,
        "epochs": spec.settings.epochs,
        "seed": spec.seed,
        "precision": spec.precision,
        "train_seconds": f"{time.perf_counter() - start:.0f}",
        "clbench": __version__,
        "git_commit": commit + ("+changes" if dirty else ""),
        "data_sha256": spec.data["sha256"],
    }


def _logged(log: Path) -> set[str]:
    """The run ids that a log holds.

    Raises:
        RecordError: if the file is something else.
    """
    try:
        with log.open(newline="", encoding="utf-8") as file:
            text = file.read()
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
        if tuple(reader.fieldnames or ()) != LOG_COLUMNS:
            raise RecordError(f"{log} is not a log of clbench tune; give another with --log, or move it away")
        rows = list(reader)
        # A row appended to half a line would be lost with it.
        if not text.endswith("\n") or any(None in row or None in row.values() for row in rows):
            raise RecordError(f"the log {log} has a line that was cut off or grew; mend it, or move the log away")
        return {row["run_id"] for row in rows}
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"the log {log} cannot be read ({error})") from None


def _append(log: Path, row: Mapping[str, Any]) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        is_new = not log.exists()
        with log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)
    except OSError as error:
        raise RecordError(f"the log {log} cannot be written ({error.strerror}); give another with --log") from None
