"""A new network on the data of all tasks so far together: the upper reference where tasks share one network.

Source: standard ("joint" or "multi-task" training).
Departs from it: in nothing. Every batch mixes images of all tasks so far. A pass covers all of them, so task k
costs k times the first. With `only_last` one network is trained, when the last task has arrived.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from clbench.data.streams import Samples, Task
from clbench.methods.method import Method, NewOptimizerSettings


class JointSettings(NewOptimizerSettings):
    """Hyper-parameters of `joint`.

    Attributes:
        only_last: whether to train only once, on all tasks, as the papers' multitask. Nothing is measured before.
    """

    added_later: ClassVar[Mapping[str, Any]] = {"only_last": False}

    only_last: bool = False


class Joint(Method):
    """Starts anew whenever a task arrives, with everything seen so far."""

    Settings = JointSettings
    resumes = True

    def learn(self, task: Task) -> None:
        """Trains a new network on tasks 1 to `task`."""
        if not self.training_samples(task):
            self.tasks_learned = task.index + 1
            return
        self.model = self.build_model()
        self.strategy = self.build_strategy()
        super().learn(task)

    def training_samples(self, task: Task) -> Sequence[Samples]:
        """The training samples of all tasks so far; none before the last task, if that alone is trained on."""
        tasks = self.workplace.stream.tasks[: task.index + 1]
        if self.settings.only_last and len(tasks) < len(self.workplace.stream.tasks):
            return []
        return [earlier.train for earlier in tasks]

    def can_predict(self, task: Task, learned: int) -> bool:
        """Nothing between the untrained network and the last task, if that alone is trained on."""
        waiting = self.settings.only_last and 0 < learned < len(self.workplace.stream.tasks)
        return not waiting and super().can_predict(task, learned)
