"""One picture and one table that answer: which method, at what cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import mode
from typing import Any

from clbench.records.identity import recorded_settings
from clbench.records.naming import overridden
from clbench.records.told import told
from clbench.reports import figures
from clbench.reports.analysis.groups import Group, are_mixed
from clbench.reports.analysis.network import image_size, network_name, network_words, parameters
from clbench.reports.analysis.statistics import SEEDS_FOR_INTERVAL
from clbench.reports.cells import accuracy_cell, cost_cell, count_cell, points_cell
from clbench.reports.formatting import counted, differing, duration, percent, plain, readable_bytes, thousands
from clbench.reports.model import Cell, Column, Figure, Table
from clbench.reports.sections.inference import (
    ALONE,
    BEST,
    BEST_SO_FAR,
    BEST_TESTED,
    NOT_TESTED,
    NOT_TOLD_APART,
    UPPER_BOUND,
    WORSE,
)
from clbench.reports.sections.provenance import images_differ, mixtures, threads_differ

_WORDS = {
    BEST: "its accuracy is shown to be above that of every other method of its kind",
    BEST_TESTED: "above every other one of its kind that could be tested",
    BEST_SO_FAR: "as before, but one with too few seeds for a test stands higher",
    NOT_TOLD_APART: "not shown to differ from the best of its kind, or the best itself where another is not shown to "
    "differ from it",
    WORSE: "shown to be below the best of its kind",
    NOT_TESTED: f"fewer than {SEEDS_FOR_INTERVAL} shared seeds",
    UPPER_BOUND: "sees all tasks at once, or has a network for each, and is not judged",
    ALONE: "there is no other method of its kind",
}


_PRICED = (
    "The last panel: after the last task, with the 95 % interval (every seed where there are fewer than "
    f"{SEEDS_FOR_INTERVAL}), against training time."
)


# Relative difference below which methods count as trained on as many images: validation images may be left out.
_SAME_IMAGES = 0.06


def headline_figure(groups: Sequence[Group], name: str, mark: str) -> Figure:
    """Average accuracy against tasks learned."""
    finals = listed(groups, lambda group: group.average_accuracy_curves[:, -1])
    return Figure(
        name,
        f"{mark}Average accuracy over the tasks learned so far: lines are means over seeds, bands the range of the "
        "seeds. "
        f"{_PRICED if len(groups) > 1 else ''}",
        f"{mark}Line chart of average accuracy against tasks learned. After the last task: {finals}.",
        partial(figures.average_accuracy, groups, name),
        partial(figures.average_accuracy, groups, f"{name}-narrow", narrow=True),
    )


def headline_table(groups: Sequence[Group], standings: Mapping[str, str], name: str, mark: str) -> Table:
    """Accuracy, how it stands by test, and its price; one row per group, by accuracy."""
    used = [standings[group.label] for group in groups if group.label in standings]
    notes = list(_notes(groups))
    if said := overridden([group.config for group in groups], [group.label for group in groups]):
        notes.append(f"{said[0].upper()}{said[1:]}.")
    if used:
        meanings = " ".join(f"{word.capitalize()}: {meaning}." for word, meaning in _WORDS.items() if word in used)
        notes.insert(
            1,
            "Compared, by test, with the others of its kind, which like it are told the task at test, or are not. "
            f"{meanings} The tests are under Statistics.",
        )
    is_mixed = are_mixed(groups)
    if is_mixed:
        notes.append(
            "Runs of the same tasks, network and training stand together; only these can be held against each other."
        )
    return Table(
        name,
        f"{mark}Results after the last task, by {'tasks and training, then by ' if is_mixed else ''}average accuracy",
        (
            Column("Method", "text", 2),
            Column("Average accuracy, %", width=1.6),
            *([Column("Compared, by test", "text", 1.3)] if used else []),
            Column("Task known at test", "text", 0.9),
            Column("Forgetting, points", width=1.2),
            Column("Extra state", width=1.1),
            Column("Training time", width=1.1),
            Column("Seeds", width=0.7),
        ),
        tuple(
            (
                Cell(group.label, group.differs),
                accuracy_cell(group.metric("average_accuracy"), "no interval"),
                *([Cell(standings[group.label])] if used else []),
                Cell(told(group.config)),
                points_cell(group.metric("forgetting"), percent),
                cost_cell(group, "state_bytes", "last", readable_bytes),
                cost_cell(group, "train_seconds", "sum", duration),
                count_cell(len(group.runs)),
            )
            for group in groups
        ),
        tuple(notes),
    )


def _notes(groups: Sequence[Group]) -> Iterable[str]:
    yield (
        "Mean ± half the 95 % confidence interval over seeds (Student's t). Points are percentage points. Extra state: "
        "what is kept beside the weights. Training time: all tasks, without testing."
    )
    few = [
        f"{group.label}: {', '.join(map(percent, accuracy.values))}"
        for group in groups
        if (accuracy := group.metric("average_accuracy")) and accuracy.half_width is None
    ]
    if few:
        yield (
            f"Below {SEEDS_FOR_INTERVAL} seeds there is no interval; the average accuracies by seed are, in %: "
            f"{'; '.join(few)}."
        )
    if any(group.differs for group in groups):
        yield (
            "Runs of a method that differ in more than the seed are not averaged. What differs is in the name, or "
            "below it where it is long."
        )
    for group in groups:
        if group.departures and not group.is_modified:
            yield (
                f"{group.label} is not in the setting that the suite gives it in this version of clbench: "
                f"{', '.join(group.departures)}."
            )
    yield from _variants(groups)
    for group in groups:
        yield from mixtures(group)
    for circumstances in dict.fromkeys(group.circumstances for group in groups):
        yield from threads_differ([group for group in groups if group.circumstances == circumstances])


def _variants(groups: Sequence[Group]) -> Iterable[str]:
    """What a suite's variant has that its method has not, where both are there."""
    for group in groups:
        for other in groups:
            if other.method == group.base != group.method and not other.variant:
                theirs, own = (recorded_settings(each.config)["method_settings"] for each in (other, group))
                yield f"{group.label} is {other.label} with {'; '.join(differing(own, theirs)) or 'the same settings'}."


