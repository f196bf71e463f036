"""The methods under test; `CLNPPlugin` also works in a plain Avalanche strategy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clbench.strategies.clnp.plugin import CLNPPlugin

__all__ = ["CLNPPlugin"]


def __getattr__(name: str) -> Any:
    # Imported on demand: the module brings Avalanche along, which takes seconds.
    if name == "CLNPPlugin":
        from clbench.strategies.clnp.plugin import CLNPPlugin

        return CLNPPlugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
