"""What runs are called where several stand together: by what differs, as `ewc strength=1000`.

The report, `clbench status`, the plan of a dry run and MLflow all take their names from here.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from clbench.records.identity import OF_METHOD, recorded_identity, recorded_settings

Config = Mapping[str, Any]

# Beyond these a name is no longer short, and a letter stands in the place of what differs.
MOST_DIFFERENCES, LONGEST = 3, 40
_SHORT = {
    "data SHA-256": "data",
    "method numbers": "numbers",
    "method sha256": "code",
    "method version": "version",
    "task known at test": "told_the_task",
}


@dataclass(frozen=True)
class Name:
    """What a group of runs is called.

    Attributes:
        label: the method and what differs; unique among the groups that were named together.
        differs: what differs, where the label has no room for it.
    """

    label: str
    differs: str = ""


def group_identity(config: Config) -> dict[str, Any]:
    """What two runs must share to be averaged: everything that can move the accuracy, except the seed.

    Commit, host, device, threads and versions are not part of it: they should not move numbers, and where they
    differ within a group the report says so.
    """
    flat = {
        "method": config["method"],
        "modified": bool(config["modified"]),
        "overrides": config.get("overrides") or {},
        "precision": config.get("precision"),
        **_numbers(config),
        "data SHA-256": (config.get("data") or {}).get("sha256"),
        "task known at test": config.get("task_known_at_test"),
    }
    for kind, settings in recorded_settings(config).items():
        flat |= {f"{kind.removesuffix('_settings')}.{key}": value for key, value in settings.items()}
    return flat


def _numbers(config: Config) -> dict[str, Any]:
    """The numbers of clbench and of the method, as the run id has them."""
    try:
        identity = recorded_identity(config)
    except (KeyError, TypeError, AttributeError):
        # It lacks a part of what its id is made of, and its version is all that tells.
        return {"clbench": (config.get("versions") or {}).get("clbench"), "method numbers": 0}
    of_code = {key.replace("_", " "): identity[key] for key in OF_METHOD[1:] if key in identity}
    return {"clbench": identity["clbench"], "method numbers": identity.get("method_numbers", 0), **of_code}


def names(configs: Sequence[Config]) -> list[Name]:
    """What each of some runs of a suite is called; those that differ in their seed alone have the same name.

    A method's runs in the suite's own setting have its name alone, unless there are several kinds of them. So have
    those of a method whose runs are all alike, where no run is in the suite's own setting.

    Args:
        configs: what config.json of each run says. Letters are given in this order.

    Example:
        Where `ewc` ran with the strengths 100, the suite's own, and 1000, its names are `ewc` and `ewc strength=1000`.
    """
    some_own = not all(config["modified"] for config in configs)
    by_method: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        by_method.setdefault(config["method"], []).append(place)
    found: dict[int, Name] = {}
    for places in by_method.values():
        found |= zip(places, _of_one_method([configs[place] for place in places], some_own), strict=True)
    return [found[place] for place in range(len(configs))]


def _of_one_method(configs: Sequence[Config], some_own: bool) -> list[Name]:
    method = configs[0]["method"]
    if not (some_own and any(config["modified"] for config in configs)) and len(set(map(_raw, configs))) == 1:
        # To fill in what a record leaves out takes the method's code, and seconds.
        return [Name(method)] * len(configs)
    identities = [group_identity(config) for config in configs]
    keys = [json.dumps(identity, sort_keys=True) for identity in identities]
    groups = dict(zip(keys, identities, strict=True))
    own = [identity for identity in groups.values() if not identity["modified"]]
    words: dict[str, list[str]] = {}
    for key, identity in groups.items():
        different = _differing(identity, own if len(own) == 1 else list(groups.values()))
        words[key] = [f"{_short(name)}={_shown(identity, name)}" for name in different]
        if identity["modified"] and some_own and not (own and different):
            words[key] += [word for word in override_words(identity) if word not in words[key]]
    labels = {key: " ".join([method, *of_group]) for key, of_group in words.items()}
    count = Counter(labels.values())
    too_long = [
        key
        for key, label in labels.items()
        if count[label] > 1 or len(words[key]) > MOST_DIFFERENCES or (words[key] and len(label) > LONGEST)
    ]
    if too_long and len(own) != 1:
        # Each is named against all others, so that a letter for some would leave unsaid what these differ in.
        too_long = list(labels)
    alone = sum(identity["modified"] for identity in groups.values()) == 1 and len(too_long) == 1
    for number, key in enumerate(too_long):
        labels[key] = f"{method} ({'modified' if alone else _letters(number)})"
    return [Name(labels[key], ", ".join(words[key]) if key in too_long else "") for key in keys]


def _raw(config: Config) -> str:
    """All that `group_identity` is made of, as it is recorded."""
    code = ("format", "numbers", *OF_METHOD, "suite_settings", "method_settings", "precision", "data")
    parts = (*code, "modified", "overrides", "task_known_at_test")
    versions = config.get("versions") or {}
    return json.dumps([*(config.get(part) for part in parts), versions.get("clbench")], sort_keys=True)


def _differing(identity: Config, others: Sequence[Config]) -> list[str]:
    """In what it is not like the others, a method's own settings first, without what follows from the rest."""
    known = dict.fromkeys(key for each in (identity, *others) for key in each)
    different = {
        key
        for key in known
        if key not in ("modified", "overrides") and any(each.get(key) != identity.get(key) for each in others)
    }
    # A method has the suite's epochs as its own; a network has settings that another has not.
    different -= {f"suite.{key.removeprefix('method.')}" for key in different if key.startswith("method.")}
    if "suite.network" in different:
        different -= {key for key in different if any(key not in each for each in (identity, *others))}
    if "suite.data" in different:
        different.discard("data SHA-256")
    return sorted(different, key=lambda key: (not key.startswith("method."), not key.startswith("suite."), key))


