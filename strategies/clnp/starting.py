"""How units start: the free ones with new weights before a task, and those that the user has frozen as they are."""

import torch
from torch import Tensor, nn

from clbench.errors import MethodError
from clbench.networks.initial import bound_of
from clbench.networks.units import Units
from clbench.strategies.clnp.claims import Claims
from clbench.strategies.clnp.settings import CLNPOptions


@torch.no_grad()
def draw_free(
    claims: Claims, head: str, options: CLNPOptions, taken: Tensor | None, generator: torch.Generator
) -> None:
    """Free units, and what an output layer in its second use reads from them, start anew.

    The distribution is the one that `initial_weights` names, of the free units' weights times `initial_scale`.
    Biases start at 0, and channels of a batch norm as PyTorch's do.

    Args:
        claims: whose network it is.
        head: name of the output layer of the task to come.
        options: `initial_weights`, `initial_scale`.
        taken: bool [U], units whose weights to the output layer are earlier tasks'; None for none.
        generator: draws.
    """

    def fresh(weight: Tensor) -> Tensor:
        bound = bound_of(weight, options.initial_weights)
        values = torch.rand(weight.shape, generator=generator, dtype=weight.dtype).mul_(2 * bound).sub_(bound)
        return values.to(weight.device)

    found = claims.tensors()
    for name, layer in claims.units.layers.items():
        if name == head:
            continue
        weight, bias = found.get(f"{name}.weight"), found.get(f"{name}.bias")
        free = ~claims.constant_rows(name)
        if layer.kind == "norm":
            # Those of claimed channels, where every task has its own, start as the last one left them.
            _start_norm(found, name, free)
            if f"{name}.num_batches_tracked" in found:
                # With momentum=None it weighs the mean over batches, of which the free channels have seen none.
                found[f"{name}.num_batches_tracked"].zero_()
        elif options.initial_scale is not None and weight is not None:
            weight[free] = fresh(weight)[free] * options.initial_scale
            if bias is not None:
                bias[free] = 0
    if head in claims.heads.values():
        weight = found[f"{head}.weight"]
        columns = slice(None) if taken is None else ~claims.columns(head, taken)
        weight[:, columns] = fresh(weight)[:, columns]
        if f"{head}.bias" in found:
            found[f"{head}.bias"].zero_()


def _start_norm(found: dict[str, Tensor], name: str, free: Tensor) -> None:
    for kind, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        if f"{name}.{kind}" in found:
            found[f"{name}.{kind}"][free] = value


def given_units(network: nn.Module, units: Units) -> Tensor:
    """bool [U], units that the user has frozen: nothing that leads to them requires a gradient. Every task has them.

    Raises:
        MethodError: if something is frozen in part, or reads what trains.
    """
    parameters = dict(network.named_parameters())
    given = torch.zeros(units.n_units, dtype=torch.bool)
    trained = given.clone()
    frozen: list[str] = []
    for name, layer in units.layers.items():
        weight = parameters.get(f"{name}.weight")
        if layer.kind == "norm" or weight is None:
            continue
        (trained if weight.requires_grad else given)[layer.writes[layer.writes >= 0]] = True
        if not weight.requires_grad:
            frozen.append(name)
            bias = parameters.get(f"{name}.bias")
            if name in units.outputs:
                raise MethodError(f"CLNP trains the output layer, but '{name}' is frozen (requires_grad=False)")
            if bias is not None and bias.requires_grad:
                raise MethodError(f"the weights of '{name}' are frozen and its bias is not; freeze both, or neither")
    for name in frozen:
        layer = units.layers[name]
        beside = torch.cat([layer.reads, layer.writes])
        if trained[beside[beside >= 0]].any():
            raise MethodError(
                f"'{name}' is frozen (requires_grad=False), but it works on units that train; let it train, or freeze "
                "all layers before it and those that its outputs are added to"
            )
    return given.to(next(iter(parameters.values())).device)
