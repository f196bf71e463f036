"""Code of the user's own, found in a file or a package, and identified by its content, never by its path.

What belongs to a file is every module that it loads or imports from its own folder. What belongs to a package is its
version, or its modules where it can be edited in place.
"""

import contextlib
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from clbench.errors import SettingError
from clbench.own.modules import Modules

# More than this is no code.
_MOST_BYTES = 20 * 2**20


@dataclass(frozen=True)
class Own:
    """A class of the user's.

    Attributes:
        name: as it is recorded: the class's, behind its module where it is of a package.
        found: the class or function.
        sha256: of its modules; empty where a version says what they are.
        version: of its package, such as `mynets 1.2`; empty where the digest says it.
        files: the modules that the digest is of, by their path below the folder of the file.
        importing: a context within which what the code imports is found.
    """

    name: str
    found: Callable[..., Any]
    sha256: str = ""
    version: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    importing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def is_own(reference: str) -> bool:
    """Whether a setting names a class of the user's: `./file.py:Class` or `package.module:Class`."""
    return ":" in reference


def load(reference: str, kind: str) -> Own:
    """Finds a class of the user's and what belongs to it, as the files are now.

    Args:
        reference: `/whole/path/file.py:Class` or `package.module:Class`.
        kind: what it is, for messages.

    Raises:
        SettingError: if it is not found or does not load.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute.isidentifier():
        raise SettingError(f"the {kind} '{reference}' must be named ./file.py:Class or package.module:Class")
    return _of_file(Path(where), attribute, kind) if where.endswith(".py") else _of_package(where, attribute, kind)


def said_by(error: BaseException) -> str:
    """What an error of the user's code says, in one line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def digest_of(files: Mapping[str, bytes]) -> str:
    """SHA-256 over names and contents, whatever order they are in."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()


def package_identity(module_name: str, kind: str) -> tuple[str, dict[str, bytes]]:
    """What says which code an importable module is.

    Returns:
        Its distribution, such as `mynets 1.2`, and no files; or nothing, and all modules of its package by their path,
        where they can be edited in place.
    """
    spec = _spec_of(module_name)
    assert spec is not None
    assert spec.origin is not None
    top = module_name.partition(".")[0]
    for title in packages_distributions().get(top, []):
        found = distribution(title)
        # Of a working copy, and where one hides what is installed, the file is none of the distribution's. Only what
        # is installed has a RECORD: the list that a working copy has is of its own files.
        if found.read_text("RECORD") is not None and any(
            Path(str(found.locate_file(file))).resolve() == Path(spec.origin).resolve() for file in found.files or []
        ):
            return f"{title} {found.version}", {}
    folder = _folder_of(module_name, spec)
    paths = sorted((folder / top).rglob("*.py")) if "." in module_name or spec.submodule_search_locations else []
    return "", _read(Modules(folder, top), [path for path in paths if path.is_file()] or [Path(spec.origin)], kind)


def _of_file(path: Path, attribute: str, kind: str) -> Own:
    try:
        path = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(
            f"the file {path} of the {kind} {attribute} cannot be read ({getattr(error, 'strerror', error)}); give its "
            f"path, such as ./{'l2.py:L2' if kind == 'method' else 'net.py:Net'}"
        ) from None
    modules = Modules(path.parent)
    # No import can mean this name.
    name = f"clbench_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    return _loaded(modules, lambda: modules.run(path, name), f"the file {path}", attribute, attribute, kind)


def _of_package(module_name: str, attribute: str, kind: str) -> Own:
    name = f"{module_name}:{attribute}"
    where = f"the module {module_name}"
    spec = _spec_of(module_name)
    if spec is None or spec.origin is None:
        raise SettingError(
            f"{where} of the {kind} {attribute} is not installed; install it, or name a file as ./file.py:{attribute}"
        )
    version, files = package_identity(module_name, kind)
    if version:
        with _said_of_loading(where, attribute, kind):
            found = _attribute(importlib.import_module(module_name), attribute, where, kind)
        return Own(name, found, "", version)
    # What a module alone in its folder imports from there is its own, as of a file.
    is_package = "." in module_name or spec.submodule_search_locations is not None
    modules = Modules(_folder_of(module_name, spec), module_name.partition(".")[0] if is_package else "")
    _read(modules, [modules.folder / each for each in files], kind)
    return _loaded(modules, lambda: importlib.import_module(module_name), where, attribute, name, kind)


def _loaded(
    modules: Modules, load_module: Callable[[], ModuleType], where: str, attribute: str, name: str, kind: str
) -> Own:
    """The class of a module that is loaded from its source."""
    try:
        with modules.first(), _said_of_loading(where, attribute, kind):
            found = _attribute(load_module(), attribute, where, kind)
            modules.complete()
        files = _read(modules, [], kind)
    except BaseException:
        modules.leave()
        raise
    return Own(name, found, digest_of(files), "", files, modules.first)


def _read(modules: Modules, paths: list[Path], kind: str) -> dict[str, bytes]:
    """What was read of the folder, and these files of it."""
    for path in paths:
        modules.content(path)
    size = sum(map(len, modules.files.values()))
    if size > _MOST_BYTES:
        raise SettingError(
            f"the {kind} loads {size:,} bytes of modules from its folder, more than {_MOST_BYTES:,}; put it into a "
            "folder of its own"
        )
    return modules.files


@contextlib.contextmanager
def _said_of_loading(where: str, attribute: str, kind: str) -> Iterator[None]:
    """Within, an error of the user's code is said in one sentence."""
    try:
        yield
    except SettingError:
        raise
    except SyntaxError as error:
        line = f" in line {error.lineno}" if error.lineno else ""
        file = f"the file {error.filename}" if error.filename else where
        raise SettingError(f"{file} has a syntax error{line}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise SettingError(f"{where} of the {kind} {attribute} does not load: {said_by(error)}") from error


def _spec_of(module_name: str) -> ModuleSpec | None:
    """Where a module is, None if nowhere; what it is part of is imported for that."""
    try:
        return importlib.util.find_spec(module_name)
    except ModuleNotFoundError:
        return None
    except (Exception, SystemExit) as error:
        raise SettingError(f"the module {module_name} does not load: {said_by(error)}") from error


def _folder_of(module_name: str, spec: ModuleSpec) -> Path:
    """The folder that the package of a module lies in."""
    path = Path(str(spec.origin)).resolve()
    return path.parents[module_name.count(".") + (path.name == "__init__.py")]


def _attribute(module: ModuleType, name: str, where: str, kind: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    there = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
    ]
    raise SettingError(f"{where} has no class {name} for the {kind}; it has {', '.join(there) or 'none'}")
