"""A method of the user's own, from a file or a package: the name it goes by, and what says which code it is."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from clbench.errors import SettingError
from clbench.methods.method import Method
from clbench.methods.settings import TrainingSettings
from clbench.own.code import Own, digest_of, load
from clbench.own.source import is_importable, not_importable, source_of


@dataclass(frozen=True)
class OwnMethod:
    """A method of the user's.

    Attributes:
        reference: where it was found: `/whole/path/file.py:Class` or `package.module:Class`; empty for a class that was
            given as it is.
        method: the class.
        own: its content.
    """

    reference: str
    method: type[Method]
    own: Own

    @property
    def content(self) -> dict[str, str]:
        """What a record says of its code, and the run id holds."""
        return {"method_sha256": self.own.sha256} if self.own.sha256 else {"method_version": self.own.version}


# By name, as they were loaded last: a run goes on with the code that it began with.
BROUGHT: dict[str, OwnMethod] = {}


def is_reference(name: str) -> bool:
    """Whether a method is named by its file or module. `psp:rotation` is a variant of a method."""
    where, colon, _ = name.rpartition(":")
    return bool(colon) and ("/" in where or "." in where)


def bring(reference: str, taken: Collection[str], *, anew: bool = True) -> str:
    """Loads a method of the user's, and returns the name that it goes by: that of its class.

    Args:
        reference: `/whole/path/file.py:Class` or `package.module:Class`.
        taken: names of other methods.
        anew: whether its files are looked at again, if it was loaded before.

    Raises:
        SettingError: if it is not found, does not load, is no method, or has the name of another.

    Example:
        bring("/home/me/l2.py:L2", taken=["naive", "ewc"])     # "L2"
    """
    name = reference.rpartition(":")[2]
    before = BROUGHT.get(name)
    if before is None or before.reference != reference or anew:
        _check_name(name, reference, taken)
        own = load(reference, "method")
        BROUGHT[name] = OwnMethod(reference, checked(own.found, reference), own)
    return name


def bring_class(method: Any, taken: Collection[str], *, must_be_importable: bool = False) -> str:
    """The name of a method that is given as a class, such as one of a notebook.

    A class of a module is found again by its module, as `package.module:Class`. Any other is identified by its source
    and that of what it names.

    Args:
        method: a subclass of `Method`.
        taken: names of other methods.
        must_be_importable: whether other processes must find it.

    Raises:
        SettingError: if it is no method, has the name of another, or its source cannot be read.

    Example:
        class L2(Method): ...
        bring_class(L2, taken=["naive", "ewc"])     # "L2"
    """
    name = checked(method, repr(method)).__name__
    if is_importable(method):
        return bring(f"{method.__module__}:{name}", taken)
    _check_name(name, name, taken)
    if must_be_importable:
        raise not_importable(method, "method")
    files = {f"{name}.py": source_of(method, "method")}
    BROUGHT[name] = OwnMethod("", method, Own(name, method, digest_of(files), "", files))
    return name


def _check_name(name: str, reference: str, taken: Collection[str]) -> None:
    if name.lower() in {other.lower() for other in taken}:
        raise SettingError(
            f"the method {reference} has the name of one that is there already, {name}; rename the class"
        )


def checked(found: Any, reference: str) -> type[Method]:
    """What was found, if it is a method.

    Raises:
        SettingError: if it is not, or its settings are of another kind.
    """
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise SettingError(
            f"the method {reference} must be a subclass of clbench.methods.Method, but is "
            f"{'a class of another kind' if isinstance(found, type) else f'a {type(found).__name__}'}"
        )
    if not (isinstance(found.Settings, type) and issubclass(found.Settings, TrainingSettings)):
        raise SettingError(
            f"the Settings of the method {reference} must be a subclass of clbench.methods.MethodSettings"
        )
    return found
