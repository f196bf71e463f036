"""Optimisers that torch has, but has no fast form of."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# 1 - alpha^step is 1 in float32, and counting on changes it no more.
_LATE = 1e9


class FusedRMSprop(torch.optim.Adam):
    """`torch.optim.RMSprop`, computed by Adam's fused kernel: a single pass over the weights, where torch's takes five.

    It keeps Adam's first moment, which is the latest gradient: one copy of the weights more than torch's.

    With beta1 = 0, Adam is RMSprop but for the correction of the second moment's bias, which is gone after many steps:
    here the steps are counted from a late one on.

    Args:
        params: as for any optimiser.
        lr, alpha, eps, weight_decay: as for `torch.optim.RMSprop`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=(0.0, alpha), eps=eps, weight_decay=weight_decay, fused=True)
        # No step of our own around Adam's: torch's hooks would hear of two.
        self.register_step_pre_hook(_count_from_late_on)


def _count_from_late_on(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.tensor(_LATE, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
