"""Fine-tuning: more epochs of Avalanche's own loop, of which plugins that count epochs or iterations hear nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from avalanche.training.utils import trigger_plugins
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from clbench.errors import MethodError
from clbench.networks.units import Units


def fine_tune(strategy: Any, observers: Sequence[Any], *, epochs: int, rate: float, dropout_kept: float) -> None:
    """Trains `strategy.model` on the task's images, at a learning rate that falls linearly, epoch by epoch.

    Args:
        strategy: with a data loader.
        observers: hear of its iterations all the same.
        epochs: how many.
        rate: of the first epoch, as a share of the present one, which comes back at the end.
        dropout_kept: share of the network's dropout that stays.
    """
    groups = strategy.optimizer.param_groups
    full_rates = [group["lr"] for group in groups]
    try:
        with _less_dropout(strategy.model, dropout_kept):
            for epoch in range(epochs):
                for group, full in zip(groups, full_rates, strict=True):
                    group["lr"] = full * rate * (1 - epoch / epochs)
                _epoch(strategy, observers)
    finally:
        for group, full in zip(groups, full_rates, strict=True):
            group["lr"] = full


def check_dropout(kept: float, units: Units, engine: str) -> None:
    """Refuses to change a dropout that is a function of the user's own code.

    Raises:
        MethodError: if there is one to change.
    """
    if kept < 1 and engine == "dense" and units.dropouts:
        raise MethodError(
            "CLNP's fine_tune_dropout_kept changes dropout layers, but the network drops by a function; make it an "
            "nn.Dropout"
        )


@contextmanager
def _less_dropout(network: nn.Module, kept: float) -> Iterator[None]:
    """Within, the network's dropout layers drop this share of what they drop otherwise."""
    before = [(layer, layer.p) for layer in network.modules() if isinstance(layer, _DropoutNd)]
    try:
        for layer, p in before:
            layer.p = kept * p
        yield
    finally:
        for layer, p in before:
            layer.p = p


def _epoch(strategy: Any, observers: Sequence[Any]) -> None:
    for batch in strategy.dataloader:
        strategy.mbatch = batch
        strategy._unpack_minibatch()
        strategy.optimizer.zero_grad()
        strategy.loss = strategy._make_empty_loss()
        trigger_plugins(strategy, "before_forward")
        strategy.mb_output = strategy.forward()
        trigger_plugins(strategy, "after_forward")
        strategy.loss += strategy.criterion()
        trigger_plugins(strategy, "before_backward")
        strategy.backward()
        trigger_plugins(strategy, "after_backward")
        trigger_plugins(strategy, "before_update")
        strategy.optimizer_step()
        trigger_plugins(strategy, "after_update")
        for observer in observers:
            observer.after_training_iteration(strategy)