def _short(key: str) -> str:
    return _SHORT.get(key) or key.removeprefix("method.").removeprefix("suite.")


def _shown(identity: Config, key: str) -> str:
    if key not in identity:
        return "unrecorded"
    value = identity[key]
    return str(value)[:8] if key.lower().endswith("sha256") or key.endswith("SHA-256") else in_words(value)


def in_words(value: Any) -> str:
    """A setting's value as a name has it and `--set` takes it: `1000` of 1000.0, `784,100` of a list, `yes` of true."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list | tuple):
        return ",".join(map(in_words, value)) or "none"
    return "".join(json.dumps(value, sort_keys=True).split()) if isinstance(value, Mapping) else str(value)


def override_words(config: Config) -> list[str]:
    """What a run overrides, as `key=value`, the method's own settings first and without the method's name.

    The name stays where the suite's setting of that name is overridden as well.
    """
    own, given = f"{config['method']}.", config.get("overrides") or {}
    return [
        f"{key if key.removeprefix(own) in given else key.removeprefix(own)}={in_words(value)}"
        for key, value in sorted(given.items(), key=lambda item: (not item[0].startswith(own), item[0]))
    ]


def has_settings(config: Config, wanted: Iterable[str]) -> bool:
    """Whether a run has all of these settings, each given as `key=value` as a label has it."""
    identity = group_identity(config)
    return set(wanted) <= {f"{_short(key)}={_shown(identity, key)}" for key in identity}


def overridden(configs: Sequence[Config], labels: Sequence[str]) -> str:
    """Once, below a table, what its runs override beyond what their labels say; empty where no run overrides anything.

    Args:
        configs: what config.json of each says.
        labels: of the same runs or groups.

    Returns:
        Such as `not the suite's own setting: n_tasks=3 (naive, ewc strength=1000)`.
    """
    found: dict[str, list[str]] = {}
    for config, label in zip(configs, labels, strict=True):
        if config["modified"]:
            rest = ", ".join(word for word in override_words(config) if word not in label.split())
            found.setdefault(rest, []).append(label)
    if not found:
        return ""
    whole = len(found) == 1 and all(config["modified"] for config in configs)
    parts = []
    for rest, whose in found.items():
        together = ", ".join(dict.fromkeys(whose))
        parts.append(rest if rest and whole else f"{rest} ({together})" if rest else together)
    return f"not the suite's own setting: {'; '.join(parts)}"


def natural(label: str) -> list[tuple[str, float]]:
    """A key that sorts labels with their numbers as numbers: `strength=300` before `strength=1000`."""
    parts = re.split(r"((?:(?<==)-)?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", label)
    return [(part, 0.0) if place % 2 == 0 else ("", float(part)) for place, part in enumerate(parts)]


def _letters(number: int) -> str:
    first, last = divmod(number, len(ascii_lowercase))
    return (_letters(first - 1) if first else "") + ascii_lowercase[last]
