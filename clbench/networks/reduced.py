"""A network reduced to some of its units: a module of its own, built from a network that stays as it is.

Units are *constant* (what leads to them no longer changes), *trainable*, or left out. Constant units read from constant
ones only, so nothing has to be differentiated through them: of every layer's three products (forward, gradient of the
weights, gradient of the input) the constant rows need the first alone, and what is left out needs none. Its parameters
are the trainable rows and nothing else, so that no momentum, weight decay or penalty can move a constant weight.

Two streams go through the network: what constant units give, which nothing is differentiated through, and what the
others give. They meet where a trainable row reads both.
"""

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from clbench.networks.modes import DROPOUTS
from clbench.networks.reduced_layers import (
    Channels,
    ReducedLayer,
    ReducedPerChannel,
    constant_first,
    joined,
    masked_outputs,
    picked_channels,
)
from clbench.networks.tracing import PREFIX, tensor_name
from clbench.networks.unit_map import Place, Units

Streams = tuple[fx.Node | None, fx.Node | None]
"""What gives the constant channels of a tensor, and what gives the others; None where there are none."""


@dataclass(frozen=True)
class Part:
    """What of a network takes part.

    Attributes:
        constant, trainable: bool [U], which units; the rest is left out.
        trains_outputs: whether the output layer trains.
        fixed_outputs: bool [U], units whose weights to the output layer are constant even where that trains, and with
            them those of network inputs that it reads; None for none.
        own_norms: whether the batch norms of all units train, also of the constant ones. Gradients then have to go
            through constant units.
    """

    constant: Tensor
    trainable: Tensor
    trains_outputs: bool = True
    fixed_outputs: Tensor | None = None
    own_norms: bool = False


def seen_only(kept: Tensor) -> Part:
    """These units (bool [U]), and nothing to train."""
    return Part(kept, torch.zeros_like(kept), trains_outputs=False)


class ReducedNetwork(nn.Module):
    """The network of some units: images [B, ...] -> logits [B, C].

    Args:
        network: the whole one. Its weights are copied.
        units: of the network, as `find_units` found them for one of its output layers.
        part: which of them, and what trains.
        values: parameters and buffers, by their names in the network, to be used in the place of its own.

    Attributes:
        layers: by name, what became of linear layers and convolutions.
        others: by name, what became of batch norms and depthwise convolutions.
        channels: by the name of a node of its graph, the channels of which it gives the constant ones or the others.

    Example:
        units = find_units(network, image)
        smaller = ReducedNetwork(network, units, seen_only(mask))
        smaller(images)
    """

    def __init__(
        self, network: nn.Module, units: Units, part: Part, values: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.units, self.part = units, part
        self.layers: dict[str, ReducedLayer] = {}
        self.others: dict[str, ReducedPerChannel] = {}
        building = _Building(self, network, {**_tensors(network), **(values or {})})
        self.body = fx.GraphModule(building.modules, building.graph)
        # It would tie the network's tensors into a cycle, and memory would wait for the garbage collector.
        self.body.graph.owning_module = None
        self._affected = building.affected
        self.channels = {
            found.name: building.channels[node.name]
            for node, streams in building.streams.items()
            for found in streams
            if found is not None and node.name in building.channels
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] for images [B, ...]."""
        logits: Tensor = self.body(x)
        return logits

    @property
    def weights(self) -> list[nn.Parameter]:
        """The trainable weights of linear layers and convolutions, without biases."""
        return [weight for layer in self.layers.values() for weight in layer.weights]

    @contextmanager
    def seen_through(self, mask: Tensor | None) -> Iterator[None]:
        """Within, only units of a mask (bool [U]) count; None for all."""
        if mask is not None:
            for layer in self.layers.values():
                units = layer.inputs.units
                layer.mask = (units < 0) | mask[units.clamp(min=0)]
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.mask = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Within, layers that read units remember what they are given."""
        for layer in self.layers.values():
            layer.notes = bool((layer.inputs.units >= 0).any())
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.notes, layer.given = False, (None, None)

    def given(self) -> dict[str, Tensor]:
        """What layers were given last, by name: [B, kept inputs, ...], whose units are `layers[name].inputs.units`."""
        parts = {name: [part for part in layer.given if part is not None] for name, layer in self.layers.items()}
        return {name: found[0] if len(found) == 1 else torch.cat(found, 1) for name, found in parts.items() if found}

    def hold(self, group: int) -> None:
        """From here on, what does not depend on units of a group and of later ones is computed once per `batch`."""
        start = self.units.groups[group].start
        free: set[str] = set()
        for node, (layer, before) in self._affected.items():
            late = layer in self.layers and bool((self.layers[layer].inputs.units >= start).any())
            depends = any(source not in free for source in before)
            if not depends and not late:
                free.add(node)
                if layer in self.layers:
                    self.layers[layer].held = {}

    def at_batch(self, number: int) -> None:
        """Says which batch comes next, for what is held."""
        for layer in self.layers.values():
            layer.batch = number

    def at_images(self, positions: Tensor | None) -> None:
        """Says which of the images of `answers` make up the next batch, int64 [B]; None for others."""
        for layer in self.layers.values():
            layer.positions = positions

    @torch.no_grad()
    def write_back(self, network: nn.Module) -> None:
        """Copies what was trained into the whole network; constant weights are not touched."""
        tensors = _tensors(network)
        for name, layer in self.layers.items():
            layer.write_back(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))
        for name, other in self.others.items():
            other.write_back(_of_layer(name, tensors))
            if f"{name}.num_batches_tracked" in tensors:
                tensors[f"{name}.num_batches_tracked"].copy_(other.batches_seen)


