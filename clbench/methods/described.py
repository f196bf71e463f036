"""What the settings of a method or a network mean, in the words of their docstrings."""

import inspect
import re
from typing import Any

from pydantic import BaseModel

_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


def described(schema: type[BaseModel]) -> dict[str, tuple[Any, str]]:
    """Settings by name: what each is where nothing is given, and what it means.

    A class's own settings come before those of its bases. The words are those of `Attributes` in the docstrings of
    the class and its bases, and "" where these say nothing.

        >>> described(HATSettings)["steepest"]
        (400.0, 's_max.')

    Args:
        schema: of the settings.
    """
    found: dict[str, tuple[Any, str]] = {}
    for kind in schema.__mro__:
        words = _attributes(kind)
        for name in vars(kind).get("__annotations__", {}):
            if name in schema.model_fields and name not in found:
                found[name] = schema.model_fields[name].get_default(call_default_factory=True), ""
        for name, text in words.items():
            if name in found and not found[name][1]:
                found[name] = found[name][0], text
    return found


def _attributes(kind: type) -> dict[str, str]:
    """The section `Attributes` of a docstring of the class's own, each name with its words."""
    section = inspect.cleandoc(vars(kind).get("__doc__") or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        entry = _ENTRY.fullmatch(line.strip())
        if entry and line.startswith("    ") and not line.startswith("     "):
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
