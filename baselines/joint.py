"""A new network on the data of all tasks so far together: the upper reference where tasks share one network.

Source: standard ("joint" or "multi-task" training).
Departs from it: in nothing. Every batch mixes images of all tasks so far. A pass covers all of them, so task k
costs k times the first. With `only_last` one network is trained, when the last task has arrived.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import nn

from clbench.data.streams import Task
from clbench.methods.method import Answers, Method, Phase
from clbench.methods.settings import AlwaysNew, MethodSettings


class JointSettings(MethodSettings):
    """Hyper-parameters of `joint`.

    Attributes:
        only_last: whether to train only once, on all tasks, as the papers' multitask. Nothing is measured before.
    """

    added_later: ClassVar[Mapping[str, Any]] = {"only_last": False}

    only_last: bool = False
    reset_optimizer: AlwaysNew = True


class Joint(Method):
    """Starts anew whenever a task arrives, with everything seen so far."""

    Settings = JointSettings
    resumes = True

    def learn(self, task: Task) -> None:
        """Trains a new network on tasks 1 to `task`."""
        if not self.phases(task):
            self.tasks_learned = task.index + 1
            return
        self.model = self.build_network()
        self.strategy = self.build_strategy()
        super().learn(task)

    def phases(self, task: Task) -> list[Phase]:
        """All tasks so far together; nothing before the last task, if one network is trained when that has arrived."""
        tasks = self.workplace.stream.tasks[: task.index + 1]
        if self.settings.only_last and len(tasks) < len(self.workplace.stream.tasks):
            return []
        return [Phase([earlier.train for earlier in tasks], self.settings.epochs)]

    def network_for(self, task: Task) -> AbstractContextManager[Answers] | None:
        """None between the untrained network and the last task, if one network is trained when that has arrived."""
        is_waiting = self.settings.only_last and 0 < self.tasks_learned < len(self.workplace.stream.tasks)
        return None if is_waiting else super().network_for(task)

    def network_alone(self, task: Task) -> nn.Module:
        """The one network of all tasks."""
        return super().network_alone(task)
