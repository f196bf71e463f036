"""A network written down as plain PyTorch: the text of a module that needs torch alone, and its tensors.

What is read is a graph of torch.fx. Layers of a reduced network become the linear layers, convolutions and batch norms
that they stand for. What does nothing in evaluation, such as dropout, is left out.
"""

import ast
import inspect
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from clbench.errors import MethodError, first_line
from clbench.networks.answer import answer
from clbench.networks.modes import DROPOUTS
from clbench.networks.reduced import ReducedNetwork, masked_outputs, picked_channels
from clbench.networks.reduced_layers import ReducedLayer, ReducedPerChannel, has_channels_last
from clbench.networks.tracing import PREFIX, traced

_HEAD = '''"""{title}

    network = Network()
    network.load_state_dict(safetensors.torch.load_file("{file}"))
    network.eval()
"""

{imports}import torch
from torch import nn


class Network(nn.Module):
    """Images [B, {shape}] -> logits [B, {n_outputs}]."""

    def __init__(self):
        super().__init__()
'''


@dataclass(frozen=True)
class Plain:
    """A network in plain PyTorch.

    Attributes:
        source: the text of a module with the class `Network`.
        tensors: its state, by name.
    """

    source: str
    tensors: Mapping[str, Tensor]

    def build(self) -> nn.Module:
        """The network, in evaluation."""
        network = built(self.source)
        network.load_state_dict(dict(self.tensors))
        return network


def built(source: str) -> nn.Module:
    """The network that a text defines, its weights not set, in evaluation."""
    found: dict[str, Any] = {}
    exec(compile(source, "network.py", "exec"), found)
    network: nn.Module = found["Network"]()
    return network.eval()


def plain(network: nn.Module, task: int, image: Tensor, *, title: str, file: str) -> Plain:
    """A network as plain PyTorch.

    Args:
        network: a reduced one, or any that torch.fx can trace; in evaluation.
        task: whose output layer it answers through, where it has several.
        image: one that it takes, [1, ...].
        title: first line of the module's text.
        file: name of the file with its tensors.

    Raises:
        MethodError: if it cannot be traced, or has a layer that cannot be written down.
    """
    if isinstance(network, ReducedNetwork):
        writing = _Writing(network.body.graph, network.body)
    else:
        root, graph = traced(network.eval(), task)
        writing = _Writing(graph, root)
    imports = "".join(f"{line}\n" for line in writing.imports)
    with torch.no_grad():
        n_outputs = answer(network, image, task).shape[1]
    shape = ", ".join(map(str, image.shape[1:]))
    source = _HEAD.format(imports=imports, title=title, file=file, shape=shape, n_outputs=n_outputs)
    source += "".join(f"        {line}\n" for line in writing.lines)
    if writing.has_channels_last:
        source += "        self.to(memory_format=torch.channels_last)  # convolutions are faster so\n"
    source += "\n    def forward(self, x):\n" + "".join(f"        {line}\n" for line in writing.forward)
    try:
        built(source)
    except Exception as error:
        raise MethodError(f"the network cannot be written down as plain PyTorch ({first_line(error)})") from None
    return Plain(source, writing.tensors)


