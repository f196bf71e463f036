"""What is said of a task: that units run out, that pruning left none, that it is not finite."""

import warnings

import torch
from torch import Tensor

from clbench.errors import DivergenceError, MethodWarning
from clbench.strategies.clnp.claims import Claims

# Below this share of free units a task is told that it may not fit.
_SCARCE = 0.05


def warn_if_full(claims: Claims) -> None:
    """Before a task: of groups that have next to no free units left."""
    for number, group in enumerate(claims.units.groups):
        free = claims.free_of(number)
        of_user = claims.given[group.start : group.start + group.size].all()
        if free < _SCARCE * group.size and not of_user:
            _warn(
                f"CLNP has only {free} of {group.size} {group.unit}s of {group.name} left for the next task; a wider "
                "network, a wider margin or a budget leaves more"
            )


def warn_if_empty(claims: Claims, mask: Tensor) -> None:
    """After pruning: of groups of which a task (bool [U]) reads nothing."""
    for group in claims.units.groups:
        if not mask[group.start : group.start + group.size].any():
            _warn(
                f"CLNP's pruning left no {group.unit} of {group.name}: the task now gets the same answer for every "
                "image; a smaller margin or less L1 keeps some"
            )


def not_finite(claims: Claims) -> list[str]:
    """Names of the layers with weights or statistics that are no finite numbers."""
    found = claims.tensors()
    kinds = ("weight", "bias", "running_mean", "running_var")
    return [
        name
        for name in claims.units.layers
        if not all(bool(found[key].isfinite().all()) for key in (f"{name}.{kind}" for kind in kinds) if key in found)
    ]


def diverged(claims: Claims) -> DivergenceError:
    """What to raise for weights or statistics that are no finite numbers; they are cleared."""
    found = ", ".join(not_finite(claims))
    clear_not_finite(claims)
    return DivergenceError(
        f"training for CLNP left weights of {found} that are not finite numbers, so nothing was claimed for the task; "
        "a lower learning rate may keep them finite"
    )


@torch.no_grad()
def clear_not_finite(claims: Claims) -> None:
    """Puts 0 where there is no finite number: what earlier tasks do not read they multiply by 0 all the same."""
    for tensor in claims.tensors().values():
        if tensor.is_floating_point():
            tensor.nan_to_num_(0.0, 0.0, 0.0)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, MethodWarning, stacklevel=3)
