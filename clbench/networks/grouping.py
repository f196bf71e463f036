"""From layers and tied units to groups: which units the same layers write, under which names and numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clbench.errors import MethodError
from clbench.networks.unit_map import Group, Kind

# In records, the whole network.
_RESERVED = ("all",)
_LONGEST = 80


@dataclass
class Writer:
    """A layer, before units have their numbers.

    Attributes:
        kind, reads, writes: as of `unit_map.Layer`.
        unit: what it writes.
    """

    kind: Kind
    reads: Tensor
    writes: Tensor
    unit: Literal["neuron", "filter"] = "neuron"

    @property
    def gives_units(self) -> bool:
        """Whether its rows are units of their own."""
        return self.kind in ("linear", "conv")


def output_of(layers: Mapping[str, Writer], last: set[int], roots: Tensor) -> str:
    """The name of the layer that gives the network's outputs.

    Args:
        layers: by name.
        last: units that reach the outputs without a layer in between.
        roots: int64 [units], of each the one that stands for all it is tied to.

    Raises:
        MethodError: if there is none, or more than one, or if it gives something else as well.
    """
    found = [name for name, layer in layers.items() if layer.gives_units and last & _standing_for(layer.writes, roots)]
    if len(found) != 1:
        said = " and ".join(f"'{name}'" for name in found) or "none"
        raise MethodError(f"CLNP and HAT need one layer that gives the outputs, but found {said}")
    (name,) = found
    for other, layer in layers.items():
        if last & _standing_for(layer.reads, roots):
            raise MethodError(f"'{other}' reads what '{name}' gives, which is among the network's outputs as well")
    if not _standing_for(layers[name].writes, roots) <= last:
        raise MethodError(f"only a part of what '{name}' gives is among the network's outputs")
    return name


def grouped(layers: Mapping[str, Writer], last: set[int], roots: Tensor) -> tuple[tuple[Group, ...], dict[int, int]]:
    """The groups, and the number of each unit that stands for others. Arguments as for `output_of`.

    Raises:
        MethodError: for a network without hidden layers, or a layer of one unit.
    """
    writers: dict[int, list[str]] = {}
    for name, layer in layers.items():
        if layer.gives_units:
            for unit in _standing_for(layer.writes, roots):
                writers.setdefault(unit, []).append(name)
    order: dict[tuple[str, ...], list[int]] = {}
    for unit in dict.fromkeys(roots.tolist()):
        if unit not in last:
            order.setdefault(tuple(writers[unit]), []).append(unit)
    labels = _labels({name: layer.unit for name, layer in layers.items() if layer.gives_units})
    numbers: dict[int, int] = {}
    groups = []
    taken: set[str] = set(_RESERVED)
    for names, members in order.items():
        start, first = len(numbers), layers[names[0]]
        if len(members) < 2 and len(first.writes) < 2:
            raise MethodError(f"the layer '{names[0]}' has one {first.unit}, of which none can be free")
        numbers.update((unit, start + place) for place, unit in enumerate(members))
        mine = set(members)
        with_mine = [name for name, layer in layers.items() if mine & _standing_for(layer.reads, roots)]
        shown = [labels[name] for name in (names if len(names) < 3 else (names[0], names[-1]))]
        groups.append(
            Group(
                name=_unlike("+".join(shown), taken),
                unit=first.unit,
                start=start,
                size=len(members),
                writers=names,
                along=tuple(name for name in with_mine if not layers[name].gives_units),
                readers=tuple(name for name in with_mine if layers[name].gives_units),
            )
        )
    if not groups:
        raise MethodError("CLNP and HAT need at least one hidden layer before the output layer")
    return tuple(groups), numbers


def renamed(units: Tensor, roots: Tensor, numbers: Mapping[int, int]) -> Tensor:
    """Units by the numbers that `grouped` gave them; -1 for those that it gave none, and for the network's inputs."""
    return torch.tensor([numbers.get(int(roots[unit]), -1) if unit >= 0 else -1 for unit in units.tolist()])


def _standing_for(units: Tensor, roots: Tensor) -> set[int]:
    return set(roots[units[units >= 0]].tolist())


def _labels(layers: Mapping[str, str]) -> dict[str, str]:
    """A name for each layer, also where its own is but a number."""
    counts = {"neuron": 0, "filter": 0}
    found = {}
    taken: set[str] = set(_RESERVED)
    for name, unit in layers.items():
        counts[unit] += 1
        last = name.rsplit(".", 1)[-1]
        kind = "layer" if unit == "neuron" else "conv"
        plain = f"{kind}_{counts[unit]}" if last.isdigit() else name.removeprefix("trunk.").removeprefix("network.")
        # Names stand in records, and go into those of MLflow's metrics.
        found[name] = _unlike(re.sub(r"[^\w.-]", "_", plain)[:_LONGEST], taken)
    return found


def _unlike(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if it is taken; it is now."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
