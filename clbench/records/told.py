"""What a method is told of the task at test, and what that chooses."""

from collections.abc import Mapping
from typing import Any

from clbench.suites.settings import base_name

CHOOSES: Mapping[str, str] = {
    "clnp": "units",
    "hat": "units",
    "packnet": "weights",
    "wsn": "weights",
    "supsup": "weights",
    "sor-snn-style": "weights",
    "avalanche-packnet": "weights",
    "psp": "contexts",
    "frozen-trunk": "",
    "single-task": "a network",
}
"""By method that is told the task whatever the head: what the task chooses beside a head."""


def told(config: Mapping[str, Any]) -> str:
    """Whether a run was told the task at test, and what the task chooses where that is known.

    Args:
        config: what config.json says.

    Returns:
        `no`, `yes`, or such as `yes: head, units`.

    Example:
        told({"method": "si", "task_known_at_test": True, "suite_settings": {"head": "multi"}})  # "yes: head"
    """
    known = config.get("task_known_at_test")
    if not known:
        return "not recorded" if known is None else "no"
    own = CHOOSES.get(base_name(str(config.get("method"))), "")
    per_task = (config.get("method_settings") or {}).get("output_weights") == "per-task"
    has_head = (config.get("suite_settings") or {}).get("head") == "multi" or per_task
    # A network of its own comes with its head.
    parts = ["head"] if has_head and own != "a network" else []
    chosen = ", ".join([*parts, own] if own else parts)
    return f"yes: {chosen}" if chosen else "yes"
