"""The table of optimisers: which class each name stands for, and how it is built, without importing torch."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerEntry:
    """A line of the table of optimisers.

    Attributes:
        target: `module:Class`, taking parameters, `lr` and `weight_decay`.
        options: further arguments, always the same.
        takes_momentum: whether the setting `momentum` is one of its arguments.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes_momentum: bool = False


OPTIMIZERS: Mapping[str, OptimizerEntry] = {
    "adam": OptimizerEntry("torch.optim:Adam", {"fused": True}),
    "adamw": OptimizerEntry("torch.optim:AdamW", {"fused": True}),
    "sgd": OptimizerEntry("torch.optim:SGD", takes_momentum=True),
    "rmsprop": OptimizerEntry("clbench.methods.optimizers:FusedRMSprop"),
}


def _known(name: str) -> str:
    if name not in OPTIMIZERS:
        raise ValueError(f"expected one of {', '.join(OPTIMIZERS)}")
    return name


Optimizer = Annotated[str, AfterValidator(_known)]
"""The name of an optimiser, as a field of settings."""


def build_optimizer(
    name: str,
    parameters: "Iterable[torch.nn.Parameter]",
    *,
    rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0,
) -> "torch.optim.Optimizer":
    """The optimiser of that name.

    Args:
        name: of `OPTIMIZERS`.
        parameters: what it steps.
        rate: the learning rate.
        weight_decay: L2 decay of every weight.
        momentum: of one that takes it.

    Example:
        build_optimizer("adam", model.parameters(), rate=0.001)
    """
    entry = OPTIMIZERS[name]
    module, _, attribute = entry.target.partition(":")
    options = {"lr": rate, "weight_decay": weight_decay, **entry.options}
    if entry.takes_momentum:
        options["momentum"] = momentum
    optimizer: torch.optim.Optimizer = getattr(importlib.import_module(module), attribute)(parameters, **options)
    return optimizer
