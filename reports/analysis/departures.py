"""In what a recorded run's setting is not the one that its suite has now."""

import json
from collections.abc import Mapping
from typing import Any

from clbench.errors import SettingError
from clbench.methods.table import method_names, resolve_settings
from clbench.records.identity import OF_METHOD, recorded_settings, settings_of
from clbench.suites.files import SUITES
from clbench.suites.settings import base_name

OWN_SUITE = "This is a suite of the user's own, so there is nothing to compare its setting with."


def is_known(suite: str) -> bool:
    """Whether clbench has a suite of that name; others are users' own (`OWN_SUITE`)."""
    return suite in SUITES


def departures(config: Mapping[str, Any]) -> list[str]:
    """In what a recorded run's setting is not the one that its suite gives its method in this version.

    Args:
        config: what config.json of the run says.

    Returns:
        Such as `epochs=10 (here 20)`; empty where nothing differs, for a suite that clbench does not have, and for a
        method of the user's own that was not named here. Where the method is not there or does not load, that.
    """
    if not is_known(config["suite"]):
        return []
    suite, method = SUITES[config["suite"]], config["method"]
    if base_name(method) not in method_names() or (method != base_name(method) and method not in suite.variants):
        # A method of the user's own is given by whoever runs it, and no suite has a setting for it.
        return [] if any(config.get(key) for key in OF_METHOD[1:]) else [f"there is no {method} here"]
    try:
        settings = resolve_settings(suite, method, {})
    except SettingError as error:
        return [str(error)]
    recorded, here = recorded_settings(config), recorded_settings({"method": method, **settings_of(suite, settings)})
    return [
        f"{key}={json.dumps(recorded[kind].get(key))} (here {json.dumps(here[kind].get(key))})"
        for kind in recorded
        for key in sorted(recorded[kind].keys() | here[kind].keys())
        if recorded[kind].get(key) != here[kind].get(key)
    ]
