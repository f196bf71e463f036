"""Networks with an output layer per task. A module of its own, since it needs Avalanche, whose import takes seconds.

Letters: B batch, F features of the trunk, C outputs of a head, T tasks.
"""

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn


class HeadPerTask(MultiTaskModule):
    """A trunk with an output layer per task.

    All heads exist from the beginning, all of one size: Avalanche's own heads are created when a task is first
    seen, in training or in evaluation, so that evaluating a future task would change the network.

    Args:
        trunk: images [B, ...] -> features [B, F].
        heads: T layers, features [B, F] -> logits [B, C].
    """

    def __init__(self, trunk: nn.Module, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def adaptation(self, experience: object) -> None:
        """Does nothing: the heads are there."""

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits [B, C], each row from the head of its task label (one int for all rows, or int64 [B])."""
        features = self.trunk(x)
        if isinstance(task_labels, int):
            return self.heads[task_labels](features)
        present = task_labels.unique().tolist()
        if len(present) == 1:
            return self.heads[present[0]](features)
        logits = features.new_empty(len(features), self.heads[0].out_features)
        for task in present:
            rows = task_labels == task
            # Under autocast a head may give another type than the trunk.
            logits[rows] = self.heads[task](features[rows]).to(logits.dtype)
        return logits


class SlicedHeads(MultiTaskModule):
    """A whole network with T * C outputs, of which each task has C: a head per task, whatever the last layer is.

    Where the last layer is linear, a task's slice of it is its head. But the other slices receive a gradient of 0
    rather than none, so weight decay and an optimiser's momentum move them too.

    Args:
        network: images [B, ...] -> logits [B, T * C], the first C of task 0.
        n_tasks: T.
        n_outputs: C.
    """

    def __init__(self, network: nn.Module, *, n_tasks: int, n_outputs: int) -> None:
        super().__init__()
        self.network = network
        self.n_tasks = n_tasks
        self.n_outputs = n_outputs

    def adaptation(self, experience: object) -> None:
        """Does nothing: the outputs are there."""

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits [B, C], each row the slice of its task label (one int for all rows, or int64 [B])."""
        logits = self.network(x).unflatten(1, (self.n_tasks, self.n_outputs))
        if isinstance(task_labels, int):
            return logits[:, task_labels]
        return logits[torch.arange(len(logits), device=logits.device), task_labels]
