"""Search for hyper-parameters that a paper does not give: the same number of trials for every method, logged.

A search trains the first few tasks of a suite with a seed that is none of the suite's, and measures on the
validation images; the test images are never looked at. Which settings are tried stands in a TOML file, one list of
trials per method. A trial is a run like any other, recorded in a run folder. What came out is appended to a CSV file,
trial by trial. Choosing from the log is left to a person, who writes the choice and its reason into the suite.
"""

import csv
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from clbench.errors import DivergenceError, RecordError, SettingError, unknown_name, why_unreadable
from clbench.events import Ended, Event
from clbench.records.lease import Lease
from clbench.records.reading import RecordedRun, read_run
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
            raise SettingError(
                f"the suite '{suite.name}' comes without a search; give one with --grid FILE, or search "
                "ranges with --protocol first-k"
            )
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


# More than another command needs to write one.
_SECONDS_FOR_A_LINE = 30.0


@dataclass(frozen=True)
class Trial:
    """A run that a search tries, measured on validation images.

    Attributes:
        spec: the run.
        settings: what the grid sets.
    """

    spec: "RunSpec"
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What tells it from the method's other trials."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def logged_id(self) -> str:
        """Its run id in the log: that of a run with the same settings on test images, as it was before trials had any.

        So the trials of earlier logs count.
        """
        return replace(self.spec, measured_on="test").run_id


@dataclass(frozen=True)
class Plan:
    """What all trials of a search have in common.

    Attributes:
        suite: that is searched.
        n_tasks: how many of its tasks each trial learns.
        seed: of every trial.
        images, precision, device: as for a run.
        files: the user's, that the suite was read from.
    """

    suite: Suite
    n_tasks: int
    seed: int
    images: "ImageSet"
    precision: "Precision"
    device: "torch.device"
    files: Mapping[str, bytes] | None = None

    def trial(self, name: str, settings: Mapping[str, Any]) -> Trial:
        """A trial of a method with these settings, measured on validation images.

        Raises:
            SettingError: for settings that do not fit, or train on the images that it is measured on.
        """
        from clbench.runs.spec import make_specs

        overrides = {"n_tasks": self.n_tasks, **{f"{name}.{key}": value for key, value in settings.items()}}
        (spec,) = make_specs(
            self.suite,
            [name],
            [self.seed],
            overrides,
            self.images,
            self.precision,
            self.device.type,
            files=self.files,
            measured_on="validation",
        )
        if getattr(spec.settings, "train_on_validation", False):
            raise SettingError("it trains on the images that a search measures on; give it train_on_validation = false")
        return Trial(spec, settings)


def plan_trials(
    suite: Suite,
    grid: Search,
    methods: list[str] | None,
    images: "ImageSet",
    precision: "Precision",
    device: "torch.device",
    files: Mapping[str, bytes] | None = None,
) -> list[Trial]:
    """The trials of a search, in the grid's order.

    Args:
        suite, grid: what to search.
        methods: of the grid's methods, which; None for all.
        images, precision, device: as for a run.
        files: the user's, that the suite was read from.

    Raises:
        SettingError: for a method that the grid lacks, a setting that does not fit, or a trial that repeats another or
            trains on validation images.
    """
    from clbench.methods.table import METHODS, names_of

    # A user's method stands there as it is named on the command line.
    trials = dict(zip(names_of(list(grid.trials), Path.cwd()), grid.trials.values(), strict=True))
    for name in methods or []:
        if name not in trials and name in METHODS:
            raise SettingError(
                f"the grid has no trials of '{name}', only of {', '.join(sorted(trials))}; give some with --grid FILE, "
                "or search ranges with --protocol first-k"
            )
        if name not in trials:
            raise unknown_name("method of the grid", name, trials)
    plan = Plan(suite, grid.n_tasks, grid.seed, images, precision, device, files)
    planned: dict[str, Trial] = {}
    for name in methods or trials:
        for number, settings in enumerate(trials[name], start=1):
            try:
                trial = plan.trial(name, settings)
            except SettingError as error:
                raise SettingError(f"trial {number} of '{name}' in the grid: {error}") from None
            # One that repeats another would be a smaller budget than it looks.
            if trial.spec.run_id in planned:
                raise SettingError(
                    f"trial {number} of '{name}' in the grid sets what an earlier one sets, given the suite's own "
                    "settings; change or remove it"
                )
            planned[trial.spec.run_id] = trial
    return list(planned.values())


