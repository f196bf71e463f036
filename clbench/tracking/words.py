"""Names, tags and descriptions in the MLflow store."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from clbench.records.format import measured_on
from clbench.records.naming import natural, override_words
from clbench.records.reading import RecordedRun
from clbench.records.result import result_of
from clbench.records.told import told


def experiment_of(suite: str, title: str, measured: str) -> tuple[str, str]:
    """Name and title of the experiment that runs belong to; trials of a search have one of their own.

    Args:
        suite, title: name and title of the suite.
        measured: the images that accuracy is measured on, `test` or `validation`.
    """
    if measured == "test":
        return suite, title
    return f"{suite} (tuning)", f"{title}, trials of a search, measured on {measured} images"


def run_name(config: Mapping[str, Any]) -> str:
    """Method, what was changed, and seed: `ewc strength=1000 · seed 0`.

    The method's own changes come first, because MLflow's tables cut a name off after some twenty letters.
    """
    changes = override_words(config) or (["(modified)"] if config["modified"] else [])
    name = " ".join([config["method"], *changes])
    return f"{name if len(name) <= 100 else name[:99] + '…'} · seed {config['seed']}"


def tags_of(config: Mapping[str, Any], place: str) -> dict[str, str]:
    """The tags of a run."""
    tags = {
        "mlflow.source.name": "clbench",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": config["git_commit"],
        "mlflow.note.content": run_note(config, place),
        **{
            f"clbench.{name}": config[name]
            for name in ("suite", "method", "seed", "run_id", "task_known_at_test", "modified", "precision")
        },
        "clbench.kind": "run",
        "clbench.told_at_test": told(config),
        "clbench.measured_on": measured_on(config),
        "clbench.folder": place,
        "clbench.scenario": config["suite_settings"]["scenario"],
        "clbench.head": config["suite_settings"]["head"],
        "clbench.git_commit": config["git_commit"],
        "clbench.data_sha256": config["data"]["sha256"],
        **{f"clbench.version.{name}": number for name, number in config["versions"].items()},
    }
    return {key: as_tag(value) for key, value in tags.items()}


def experiment_note(suite: str, title: str) -> str:
    """An experiment's description: what it holds and how to read it."""
    # The page shows the first line until it is unfolded, and invocations until they are.
    return (
        f"**{_plain(title)}**, by clbench. *Sort* by the metric `average_accuracy` to list every run, and see the "
        "charts (the second icon).\n\n"
        f"One run per invocation of the suite {_plain(suite)}; below it one per method and seed. Sorted by time, only "
        "the invocations are listed until they are unfolded; ``tags.`clbench.kind` = 'run'`` leaves them out.\n\n"
        "- A metric's step is the number of **tasks learned**: `average_accuracy` by step is the learning curve, "
        "`accuracy/task_01` by step what is remembered of the first task.\n"
        "- To compare settings, tick runs of one method, choose *Compare*, and in the *Parallel Coordinates Plot* its "
        "hyper-parameters and `average_accuracy`.\n"
        "- The tag `clbench.told_at_test` says whether a method is told the task at test, and what the task chooses.\n"
        "- Runs whose name has a setting, such as *epochs=3*, do not have the suite's own."
    )


def invocation_note(runs: str, suite: str, command: str) -> str:
    """An invocation's description."""
    return f"{runs} of the suite **{_plain(suite)}** by one command:\n\n{_code(command)}\n\n"


TABLE_HEAD = "| run | status | average accuracy, % | forgetting, points |\n|---|---|---:|---:|\n"


def invocation_table(children: Iterable[Any]) -> str:
    """The runs of an invocation as a table in Markdown."""
    rows = []
    for child in sorted(children, key=lambda child: natural(str(child.info.run_name))):
        values = child.data.metrics
        shown = [f"{100 * values[name]:.2f}" if name in values else "" for name in ("average_accuracy", "forgetting")]
        rows.append(f"| {_plain(child.info.run_name)} | {child.info.status.lower()} | {' | '.join(shown)} |\n")
    return "".join(rows)


def run_note(config: Mapping[str, Any], place: str, recorded: RecordedRun | None = None) -> str:
    """What the run is, and, once its folder is whole, how it ended."""
    settings = config["suite_settings"]
    known = "told" if config["task_known_at_test"] else "not told"
    text = (
        f"**{_plain(config['method'])}**, seed {config['seed']}, on {_plain(config.get('title', config['suite']))}: "
        f"{settings['n_tasks']} tasks, {_plain(settings['scenario'])}, {_plain(settings['head'])} head; "
        f"{known} the task at test time."
    )
    if measured_on(config) != "test":
        text += f" A trial of a search: accuracy is measured on {measured_on(config)} images."
    if config["modified"]:
        text += f"\n\nNot the suite's own setting: {_plain(', '.join(override_words(config)))}."
    if recorded is not None and recorded.status != "running":
        result = result_of(recorded)
        text += f"\n\n{recorded.status.capitalize()} after {result.learned} of {settings['n_tasks']} tasks"
        text += f" ({_plain(recorded.reason)})." if recorded.reason else "."
        values = result.metrics()
        if "average_accuracy" in values:
            text += f" Average accuracy {100 * values['average_accuracy']:.2f} %"
            text += f", forgetting {100 * values['forgetting']:.2f} points." if "forgetting" in values else "."
    return f"{text}\n\nRun folder {_plain(place)}, recorded with\n\n{_code(config['command'])}"


def _plain(text: Any) -> str:
    """Text that Markdown shows as it is: a name is a name, not a link or an image."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|~&])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    return "    " + " ".join(text.split())


def as_tag(value: Any) -> str:
    """A value as MLflow takes it for a tag."""
    if isinstance(value, bool):
        return "true" if value else "false"
    # MLflow's limit.
    return (value if isinstance(value, str) else json.dumps(value))[:8000]


def as_metric(name: str) -> str:
    """A metric's name as MLflow takes it: layers that are pruned together are joined by `-`, not `+`."""
    return name.replace("+", "-")


def as_param(value: Any) -> str:
    """A setting as MLflow's plots read it: a number where it is one, also for a list of one."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return "none" if value is None else as_tag(value)[:6000]
