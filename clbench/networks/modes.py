"""What a network does in training that it does not do in evaluation, as far as its code says so."""

from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from clbench.errors import MethodError
from clbench.networks.tracing import traced

DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
}
"""Functions that drop at random, and the modules that do the same in training alone."""


def in_training(network: nn.Module, task: int, in_evaluation: fx.Graph) -> dict[str, Any]:
    """`dropouts` and `only_in_training` of `Units`. Modules such as `nn.Dropout` are no part of it: they know the mode.

    Args:
        network: is in training mode afterwards.
        task: label of the task.
        in_evaluation: its graph, as traced in evaluation mode.
    """
    network.train()
    try:
        _, graph = traced(network, task)
    except MethodError:
        return {"only_in_training": "code that cannot be traced"}
    here, there = list(in_evaluation.nodes), list(graph.nodes)
    if [_called(node) for node in here] != [_called(node) for node in there]:
        return {"only_in_training": "other functions or layers"}
    dropouts = set()
    for node, training in zip(here, there, strict=True):
        if _given(node) == _given(training):
            continue
        # All but whether it drops must be the same.
        if node.target not in DROPOUTS or _given(node, drops=True) != _given(training, drops=True):
            return {"only_in_training": f"another {getattr(node.target, '__name__', node.target)}"}
        dropouts.add(node.name)
    return {"dropouts": frozenset(dropouts)}


def _called(node: fx.Node) -> tuple[str, Any]:
    return node.op, node.target


def _given(node: fx.Node, drops: bool | None = None) -> str:
    """The arguments in words; with `drops`, as if that were what a dropout is told of the mode."""
    args, kwargs = list(node.args), dict(node.kwargs)
    if drops is not None:
        if len(args) > _TRAINING:
            args[_TRAINING] = drops
        else:
            kwargs["training"] = drops
    return f"{args} {kwargs}"


_TRAINING = 2
"""The place of `training` among the arguments of all dropouts."""
