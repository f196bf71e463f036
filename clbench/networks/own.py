"""A network of the user's own, from a file or a package: what it takes, and how it is built."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, create_model

from clbench.errors import SettingError
from clbench.networks.network import ImageShape, Network
from clbench.networks.settings import NetworkSettings
from clbench.own.code import Own, load, said_by

if TYPE_CHECKING:
    from torch import nn

_GIVEN = ("image_shape", "n_outputs")
# By reference, as they were loaded last: a run goes on with the code that it began with.
_LOADED: dict[str, "OwnNetwork"] = {}


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
    if anew or reference not in _LOADED:
        _LOADED.pop(reference, None)
        own = load(reference, "network")
        _LOADED[reference] = OwnNetwork(_schema(own), _builder(own), whole=True, own=own)
    return _LOADED[reference]


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
