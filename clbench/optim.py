"""Optimisers that torch has, but has no fast form of."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

# Numbers in a piece of a parameter: with all that a step reads and writes beside it, it fits a processor's cache.
_PIECE = 2**19

AroundPiece = Callable[[nn.Parameter, slice], AbstractContextManager[Tensor]]


class PiecewiseAdam(torch.optim.Adam):
    """`torch.optim.Adam`, the fused form, over one piece of a parameter after another.

    What a method does with every weight before and after a step, it does with the piece at hand: once from memory for
    all of it, where whole parameters would come from memory for each operation anew.

    Args:
        params, options: as for `torch.optim.Adam`.

    Attributes:
        around: a context manager for each piece, called with its parameter and where it lies in the flat parameter.
            It gives the gradient that the step shall use, as flat and long as the piece. None takes the parameter's.
    """

    def __init__(self, params: Iterable[nn.Parameter], **options: Any) -> None:
        super().__init__(params, fused=True, **options)
        self.around: AroundPiece | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, as `torch.optim.Adam`'s."""
        if self.around is None:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lists: tuple[list[Any], ...] = ([], [], [], [], [], [])
            self._init_group(group, *lists)
            for parameter, _, first_moment, second_moment, step in zip(*lists[:4], lists[5], strict=True):
                moments = first_moment.view(-1), second_moment.view(-1)
                for part in _pieces(parameter):
                    with self.around(parameter, part) as gradient:
                        # torch counts the steps of each call.
                        self._step(group, parameter.view(-1)[part], gradient, *(m[part] for m in moments), step.clone())
                step += 1
        return loss

    def _step(self, group: dict[str, Any], *tensors: Tensor) -> None:
        weights, gradient, first_moment, second_moment, step = ([tensor] for tensor in tensors)
        beta1, beta2 = group["betas"]
        adam(
            weights,
            gradient,
            first_moment,
            second_moment,
            [],
            step,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )


def _pieces(parameter: Tensor) -> Iterator[slice]:
    """Where the pieces of a parameter lie; on a GPU, which gains nothing by them, it is one."""
    size = _PIECE if parameter.device.type == "cpu" else max(1, parameter.numel())
    for start in range(0, parameter.numel(), size):
        yield slice(start, start + size)


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
