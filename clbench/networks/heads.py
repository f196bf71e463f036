"""Output layers, the same for every network: one, one per task (`several_heads`), or one over all classes.

Letters: B batch, F features of the trunk, C outputs of a head, T tasks.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from clbench.errors import SettingError
from clbench.networks.answer import evaluating, with_memory
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


def heads_of(network: nn.Module) -> list[str]:
    """Names of the output layers of a network that has one per task; empty for another."""
    heads = getattr(network, "heads", None)
    return [f"heads.{number}" for number in range(len(heads))] if isinstance(heads, nn.ModuleList) else []


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
    if head != "multi":
        return OneHead(trunk, heads[0])
    from clbench.networks.several_heads import HeadPerTask

    return HeadPerTask(trunk, heads)


def outputs_of(module: nn.Module, image_shape: ImageShape) -> int:
    """How many numbers the module gives for an image: features of a trunk, logits of a whole network.

    The module stays as it was, but for lazy layers, which learn from it how many inputs they have.

    Raises:
        SettingError: unless it turns images [B, C, H, W] into [B, numbers].
    """
    name = type(module).__name__
    parameter = next(module.parameters(), None)
    image = torch.zeros(1, *image_shape, device="cpu" if parameter is None else parameter.device)
    module, image = with_memory(module, image)
    try:
        with evaluating(module), torch.no_grad():
            found = module(image)
    except SettingError:
        raise
    except Exception as error:
        shape = " x ".join(map(str, image_shape))
        raise SettingError(f"the network {name} cannot take an image of {shape}: {said_by(error)}") from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 1:
        got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise SettingError(
            f"a network must turn one image into a tensor of shape [1, numbers], but {name} gave {got}; flatten its "
            "output"
        )
    return found.shape[1]
