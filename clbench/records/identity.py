"""What makes a run the run that it is: its settings as they are recorded, and the id that follows from them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from clbench.errors import SettingError
from clbench.methods.settings import TrainingSettings
from clbench.methods.table import entry_of, find_method, method_names
from clbench.records.format import measured_on
from clbench.suites.settings import base_name
from clbench.suites.suite import Suite

# Part of every run's id in the place of a version. Raised only with an entry under "Numbers changed" in CHANGELOG. A
# change of one method's numbers raises that method's own, `Method.numbers`.
NUMBERS = "0.1.0"


FEWEST_DIGITS = 4
"""Of a run's id, that a user may give in its place."""

# What a record says of a method's code, where there is something to say.
OF_METHOD = ("method_numbers", "method_sha256", "method_version")


def run_id_of(identity: Mapping[str, Any]) -> str:
    """The run's id: 16 hexadecimal digits of the SHA-256 of its identity as canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recorded_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the run id is the hash of, from what config.json says; words about the suite have no part in it.

    Raises:
        KeyError, TypeError, AttributeError: if config.json lacks a part of it.
    """
    suite = config["suite_settings"]
    # Records of the first format have the version there, which was that of the numbers.
    numbers = config["numbers"] if "format" in config else config["versions"]["clbench"]
    of_method = {key: config[key] for key in OF_METHOD if config.get(key)}
    return {
        "clbench": numbers,
        "suite_settings": {key: value for key, value in suite.items() if key not in ("title", "source")},
        **{key: config[key] for key in ("method", "method_settings", "seed", "precision")},
        **of_method,
        "device": config["device"].partition(":")[0],
        "data_sha256": config["data"]["sha256"],
        # Added later, and left out where it is what all runs were before.
        **({} if measured_on(config) == "test" else {"measured_on": config["measured_on"]}),
    }


def settings_of(
    suite: Suite, settings: TrainingSettings, named: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """The two settings of a run, as its config.json has them; documentation and other methods' have no part in them.

    Args:
        suite: with overrides applied.
        settings: of the method.
        named: what a record says in the place of a path: of a network or images of the user's.
    """
    documentation = {"title", "source", "seeds", "methods", "method_settings", "published", "goals", "search"}
    of_suite = suite.model_dump(mode="json", exclude=documentation)
    of_suite |= of_suite.pop("network_settings")
    return {
        "suite_settings": _without(added_later(type(suite)), {**of_suite, **(named or {})}),
        "method_settings": _without(added_later(type(settings)), settings.model_dump(mode="json")),
    }


def recorded_settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same of a recorded run, whatever version wrote it, with the values that its record leaves out.

    Two runs can be compared by these.

    Args:
        config: what config.json of the run says.
    """
    schema = _schema_of(config["method"])
    suite = {**added_later(Suite), **(config.get("suite_settings") or {})}
    return {
        # Words about a suite may be put otherwise.
        "suite_settings": {key: value for key, value in suite.items() if key not in ("title", "source")},
        "method_settings": {**added_later(schema), **(config.get("method_settings") or {})},
    }


def _schema_of(method: str) -> type[TrainingSettings]:
    name = base_name(method)
    try:
        # Looking for installed packages takes longer than all the rest.
        is_known = entry_of(name) is not None or name in method_names()
        return find_method(name).Settings if is_known else TrainingSettings
    except SettingError:
        # An installed package that does not load says nothing of what it leaves out.
        return TrainingSettings


def left_out(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that a record leaves out, of the suite and of the method, with the values that they have there."""
    return {
        kind: {key: value for key, value in settings.items() if key not in (config.get(kind) or {})}
        for kind, settings in recorded_settings(config).items()
    }


def added_later(schema: type[BaseModel]) -> dict[str, Any]:
    """The settings that a schema and its bases call `added_later`, with the values that records leave out."""
    found: dict[str, Any] = {}
    for base in reversed(schema.__mro__):
        found |= vars(base).get("added_later", {})
    always: frozenset[str] = getattr(schema, "always_recorded", frozenset())
    return {key: value for key, value in found.items() if key not in always}


def _without(left_out: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if (key, value) not in left_out.items()}
