"""A network as a graph of what it calls, and the layers that such a graph may hold."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from clbench.errors import MethodError
from clbench.networks.unit_map import Masking

PREFIX = "network."
_PLAIN = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Leaf:
    """An output layer of Avalanche's, whose own code cannot be traced.

    Attributes:
        layer: name of the linear layer in it.
        masking: which of its outputs it masks; None for none.
    """

    layer: str
    masking: Masking | None


class _Answering(nn.Module):
    """A network that is told the task, if it wants to know."""

    def __init__(self, network: nn.Module, task: int) -> None:
        super().__init__()
        self.network = network
        self._task = task
        self._takes_labels = _is(network, "MultiTaskModule")

    def forward(self, x: Tensor) -> Any:
        """What the network gives."""
        return self.network(x, self._task) if self._takes_labels else self.network(x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Layers of the user's own kind are looked at as a whole, to be refused by name.
        return super().is_leaf_module(m, module_qualified_name) or _is_head(m) or isinstance(m, _PLAIN)


def traced(network: nn.Module, task: int) -> tuple[nn.Module, fx.Graph]:
    """The network and its graph, in which the names of its modules begin with `PREFIX`.

    Raises:
        MethodError: where the way of an image depends on its values, or on what cannot be traced.
    """
    root = _Answering(network, task)
    try:
        graph = _Tracer().trace(root)
    except MethodError:
        raise
    except Exception as error:
        raise MethodError(
            f"the network cannot be traced ({_place(error)}): {str(error).splitlines()[0] if str(error) else error!r}; "
            "CLNP and HAT need one whose layers are called in the same order for every image"
        ) from error
    return root, graph


def leaf_of(node: fx.Node, modules: Mapping[str, nn.Module], task: int) -> Leaf | None:
    """The head of Avalanche's that a node calls; None for any other node."""
    if node.op != "call_module":
        return None
    name = str(node.target).removeprefix(PREFIX)
    module: Any = modules[name]
    if not _is_head(module):
        return None
    if _is(module, "IncrementalClassifier"):
        buffer, layer = "active_units", f"{name}.classifier"
    else:
        key = str(task)
        if key not in module.classifiers:
            raise MethodError(f"'{name}' has no output layer for task label {task} yet")
        buffer, layer = f"active_units_T{task}", f"{name}.classifiers.{key}.classifier"
    masking = Masking(f"{name}.{buffer}".removeprefix("."), float(module.mask_value)) if module.masking else None
    return Leaf(layer.removeprefix("."), masking)


def refuse_lazy(network: nn.Module) -> None:
    """Refuses a network with layers that do not know yet how many inputs they have; a pass would change them.

    Raises:
        MethodError: naming the first.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise MethodError(
                f"'{name}' is a {type(module).__name__} that has not seen an image yet; give the network one, and the "
                "optimiser its parameters after that"
            )


def tensor_name(layer: str, kind: str) -> str:
    """The name of a layer's tensor in a network that may be the layer itself, whose name is empty."""
    return f"{layer}.{kind}" if layer else kind


def computes_its_own(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a layer computes something else than the kind that it is derived from."""
    if type(layer).forward is not base.forward or "forward" in vars(layer):
        return True
    return isinstance(layer, nn.Conv2d) and type(layer)._conv_forward is not nn.Conv2d._conv_forward


def refuse_layer(layer: nn.Module, name: str) -> None:
    """Refuses a layer with weights that is no plain linear one, convolution or batch norm.

    Raises:
        MethodError: naming it.
    """
    kind = type(layer).__name__
    base = next((base for base in _PLAIN if isinstance(layer, base)), None)
    if base is None:
        raise MethodError(
            f"'{name}' is a {kind}; CLNP and HAT take linear layers, convolutions (Conv2d) and batch norms "
            "(BatchNorm1d, BatchNorm2d)"
        )
    if computes_its_own(layer, base):
        raise MethodError(
            f"'{name}' is a {kind} that computes something of its own; CLNP and HAT need a plain {base.__name__}"
        )
    if hasattr(layer, "parametrizations") or not {"weight", "bias"} <= layer._parameters.keys():
        raise MethodError(
            f"the weights of '{name}' are computed from others, as by weight_norm, spectral_norm or prune; CLNP and "
            f"HAT need a plain {base.__name__}"
        )
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is None:
        raise MethodError(
            f"the batch norm '{name}' keeps no statistics (track_running_stats=False), so what it gives an image "
            "depends on the others; give it some"
        )


def _is(module: nn.Module, name: str) -> bool:
    """Whether a module is of that class of Avalanche's, which is not imported for it."""
    return any(base.__name__ == name and base.__module__.startswith("avalanche.") for base in type(module).__mro__)


def _is_head(module: nn.Module) -> bool:
    return _is(module, "IncrementalClassifier") or _is(module, "MultiHeadClassifier")


def _place(error: Exception) -> str:
    """Where in the network's code it failed."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(torch.__path__[0]) and frame.filename != __file__
    ]
    if not frames:
        return "inside torch"
    last = frames[-1]
    return f"{last.filename.rsplit('/', 1)[-1]}, line {last.lineno}: {last.line}"
