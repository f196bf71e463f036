"""Suites in TOML files, ours and those of users.

A file holds the settings of a `Suite`, the network's among them. With `extends` it takes over those of another suite,
named or given as a path, but for what belongs to that one alone: its name, title and source, its variants of methods,
its published results, goals and search. A path is relative to the file that it stands in.
"""

import json
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from clbench.errors import SettingError, unknown_name, why_unreadable
from clbench.suites.suite import Suite, absolute

# Of the extended suite alone.
_NOT_INHERITED = ("name", "title", "source", "published", "goals", "search")


def find_suite(name: str) -> Suite:
    """The suite of that name, or of that file: a path, or a name that ends in `.toml`.

    Raises:
        SettingError: for an unknown name, listing the right ones, or a file that is not a suite.
    """
    if is_file(name):
        return load_suite(Path(name))
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]


def is_file(name: str) -> bool:
    """Whether a suite is given as a file."""
    return "/" in name or name.endswith(".toml")


def load_suite(path: Path) -> Suite:
    """The suite of a file of the user's.

    Raises:
        SettingError: if it cannot be read, is no suite, or bears the name of one of ours without being it.
    """
    suite = _suite_of(_read(path), path.resolve(), str(path))
    ours = SUITES.get(suite.name)
    if ours is not None and ours != suite:
        raise SettingError(
            f"the suite {path} bears the name '{suite.name}' of one that comes with clbench, but differs from it; give "
            "it a name of its own"
        )
    return suite


def suite_files(name: str) -> dict[str, bytes]:
    """The user's files that a suite is read from, by name; empty for one of ours."""
    found: dict[str, bytes] = {}
    path: Path | None = Path(name).resolve() if is_file(name) else None
    while path is not None:
        text = _read(path)
        found[path.name if path.name not in found else f"{len(found)}-{path.name}"] = text.encode()
        base = tomllib.loads(text).get("extends", "")
        path = (path.parent / base).resolve() if is_file(base) else None
    return found


def as_toml(suite: Suite, extends: str) -> str:
    """A file that extends a suite: every setting as it is, ready to be changed.

    Args:
        suite: what to write.
        extends: its name or its file.
    """
    given = {key: value for key, value in suite.flat().items() if key not in _NOT_INHERITED}
    settings = given.pop("method_settings")
    given["methods"] = [name for name in suite.methods if ":" not in name]
    lines = [
        f"# Change what you like, then: clbench run --suite FILE. What you leave out is as in {suite.name}.",
        f"name = {_value(f'my-{suite.name}')}",
        f"title = {_value(f'{suite.title}, changed')}",
        f"source = {_value(f'As {suite.name}, changed.')}",
        f"extends = {_value(extends)}",
        "",
        *(f"{key} = {_value(value)}" for key, value in given.items()),
    ]
    for method, of_method in settings.items():
        if ":" not in method:
            lines += ["", f"[method_settings.{method}]"]
            lines += [f"{key} = {_value(value)}" for key, value in of_method.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value as TOML has it, which is JSON's way but for None."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return _value("none") if value is None else json.dumps(value, ensure_ascii=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the suite {path} cannot be read ({why_unreadable(error)}); name a TOML file") from None


def _suite_of(text: str, path: Path | None, where: str, above: tuple[Path, ...] = ()) -> Suite:
    """The suite that a file's text stands for.

    Args:
        text: TOML.
        path: the file; None for ours, which hold no paths.
        where: the file, in words.
        above: the files that extend this one.
    """
    try:
        given = tomllib.loads(text)
        # Published values have the digits of their source: 0.970 is not 0.97.
        exact = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingError(f"the suite {where} is no TOML: {error}") from None
    given |= {key: exact[key] for key in ("published", "goals") if key in exact}
    given = {key: _without_none(value) for key, value in given.items()}
    base = given.pop("extends", None)
    if path is not None:
        for key in ("data", "network"):
            if isinstance(given.get(key), str):
                given[key] = absolute(given[key], path.parent)
    if base is not None:
        given = _extended(_base(base, path, where, above), given)
    try:
        return Suite.of(given)
    except SettingError as error:
        raise SettingError(f"the suite {where}: {error}") from None


def _base(name: Any, path: Path | None, where: str, above: tuple[Path, ...]) -> Suite:
    """The suite that the file at `path` extends."""
    if not isinstance(name, str):
        raise SettingError(f"the suite {where}: expected extends to name a suite or a file, but got {name!r}")
    if path is None or not is_file(name):
        if name not in _names():
            raise SettingError(f"the suite {where} extends another: {unknown_name('suite', name, _names())}")
        return _packaged(name)
    found = (path.parent / name).resolve()
    if found in (path, *above):
        chain = " extends ".join(each.name for each in (*above, path, found))
        raise SettingError(f"the suite {where} extends itself ({chain}); let one of them extend another suite")
    return _suite_of(_read(found), found, str(found), (*above, path))


def _extended(base: Suite, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the base with those of the file in their place; of a method, setting by setting."""
    kept = {key: value for key, value in base.flat().items() if key not in _NOT_INHERITED}
    if given.get("network", base.network) != base.network:
        kept = {key: value for key, value in kept.items() if key not in base.network_settings}
    settings = {method: dict(values) for method, values in base.method_settings.items() if ":" not in method}
    for method, values in given.get("method_settings", {}).items():
        settings[method] = {**settings.get(method, {}), **values} if isinstance(values, Mapping) else values
    kept["methods"] = [method for method in base.methods if ":" not in method or method in settings]
    return {**kept, **given, "method_settings": settings}


def _without_none(value: Any) -> Any:
    """TOML has no word for None: "none" stands for it."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items()}
    return None if value == "none" else value


_FOLDER = resources.files("clbench.suites")


def _names() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml"))


def _packaged(name: str) -> Suite:
    return _suite_of((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"), None, name)


SUITES: dict[str, Suite] = {name: _packaged(name) for name in _names()}
"""Every suite that comes with clbench, by name."""
