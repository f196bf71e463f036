"""The units of a network, neurons and filters: which layers write each, and which read it where.

The network is traced once (torch.fx). Every tensor on the way has a map: for each of its channels, the unit that it
comes from. Layers give new units. What works on each channel by itself keeps them, whatever it is called: that is
tried, not looked up. What adds tensors ties their units to one another. Flattening repeats units, and concatenation
joins them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from clbench.errors import MethodError
from clbench.networks.answer import evaluating, with_memory
from clbench.networks.grouping import Writer, grouped, output_of, renamed
from clbench.networks.modes import in_training
from clbench.networks.tracing import PREFIX, leaf_of, refuse_layer, refuse_lazy, traced
from clbench.networks.trying import name_of, try_reduced, works_by_channel
from clbench.networks.unit_map import Group, Kind, Layer, Masking, Place, Units
from clbench.own.code import said_by

__all__ = ["Group", "Layer", "Place", "Units", "find_units"]

_KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    nn.Conv2d: "conv",
    nn.BatchNorm1d: "norm",
    nn.BatchNorm2d: "norm",
}
_JOINS = (torch.cat, torch.concat, torch.concatenate)


def find_units(network: nn.Module, image: Tensor, task: int = 0) -> Units:
    """Finds the units of a network, which stays as it is.

    Args:
        network: takes images, or images and a task label.
        image: one that it takes, [1, C, H, W] or [1, D], or several; of its values nothing depends.
        task: label of the task whose output layer is of interest.

    Raises:
        MethodError: naming the layer, or the place in the code, that units cannot be followed through.

    Example:
        units = find_units(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)), image)
        units.groups[0].name, units.layers["3"].reads  # conv_1, each of 8 filters 36 times
    """
    refuse_lazy(network)
    network, image = with_memory(network, image)
    with evaluating(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        walk = _Walk(network, task)
        found = replace(walk.along(image), **in_training(network, task, walk.graph))
        network.eval()
        try_reduced(network, walk.root, found, image)
        return found


class _Walk:
    """Follows an image through a network, the units beside the values."""

    def __init__(self, network: nn.Module, task: int) -> None:
        self.modules = dict(network.named_modules())
        self.task = task
        self.root, self.graph = traced(network, task)
        self.order = {node: place for place, node in enumerate(self.graph.nodes)}
        self.layers: dict[str, Writer] = {}
        self.parent: list[int] = []
        self.places: dict[str, Place] = {}
        # Per node, the units that cannot be followed any more, and what they went through.
        self.tainted: dict[str, set[int]] = {}
        self.culprit: dict[str, str] = {}
        self.constants: dict[str, Tensor] = {}
        self.masking: Masking | None = None

    def along(self, image: Tensor) -> Units:
        for node in self.graph.nodes:
            # A head that a task does not have yet is refused before it is called.
            leaf_of(node, self.modules, self.task)
        values = _Values(self.root, self.graph, self._notice)
        # Two images: with one, what is squeezed would lose its first dimension.
        try:
            values.run(torch.cat([image, image])[:2])
        except MethodError:
            raise
        except Exception as error:
            raise MethodError(
                f"the network cannot take an image of {list(image.shape[1:])}: {said_by(error)}"
            ) from error
        return self._numbered()

    # -- Nodes -------------------------------------------------------------------------------------------------

    def _notice(self, node: fx.Node, value: Any, given: Mapping[fx.Node, Any], changed: list[fx.Node]) -> None:
        sources = [source for source in node.all_input_nodes if self._knows(source)]
        unclear = set().union(*(self.tainted.get(source.name, set()) for source in node.all_input_nodes))
        if node.op == "placeholder":
            place = Place("input", channels=torch.full((value.shape[1],), -1) if isinstance(value, Tensor) else None)
        elif node.op == "output":
            place = Place("other", sources=tuple(source.name for source in sources))
        elif node.op == "get_attr":
            place = self._constant(node, value)
        elif node.op == "call_module" and (name := _layer_name(node, self.modules, self.task)) is not None:
            if unclear:
                culprit = next(self.culprit[each.name] for each in node.all_input_nodes if each.name in self.culprit)
                raise MethodError(
                    f"CLNP and HAT cannot follow units through {culprit} to the layer '{name}': what lies between "
                    "layers must treat each neuron or filter by itself"
                )
            place = self._layer(node, name, sources, given)
        else:
            place = self._function(node, value, sources, given, unclear)
        self.places[node.name] = place
        if place.kind in ("opaque", "tie") and any(self._is_used_after(source, node) for source in changed):
            raise MethodError(
                f"{self._described(node)} changes a tensor in place that is used again; CLNP and HAT need it to give "
                "a new one"
            )
        if place.kind == "opaque" or unclear:
            self.tainted[node.name] = unclear | {
                int(unit) for source in sources for unit in self._channels(source).tolist() if unit >= 0
            }
            earlier = [self.culprit[each.name] for each in node.all_input_nodes if each.name in self.culprit]
            self.culprit[node.name] = earlier[0] if earlier else self._described(node)

    def _is_used_after(self, source: fx.Node, node: fx.Node) -> bool:
        return any(self.order[user] > self.order[node] for user in source.users)

    def _described(self, node: fx.Node) -> str:
        if node.op == "call_module":
            name = str(node.target).removeprefix(PREFIX)
            return f"'{name}', a {type(self.modules[name]).__name__},"
        return f"the function {name_of(node)}"

    def _knows(self, node: fx.Node) -> bool:
        place = self.places.get(node.name)
        return place is not None and place.channels is not None

    def _channels(self, node: fx.Node) -> Tensor:
        channels = self.places[node.name].channels
        assert channels is not None
        return channels

    def _constant(self, node: fx.Node, value: Any) -> Place:
        name = str(node.target).removeprefix(PREFIX)
        if isinstance(value, nn.Parameter):
            raise MethodError(
                f"the network uses its parameter '{name}' past a layer; CLNP and HAT need weights inside layers"
            )
        if not str(node.target).startswith(PREFIX) and isinstance(value, Tensor):
            self.constants[str(node.target)] = value
        return Place("other")

    def _layer(self, node: fx.Node, name: str, sources: list[fx.Node], given: Mapping[fx.Node, Any]) -> Place:
        layer = self.modules[name]
        if name in self.layers:
            raise MethodError(
                f"the layer '{name}' is used more than once in a pass; CLNP and HAT need layers that are used once"
            )
        refuse_layer(layer, name)
        for other in self.layers:
            if self.modules[other].weight is not None and self.modules[other].weight is layer.weight:
                raise MethodError(
                    f"'{name}' and '{other}' share their weights; CLNP and HAT need layers with weights of their own"
                )
        kind = _KINDS[_plain_type(layer)]
        wanted = 2 if kind == "linear" else 4 if kind == "conv" else None
        for x in map(given.get, node.all_input_nodes):
            if wanted is not None and isinstance(x, Tensor) and x.ndim != wanted:
                raise MethodError(
                    f"'{name}' gets a tensor of shape {list(x.shape[1:])} for each image; CLNP and HAT need "
                    f"{'[features]' if wanted == 2 else '[channels, height, width]'}"
                )
        if len(sources) != 1:
            raise MethodError(f"the input of the layer '{name}' does not come from the network's input")
        (source,) = sources
        reads = self._channels(source)
        times = 1
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            if layer.groups != layer.in_channels:
                raise MethodError(
                    f"'{name}' is a convolution in {layer.groups} groups; CLNP and HAT take one group, or one for "
                    "each channel"
                )
            kind, times = "depthwise", layer.out_channels // layer.in_channels
        if kind in ("norm", "depthwise"):
            writes = reads.repeat_interleave(times)
        else:
            n_rows = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            writes = torch.arange(len(self.parent), len(self.parent) + n_rows)
            self.parent += writes.tolist()
        self.layers[name] = Writer(kind, reads, writes, "filter" if kind == "conv" else "neuron")
        leaf = leaf_of(node, self.modules, self.task)
        if leaf is not None:
            self.masking = leaf.masking
        return Place("layer", name, writes, (source.name,), times)

    def _function(
        self,
        node: fx.Node,
        value: Any,
        sources: list[fx.Node],
        given: Mapping[fx.Node, Any],
        unclear: set[int],
    ) -> Place:
        if not sources or unclear or not isinstance(value, Tensor):
            # Sizes and the like have no units, but a list of tensors has.
            has_tensors = isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value)
            return Place("opaque" if unclear or (sources and (has_tensors or isinstance(value, Tensor))) else "other")
        maps = [self._channels(source) for source in sources]
        names = tuple(source.name for source in sources)
        if node.target in _JOINS and _axis(node) in (1, 1 - value.ndim):
            parts = _parts(node)
            if not all(map(self._knows, parts)):
                return Place("opaque")
            joined = torch.cat([self._channels(part) for part in parts])
            return Place("join", channels=joined, sources=tuple(part.name for part in parts))
        inputs = [given[source] for source in sources]
        if len({len(each) for each in maps}) > 1 or value.ndim < 2:
            return Place("opaque")
        positions = inputs[0][0, 0].numel()
        whole = len(maps[0])
        if (
            len(sources) == 1
            and value.ndim == 2
            and value.shape[1] == whole * positions
            and value.shape != inputs[0].shape
            and works_by_channel(node, self.root, given, sources, positions)
        ):
            return Place("flatten", channels=maps[0].repeat_interleave(positions), sources=names, times=positions)
        if value.shape[1] != whole or not works_by_channel(node, self.root, given, sources, 1):
            return Place("opaque")
        if len(sources) > 1:
            return Place("tie", channels=self._tied(maps), sources=names)
        shapes = value.shape == inputs[0].shape and name_of(node) in ("view", "reshape", "contiguous", "flatten")
        return Place("alias" if shapes else "channelwise", channels=maps[0], sources=names)

    # -- Ties --------------------------------------------------------------------------------------------------

    def _root_of(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def _tied(self, maps: list[Tensor]) -> Tensor:
        """Makes the units at each place one. The network's inputs are no units, but do not stand in the way."""
        found = maps[0].clone()
        for other in maps[1:]:
            for place, (a, b) in enumerate(zip(found.tolist(), other.tolist(), strict=True)):
                if a < 0:
                    found[place] = b
                elif b >= 0:
                    first, second = sorted((self._root_of(a), self._root_of(b)))
                    self.parent[second] = first
        return found

    # -- The result --------------------------------------------------------------------------------------------

    def _numbered(self) -> Units:
        roots = torch.tensor([self._root_of(unit) for unit in range(len(self.parent))], dtype=torch.int64)
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        last = {int(roots[unit]) for node in output.all_input_nodes for unit in self._reaching(node)}
        name = output_of(self.layers, last, roots)
        groups, numbers = grouped(self.layers, last, roots)
        layers = {
            name: Layer(layer.kind, renamed(layer.reads, roots, numbers), renamed(layer.writes, roots, numbers))
            for name, layer in self.layers.items()
        }
        for place_name, place in self.places.items():
            if place.channels is not None:
                self.places[place_name] = replace(place, channels=renamed(place.channels, roots, numbers))
        unused = tuple(
            name
            for name, module in self.modules.items()
            if name not in self.layers and any(True for _ in module.parameters(recurse=False))
        )
        n_units = sum(group.size for group in groups)
        return Units(n_units, groups, layers, (name,), unused, self.graph, self.places, self.constants, self.masking)

    def _reaching(self, node: fx.Node) -> set[int]:
        known = self._channels(node).tolist() if self._knows(node) else []
        return {unit for unit in known if unit >= 0} | self.tainted.get(node.name, set())


