"""A network of the user's own, from a file, a package or a notebook: what it takes, and how it is built."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, create_model

from clbench.errors import SettingError
from clbench.networks.network import ImageShape, Network
from clbench.networks.settings import NetworkSettings
from clbench.own.code import Own, digest_of, load, said_by
from clbench.own.source import is_importable, not_importable, source_of

if TYPE_CHECKING:
    from torch import nn

_GIVEN = ("image_shape", "n_outputs")
# By reference, as they were loaded last: a run goes on with the code that it began with.
_LOADED: dict[str, "OwnNetwork"] = {}
# By reference, those that were given as they are, for which there is no file to look at.
_AS_GIVEN: dict[str, "OwnNetwork"] = {}


@dataclass(frozen=True)
class OwnNetwork(Network):
    """A network of the user's, whole: it gives the logits itself.

    Attributes:
        own: where it comes from.
    """

    own: Own = field(kw_only=True)

    @property
    def named(self) -> dict[str, str]:
        """What a record says in the place of its path."""
        content = {"network_sha256": self.own.sha256} if self.own.sha256 else {"network_version": self.own.version}
        return {"network": self.own.name, **content}


def own_network(reference: str, *, anew: bool = False) -> OwnNetwork:
    """The network that a user names.

    It is called as `Class(image_shape=(C, H, W), n_outputs=K)` and must give a module from images [B, C, H, W] to
    logits [B, K]. Its other parameters are settings of the suite, so each needs a default.

    Args:
        reference: `/whole/path/file.py:Class` or `package.module:Class`.
        anew: whether its files are looked at again, if it was loaded before.

    Raises:
        SettingError: if it is not found, does not load, or cannot be called like that.

    Example:
        class Net(nn.Sequential):
            def __init__(self, image_shape, n_outputs, width=100):
                channels, height, side = image_shape
                super().__init__(nn.Flatten(), nn.Linear(channels * height * side, width), nn.ReLU(),
                                 nn.Linear(width, n_outputs))
    """
    if reference in _AS_GIVEN:
        return _AS_GIVEN[reference]
    if anew or reference not in _LOADED:
        _LOADED.pop(reference, None)
        _LOADED[reference] = _network_of(load(reference, "network"))
    return _LOADED[reference]


def bring_network(found: Any, *, must_be_importable: bool = False) -> str:
    """The reference of a network that is given as a class or a function, such as one of a notebook.

    One of a module is found again by its module, as `package.module:Class`. Any other is identified by its source and
    that of what it names.

    Args:
        found: see `own_network`.
        must_be_importable: whether other processes must find it.

    Raises:
        SettingError: if it is no class or function, cannot be called like that, or its source cannot be read.

    Example:
        class Net(nn.Sequential): ...
        bring_network(Net)     # "__main__:Net"
    """
    if not isinstance(found, type | FunctionType) or found.__name__ == "<lambda>":
        raise SettingError(
            "the network must be a class or a function, called as Net(image_shape=(C, H, W), n_outputs=K) for every "
            f"run, but is {'a lambda' if isinstance(found, FunctionType) else f'a {type(found).__name__}'}; give the "
            "class itself, or define a function"
        )
    name = found.__name__
    reference = f"{found.__module__}:{name}"
    if is_importable(found):
        return reference
    if must_be_importable:
        raise not_importable(found, "network")
    files = {f"{name}.py": source_of(found, "network")}
    _AS_GIVEN[reference] = _network_of(Own(name, found, digest_of(files), "", files))
    return reference


def _network_of(own: Own) -> OwnNetwork:
    return OwnNetwork(_schema(own), _builder(own), whole=True, own=own)


def _builder(own: Own) -> Callable[..., "nn.Module"]:
    def build(settings: BaseModel, image_shape: ImageShape, n_outputs: int) -> "nn.Module":
        from torch import nn

        try:
            with own.importing():
                made = own.found(image_shape=image_shape, n_outputs=n_outputs, **dict(settings))
        except (Exception, SystemExit) as error:
            raise SettingError(f"the network {own.name} cannot be built: {said_by(error)}") from error
        if not isinstance(made, nn.Module):
            raise SettingError(f"the network {own.name} must be a torch.nn.Module, but is {type(made).__name__}")
        return made

    return build


def _schema(own: Own) -> type[NetworkSettings]:
    """The settings that the class takes beside `image_shape` and `n_outputs`, with their defaults."""
    given = getattr(own.found, "Settings", None)
    if isinstance(given, type) and issubclass(given, NetworkSettings):
        return given
    try:
        parameters = inspect.signature(own.found).parameters.values()
    except (TypeError, ValueError) as error:
        raise SettingError(f"the network {own.name} cannot be called: {error}") from None
    names = [parameter.name for parameter in parameters]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if not takes_all and not {*names}.issuperset(_GIVEN):
        raise SettingError(
            f"the network {own.name} must take image_shape and n_outputs, but takes {', '.join(names) or 'nothing'}"
        )
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in _GIVEN and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            fields[parameter.name] = (_kind_of(parameter, own), parameter.default)
    return create_model("OwnSettings", __base__=NetworkSettings, **fields)


def _kind_of(parameter: inspect.Parameter, own: Own) -> Any:
    """What values a parameter takes, going by its default."""
    what = f"the parameter {parameter.name} of the network {own.name}"
    if parameter.name.startswith("_") or hasattr(NetworkSettings, parameter.name):
        raise SettingError(f"{what} has a name that no setting can have; give it another")
    default = parameter.default
    if default is parameter.empty:
        raise SettingError(f"{what} needs a default, so that a suite may leave it out")
    try:
        _recordable(default)
    except ValueError as error:
        raise SettingError(f"the default of {what} cannot be recorded: {error}, but got {default!r}") from None
    kind = type(default)
    if kind is str:
        # The word that stands for None in files and on the command line.
        return Annotated[str, BeforeValidator(lambda value: "none" if value is None else value)]
    if kind in (list, tuple):
        return Annotated[
            kind,
            BeforeValidator(lambda value: kind(value if isinstance(value, list | tuple) else [value])),
            AfterValidator(_recordable),
        ]
    return kind if kind in (bool, int, float) else Annotated[Any, AfterValidator(_recordable)]


def _recordable(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("expected a finite number, a text, a truth value, or a list of them") from None
    return value
