"""A class or a function of a notebook or a script, which no file can be imported for: identified by its source."""

import ast
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from clbench.errors import SettingError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_BRACKETS: Mapping[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("tuple([", "])"),
    dict: ("dict([", "])"),
    set: ("set([", "])"),
    frozenset: ("frozenset([", "])"),
}


def is_importable(found: Callable[..., Any]) -> bool:
    """Whether a class or a function can be named `module:Class`, so that another process finds it."""
    module = sys.modules.get(found.__module__)
    is_there = getattr(module, found.__name__, None) is found
    return is_there and found.__module__ != "__main__" and getattr(module, "__file__", None) is not None


def not_importable(found: Callable[..., Any], kind: str) -> SettingError:
    """What is said of a class that other processes would have to find, and cannot."""
    name = found.__name__
    return SettingError(
        f"the {kind} {name} is of a notebook or a script, which other processes cannot load; put it into a file, and "
        f"give ./file.py:{name}, or train one run at a time"
    )


def source_of(found: Callable[..., Any], kind: str) -> bytes:
    """The source of a class with that of all that it names: classes, functions and constants of its module.

    Args:
        found: a class or a function.
        kind: what it is, for messages.

    Raises:
        SettingError: if the source cannot be read, or names something that it does not tell.

    Example:
        source_of(L2, "method")     # b"class Pull(SupervisedPlugin): ...\\n\\nclass L2(Method): ..."
    """
    parts: dict[str, str] = {}
    _gather(found, f"the {kind} {found.__name__}", found.__name__, parts)
    return "\n\n".join(parts[name] for name in sorted(parts)).encode()


def _gather(found: Callable[..., Any], what: str, wanted: str, parts: dict[str, str]) -> None:
    """Adds a source and those of what it names.

    Args:
        found: whose.
        what: the user's class in words.
        wanted: its name.
        parts: sources by name.
    """
    name, names_of_module = found.__name__, vars(sys.modules[found.__module__])
    if "<locals>" in found.__qualname__:
        raise SettingError(
            f"{what} depends on {name}, which is defined within a function, so that its source does not tell what it "
            "depends on; define it at the top level"
            if name != wanted
            else f"{what} is defined within a function, so that its source does not tell what it depends on; define it "
            "at the top level"
        )
    try:
        parts[name] = _text_of(found)
        named = sorted(set(_names(symtable.symtable(parts[name], name, "exec"))))
    except (OSError, TypeError, SyntaxError):
        raise SettingError(f"the source of {what} cannot be read; {_in_a_file(wanted)}") from None
    for each in named:
        if each not in parts and each in names_of_module:
            value = names_of_module[each]
            module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(value, type | FunctionType) and module == found.__module__:
                # It may have another name as well.
                if value.__name__ not in parts:
                    _gather(value, what, wanted, parts)
            elif isinstance(value, ModuleType | type | FunctionType | BuiltinFunctionType):
                if not _is_installed(str(module)):
                    raise SettingError(
                        f"{what} depends on {each} of a file of yours, which may change; {_in_a_file(wanted)}"
                    )
            elif getattr(type(value), "__module__", "").partition(".")[0] not in ("typing", "__future__"):
                parts[each] = f"{each} = {_constant(value, each, what, wanted)}"


def _text_of(found: Callable[..., Any]) -> str:
    """The source of a class or a function. Python's `inspect` does not find a class of a notebook."""
    if isinstance(found, FunctionType) or getattr(sys.modules[found.__module__], "__file__", None):
        return textwrap.dedent(inspect.getsource(found))
    functions = [
        each.__code__.co_filename
        for each in map(_function_of, vars(found).values())
        if each is not None and each.__qualname__.startswith(f"{found.__qualname__}.")
    ]
    # Cells are where Python looks for the lines of its tracebacks. One that was changed is there as it was before, too.
    cells = set(functions) or {name for name in linecache.cache if not Path(name).exists()}
    texts = {text for cell in cells for text in _classes(cell, found.__name__)}
    if len(texts) != 1:
        raise OSError("none or several")
    return texts.pop()


def _function_of(value: Any) -> FunctionType | None:
    """The function behind an attribute of a class."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return value if isinstance(value, FunctionType) else None


def _classes(cell: str, name: str) -> Iterator[str]:
    """The sources of the classes of that name in a cell."""
    lines = linecache.getlines(cell)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield "".join(lines[first - 1 : node.end_lineno])


def _names(table: symtable.SymbolTable) -> Iterator[str]:
    """The names of its module that a source uses; those of parameters and variables of functions are others."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _names(child)


def _is_installed(module: str) -> bool:
    """Whether what says which version of a module this is has a record of its own: Python, a package, or clbench."""
    top = module.partition(".")[0]
    if top == "clbench" or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def _constant(value: Any, name: str, what: str, wanted: str) -> str:
    """A value as Python writes it, the same in every process."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind in _BRACKETS:
        items = [_constant(each, name, what, wanted) for each in (value.items() if kind is dict else value)]
        first, last = _BRACKETS[kind]
        # A set has another order in another process.
        return f"{first}{', '.join(sorted(items) if kind in (set, frozenset) else items)}{last}"
    raise SettingError(
        f"{what} depends on {name}, a {kind.__name__} that has no source; put both into a file, and give "
        f"./file.py:{wanted}"
    )


def _in_a_file(name: str) -> str:
    return f"put it into a file, and give ./file.py:{name}"
