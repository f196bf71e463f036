"""Output layers, the same for every network: one, one per task, or one over all classes.

Letters: B batch, F features of the trunk, C outputs of a head, T tasks.
"""

from typing import Literal

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from clbench.errors import SettingError
from clbench.networks.network import ImageShape
from clbench.own.code import said_by

Head = Literal["single", "multi", "classes"]


class OneHead(nn.Module):
    """A trunk with one output layer, for all tasks or over all classes.

    Args:
        trunk: images [B, ...] -> features [B, F].
        head: features [B, F] -> logits [B, C].
    """

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] for images [B, ...]."""
        return self.head(self.trunk(x))


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


def with_heads(
    trunk: nn.Module,
    n_features: int,
    n_outputs: int,
    *,
    head: Head,
    n_tasks: int,
    bias: bool = True,
    zero_head: bool = False,
) -> nn.Module:
    """The trunk with output layers drawn from torch's global generator.

    Args:
        trunk: images [B, ...] -> features [B, F].
        n_features: F.
        n_outputs: C, of each head.
        head: `single` (one output layer for all tasks), `multi` (one per task) or `classes` (one over all classes).
        n_tasks: T, the number of heads for `multi`.
        bias: whether output layers have one.
        zero_head: whether output layers start at 0.
    """
    heads = [nn.Linear(n_features, n_outputs, bias=bias) for _ in range(n_tasks if head == "multi" else 1)]
    if zero_head:
        for layer in heads:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
    return HeadPerTask(trunk, heads) if head == "multi" else OneHead(trunk, heads[0])


def outputs_of(module: nn.Module, image_shape: ImageShape) -> int:
    """How many numbers the module gives for an image: features of a trunk, logits of a whole network.

    The module stays as it was, but for lazy layers, which learn from it how many inputs they have.

    Raises:
        SettingError: unless it turns images [B, C, H, W] into [B, numbers].
    """
    name = type(module).__name__
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            found = module(torch.zeros(1, *image_shape))
    except SettingError:
        raise
    except Exception as error:
        shape = " x ".join(map(str, image_shape))
        raise SettingError(f"the network {name} cannot take an image of {shape}: {said_by(error)}") from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 1:
        got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise SettingError(
            f"a network must turn one image into a tensor of shape [1, numbers], but {name} gave {got}; flatten its "
            "output"
        )
    return found.shape[1]