def listed(groups: Sequence[Group], values: Any) -> str:
    """`clnp 98.28 %, ewc 96.83 %`: the mean of `values(group)` for each group."""
    return ", ".join(f"{group.label} {percent(float(values(group).mean()))} %" for group in groups)


def summary(suite: str, groups: Sequence[Group], mark: str) -> tuple[str, ...]:
    """What was run, in two sentences, and a third on the network where it is recorded."""
    runs = [run for group in groups for run in group.runs]
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))

    def said(name: str, key: str) -> str:
        """The recorded value, or all of them where the groups differ."""
        values = [(group.config.get(name) or {}).get(key) for group in groups]
        shown = [thousands(value) if key.endswith("_images") and value else plain(value) for value in values]
        return " or ".join(dict.fromkeys(shown))

    epochs = groups[0].epochs
    if any(group.epochs != epochs for group in groups):
        epochs = said("suite_settings", "epochs")
        own = [f"{group.label} {group.epochs}" for group in groups if group.epochs != group.epochs_of_suite]
        epochs += f" ({', '.join(own)})" if own else ""
    if any((group.config.get("suite_settings") or {}).get("steps_per_epoch") for group in groups):
        epochs += f", of {said('suite_settings', 'steps_per_epoch')} steps each"
    head = said("suite_settings", "head")
    heads = {
        "single": "a single head",
        "multi": "a head per task",
        "classes": "one output layer over all classes",
    }.get(head, f"head {head}")
    own_outputs = [
        group.label
        for group in groups
        if (group.config.get("method_settings") or {}).get("output_weights") == "per-task"
    ]
    if own_outputs and head != "multi":
        heads += f" (with output weights of each task: {', '.join(own_outputs)})"
    network = f"a network with hidden layers {said('suite_settings', 'hidden_sizes')} and"
    if any(network_name(group.config) != "mlp" for group in groups):
        network = f"the network {_any(network_words, groups)} with"
    return (
        f"{mark}The suite {suite} is a {said('suite_settings', 'scenario')} stream of "
        f"{said('suite_settings', 'n_tasks')} tasks, learned one after the other by {network} {heads}; epochs per "
        f"task: {epochs}.",
        f"The numbers come from {counted(len(runs), 'run')} of "
        f"{counted(len({group.method for group in groups}), 'method')} (seed{'s' if ',' in seeds else ''} {seeds}) on "
        f"{said('data', 'source')}: {said('data', 'train_images')} images to train on, validation included, and "
        f"{said('data', 'test_images')} to test.",
        *_images_trained_on(groups),
        *_images(groups),
        *images_differ(groups),
    )


def _images_trained_on(groups: Sequence[Group]) -> Iterable[str]:
    """Who trains on more or fewer images than most, which epochs alone do not tell: replay, retraining, own epochs."""
    means = {group.label: round(group.images_trained_on.mean) for group in groups if group.images_trained_on}
    usual = mode(means.values()) if means else 0
    others = [f"{label} {thousands(mean)}" for label, mean in means.items() if abs(mean - usual) > _SAME_IMAGES * usual]
    if others:
        as_many = counted(len(means) - len(others), "method")
        yield (
            f"Images trained on over all tasks, each counted as often as it was used: {thousands(usual)} by {as_many}, "
            f"{', '.join(others)}."
        )


def _images(groups: Sequence[Group]) -> Iterable[str]:
    """What enters the network and how large that is, where it is recorded."""
    known = [group for group in groups if group.config.get("network")]
    if known:
        settings = known[0].config.get("suite_settings") or {}
        done = ["normalised channel by channel"] if settings.get("normalise") else []
        if settings.get("augmentation"):
            done.append(f"changed at random while training ({' and '.join(settings['augmentation'])})")
        yield (
            f"The network has {_any(parameters, known)} parameters and takes images of {_any(image_size, known)} "
            f"(channels, height, width){''.join(f', {words}' for words in done)}."
        )


def _any(words: Callable[[Mapping[str, Any]], str], groups: Sequence[Group]) -> str:
    """What is said of the groups' configurations, all of it where they differ."""
    return " or ".join(dict.fromkeys(words(group.config) for group in groups))
