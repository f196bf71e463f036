"""What a call from Python gives as objects where a command has names: a suite, a network, images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.data.given import ARRAYS, GivenImages, given_images
from clbench.errors import SettingError
from clbench.networks.own import bring_network
from clbench.suites.files import SUITES
from clbench.suites.suite import OVERRIDABLE, Suite, absolute


@dataclass(frozen=True)
class Given:
    """A call with names in the place of objects.

    Attributes:
        suite: a name, the path of a file, or a suite that is none of ours.
        overrides, sweep: settings to change, and to run every value of.
        images: those that were given as objects.
    """

    suite: str | Path | Suite
    overrides: dict[str, Any]
    sweep: dict[str, list[Any]]
    images: GivenImages | None


def named(
    suite: str | Path | Suite,
    network: Any,
    data: Any,
    overrides: Mapping[str, Any],
    sweep: Mapping[str, Sequence[Any]],
    *,
    at_once: int,
) -> Given:
    """The call of `clbench.run` with names in the place of its objects.

    Args:
        suite, overrides, sweep: as there.
        network, data: as there; None for the suite's.
        at_once: runs to be trained at a time, which other processes must find the network for.

    Raises:
        SettingError: for what is given twice, a suite that is none, or a network that cannot be named.
        DataError: for images that are not as they must be.
    """
    changes = dict(overrides)
    for key, value in (("network", network), ("data", data)):
        if value is not None and key in changes:
            raise SettingError(f"{key} is given as {key}= and in overrides; give it once")
        if value is not None:
            changes[key] = value
    if isinstance(suite, Suite):
        suite, of_suite = _as_ours(_checked(suite))
        changes = _with_network(of_suite, changes)
    images = None
    if isinstance(path := changes.get("data"), Path):
        changes["data"] = str(path.expanduser().absolute())
    elif "data" in changes and not isinstance(changes["data"], str):
        images = given_images(changes["data"])
        changes["data"] = ARRAYS
    swept = {key: list(values) for key, values in sweep.items()}
    if "network" in changes:
        changes["network"] = _network(changes["network"], at_once)
    if "network" in swept:
        swept["network"] = [_network(each, at_once) for each in swept["network"]]
    return Given(suite, changes, swept, images)


def _network(network: Any, at_once: int) -> str:
    return network if isinstance(network, str) else bring_network(network, must_be_importable=at_once > 1)


def _checked(suite: Suite) -> Suite:
    """The suite as a file of it would be read: pydantic's `model_copy` checks nothing."""
    try:
        given = suite.flat()
        paths = {key: absolute(given[key], Path.cwd()) for key in ("data", "network") if isinstance(given[key], str)}
        return Suite.of({**given, **paths})
    except SettingError as error:
        raise SettingError(f"the suite {suite.name!r}: {error}") from None


def _as_ours(suite: Suite) -> tuple[str | Suite, dict[str, Any]]:
    """The name of one of ours and what was changed in it, so that its runs are recorded as modified."""
    ours = SUITES.get(suite.name)
    if ours is None:
        return suite, {}
    flat = ours.flat()
    changes = {key: value for key, value in suite.flat().items() if key not in flat or flat[key] != value}
    if odd := [key for key in changes if key not in OVERRIDABLE and key not in suite.network_settings]:
        raise SettingError(
            f"the suite bears the name {suite.name!r} of one that comes with clbench, but differs from it in "
            f'{", ".join(odd)}; give it a name of its own, as in suite.model_copy(update={{"name": "mine"}})'
        )
    return suite.name, changes


def _with_network(of_suite: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Both changes together. Another network has other settings than that of the suite."""
    if "network" in changes:
        of_suite = {key: value for key, value in of_suite.items() if key in OVERRIDABLE}
    return {**of_suite, **changes}
