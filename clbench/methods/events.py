"""The events of a training step, told to the plugins that hear them and to no other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate

_FIRST = "before_training_iteration"
_OTHERS = (
    "before_forward",
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
)


@contextmanager
def told_directly(strategy: SupervisedTemplate) -> Iterator[None]:
    """Within, an event of a step costs nothing but the work of the plugins that hear it.

    Avalanche asks every plugin at every event whether it has a method for it, most of which do nothing. A plugin that
    joins or leaves between two steps is heard, or not, from the next step on.

    Args:
        strategy: about to train; an event that its class handles itself is left to it.
    """
    if getattr(type(strategy), f"_{_FIRST}") is not getattr(SupervisedTemplate, f"_{_FIRST}"):
        yield
        return
    events = [
        event for event in _OTHERS if getattr(type(strategy), f"_{event}") is getattr(SupervisedTemplate, f"_{event}")
    ]
    plugins: list[Any] = []
    at_first: list[Callable[..., Any]] = []

    def gather() -> None:
        plugins[:] = strategy.plugins
        at_first[:] = _hearers(plugins, _FIRST)
        for event in events:
            vars(strategy)[f"_{event}"] = _teller(strategy, _hearers(plugins, event))

    def begin(**kwargs: Any) -> None:
        if strategy.plugins != plugins:
            gather()
        for hear in at_first:
            hear(strategy, **kwargs)

    gather()
    vars(strategy)[f"_{_FIRST}"] = begin
    try:
        yield
    finally:
        for event in (_FIRST, *events):
            vars(strategy).pop(f"_{event}", None)


def _hearers(plugins: list[Any], event: str) -> list[Callable[..., Any]]:
    """The methods of plugins for an event, but for those that every plugin inherits, which do nothing."""
    nothing = getattr(SupervisedPlugin, event)
    found = (getattr(plugin, event, None) for plugin in plugins)
    return [method for method in found if method is not None and getattr(method, "__func__", method) is not nothing]


def _teller(strategy: Any, hearers: list[Callable[..., Any]]) -> Callable[..., None]:
    def tell(**kwargs: Any) -> None:
        for hear in hearers:
            hear(strategy, **kwargs)

    return tell
