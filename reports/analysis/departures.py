"""In what a recorded run's setting is not the one that its suite has now."""

import json
from collections.abc import Mapping
from typing import Any

from clbench.errors import SettingError
from clbench.methods.settings import TrainingSettings
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
        Such as `epochs=10 (here 20)`; empty where nothing differs, and for a suite that clbench does not have. No suite
        has a setting for a method of the user's own that was not named here. What its run overrides counts there.
        Where the method is not there or does not load, that.
    """
    if not is_known(config["suite"]):
        return []
    suite, method = SUITES[config["suite"]], config["method"]
    if base_name(method) not in method_names() or (method != base_name(method) and method not in suite.variants):
        if not any(config.get(key) for key in OF_METHOD[1:]):
            return [f"there is no {method} here"]
        here = recorded_settings({"method": method, **settings_of(suite, TrainingSettings.model_construct())})
        given = {key: value for key, value in (config.get("overrides") or {}).items() if key.startswith(f"{method}.")}
        return [
            *_differing(recorded_settings(config)["suite_settings"], here["suite_settings"]),
            *(f"{key}={json.dumps(value)}" for key, value in given.items()),
        ]
    try:
        settings = resolve_settings(suite, method, {})
    except SettingError as error:
        return [str(error)]
    recorded, here = recorded_settings(config), recorded_settings({"method": method, **settings_of(suite, settings)})
    return [said for kind in recorded for said in _differing(recorded[kind], here[kind])]


def _differing(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}={json.dumps(recorded.get(key))} (here {json.dumps(here.get(key))})"
        for key in sorted(recorded.keys() | here.keys())
        if recorded.get(key) != here.get(key)
    ]