class _Writing:
    """Goes through a graph and notes what its layers are called, how they are made and what they hold.

    Args:
        graph: of the network.
        root: holds what the graph names.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.root, self.modules = root, dict(root.named_modules())
        self.lines: list[str] = []
        self.has_channels_last = False
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}
        self.made = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            self.copies[node] = self._copy(node)
        # torch.fx notes beside each line which values end there.
        text = self.made.python_code("self").src
        named = {found.id for found in ast.walk(ast.parse(text)) if isinstance(found, ast.Name)}
        self.imports = [line for name, line in _IMPORTS.items() if name in named]
        body = text.partition(":\n")[2] if "def forward" in text else text
        lines = [re.sub(r";  [\w, =]+ = None$", "", line) for line in body.splitlines()]
        self.forward = [line.removeprefix("    ") for line in lines if line.strip()]

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.op == "placeholder":
            return self.made.placeholder("x")
        if node.op == "call_module":
            return self._module(node)
        if node.op == "get_attr":
            value: Any = self.root
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return self._constant(str(node.target), value)
        if node.target in DROPOUTS and not _is_training(node):
            return self.copies[node.args[0] if node.args else node.kwargs["input"]]  # type: ignore[index]
        if node.target is picked_channels:
            return self._picked(node)
        if node.target is masked_outputs:
            where = self._constant(f"{node.name}_where", torch.tensor(node.args[1]))
            return self.made.call_function(torch.masked_fill, (self.copies[node.args[0]], where, node.args[2]))  # type: ignore[index]
        if node.op == "call_function" and not getattr(node.target, "__module__", "").startswith(_KNOWN):
            raise MethodError(f"the network calls {node.target}, which a module without clbench cannot")
        return self.made.node_copy(node, self.copies.__getitem__)

    def _module(self, node: fx.Node) -> fx.Node:
        name = str(node.target)
        module = self.modules[name]
        if isinstance(module, _DropoutNd | nn.Identity):
            return self.copies[node.all_input_nodes[0]]
        layer = _dense(module)
        flat = self._name(name, type(layer).__name__.lower())
        line = f"self.{flat} = {_constructor(layer, name)}"
        self.has_channels_last |= isinstance(layer, nn.Conv2d) and has_channels_last(layer.weight)
        if line not in self.lines:
            self.lines.append(line)
        self.tensors |= {f"{flat}.{key}": value.detach().cpu().clone() for key, value in layer.state_dict().items()}
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.copies.__getitem__)
        # A layer of a reduced network takes two streams, of which nothing trains here: there is one.
        return self.made.call_module(flat, tuple(arg for arg in args if arg is not None), kwargs)

    def _constant(self, name: str, value: Tensor) -> fx.Node:
        """A parameter or buffer of its own."""
        flat = self._name(name, "constant")
        zeros = f"torch.zeros({list(value.shape)}, dtype={value.dtype})"
        is_trained = isinstance(value, nn.Parameter)
        line = f"self.{flat} = nn.Parameter({zeros})" if is_trained else f'self.register_buffer("{flat}", {zeros})'
        if line not in self.lines:
            self.lines.append(line)
        self.tensors[flat] = value.detach().cpu().clone()
        return self.made.create_node("get_attr", flat)

    def _name(self, name: str, kind: str) -> str:
        """What a layer or tensor is called: each another name, which Python takes."""
        if name not in self.names:
            flat = name.removeprefix(PREFIX).replace(".", "_")
            flat = flat if flat.isidentifier() else f"{kind}_{flat}"
            while flat in self.names.values() or keyword.iskeyword(flat):
                flat += "_"
            self.names[name] = flat
        return self.names[name]

    def _picked(self, node: fx.Node) -> fx.Node:
        """Channels in another order; those that are not there are 0."""
        x, channels = node.args
        given, call = self.copies[x], self.made.call_function  # type: ignore[index]
        index = torch.tensor(channels)
        if (index < 0).any():
            # One more channel, of zeros, behind those that there are.
            nothing = call(torch.zeros_like, (call(torch.narrow, (given, 1, 0, 1)),))
            given = call(torch.cat, ([nothing, given], 1))
            index = index + 1
        return call(torch.index_select, (given, 1, self._constant(f"{node.name}_order", index)))


# Modules of functions that a module without clbench can call, and what a graph's text takes for known.
_KNOWN = ("torch", "_operator", "builtins", "math")
_IMPORTS = {"inf": "from math import inf", "nan": "from math import nan", "device": "from torch import device"}


def _is_training(node: fx.Node) -> bool:
    """Whether a function drops at random in evaluation as well."""
    given = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    given.apply_defaults()
    return bool(given.arguments["training"])


def _dense(module: nn.Module) -> nn.Module:
    """The layer that a layer of a reduced network stands for; any other as it is."""
    return module.dense() if isinstance(module, ReducedLayer | ReducedPerChannel) else module


def _constructor(layer: nn.Module, name: str) -> str:
    """How the layer is made.

    Raises:
        MethodError: if that cannot be told from the layer.
    """
    text = f"nn.{layer!r}"
    if isinstance(layer, nn.Conv2d):
        arguments = [layer.in_channels, layer.out_channels, layer.kernel_size]
        named = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
        named |= {"bias": layer.bias is not None, "padding_mode": layer.padding_mode}
        text = f"nn.Conv2d({', '.join([*map(repr, arguments), *(f'{key}={value!r}' for key, value in named.items())])})"
    elif not layer.state_dict():
        # What a layer prints of itself leaves settings out.
        known = [key for key in inspect.signature(type(layer).__init__).parameters if hasattr(layer, key)]
        text = f"nn.{type(layer).__name__}({', '.join(f'{key}={getattr(layer, key)!r}' for key in known)})"
    try:
        made = eval(text, {"nn": nn})
    except Exception:
        made = None
    shapes = {key: value.shape for key, value in layer.state_dict().items()}
    if type(made) is not type(layer) or {key: value.shape for key, value in made.state_dict().items()} != shapes:
        raise MethodError(
            f"the layer '{name.removeprefix(PREFIX)}' is a {type(layer).__name__}, which export cannot write down"
        )
    return text
