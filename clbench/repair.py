"""Self-repair: what a learned task loses with some of its units, and what it gets back by learning again.

Units are destroyed: the weights and biases that lead to them become 0, for every task, and so does what their batch
norms give. Where such weights are frozen the units stay dead. The task is then learned once more, as a further task,
with what is still free.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clbench.data import ImageSet
from clbench.errors import MethodError, SettingError
from clbench.methods.method import EVALUATION_BATCH, Method, Workplace, share_right
from clbench.methods.table import find_method
from clbench.networks.units import find_units
from clbench.seeding import RandomStreams

if TYPE_CHECKING:
    from clbench.data.streams import Task
    from clbench.runs.spec import RunSpec


@dataclass(frozen=True)
class Repaired:
    """What was measured on test images.

    Attributes:
        task: which, from 1.
        units: by group, how many the task had, how many of them were destroyed, and how many it has in the end.
        before, damaged, repaired: the task's accuracy, in [0, 1].
        others_before, others_damaged, others_repaired: mean accuracy of the other tasks; nan without others.
        moved: the largest change of a logit of another task by learning again; 0 is to the bit.
    """

    task: int
    units: dict[str, tuple[int, int, int]]
    before: float
    damaged: float
    repaired: float
    others_before: float
    others_damaged: float
    others_repaired: float
    moved: float


def repair(
    spec: "RunSpec",
    images: ImageSet,
    device: torch.device,
    task: int,
    share: float,
    on_learned: Callable[[int], None] = lambda task: None,
) -> Repaired:
    """Trains a run's tasks, destroys units of one, and learns that one again.

    Args:
        spec: the run.
        images: its data.
        device: where.
        task: which, from 1.
        share: of the units that the task uses, in each group; at least one there, unless it is 0.
        on_learned: told the number of each task learned, the repeated one as the last.

    Raises:
        SettingError: for a method that counts no units, or that cannot learn one task more.
        MethodError: for a network whose units cannot be followed.

    Example:
        repair(spec, images, torch.device("cpu"), task=1, share=0.3).repaired
    """
    stream = spec.stream(images)
    n_tasks = len(stream.tasks)
    if not 1 <= task <= n_tasks:
        raise SettingError(f"the run has tasks 1 to {n_tasks}, but got --task {task}")
    # A head, and a share of what is free, are there for the repeated task from the beginning.
    suite = spec.suite.model_copy(update={"n_tasks": n_tasks + 1})
    kind = find_method(spec.method)
    if kind.units_of is Method.units_of:
        raise _without_units(spec.method)
    settings = kind.one_task_more(spec.settings)
    if reason := kind.refuses(suite, settings):
        raise SettingError(reason)
    # A network whose units cannot be followed is refused before it has been trained.
    network = suite.build_network(stream.image_shape, stream.n_outputs, 0)
    try:
        find_units(network, torch.zeros(1, *stream.image_shape))
    except MethodError as error:
        raise MethodError(f"--repair follows units through the network, as CLNP and HAT do: {error}") from error
    chosen = stream.tasks[task - 1]
    again = _as_task(chosen, n_tasks)
    seeds = RandomStreams(spec.seed)
    longer = replace(stream, tasks=[*stream.tasks, again])
    method = kind(settings, Workplace(suite, longer, seeds, device, spec.precision))
    method.prepare()
    for each in stream.tasks:
        method.learn(each)
        on_learned(each.index + 1)
    found = method.units_of(chosen)
    if found is None:
        raise _without_units(spec.method)
    units, active = found
    destroyed, counts = torch.zeros_like(active), {}
    generator = seeds.generator("damage", chosen.index)
    for group in units.groups:
        there = active[group.slice].nonzero().squeeze(1).cpu() + group.start
        hit = there[torch.randperm(len(there), generator=generator)[: max(round(share * len(there)), int(share > 0))]]
        destroyed[hit] = True
        counts[group.name] = len(there), len(hit)
    others = [each for each in stream.tasks if each is not chosen]
    before, others_before = _right(method, chosen), _mean_right(method, others)
    method.destroy(destroyed)
    damaged, others_damaged = _right(method, chosen), _mean_right(method, others)
    then = _logits(method, others)
    method.learn(again)
    on_learned(n_tasks + 1)
    moved = max((float((a - b).abs().max()) for a, b in zip(_logits(method, others), then, strict=True)), default=0.0)
    used = method.units_of(again)
    assert used is not None
    in_the_end = {group.name: int(used[1][group.slice].sum()) for group in units.groups}
    return Repaired(
        task,
        {name: (*had, in_the_end[name]) for name, had in counts.items()},
        before,
        damaged,
        _right(method, again),
        others_before,
        others_damaged,
        _mean_right(method, others),
        moved,
    )


def _without_units(method: str) -> SettingError:
    return SettingError(
        f"{method} does not say which units a task uses, so there are none to destroy; --repair is for methods with "
        "units or masks of tasks, such as clnp, hat, packnet and wsn"
    )


def _as_task(task: "Task", index: int) -> "Task":
    parts = {name: replace(getattr(task, name), task_label=index) for name in ("train", "validation", "test")}
    return replace(task, index=index, name=f"{task.name}, again", **parts)


def _right(method: Method, task: "Task") -> float:
    answering = method.network_for(task)
    assert answering is not None
    with torch.inference_mode(), answering as network:
        return share_right(network, task.test, method.workplace.device)


def _mean_right(method: Method, tasks: "list[Task]") -> float:
    return sum(_right(method, task) for task in tasks) / len(tasks) if tasks else float("nan")


def _logits(method: Method, tasks: "list[Task]") -> list[Tensor]:
    """Of all test images, on the CPU."""
    found = []
    for task in tasks:
        answering = method.network_for(task)
        assert answering is not None
        with torch.inference_mode(), answering as network:
            parts = torch.arange(len(task.test)).split(EVALUATION_BATCH)
            images = (task.test.batch(part, device=method.workplace.device)[0] for part in parts)
            found.append(torch.cat([network(x).cpu() for x in images]))
    return found
