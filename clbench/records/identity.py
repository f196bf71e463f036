"""What makes a run the run that it is: its settings as they are recorded, and the id that follows from them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from clbench.methods.method import MethodSettings
from clbench.suites.suite import Suite


def run_id_of(identity: Mapping[str, Any]) -> str:
    """The run's id: 16 hexadecimal digits of the SHA-256 of its identity as canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recorded_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run, whose hash is its id (`RunSpec.identity`), as its config.json holds it.

    Raises:
        KeyError, TypeError, AttributeError: if config.json lacks a part of it.
    """
    suite = config["suite_settings"]
    return {
        "clbench": config["versions"]["clbench"],
        "suite_settings": {key: value for key, value in suite.items() if key not in ("title", "source")},
        **{key: config[key] for key in ("method", "method_settings", "seed", "precision")},
        "device": config["device"].partition(":")[0],
        "data_sha256": config["data"]["sha256"],
    }


# Settings that came later, and the value at which a run is the one that it was without them: a record leaves it out,
# so that runs recorded before keep their ids.
ADDED_LATER: Mapping[str, Mapping[str, Any]] = {
    "suite_settings": {"steps_per_epoch": None},
    "method_settings": {
        "frozen_cache_mib": 1024,
        "initial_scale": 1.0,
        "margin_shares": None,
        "train_on_validation": False,
    },
}


def settings_of(suite: Suite, settings: MethodSettings) -> dict[str, dict[str, Any]]:
    """The two settings of a run, as its config.json has them; documentation and other methods' have no part in them."""
    of_suite = suite.model_dump(mode="json", exclude={"title", "source", "seeds", "methods", "method_settings"})
    resolved = {"suite_settings": of_suite, "method_settings": settings.model_dump(mode="json")}
    return {
        kind: {key: value for key, value in given.items() if (key, value) not in ADDED_LATER[kind].items()}
        for kind, given in resolved.items()
    }


def recorded_settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same of a recorded run, whatever version wrote it, with the values that its record leaves out.

    Two runs can be compared by these.

    Args:
        config: what config.json of the run says, or `settings_of`.
    """
    settings = {kind: {**left_out, **(config.get(kind) or {})} for kind, left_out in ADDED_LATER.items()}
    # Words about a suite, which may be put otherwise.
    for key in ("title", "source"):
        settings["suite_settings"].pop(key, None)
    return settings
