"""Adam piece by piece, and RMSprop in Adam's fused kernel: what torch has, in a form that takes less time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

# Numbers in a piece: with all that a step reads and writes beside it (some 20 MB), it fits a processor's shared cache.
_PIECE = 2**19

AroundPiece = Callable[[nn.Parameter, slice | None], AbstractContextManager[Tensor]]


class PiecewiseAdam(torch.optim.Adam):
    """`torch.optim.Adam`, the fused form, over one piece of a parameter after another.

    A method that does something with every weight before and after a step does it with the piece at hand. The piece
    then comes from memory once. A whole parameter would come from memory for each operation.

    Args:
        params, lr, betas, eps, weight_decay: as for `torch.optim.Adam`.

    Attributes:
        around: context manager for each piece of the next step. It receives the parameter and the piece's place in the
            flat parameter, or None for all of it in its own shape. It yields the gradient to use, shaped like the
            piece. It is cleared after one step. None takes the parameters' own gradients.
    """

    # Of the class, so that copies have it, which torch makes without calling `__init__`.
    around: AroundPiece | None = None

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, as `torch.optim.Adam`'s."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # An exception must not leave it for a step that knows nothing of it.
        around, self.around = self.around or _own_gradient, None
        for group in self.param_groups:
            lists: tuple[list[Any], ...] = ([], [], [], [], [], [])
            self._init_group(group, *lists)
            for parameter, _, first_moment, second_moment, step in zip(*lists[:4], lists[5], strict=True):
                for part in _pieces(parameter):
                    weights, *moments = (piece_of(tensor, part) for tensor in (parameter, first_moment, second_moment))
                    with around(parameter, part) as gradient:
                        # torch counts the steps of each call.
                        self._step(group, weights, gradient, *moments, step.clone())
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
            maximize=False,
        )


def piece_of(tensor: Tensor, part: slice | None) -> Tensor:
    """A view of that part of the flat tensor; of all of it, in its own shape, for None."""
    return tensor if part is None else tensor.view(-1)[part]


def _pieces(parameter: Tensor) -> Iterator[slice | None]:
    if parameter.numel() <= _PIECE or not parameter.is_contiguous() or parameter.device.type != "cpu":
        # On a GPU a step is one pass anyway, and every call has its price.
        yield None
        return
    for start in range(0, parameter.numel(), _PIECE):
        yield slice(start, start + _PIECE)


@contextmanager
def _own_gradient(parameter: nn.Parameter, part: slice | None) -> Iterator[Tensor]:
    assert parameter.grad is not None
    yield piece_of(parameter.grad, part)


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