class Log:
    """The CSV file of a search: an observer that appends a line for every trial that ends.

    Args:
        path: of the file, created with the first line.
        trials: that may end.
        output: the folder of their run folders, from which the lines are made.
        say: told of each line.
        warn: told what goes wrong, which stops no trial. The same search again then makes the missing lines.
    """

    def __init__(
        self,
        path: Path,
        trials: Sequence[Trial],
        output: Path,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self.path = path
        self._trials = {trial.spec.run_id: trial for trial in trials}
        self._output, self._say, self._warn = output, say, warn

    def lacks(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those of the trials that are not in the file.

        Raises:
            RecordError: if the file is something else, or cannot be read.
        """
        known = logged(self.path)
        return [trial for trial in trials if trial.logged_id not in known]

    def hear(self, event: Event) -> None:
        """Appends the line of a trial that ended, unless it is there."""
        if not isinstance(event, Ended) or event.status == "stopped" or not event.has_record:
            return
        trial = self._trials[event.run_id]
        try:
            row = row_of(trial, read_run(self._output / event.run_id))
            if row is None:
                return
            # Another command may have trained it, or trains others of this search now.
            with Lease(self._output / ".leases", "log").taken(_SECONDS_FOR_A_LINE) as is_ours:
                if not is_ours:
                    raise RecordError(f"{self.path} is being written by another command for long; give this one again")
                if self.lacks([trial]):
                    _append(self.path, row)
        except (RecordError, OSError) as error:
            self._warn(str(error))
            return
        self._say(
            f"{trial.spec.method} {trial.label}: validation accuracy {row['validation_accuracy']}, free "
            f"{row['free_neurons'] or '-'}"
        )


def row_of(trial: Trial, run: RecordedRun) -> dict[str, Any] | None:
    """The line of a trial, from what was recorded of it.

    Seconds are those of training the tasks that it learned. None for a trial that failed for another reason than that
    it diverged: it is to be tried again.
    """
    from clbench import metrics

    row: dict[str, Any] = dict.fromkeys(LOG_COLUMNS, "")
    if run.status == "finished":
        row["validation_accuracy"] = f"{metrics.average_accuracy(run.accuracy_matrix):.6f}"
        for metric in (metrics.learning_accuracy, metrics.forgetting):
            value = metric(run.accuracy_matrix)
            row[metric.__name__] = "" if value is None else f"{value:.6f}"
        last = run.capacity[run.capacity["task"] == len(run.tasks)]
        row["free_neurons"] = " ".join(
            f"{int(free)}/{int(units)}" for free, units in zip(last["free"], last["units"], strict=True)
        )
    elif run.reason.startswith(DivergenceError.__name__):
        row["validation_accuracy"] = "diverged"
    else:
        return None
    spec, config = trial.spec, run.config
    return row | {
        "run_id": trial.logged_id,
        "suite": spec.suite.name,
        "method": spec.method,
        "settings": json.dumps(trial.settings, sort_keys=True),
        "n_tasks": spec.suite.n_tasks,
        "epochs": spec.settings.epochs,
        "seed": spec.seed,
        "precision": spec.precision,
        "train_seconds": f"{run.tasks['train_seconds'].sum():.0f}",
        "clbench": config["versions"]["clbench"],
        "git_commit": config["git_commit"] + ("+changes" if config["git_dirty"] else ""),
        "data_sha256": spec.data["sha256"],
    }


def logged(log: Path) -> set[str]:
    """The run ids that a log holds.

    Raises:
        RecordError: if the file is something else.
    """
    return set(logged_rows(log))


def logged_rows(log: Path) -> dict[str, dict[str, str]]:
    """The lines of a log by their run ids.

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
        return {row["run_id"]: row for row in rows}
    except FileNotFoundError:
        return {}
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
