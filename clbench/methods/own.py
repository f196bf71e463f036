"""A method of the user's own, from a file or a package: the name it goes by, and what says which code it is."""

from collections.abc import Collection
from dataclasses import dataclass

from clbench.errors import SettingError
from clbench.methods.method import Method, MethodSettings
from clbench.own.code import Own, load


@dataclass(frozen=True)
class OwnMethod:
    """A method of the user's.

    Attributes:
        reference: where it was found: `/whole/path/file.py:Class` or `package.module:Class`.
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
    if before is not None and before.reference == reference and not anew:
        return name
    if name.lower() in {other.lower() for other in taken}:
        raise SettingError(
            f"the method {reference} has the name of one that is there already, {name}; rename the class"
        )
    own = load(reference, "method")
    found = own.found
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise SettingError(
            f"the method {reference} must be a subclass of clbench.methods.Method, but is "
            f"{'a class of another kind' if isinstance(found, type) else f'a {type(found).__name__}'}"
        )
    if not (isinstance(found.Settings, type) and issubclass(found.Settings, MethodSettings)):
        raise SettingError(f"the Settings of the method {reference} must be a subclass of MethodSettings")
    BROUGHT[name] = OwnMethod(reference, found, own)
    return name
