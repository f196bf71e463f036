"""From a command's words to the grid of runs: what each will do, and the id that follows from it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from clbench import __version__
from clbench.data import ImageSet
from clbench.errors import SettingError, unknown_name
from clbench.methods.method import MethodSettings
from clbench.methods.table import find_method, resolve_settings
from clbench.records.identity import run_id_of, settings_of
from clbench.suites.suite import OVERRIDABLE, Suite

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides what a run computes.

    Attributes:
        suite: with overrides applied.
        method, settings: the method's name and its resolved hyper-parameters.
        seed: of all random streams.
        precision: of training; evaluation is always float32.
        overrides: what `--set` changed, as given; empty for a canonical run.
        data: source, digest and counts of the images.
        device: type of the device, `cpu` or `cuda`.
    """

    suite: Suite
    method: str
    settings: MethodSettings
    seed: int
    precision: Precision
    overrides: Mapping[str, Any]
    data: Mapping[str, Any]
    device: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run id is the hash of; documentation and the other methods' settings have no part in it."""
        return {
            "clbench": __version__,
            "method": self.method,
            **settings_of(self.suite, self.settings),
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "data_sha256": self.data["sha256"],
        }

    @property
    def run_id(self) -> str:
        """Hash of the resolved configuration."""
        return run_id_of(self.identity)


def make_specs(
    suite: Suite,
    methods: list[str],
    seeds: list[int],
    overrides: Mapping[str, Any],
    images: ImageSet,
    precision: Precision,
    device: str,
) -> list[RunSpec]:
    """The grid of runs, seed by seed, so that a comparison is complete early.

    Overrides without a dot are the suite's; `method.setting` is one method's. One that says what the suite says
    anyway changes nothing and does not mark the run as modified.

    Raises:
        SettingError: for an unknown method or setting, or a value that does not fit.
    """
    of_suite: dict[str, Any] = {}
    of_method: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        owner, dot, setting = key.partition(".")
        if not dot:
            of_suite[key] = value
        elif owner in methods:
            of_method.setdefault(owner, {})[setting] = value
        else:
            find_method(owner)
            raise SettingError(
                f"--set {key}: '{owner}' is not among the methods of this run ({', '.join(methods)}); add it to "
                "--methods, or leave the setting out"
            )
    unknown = [key for key in of_suite if key not in OVERRIDABLE]
    if unknown:
        for name in methods:
            if unknown[0] in find_method(name).Settings.model_fields:
                raise SettingError(
                    f"--set {unknown[0]}: the suite has no such setting, but {name} has; give {name}.{unknown[0]}"
                )
        raise unknown_name("setting", unknown[0], [*OVERRIDABLE, *(f"{name}.SETTING" for name in methods)])
    changed = suite.with_overrides(of_suite)
    data = {
        "source": images.source,
        "sha256": images.sha256,
        "train_images": len(images.train_labels),
        "test_images": len(images.test_labels),
    }
    for name in methods:
        if reason := find_method(name).refusal(changed):
            raise SettingError(reason)
    specs = []
    for seed in seeds:
        for name in methods:
            canonical = resolve_settings(changed, name, {})
            settings = resolve_settings(changed, name, of_method.get(name, {}))
            if reason := find_method(name).misfit(settings, changed):
                raise SettingError(f"the settings of {name} do not fit: {reason}")
            effective = {
                **{k: getattr(changed, k) for k in of_suite if getattr(changed, k) != getattr(suite, k)},
                **{
                    f"{name}.{k}": getattr(settings, k)
                    for k in of_method.get(name, {})
                    if getattr(settings, k) != getattr(canonical, k)
                },
            }
            specs.append(RunSpec(changed, name, settings, seed, precision, effective, data, device))
    return specs


def unreached(specs: Sequence[RunSpec], overrides: Mapping[str, Any]) -> list[str]:
    """A sentence for each override of the suite that some methods, with a setting of their own, do not take."""
    said = []
    for key in (key for key in overrides if "." not in key):
        given = getattr(specs[0].suite, key)
        own = dict.fromkeys(
            spec.method
            for spec in specs
            if f"{spec.method}.{key}" not in overrides and getattr(spec.settings, key, given) != given
        )
        if own:
            value = given if isinstance(given, str) else json.dumps(given)
            instead = " ".join(f"--set {name}.{key}={value}" for name in own)
            said.append(f"{key}={value} does not reach {', '.join(own)}, with {key} of their own here: {instead} does")
    return said
