"""Code of the user's own: a class found in a file or a package, identified by its content, never by its path.

A network is named as `./file.py:Class` or `package.module:Class`. What belongs to it is every module that its file
loads from the file's own folder, or an installed package: its version, or its modules where it can be edited in place.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, create_model

from clbench.errors import SettingError
from clbench.networks.network import ImageShape, Network
from clbench.networks.settings import NetworkSettings

if TYPE_CHECKING:
    from torch import nn

# More than this is no code.
_MOST_BYTES = 20 * 2**20
_GIVEN = ("image_shape", "n_outputs")


@dataclass(frozen=True)
class Own:
    """A class of the user's.

    Attributes:
        name: as it is recorded: the class's, behind its module where it is of a package.
        found: the class or function.
        sha256: of its modules; empty where a version says what they are.
        version: of its package, such as `mynets 1.2`; empty where the digest says it.
        files: the modules that the digest is of, by their path below the folder of the file.
    """

    name: str
    found: Callable[..., Any]
    sha256: str = ""
    version: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """What a record says of a network in the place of its path."""
        content = {"network_sha256": self.sha256} if self.sha256 else {"network_version": self.version}
        return {"network": self.name, **content}


@dataclass(frozen=True)
class OwnNetwork(Network):
    """A network of the user's, whole: it gives the logits itself.

    Attributes:
        own: where it comes from.
    """

    own: Own = field(kw_only=True)


def is_own(reference: str) -> bool:
    """Whether a setting names a class of the user's: `./file.py:Class` or `package.module:Class`."""
    return ":" in reference


def own_network(reference: str) -> OwnNetwork:
    """The network that a user names.

    It is called as `Class(image_shape=(C, H, W), n_outputs=K)` and must give a module from images [B, C, H, W] to
    logits [B, K]. Its other parameters are settings of the suite, so each needs a default.

    Raises:
        SettingError: if it is not found, does not load, or cannot be called like that.

    Example:
        class Net(nn.Sequential):
            def __init__(self, image_shape, n_outputs, width=100):
                channels, height, side = image_shape
                super().__init__(nn.Flatten(), nn.Linear(channels * height * side, width), nn.ReLU(),
                                 nn.Linear(width, n_outputs))
    """
    own = load(reference, "network")

    def build(settings: BaseModel, image_shape: ImageShape, n_outputs: int) -> "nn.Module":
        from torch import nn

        try:
            made = own.found(image_shape=image_shape, n_outputs=n_outputs, **dict(settings))
        except Exception as error:
            raise SettingError(f"the network {own.name} cannot be built: {said_by(error)}") from error
        if not isinstance(made, nn.Module):
            raise SettingError(f"the network {own.name} must be a torch.nn.Module, but is {type(made).__name__}")
        return made

    return OwnNetwork(_schema(own), build, whole=True, own=own)


def load(reference: str, kind: str) -> Own:
    """Finds a class of the user's and what belongs to it.

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


def _of_file(path: Path, attribute: str, kind: str) -> Own:
    if not path.is_file():
        raise SettingError(f"there is no file {path} for the {kind} {attribute}; give its path, such as ./net.py:Net")
    path = path.resolve()
    folder = path.parent
    with _loading_anew(folder):
        source = _content(path)
        # Not through Python's importer, whose compiled copies are told from new code by the second.
        name = f"clbench_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            exec(compile(source, path, "exec"), module.__dict__)
        except SyntaxError as error:
            raise SettingError(
                f"the file {error.filename or path} has a syntax error in line {error.lineno}: {error.msg}"
            ) from None
        except (Exception, SystemExit) as error:
            raise SettingError(f"the file {path} of the {kind} {attribute} does not load: {said_by(error)}") from error
        found = _attribute(module, attribute, f"the file {path}", kind)
        below = _with_imports(
            {each: _content(each) for each in _modules_below(folder).values()} | {path: source}, folder
        )
    files = {each.relative_to(folder).as_posix(): content for each, content in below.items()}
    return Own(attribute, found, digest_of(files), "", _checked(files, kind))


def _of_package(module_name: str, attribute: str, kind: str) -> Own:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SettingError(
            f"the module {module_name} of the {kind} {attribute} is not installed ({error}); a file is named "
            f"./file.py:{attribute}"
        ) from None
    except (Exception, SystemExit) as error:
        raise SettingError(
            f"the module {module_name} of the {kind} {attribute} does not load: {said_by(error)}"
        ) from error
    name = f"{module_name}:{attribute}"
    found = _attribute(module, attribute, f"the module {module_name}", kind)
    top = module_name.partition(".")[0]
    for title in packages_distributions().get(top, []):
        distribution = Distribution.from_name(title)
        if not _is_editable(distribution):
            return Own(name, found, "", f"{title} {distribution.version}")
    origin = Path(str(sys.modules[top].__file__ or module.__file__)).resolve()
    if origin.name == "__init__.py":
        root, paths = origin.parent.parent, sorted(origin.parent.rglob("*.py"))
    else:
        root, paths = origin.parent, [origin]
    files = {path.relative_to(root).as_posix(): _content(path) for path in paths}
    return Own(name, found, digest_of(files), "", _checked(files, kind))


def _is_editable(distribution: Distribution) -> bool:
    """Whether the package runs from a working copy, whose code may change under one version."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _attribute(module: ModuleType, name: str, where: str, kind: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    classes = [
        key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    there = f"; it has {', '.join(classes)}" if classes else ""
    raise SettingError(f"{where} has no class {name} for the {kind}{there}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror})") from None