class _Values(fx.Interpreter):
    """Runs a graph and tells of every node: its value, and the values of all before it."""

    def __init__(self, root: nn.Module, graph: fx.Graph, notice: Callable[..., None]) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self._notice = notice
        # It would be added to what we say.
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        versions = {node: self._version(node) for node in n.all_input_nodes}
        value = super().run_node(n)
        changed = [node for node, version in versions.items() if self._version(node) != version]
        if n.op == "call_module":
            self._check_hooks(n, value)
        self._notice(n, value, self.env, changed)
        return value

    def _version(self, node: fx.Node) -> int:
        value = self.env[node]
        return value._version if isinstance(value, Tensor) else 0

    def _check_hooks(self, node: fx.Node, value: Any) -> None:
        module = self.fetch_attr(str(node.target))
        if module._forward_hooks or module._forward_pre_hooks:
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            if not torch.equal(module.forward(*args, **kwargs), value):
                name = str(node.target).removeprefix(PREFIX)
                raise MethodError(f"a hook of '{name}' changes what it is given or gives; CLNP and HAT need it without")


def _plain_type(layer: nn.Module) -> type[nn.Module]:
    return next(kind for kind in _KINDS if isinstance(layer, kind))


def _layer_name(node: fx.Node, modules: Mapping[str, nn.Module], task: int) -> str | None:
    """The layer with weights that a node calls, a head's inner one for a head of Avalanche's; None for any other."""
    leaf = leaf_of(node, modules, task)
    if leaf is not None:
        return leaf.layer
    name = str(node.target).removeprefix(PREFIX)
    has_weights = any(True for _ in modules[name].parameters())
    return name if has_weights or isinstance(modules[name], tuple(_KINDS)) else None


def _parts(node: fx.Node) -> list[fx.Node]:
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    return list(parts)  # type: ignore[arg-type]


def _axis(node: fx.Node) -> Any:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
