"""Optimisers that torch has, but has no fast form of."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class FusedRMSprop(torch.optim.Adam):
    """`torch.optim.RMSprop`, computed by Adam's fused kernel: a single pass over the weights, where torch's takes five.

    Without a first moment (beta1 = 0), Adam is RMSprop but for the correction of the second moment's bias, which is
    gone after many steps: here the steps are counted from a late one on.

    Args:
        params: as for any optimiser.
        lr, alpha, eps, weight_decay: as for `torch.optim.RMSprop`.
    """

    # 1 - alpha^step is 1 in float32, and counting on changes it no more.
    _LATE = 1e9

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=(0.0, alpha), eps=eps, weight_decay=weight_decay, fused=True)

    def step(self, closure: Any = None) -> Any:
        """One step; returns the closure's loss, if there is a closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = {
                        "step": torch.tensor(self._LATE, device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
        return super().step(closure)
