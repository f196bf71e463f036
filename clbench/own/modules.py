"""Modules of a user's folder: loaded from their sources as they are now, each text read once, and kept apart."""

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from clbench.errors import SettingError, why_unreadable


class Modules:
    """The modules of a folder, apart from others of the same names. A finder of Python's import system.

    Those of one folder at a time are in `sys.modules`: of the one whose code ran last. Nothing is written to the
    folder.

    Args:
        folder: where they lie.
        top: the only package of the folder that is meant; empty for all of its modules.
    """

    _current: "Modules | None" = None

    def __init__(self, folder: Path, top: str = "") -> None:
        self.folder = folder
        self.top = top
        self._contents: dict[Path, bytes] = {}
        self._specs: dict[str, ModuleSpec] = {}
        self._loaded: dict[str, ModuleType] = {}
        self._is_complete = False

    @property
    def files(self) -> dict[str, bytes]:
        """What was read, by path below the folder."""
        return {path.relative_to(self.folder).as_posix(): content for path, content in self._contents.items()}

    def content(self, path: Path) -> bytes:
        """A file of the folder, as it was when it was first read.

        Raises:
            SettingError: if it cannot be read.
        """
        if path not in self._contents:
            try:
                # Reading from a pipe would never end.
                if not path.is_file():
                    raise OSError(0, "not a regular file")
                self._contents[path] = path.read_bytes()
            except OSError as error:
                raise SettingError(f"{path} cannot be read ({why_unreadable(error)}); name a Python file") from None
        return self._contents[path]

    def run(self, path: Path, name: str) -> ModuleType:
        """Loads a file as a module of that name, which no import has to find."""
        spec = importlib.util.spec_from_file_location(name, path, loader=_Source(self, name, str(path)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        self._specs[name] = spec
        spec.loader.exec_module(module)
        return module

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Within, the folder's modules come before others of their names; afterwards behind them.

        Other code goes on with the modules that it had.
        """
        if Modules._current is not None:
            Modules._current.leave()
        Modules._current = self
        hidden = {name: module for name, module in sys.modules.items() if self._hides(name, module)}
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self._loaded)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            self._loaded = self._present()
            sys.modules.update(hidden)
            sys.meta_path.remove(self)
            # For what is imported only when the class is used.
            sys.meta_path.append(self)

    def leave(self) -> None:
        """Takes the folder's modules out of those that imports find."""
        present = self._present()
        self._loaded |= present
        for name in present:
            del sys.modules[name]
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if Modules._current is self:
            Modules._current = None

    def complete(self) -> None:
        """Reads what the modules name in their imports as well. Nothing else is loaded after that."""
        left = list(self._contents)
        while left:
            for each in self._imported(left.pop()):
                if each not in self._contents:
                    self.content(each)
                    left.append(each)
        self._is_complete = True

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is; None if it is not the folder's. Python's import system asks this.

        Raises:
            ImportError: if it is the folder's and was not named in any import.
        """
        parent = name.rpartition(".")[0]
        if parent not in self._specs if parent else not self._may_have(name):
            return None
        loaders: Any = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (partial(_Source, self), SOURCE_SUFFIXES))
        for place in [str(self.folder)] if path is None else path:
            found = FileFinder(place, *loaders).find_spec(name)
            if found is None:
                continue
            if found.origin is None:
                # A folder without __init__.py is a package only where there is no other of that name.
                other = PathFinder.find_spec(name) if path is None else None
                if other is not None and other.origin is not None:
                    return None
            elif self._is_late(Path(found.origin)):
                if sys.meta_path[0] is not self:
                    return None
                raise ImportError(
                    f"{name} is loaded late and no import names it, so that nothing says that the code depends on it; "
                    "import it by its name"
                )
            else:
                self.content(Path(found.origin))
            self._specs[name] = found
            return found
        return None

    def _present(self) -> dict[str, ModuleType]:
        """The folder's modules among those that are loaded, which may have others of the same names."""
        found = {name: sys.modules.get(name) for name in self._specs}
        return {name: module for name, module in found.items() if module and module.__spec__ is self._specs[name]}

    def _is_late(self, file: Path) -> bool:
        return self._is_complete and file not in self._contents

    def _may_have(self, top: str) -> bool:
        """Whether a name can mean a module of the folder: Python's own and ours come first."""
        return top == self.top if self.top else top != "clbench" and top not in sys.stdlib_module_names

    def _hides(self, name: str, module: ModuleType) -> bool:
        """Whether a loaded module has the name of one of the folder's, and is neither installed nor what runs."""
        top = name.partition(".")[0]
        if top == "__main__" or not self._may_have(top):
            return False
        file = getattr(sys.modules.get(top, module), "__file__", None) or ""
        if {"site-packages", "dist-packages"} & set(Path(file).parts):
            return False
        return (self.folder / f"{top}.py").exists() or (self.folder / top).is_dir()

    def _imported(self, path: Path) -> Iterator[Path]:
        """The files of the folder that a module names in its imports."""
        try:
            tree = ast.parse(self._contents[path])
        except (SyntaxError, ValueError, RecursionError):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._named(alias.name)
            elif isinstance(node, ast.ImportFrom):
                # More dots than there are folders find nothing.
                base = path.parents[min(node.level, len(path.parents)) - 1] if node.level else None
                for name in [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]:
                    yield from self._named(name.lstrip("."), base)

    def _named(self, name: str, base: Path | None = None) -> Iterator[Path]:
        """The files that importing a name runs: `a.b` runs a/__init__.py as well."""
        parts = name.split(".")
        if base is None and not (self._may_have(parts[0]) and (parts[0] in self._specs or parts[0] not in sys.modules)):
            return
        for length in range(1, len(parts) + 1):
            below = (base or self.folder).joinpath(*parts[:length])
            for each in (below.with_name(f"{below.name}.py"), below / "__init__.py"):
                if each.is_relative_to(self.folder) and each.is_file():
                    yield each


class _Source(SourceFileLoader):
    """Compiles what was read: Python tells its compiled copies from new code by the second and the size only."""

    def __init__(self, modules: Modules, name: str, path: str) -> None:
        super().__init__(name, path)
        self._modules = modules

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self._modules.content(Path(path)), path)