class _Building:
    """Copies the graph of a network, its layers reduced."""

    def __init__(self, made: ReducedNetwork, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.made, self.tensors = made, tensors
        self.units, self.part = made.units, made.part
        self.device = self.part.constant.device
        # No operation takes a tensor without channels: of a group that is left out a unit stays, which nothing hears.
        self.silent = torch.zeros_like(self.part.constant)
        for group in self.units.groups:
            if not (self.part.constant | self.part.trainable)[group.slice].any():
                self.silent[group.start] = True
        self.constant = self.part.constant | self.silent
        self.through = self.part.own_norms and any(each.kind == "norm" for each in self.units.layers.values())
        self.named = dict(network.named_modules())
        self.modules: dict[str, nn.Module] = {}
        self.channels: dict[str, Channels] = {}
        # Per node, in order: the layer that it is, and the nodes that it depends on.
        self.affected: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.graph = fx.Graph()
        # Of each node with channels, what gives the constant ones and what gives the others; of others, the node.
        self.streams: dict[fx.Node, Streams] = {}
        self.copies: dict[fx.Node, fx.Node] = {}
        for node in self.units.graph.nodes:
            place = self.units.places[node.name]
            self.affected[node.name] = place.layer, tuple(source.name for source in node.all_input_nodes)
            found = self._copy(node, place)
            if isinstance(found, tuple):
                self.streams[node] = found
            else:
                self.copies[node] = found

    def _copy(self, node: fx.Node, place: Place) -> "fx.Node | Streams":
        if place.kind == "input" and place.channels is not None:
            everything = torch.arange(len(place.channels), device=self.device)
            none = torch.full_like(everything, -1)
            self.channels[node.name] = Channels(everything, none, none < 0)
            return self.graph.node_copy(node), None
        if place.kind == "layer":
            return self._copy_layer(node, place)
        if place.kind == "join":
            self.channels[node.name] = joined([(self.channels[name], len(self._whole(name))) for name in place.sources])
            parts = [self._of(node, name) for name in place.sources]
            return self._each(lambda number: self._joined([part[number] for part in parts]))
        if place.kind == "tie":
            return self._copy_tie(node, place)
        if place.kind == "alias":
            # Sizes written into the code are those of the whole network.
            self.channels[node.name] = self.channels[place.sources[0]]
            return self._of(node, place.sources[0])
        if place.kind == "flatten":
            self.channels[node.name] = self.channels[place.sources[0]].repeated(place.times)
            streams = self._of(node, place.sources[0])
            return self._each(lambda number: self._called(torch.flatten, streams[number], 1))
        if node.op == "call_module":
            name = str(node.target)
            self.modules[name] = copy.deepcopy(self.named[name.removeprefix(PREFIX)])
        elif node.op == "get_attr":
            self.modules[str(node.target)] = self._constant(str(node.target))
        if place.kind == "channelwise":
            self.channels[node.name] = self.channels[place.sources[0]]
            streams = self._of(node, place.sources[0])
            return self._each(lambda number: None if streams[number] is None else self._copied(node, number))
        if node.op != "output" and any(source in self.streams for source in node.all_input_nodes):
            # Such as a size: each stream has one of its own.
            given = [self.streams[source] for source in node.all_input_nodes if source in self.streams]
            return self._each(lambda number: self._copied(node, number) if any(s[number] for s in given) else None)
        return self._copied(node, 0)

    def _of(self, node: fx.Node, name: str) -> "Streams":
        """The streams of one of a node's sources."""
        return next(self.streams[source] for source in node.all_input_nodes if source.name == name)

    @staticmethod
    def _each(make: "Callable[[int], fx.Node | None]") -> "Streams":
        return make(0), make(1)

    def _called(self, function: Any, x: fx.Node | None, *arguments: Any) -> fx.Node | None:
        return None if x is None else self.graph.call_function(function, (x, *arguments))

    def _joined(self, parts: "list[fx.Node | None]") -> fx.Node | None:
        there = [part for part in parts if part is not None]
        return self.graph.call_function(torch.cat, (there, 1)) if len(there) > 1 else there[0] if there else None

    def _copied(self, node: fx.Node, number: int) -> fx.Node:
        """The node, working on one of the streams; on the one that there is, where its source has no such."""
        if node.name in self.units.dropouts:
            return self._copy_dropout(node, number)

        def source_of(source: fx.Node) -> fx.Node:
            if source in self.copies:
                return self.copies[source]
            streams = self.streams[source]
            found = streams[number] or streams[1 - number]
            assert found is not None
            return found

        return self.graph.node_copy(node, source_of)

    def _whole(self, name: str) -> Tensor:
        channels = self.units.places[name].channels
        assert channels is not None
        return channels

    def _constant(self, target: str) -> Any:
        return self.units.constants.get(target, self.tensors.get(target.removeprefix(PREFIX)))

    def _kept(self, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the channels of a whole tensor: places of those that are kept, their units, which are constant."""
        units = units.to(self.device)
        constant = (units < 0) | self.constant[units.clamp(min=0)]
        kept = constant | self.part.trainable[units.clamp(min=0)]
        places = kept.nonzero().squeeze(1)
        return places, units[places], constant[places]

    def _copy_layer(self, node: fx.Node, place: Place) -> "Streams":
        name, (source,) = place.layer, place.sources
        layer, inputs = self.named[name], self.channels[source]
        tensors = _of_layer(name, self.tensors)
        kind = self.units.layers[name].kind
        made: nn.Module
        if kind in ("norm", "depthwise"):
            outputs = inputs if place.times == 1 else inputs.repeated(place.times)
            made = self.made.others[name] = ReducedPerChannel(
                layer,
                tensors,
                inputs,
                place.times,
                all_train=self.through and kind == "norm",
                through=self.through,
            )
        else:
            writes = self.units.layers[name].writes
            if name in self.units.outputs:
                everything = torch.arange(len(writes), device=self.device)
                constant = torch.full_like(everything, not self.part.trains_outputs, dtype=torch.bool)
                outputs = Channels(everything, torch.full_like(everything, -1), constant)
            else:
                outputs = constant_first(*self._kept(writes))
            fixed = None
            if name in self.units.outputs and self.part.fixed_outputs is not None:
                fixed = (inputs.units < 0) | self.part.fixed_outputs[inputs.units.clamp(min=0)]
            weight, silent = tensors["weight"], (inputs.units >= 0) & self.silent[inputs.units.clamp(min=0)]
            if silent.any():
                weight = weight.index_fill(1, inputs.order[silent], 0)
                fixed = silent if fixed is None else fixed | silent
            made = self.made.layers[name] = ReducedLayer(
                layer,
                weight,
                tensors.get("bias"),
                inputs,
                outputs,
                fixed,
                through=self.through,
            )
        self.channels[node.name] = outputs
        target = f"{PREFIX}{name}"
        self.modules[target] = made
        new = self.graph.call_module(target, self._of(node, source))
        masking = self.units.masking
        if name in self.units.outputs and masking is not None:
            masked = (self.tensors[masking.buffer] == 0).tolist()
            new = self.graph.call_function(masked_outputs, (new, masked, masking.value))
        n_constant, n_others = outputs.counts
        if n_constant and n_others:
            parts = [self.graph.call_function(operator.getitem, (new, number)) for number in (0, 1)]
            return parts[0], parts[1]
        return (new, None) if n_constant else (None, new)

    def _copy_tie(self, node: fx.Node, place: Place) -> "Streams":
        """What works on several tensors needs their channels in one order, and as many of each."""
        first = self.channels[place.sources[0]]
        kept = constant_first(*self._kept(self._whole(node.name)))
        by_channel, in_first = kept.order.argsort(), first.order.argsort()
        # Of the network's inputs, all are there and all are constant, whatever is added to them.
        if not torch.equal(kept.order[by_channel], first.order[in_first]) or not torch.equal(
            kept.constant[by_channel], first.constant[in_first]
        ):
            first = kept
        else:
            first = Channels(first.order, self._whole(node.name).to(self.device)[first.order], first.constant)
        first = constant_first(first.order, first.units, first.constant)
        self.channels[node.name] = first
        # Of each source, its two streams with the channels of the two of the result.
        fitted: dict[fx.Node, Streams] = {}
        n_constant, n_others = first.counts
        for source in node.all_input_nodes:
            if source.name not in place.sources:
                continue
            given, streams = self.channels[source.name], self.streams[source]
            if torch.equal(given.order, first.order) and torch.equal(given.constant, first.constant):
                fitted[source] = streams
                continue
            where = {int(channel): position for position, channel in enumerate(given.order.tolist())}
            picked = [where.get(channel, -1) for channel in first.order.tolist()]
            whole = self._joined(list(streams))
            fitted[source] = (
                self._called(picked_channels, whole, picked[:n_constant]) if n_constant else None,
                self._called(picked_channels, whole, picked[n_constant:]) if n_others else None,
            )
        before = {source: self.streams[source] for source in fitted}
        self.streams.update(fitted)
        found = self._each(lambda number: self._copied(node, number) if first.counts[number] else None)
        self.streams.update(before)
        return found

    def _copy_dropout(self, node: fx.Node, number: int) -> fx.Node:
        """Traced in evaluation, a call that depends on the mode says that it is off."""
        p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        name = f"dropouts.{node.name}"
        self.modules[name] = DROPOUTS[node.target](p)
        source = node.args[0] if node.args else node.kwargs["input"]
        return self.graph.call_module(name, (self.streams[source][number],))  # type: ignore[index]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def _of_layer(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a layer that have an entry for each of its channels or rows."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    found = {kind: tensors.get(tensor_name(name, kind)) for kind in kinds}
    return {kind: tensor for kind, tensor in found.items() if tensor is not None}
