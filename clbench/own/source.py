"""A class of a notebook or a script, which no file can be imported for: identified by its source."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from clbench.errors import SettingError

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), tuple, list, dict, set, frozenset)


def is_importable(found: Callable[..., Any]) -> bool:
    """Whether a class can be named `module:Class`, so that another process finds it."""
    module = sys.modules.get(found.__module__)
    is_there = getattr(module, found.__name__, None) is found
    return is_there and found.__module__ != "__main__" and getattr(module, "__file__", None) is not None


def source_of(found: Callable[..., Any], kind: str) -> bytes:
    """The source of a class with that of all that it names: classes, functions and constants of its module.

    Args:
        found: a class or a function.
        kind: what it is, for messages.

    Raises:
        SettingError: if the source cannot be read, or names a value that has none.

    Example:
        source_of(L2, "method")     # b"class Pull(SupervisedPlugin): ...\\n\\nclass L2(Method): ..."
    """
    parts: dict[str, str] = {}
    _gather(found, kind, parts)
    return "\n\n".join(parts[name] for name in sorted(parts)).encode()


def _gather(found: Callable[..., Any], kind: str, parts: dict[str, str]) -> None:
    name, names_of_module = found.__name__, vars(sys.modules[found.__module__])
    try:
        parts[name] = textwrap.dedent(inspect.getsource(found))
        named = [*_names(ast.parse(parts[name]))]
    except (OSError, TypeError, SyntaxError):
        raise SettingError(
            f"the source of the {kind} {name} cannot be read; put it into a file, and give ./file.py:{name}"
        ) from None
    for each in named:
        value = names_of_module.get(each)
        if each in parts or each not in names_of_module or isinstance(value, ModuleType):
            continue
        if isinstance(value, type | FunctionType):
            if value.__module__ == found.__module__:
                _gather(value, kind, parts)
        elif isinstance(value, _CONSTANTS):
            parts[each] = f"{each} = {value!r}"
        elif getattr(type(value), "__module__", "").partition(".")[0] not in ("typing", "__future__"):
            raise SettingError(
                f"the {kind} {name} depends on {each}, a {type(value).__name__} that has no source; put both into a "
                f"file, and give ./file.py:{name}"
            )


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
