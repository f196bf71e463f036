"""What is known of a network once its units are found (`units.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

Kind = Literal["linear", "conv", "depthwise", "norm"]


@dataclass(frozen=True)
class Group:
    """Units that the same layers write.

    Attributes:
        name: of the layers that write it, joined by +. A layer that has but a number for a name is called
            after its kind and its place among those of its kind, such as `layer_1` for the first linear one, and
            `conv_1` for the first convolution.
        unit: `neuron` or `filter`.
        start, size: its units are `start` to `start + size - 1` of all.
        writers, along, readers: names of the layers that give the units, that work on each by itself with weights of
            its own (batch norms, depthwise convolutions), and that read them.
    """

    name: str
    unit: Literal["neuron", "filter"]
    start: int
    size: int
    writers: tuple[str, ...]
    along: tuple[str, ...]
    readers: tuple[str, ...]

    @property
    def slice(self) -> slice:
        """Where its units are among all."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        kind: `linear`, `conv`, `depthwise` or `norm`.
        reads: int64 [inputs], the unit of each input channel; -1 for the network's inputs.
        writes: int64 [outputs], the unit of each row; -1 in an output layer.
    """

    kind: Kind
    reads: Tensor
    writes: Tensor


def make_silent(layer: str, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Makes 0, in place and outside autograd, what a layer gives for some of its outputs.

    Args:
        layer: its name.
        rows: bool [outputs].
        tensors: parameters and buffers of a network, by name; what is not among them is left out. Of a batch norm the
            mean counts as well, so that it gives 0 for 0.
    """
    for kind in ("weight", "bias", "running_mean"):
        if f"{layer}.{kind}" in tensors:
            tensors[f"{layer}.{kind}"][rows] = 0


@dataclass(frozen=True)
class Place:
    """A node of the graph.

    Attributes:
        kind: `input`; `layer`; `channelwise`, which keeps channels apart; `flatten`; `alias`, which changes nothing;
            `join`; `tie`, channelwise on several tensors; `other`, which has no units, such as sizes; `opaque`, behind
            which the units are not known any more, as in what follows the output layer.
        layer: name of the layer.
        channels: int64 [channels], the unit of each; None where it is no tensor or not known.
        sources: names of the nodes whose channels it works on.
        times: how often each channel is repeated, by flattening or in a depthwise convolution.
    """

    kind: Literal["input", "layer", "channelwise", "flatten", "alias", "join", "tie", "other", "opaque"]
    layer: str = ""
    channels: Tensor | None = None
    sources: tuple[str, ...] = ()
    times: int = 1


@dataclass(frozen=True)
class Masking:
    """How a head of Avalanche's gives outputs that no task has had yet.

    Attributes:
        buffer: name of the network's buffer [outputs] that is 1 for the outputs that some task has had.
        value: what the others are.
    """

    buffer: str
    value: float


@dataclass(frozen=True)
class Units:
    """What `find_units` found.

    Attributes:
        n_units: U.
        groups: in the order of the network.
        layers: by module name, in the order of the network.
        outputs: name of the output layer, as a tuple of one.
        unused: names of layers with weights that are not on the way, such as other heads.
        graph: of the network. The names of its modules begin with `tracing.PREFIX`.
        places: what each of its nodes is, by name.
        constants: tensors that the code itself makes, by the names that the graph has for them.
        masking: of a head of Avalanche's, which outputs it masks; None where it masks none.
        dropouts: names of the nodes that drop at random in training alone.
        only_in_training: what else the network does in training alone, in a few words; empty where nothing is.
    """

    n_units: int
    groups: tuple[Group, ...]
    layers: dict[str, Layer]
    outputs: tuple[str, ...]
    unused: tuple[str, ...]
    graph: fx.Graph
    places: dict[str, Place]
    constants: dict[str, Tensor]
    masking: Masking | None = None
    dropouts: frozenset[str] = frozenset()
    only_in_training: str = ""
