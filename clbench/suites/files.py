"""Suites in TOML files, ours and those of users.

A file holds the settings of a `Suite`, the network's among them. With `extends` it takes over those of another suite,
named or given as a path, but for what belongs to that one alone: its name, title and source, its variants of methods,
its published results, goals and search. A path is relative to the file that it stands in.
"""

import contextlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from clbench.errors import SettingError, unknown_name, why_unreadable
from clbench.suites.settings import base_name, shortened
from clbench.suites.suite import Suite, absolute

# Of the extended suite alone.
_NOT_INHERITED = ("name", "title", "source", "published", "goals", "search")


def find_suite(name: str) -> Suite:
    """The suite of that name, or of that file: a path, or a name that ends in `.toml`.

    Raises:
        SettingError: for an unknown name, listing the right ones, or a file that is not a suite.
    """
    if is_file(name):
        return load_suite(_path(name))
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
    suite = _read_suite(path, str(path))
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
    path: Path | None = _path(name) if is_file(name) else None
    while path is not None:
        content = _content(path, str(path))
        found[path.name if path.name not in found else f"{len(found)}-{path.name}"] = content
        base = tomllib.loads(content.decode("utf-8-sig")).get("extends", "")
        path = _beside(path, base) if is_file(base) else None
    return found


def as_toml(suite: Suite, extends: str) -> str:
    """A file that extends a suite: every setting as it is, ready to be changed.

    Args:
        suite: what to write.
        extends: its name or its file.
    """
    given = {key: value for key, value in suite.flat().items() if key not in _NOT_INHERITED}
    settings = given.pop("method_settings")
    given["methods"] = _inherited(suite.methods, settings={})
    if is_file(extends):
        # What is written may be kept anywhere.
        extends = str(_path(extends).resolve())
    lines = [
        f"# Change what you like, then: clbench run --suite FILE. What you leave out is as in {suite.name}.",
        f"name = {_value(f'my-{suite.name}'[:100])}",
        f"title = {_value(f'{suite.title}, changed')}",
        f"source = {_value(f'As {suite.name}, changed.')}",
        f"extends = {_value(extends)}",
        "",
        *(f"{_key(key)} = {_value(value)}" for key, value in given.items() if key not in suite.network_settings),
        "",
        f"# Settings of the network {suite.network}: leave them out for another.",
        *(f"{_key(key)} = {_value(value)}" for key, value in given.items() if key in suite.network_settings),
    ]
    for method, of_method in settings.items():
        if ":" not in method:
            lines += ["", f"[method_settings.{_key(method)}]"]
            lines += [f"{_key(key)} = {_value(value)}" for key, value in of_method.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value as TOML has it, which is JSON's way but for None, tables and one letter."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_value(str(key))} = {_value(item)}' for key, item in value.items())}}}"
    return _value("none") if value is None else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _value(name)


def _content(path: Path, where: str) -> bytes:
    try:
        # A pipe would be read once, and a file is read again when it is kept with a run.
        if path.exists() and not path.is_file():
            raise OSError(0, "a folder" if path.is_dir() else "not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise SettingError(f"the suite {where} cannot be read ({_why(error)}); name a TOML file") from None


def _why(error: OSError | ValueError) -> str | None:
    return why_unreadable(error) if isinstance(error, OSError | UnicodeDecodeError) else str(error)


def _path(name: str) -> Path:
    with contextlib.suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


def _beside(path: Path, name: str) -> Path:
    """The file that another names, relative to it."""
    try:
        return (path.resolve().parent / _path(name)).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(f"the suite {path} extends {shortened(name)}, which cannot be found ({error})") from None


def _read_suite(path: Path, where: str, above: tuple[Path, ...] = ()) -> Suite:
    """The suite of a file of the user's.

    Args:
        path: the file.
        where: the same in words.
        above: the files that extend this one.
    """
    content = _content(path, where)
    try:
        return _suite_of(content.decode("utf-8-sig"), path.resolve(), where, above)
    except UnicodeDecodeError as error:
        raise SettingError(f"the suite {where} cannot be read ({_why(error)}); name a TOML file") from None
    except RecursionError:
        raise SettingError(f"the suite {where} is nested too deeply; name a TOML file with a suite") from None


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
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"the suite {where} is no TOML: {error}") from None
    given |= {key: exact[key] for key in ("published", "goals") if key in exact}
    given = {key: _without_none(value) for key, value in given.items()}
    base = _base(given.pop("extends"), path, where, above) if "extends" in given else None
    required = [name for name, field in Suite.model_fields.items() if field.is_required()]
    inherited = set() if base is None else {*required} - {*_NOT_INHERITED}
    if path is not None and (missing := [name for name in required if name not in {*given, *inherited}]):
        others = "" if base else ', or let it extend a suite, as in extends = "image-folder"'
        more = f" and {len(missing) - 3} more settings" if missing[3:] else ""
        what = f"{', '.join(missing[:3])}{more}; give {'them' if missing[1:] else 'it'}{others}"
        raise SettingError(f"the suite {where} lacks {what}")
    try:
        if path is not None:
            for key in ("data", "network"):
                if isinstance(given.get(key), str):
                    given[key] = absolute(given[key], path.parent)
            if isinstance(methods := given.get("methods"), list):
                given["methods"] = [absolute(each, path.parent) if isinstance(each, str) else each for each in methods]
        return Suite.of(given if base is None else _extended(base, given))
    except SettingError as error:
        raise SettingError(f"the suite {where}: {error}") from None


def _base(name: Any, path: Path | None, where: str, above: tuple[Path, ...]) -> Suite:
    """The suite that the file at `path` extends."""
    if not isinstance(name, str):
        raise SettingError(f"the suite {where}: expected extends to name a suite or a file, but got {name!r}")
    if path is None or not is_file(name):
        if name not in _names():
            unknown = unknown_name("suite", name, _names())
            raise SettingError(f"the suite {where} extends another: {unknown}, or a file such as ./base.toml")
        return _packaged(name)
    found = _beside(path, name)
    if found in (path, *above):
        chain = " extends ".join(each.name for each in (*above, path, found))
        raise SettingError(f"the suite {where} extends itself ({chain}); let one of them extend another suite")
    return _read_suite(found, f"{found} (which {path.name} extends)", (*above, path))


def _extended(base: Suite, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the base with those of the file in their place; of a method, setting by setting."""
    kept = {key: value for key, value in base.flat().items() if key not in _NOT_INHERITED}
    if given.get("network", base.network) != base.network:
        kept = {key: value for key, value in kept.items() if key not in base.network_settings}
    if given.get("scenario", base.scenario) != base.scenario:
        # They say how classes become tasks, which is another matter in another scenario.
        kept = {key: value for key, value in kept.items() if key not in ("classes_per_task", "class_order")}
    settings = {method: dict(values) for method, values in base.method_settings.items() if ":" not in method}
    of_file = given.get("method_settings", {})
    if isinstance(of_file, Mapping):
        for method, values in of_file.items():
            settings[method] = {**settings.get(method, {}), **values} if isinstance(values, Mapping) else values
        given = {**given, "method_settings": settings}
    kept["method_settings"] = settings
    kept["methods"] = _inherited(base.methods, settings)
    return {**kept, **given}


def _inherited(methods: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The methods without the variants that are not inherited; what these are variants of, if there are no others."""
    kept = [method for method in methods if ":" not in method or "/" in method or method in settings]
    return kept or list(dict.fromkeys(map(base_name, methods)))


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
