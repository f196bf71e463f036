"""What operations do with channels: tried on random numbers, so that no list of operations is needed."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from clbench.errors import MethodError
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.tracing import PREFIX
from clbench.networks.unit_map import Units
from clbench.own.code import said_by


def works_by_channel(
    node: fx.Node, root: nn.Module, values: Mapping[fx.Node, Any], sources: list[fx.Node], times: int
) -> bool:
    """Whether each channel of the result depends on the same channel of its inputs alone.

    Args:
        node: calls a function, a method, or a module without weights.
        root: whose modules it calls.
        values: of all nodes before it.
        sources: the nodes among its inputs whose channels are meant, all with as many [B, C, ...].
        times: how often the result repeats each channel in a row.
    """
    generator = torch.Generator().manual_seed(0)
    n_channels = values[sources[0]].shape[1]
    first, other = ({source: _noise(values[source], generator) for source in sources} for _ in range(2))
    try:
        before = _result(node, root, {**values, **first})
        if before.ndim < 2 or before.shape[1] != n_channels * times:
            return False
        for changed in _parts(n_channels):
            beside = {source: changed.view(1, -1, *[1] * (x.ndim - 2)) for source, x in first.items()}
            second = {source: torch.where(beside[source], other[source], x) for source, x in first.items()}
            kept = ~changed.repeat_interleave(times)
            if not torch.equal(before[:, kept], _result(node, root, {**values, **second})[:, kept]):
                return False
    except Exception:
        # Constants on another device and the like: nothing is known of it.
        return False
    return True


def _parts(n: int) -> Iterator[Tensor]:
    """Parts of n channels, bool [n], such that of any two channels some part holds the first and not the second."""
    number = torch.arange(n)
    for bit in range(max(1, (n - 1).bit_length())):
        part = ((number >> bit) & 1).bool()
        yield part
        yield ~part


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(like.shape, generator=generator) * 2 - 1
    return noise if like.is_floating_point() else (noise > 0).to(like.dtype)


@torch.no_grad()
def _result(node: fx.Node, root: nn.Module, values: Mapping[fx.Node, Any]) -> Tensor:
    def of(argument: fx.Node) -> Any:
        value = values[argument]
        # Copies, since some work in place; on the CPU, where the noise is.
        return value.detach().cpu().clone() if isinstance(value, Tensor) and not value.is_meta else value

    args, kwargs = fx.node.map_arg(node.args, of), fx.node.map_arg(node.kwargs, of)
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        self_, *rest = args
        return getattr(self_, str(node.target))(*rest, **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def try_reduced(network: nn.Module, answering: nn.Module, units: Units, image: Tensor) -> None:
    """Tries whether the graph gives what the network gives, and whether it works without a unit of each group.

    Args:
        network: whose units these are.
        answering: the same, told the task.
        units: of the network.
        image: one that it takes.

    Raises:
        MethodError: naming what takes all channels and no fewer, such as a size written into the code, or constants.
    """
    x = _noise(torch.cat([image, image])[:2], torch.Generator().manual_seed(0)).to(image)
    everything = torch.ones(units.n_units, dtype=torch.bool, device=image.device)
    whole = ReducedNetwork(network, units, seen_only(everything)).eval()
    if not _near(whole(x), answering(x.clone())):
        raise MethodError(
            "the network gives other answers than what could be traced of it; something may work in place (such as +=) "
            "on a tensor that is used again"
        )
    kept = everything.clone()
    for group in units.groups:
        kept[group.start] = False
    part = _Part(ReducedNetwork(network, units, seen_only(kept)).eval()).run(x)
    with whole.seen_through(kept):
        if not _near(part, whole(x)):
            raise MethodError(
                "the network computes with the number of its neurons or filters, which CLNP and HAT change; write the "
                "number that is meant into the code"
            )


def _near(found: Tensor, expected: Tensor) -> bool:
    if not bool(expected.isfinite().all() & found.isfinite().all()):
        # Undefined weights, of a network without memory, say nothing.
        return True
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


class _Part(fx.Interpreter):
    """Runs the graph of a reduced network, and sees to it that as many channels come as must."""

    def __init__(self, reduced: ReducedNetwork) -> None:
        super().__init__(reduced.body)
        self._channels = reduced.channels
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        what = f"'{str(n.target).removeprefix(PREFIX)}'" if n.op == "call_module" else f"the function {name_of(n)}"
        refusal = f"{what} works with all neurons or filters before it and no fewer; CLNP and HAT leave some out"
        try:
            value = super().run_node(n)
        except Exception as error:
            raise MethodError(f"{refusal} ({said_by(error)})") from error
        if n.name in self._channels and value.shape[1] != len(self._channels[n.name].order):
            raise MethodError(refusal)
        return value


def name_of(node: fx.Node) -> str:
    """What a node calls."""
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
