"""The section on time and memory: what each method costs, how that grows, and what accuracy it buys."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from clbench.reports import figures
from clbench.reports.analysis.groups import Group
from clbench.reports.analysis.statistics import Estimate, on_front
from clbench.reports.cells import UNDEFINED, capacity_cell, cost_cell
from clbench.reports.formatting import byte_unit, readable_bytes, seconds, tenths, thousands
from clbench.reports.model import Cell, Column, Figure, Section, Table
from clbench.reports.sections.inference import kinds

_OPTIMIZER = "Of it by the optimiser"
_COLUMNS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("Training, s per task", "train_seconds", "median", seconds),
    ("First task, s", "train_seconds", "first", seconds),
    ("Last task, s", "train_seconds", "last", seconds),
    ("Training, s in all", "train_seconds", "sum", seconds),
    ("Images per\u00a0s", "train_images_per_second", "median", thousands),
    ("Peak memory", "peak_memory_bytes", "max", readable_bytes),
    ("Extra state", "state_bytes", "last", readable_bytes),
    ("Extra state per task", "state_bytes", "slope", readable_bytes),
    (_OPTIMIZER, "optimizer_state_bytes", "last", readable_bytes),
)


def costs_section(groups: Sequence[Group], mark: str) -> Section:
    """Figures and a table of time and memory."""
    return Section("costs", "Time and memory", (), tuple(_items(groups, mark)))


def _items(groups: Sequence[Group], mark: str) -> Iterator[Table | Figure]:
    panels = _tradeoffs(groups)
    if panels and len(groups) > 1:
        best = "; ".join(
            f"{panel.label}: {', '.join(group.label for group, *_, front in panel.points if front)}" for panel in panels
        )
        yield Figure(
            "tradeoffs",
            f"{mark}Average accuracy against its price, mean over seeds. Rings: no method of the same kind, tasks, "
            "network and training is at least as good for less (Pareto front). Another network or training has a front "
            "of its own. Full line: told the task. Dashed: not told. Upper bounds (joint training, a network per task) "
            "are on no front. Dotted, where capacity is shown: settings of one method.",
            f"{mark}Scatter plots of average accuracy against cost. On the fronts are, by cost: {best}.",
            partial(figures.tradeoffs, panels, "tradeoffs"),
        )
    if any(group.tasks("train_seconds", "median") for group in groups):
        yield Figure(
            "costs",
            f"{mark}Training time per task (median over tasks), peak memory of the whole process (on a GPU: of what it "
            "holds there), and extra state after the last task; mean over seeds.",
            f"{mark}Bars of training time, peak memory and extra state by method, with the numbers of the table "
            "on time and memory.",
            partial(figures.costs, groups, "costs"),
        )
    if any(group.tasks("state_bytes", "last") for group in groups):
        yield Figure(
            "state-growth",
            f"{mark}What each method keeps beside the weights as tasks are learned; mean over seeds.",
            f"{mark}Line chart of the extra state in bytes against tasks learned, with the first and last numbers of "
            "the table on time and memory.",
            partial(figures.state_growth, groups, "state-growth"),
        )
    yield _table(groups, panels, mark)


def _table(groups: Sequence[Group], panels: Sequence[figures.Tradeoff], mark: str) -> Table:
    fronts: dict[str, list[str]] = {group.label: [] for group in groups}
    for panel in panels:
        for group, *_, best in panel.points:
            if best:
                fronts[group.label].append(panel.label.split(" (")[0].removeprefix("Training ").lower())
    kept = [group.tasks("optimizer_state_bytes", "last") for group in groups]
    counted = any(group.capacity_used for group in groups)
    columns = [each for each in _COLUMNS if each[0] != _OPTIMIZER or any(value and value.mean for value in kept)]
    devices = {"Core-hours": "cpu", "GPU-hours": "cuda"}
    hours = {name: device for name, device in devices.items() if any(group.hours(device) for group in groups)}
    return Table(
        "costs",
        f"{mark}Time and memory, mean over seeds",
        (
            Column("Method", "text", 1.6),
            *(Column(heading) for heading, *_ in columns),
            Column("Testing, % of time"),
            Column("Images trained on"),
            *(Column(heading) for heading in hours),
            *([Column("CAP, %")] if counted else []),
            Column("On the front of", "text", 1.1),
        ),
        tuple(
            (
                Cell(group.label),
                *(cost_cell(group, column, over, show) for _, column, over, show in columns),
                _testing_share(group),
                _trained(group),
                *(_hours(group, device) for device in hours.values()),
                *([capacity_cell(group)] if counted else []),
                Cell(", ".join(fronts[group.label]) or "–"),
            )
            for group in groups
        ),
        (
            "Seconds per task and images per s are medians over the tasks that trained, which an interruption does not "
            "move. Times compare methods only where device, threads, host and runs at once are the same (see "
            "Provenance); what else a machine did is not recorded. Images trained on: over all tasks, each counted as "
            "often as it was used, those replayed from a memory too. Core-hours and GPU-hours: of all runs, to train "
            "and to test, by their threads, or by their shares of a GPU. CAP: share of the hidden weights that tasks "
            "use, masks included (Kang et al. 2022); it may exceed 100. It counts masks by their rule, extra state the "
            "bytes that are kept. Extra state per task: its growth from the first task to the last, per further task. "
            "On the front: no method of the same kind (told the task at test or not), tasks, network and training is "
            "at least as accurate for less. A method without another to compare with is on it.",
        ),
    )


def _trained(group: Group) -> Cell:
    found = group.images_trained_on
    return UNDEFINED if found is None else Cell(thousands(found.mean), "", found.mean)


def _hours(group: Group, device: str) -> Cell:
    found = group.hours(device)
    return UNDEFINED if found is None else Cell(f"{found:.3g}", "", found)


def _testing_share(group: Group) -> Cell:
    training, testing = (group.tasks(column, "sum") for column in ("train_seconds", "eval_seconds"))
    if training is None or testing is None or training.mean + testing.mean == 0:
        return UNDEFINED
    share = 100 * testing.mean / (training.mean + testing.mean)
    return Cell(tenths(share), "", share)


def _means(groups: Sequence[Group], of_group: Callable[[Group], Estimate | None]) -> list[tuple[Group, float]]:
    return [(group, found.mean) for group in groups if (found := of_group(group)) is not None]


def _tradeoffs(groups: Sequence[Group]) -> list[figures.Tradeoff]:
    """Accuracy against training time and extra state, with the front of each kind of method."""
    panels, capacities = [], _means(groups, lambda group: group.capacity_used)
    for label, costs in (
        ("Training time (s per task, log)", _means(groups, lambda group: group.tasks("train_seconds", "median"))),
        ("Extra state ({unit}, log)", _means(groups, lambda group: group.tasks("state_bytes", "last"))),
        ("CAP (% of weights, log)", [(group, 100 * used) for group, used in capacities]),
    ):
        # The capacity of one method is no comparison.
        if not costs or ("CAP" in label and len(costs) < 2):
            continue
        unit, size = byte_unit(max(cost for _, cost in costs)) if "{unit}" in label else ("", 1.0)
        accuracies = {group.label: group.average_accuracy for group, _ in costs}
        front: dict[str, bool] = {}
        price = {group.label: cost for group, cost in costs}
        for alike in kinds([group for group, _ in costs]):
            labels = [group.label for group in alike]
            best = on_front([price[label] for label in labels], [accuracies[label] for label in labels])
            front.update(zip(labels, best, strict=True))
        points = tuple(
            (group, cost / size, accuracies[group.label], front.get(group.label, False)) for group, cost in costs
        )
        panels.append(figures.Tradeoff(label.format(unit=unit), points, curves="CAP" in label))
    return panels
