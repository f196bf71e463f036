"""A new network on the data of all tasks so far together: the upper reference where tasks share one network.

Source: standard ("joint" or "multi-task" training).
Departs from it: in nothing. Every batch mixes images of all tasks so far; a pass covers all of them, so task k
costs k times the first.
"""

from collections.abc import Sequence

from clbench.data.streams import Samples, Task
from clbench.methods.method import Method, NewOptimizerSettings


class Joint(Method):
    """Starts anew whenever a task arrives, with everything seen so far."""

    Settings = NewOptimizerSettings

    def learn(self, task: Task) -> None:
        """Trains a new network on tasks 1 to `task`."""
        self.model = self.build_model()
        self.strategy = self.build_strategy()
        super().learn(task)

    def training_samples(self, task: Task) -> Sequence[Samples]:
        """The training samples of all tasks so far."""
        return [earlier.train for earlier in self.workplace.stream.tasks[: task.index + 1]]
