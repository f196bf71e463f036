"""What installed packages offer through entry points."""

from importlib.metadata import EntryPoint
from typing import Any

from clbench.errors import SettingError
from clbench.own.code import said_by


def load_installed(entry: EntryPoint, kind: str) -> Any:
    """What an entry point leads to.

    Args:
        entry: of an installed package.
        kind: what it is, for messages.

    Raises:
        SettingError: if it does not load, whatever its code raises, naming the package.
    """
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise SettingError(
            f"the {kind} {named(entry)} does not load: {said_by(error)}; mend the package, or uninstall it"
        ) from error


def named(entry: EntryPoint) -> str:
    """What an entry point is called in messages: its name and its package."""
    return f"'{entry.name}' of the package {entry.dist.name if entry.dist else entry.value}"
