"""The network of a run, in words, from its record alone."""

from collections.abc import Mapping
from typing import Any

from clbench.reports.formatting import NOT_RECORDED, setting, thousands
from clbench.suites.suite import Suite

# What is recorded of a suite beside its network's settings; the last two of a network of the user's.
_OF_SUITES = {*Suite.model_fields, "network_sha256", "network_version"}


def network_name(config: Mapping[str, Any]) -> str:
    """The network's name; records that hold none are of `mlp`."""
    return str(_recorded(config).get("name") or (config.get("suite_settings") or {}).get("network") or "mlp")


def network_words(config: Mapping[str, Any]) -> str:
    """The network's name and settings, such as `resnet18 (width 20)`."""
    given = config.get("suite_settings") or {}
    own = {key: value for key, value in given.items() if key not in _OF_SUITES}
    shown = ", ".join(f"{key.replace('_', ' ')} {setting(value)}" for key, value in sorted(own.items()))
    return network_name(config) + (f" ({shown})" if shown else "")


def parameters(config: Mapping[str, Any]) -> str:
    """The number of parameters."""
    found = _recorded(config).get("parameters")
    return NOT_RECORDED if found is None else thousands(found)


def image_size(config: Mapping[str, Any]) -> str:
    """The size of the images that enter the network: channels, height and width, such as `3 × 32 × 32`."""
    return " × ".join(map(str, _recorded(config).get("image_shape") or [])) or NOT_RECORDED


def layers(config: Mapping[str, Any]) -> str:
    """What the network is made of."""
    return _recorded(config).get("layers") or NOT_RECORDED


def _recorded(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("network") or {}