def _checked(files: dict[str, bytes], kind: str) -> dict[str, bytes]:
    size = sum(map(len, files.values()))
    if size > _MOST_BYTES:
        raise SettingError(
            f"the {kind} loads {size:,} bytes of modules from its folder, more than {_MOST_BYTES:,}; put it into a "
            "folder of its own"
        )
    return files


def _modules_below(folder: Path) -> dict[str, Path]:
    """The loaded modules that lie in the folder, by name, but for packages installed there, and clbench itself."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name == "__main__" or name.partition(".")[0] == "clbench":
            continue
        path = Path(file).resolve()
        if path.is_relative_to(folder) and not {"site-packages", "dist-packages"} & set(path.parts):
            found[name] = path
    return found


def _with_imports(files: dict[Path, bytes], folder: Path) -> dict[Path, bytes]:
    """The files, and what they import from the folder, at once or not before it is needed."""
    found, left = dict(files), list(files)
    while left:
        path = left.pop()
        for each in _imported(path, found[path], folder):
            if each not in found:
                found[each] = _content(each)
                left.append(each)
    return found


def _imported(path: Path, source: bytes, folder: Path) -> Iterator[Path]:
    """The files of the folder that a module names in its imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            base, names = folder, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else folder
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            # `import a.b` runs a/__init__.py as well.
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                below = base.joinpath(*parts[:length])
                for each in (below.with_name(f"{below.name}.py"), below / "__init__.py"):
                    if each.is_file() and each.resolve().is_relative_to(folder):
                        yield each.resolve()


@contextlib.contextmanager
def _loading_anew(folder: Path) -> Iterator[None]:
    """Within, modules of the folder are loaded from their files as they are now, and found by their names.

    Other code goes on with the modules that it had.
    """
    before = {name: sys.modules.pop(name) for name in _modules_below(folder)}
    foreign = {name: sys.modules.pop(name) for name in list(_LOADED) if name in sys.modules}
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        _LOADED.update(name for name in _modules_below(folder) if name not in before)
        sys.modules.update(before)
        for name, module in foreign.items():
            sys.modules.setdefault(name, module)
        sys.path.remove(str(folder))
        # Behind all others, for what is imported only when the class is used.
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        sys.dont_write_bytecode = writes


# Names of modules that users' files have loaded: another file's module of that name is another module.
_LOADED: set[str] = set()


def _schema(own: Own) -> type[NetworkSettings]:
    """The settings that the class takes beside `image_shape` and `n_outputs`, with their defaults."""
    given = getattr(own.found, "Settings", None)
    if isinstance(given, type) and issubclass(given, NetworkSettings):
        return given
    try:
        parameters = inspect.signature(own.found).parameters.values()
    except (TypeError, ValueError) as error:
        raise SettingError(f"the network {own.name} cannot be called: {error}") from None
    names = {parameter.name for parameter in parameters}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if not takes_all and not names.issuperset(_GIVEN):
        raise SettingError(
            f"the network {own.name} must take image_shape and n_outputs, but takes {', '.join(names) or 'nothing'}"
        )
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name in _GIVEN or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is parameter.empty:
            raise SettingError(
                f"the parameter {parameter.name} of the network {own.name} needs a default, so that a suite may leave "
                "it out"
            )
        try:
            json.dumps(parameter.default, allow_nan=False)
        except (TypeError, ValueError):
            raise SettingError(
                f"the parameter {parameter.name} of the network {own.name} must have a number, a text, a truth value "
                f"or a list of them as its default, to be recorded, but has {parameter.default!r}"
            ) from None
        kind = type(parameter.default)
        fields[parameter.name] = (kind if kind in (bool, int, float, str) else Any, parameter.default)
    return create_model(f"{own.found.__name__}Settings", __base__=NetworkSettings, **fields)
