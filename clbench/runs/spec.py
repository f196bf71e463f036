"""From a command's words to the grid of runs: what each will do, and the id that follows from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from clbench.data import ImageSet, is_path, stand_in
from clbench.data.streams import Stream, classes_per_task, make_stream
from clbench.errors import MissingSettingError, SettingError
from clbench.methods.own import BROUGHT, bring
from clbench.methods.settings import TrainingSettings
from clbench.methods.table import (
    check_method_settings,
    content_of,
    find_method,
    method_names,
    must_be_given,
    reason_against,
    resolve_settings,
)
from clbench.networks.table import is_own, origin_of, schema_of
from clbench.records.format import FORMAT
from clbench.records.identity import NUMBERS, recorded_identity, run_id_of, settings_of
from clbench.runs.network import Sample, reason_against_batches, sample_network
from clbench.seeding import RandomStreams
from clbench.suites.settings import base_name
from clbench.suites.suite import OVERRIDABLE, Suite, unknown_setting

Precision = Literal["float32", "bfloat16"]
MeasuredOn = Literal["test", "validation"]


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
        named: what stands in the record in the place of a path: names and digests of the user's network and images.
        network: what a reader wants to know of it, such as its number of parameters; no part of the id.
        files: the user's files that the run is made of, by the names under which the run folder keeps them.
        of_method: what says which code a method is that is not ours: the digest of its modules, or a version.
        reference: where a method of the user's is found; empty for others.
        measured_on: the images that accuracy is measured on. A search for hyper-parameters must not see test images.
    """

    suite: Suite
    method: str
    settings: TrainingSettings
    seed: int
    precision: Precision
    overrides: Mapping[str, Any]
    data: Mapping[str, Any]
    device: str
    named: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    of_method: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""
    measured_on: MeasuredOn = "test"

    def __reduce__(self) -> tuple[Any, ...]:
        # The class of the settings may be the user's, which another process must load first.
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return _rebuilt, ({**given, "settings": self.settings.model_dump()},)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run id is the hash of; documentation and the other methods' settings have no part in it."""
        return recorded_identity(self.recorded)

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """The part of config.json that the identity is made of."""
        return {
            "format": FORMAT,
            "numbers": NUMBERS,
            "method": self.method,
            "method_numbers": find_method(self.method).numbers,
            **self.of_method,
            **settings_of(self.suite, self.settings, self.named),
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "data": dict(self.data),
            **({} if self.measured_on == "test" else {"measured_on": self.measured_on}),
        }

    @property
    def nameable(self) -> dict[str, Any]:
        """The part of config.json that a run is named by among others (`records.naming`)."""
        return {**self.recorded, "modified": bool(self.overrides), "overrides": dict(self.overrides)}

    def stream(self, images: ImageSet) -> Stream:
        """The tasks; where the run is measured on validation images, those stand in the place of the test images.

        Raises:
            SettingError: if the data set has too few classes or images for the suite.
        """
        made = make_stream(self.suite, images, RandomStreams(self.seed))
        return made if self.measured_on == "test" else made.measured_on_validation()

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
    *,
    files: Mapping[str, bytes] | None = None,
    leave_out: Callable[[str], None] | None = None,
    measured_on: MeasuredOn = "test",
) -> list[RunSpec]:
    """The grid of runs, seed by seed, so that a comparison is complete early.

    Overrides without a dot are the suite's; `method.setting` is one method's. One that says what the suite says
    anyway changes nothing and does not mark the run as modified.

    Args:
        suite, methods, seeds: what to run.
        overrides: what to change in it.
        images: the suite's.
        precision, device: how and where to train.
        files: the user's files that the suite was read from, by name.
        leave_out: told why a method cannot run here, which is then left out; None refuses it.
        measured_on: the images that accuracy is measured on.

    Raises:
        SettingError: for an unknown method or setting, a value that does not fit, a method that cannot run on the
            suite or its network, or a network that does not fit the images.
    """
    check_method_settings(suite)
    of_suite, of_method = sorted_overrides(suite, methods, overrides)
    changed = suite.with_overrides(of_suite).complete()
    if changed.network == suite.network:
        suite = suite.complete(anew=False)
    data = {
        "source": images.source,
        "sha256": images.sha256,
        "train_images": len(images.train_labels),
        "test_images": len(images.test_labels),
    }
    found = sample_network(changed, images)
    has_path = any(map(is_path, changed.data.split("+")))
    named: dict[str, Any] = {**found.named, **({"data": images.source} if has_path else {})}
    if changed.scenario == "split" and changed.classes_per_task is None:
        named["classes_per_task"] = classes_per_task(changed, images)
    kept = _kept(suite.name, changed, methods, of_method, found, leave_out)
    contents = {name: content_of(name) for name in kept}
    specs = []
    for seed in seeds:
        for name, settings in kept.items():
            given = of_method.get(name, {})
            missing = must_be_given(changed, name) & given.keys()
            canonical = resolve_settings(changed, name, {key: given[key] for key in missing})
            effective = {
                # A path is the user's own affair, and a record says what it leads to.
                **{
                    k: named.get(k, changed.flat()[k])
                    for k in of_suite
                    if suite.flat().get(k) not in (changed.flat()[k], named.get(k, changed.flat()[k]))
                },
                **{
                    f"{name}.{k}": getattr(settings, k)
                    for k in given
                    if k in missing or getattr(settings, k) != getattr(canonical, k)
                },
            }
            code, method_files = contents[name]
            specs.append(
                RunSpec(
                    changed,
                    name,
                    settings,
                    seed,
                    precision,
                    effective,
                    data,
                    device,
                    named,
                    found.described,
                    _together(files or {}, found.files, method_files),
                    code,
                    BROUGHT[base_name(name)].reference if base_name(name) in BROUGHT else "",
                    measured_on,
                )
            )
    return specs


def _rebuilt(given: dict[str, Any]) -> RunSpec:
    """A run's spec in another process."""
    if given["reference"]:
        bring(given["reference"], method_names(), anew=False)
    settings = find_method(given["method"]).Settings.model_validate(given["settings"])
    return RunSpec(**{**given, "settings": settings})


def check_unchanged(spec: RunSpec) -> None:
    """Makes sure that the user's network and method are those that the run is named after, also in another process.

    Raises:
        SettingError: if their files were changed since the command began.
    """
    found, _ = origin_of(spec.suite.network)
    if any(spec.named.get(key) != value for key, value in found.items()):
        raise SettingError(f"the network {spec.suite.network} has changed since the command began; give it again")
    if content_of(spec.method)[0] != spec.of_method:
        raise SettingError(f"the method {spec.method} has changed since the command began; give it again")


def _together(*parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of several folders; one whose name is taken by another gets a number before it."""
    found: dict[str, bytes] = {}
    for part in parts:
        for name, content in part.items():
            number, free = 1, name
            while found.get(free, content) != content:
                number, free = number + 1, f"{number + 1}-{name}"
            found[free] = content
    return found


def fitting(
    suite: Suite, methods: list[str], overrides: Mapping[str, Any], leave_out: Callable[[str], None] | None = None
) -> list[str]:
    """The methods that can run here, as far as it is known without images.

    Arguments and errors are those of `make_specs`. Whether a method can learn the network is known where the images
    are of a source whose size is known.
    """
    check_method_settings(suite)
    of_suite, of_method = sorted_overrides(suite, methods, overrides)
    changed = suite.with_overrides(of_suite).complete()
    images = stand_in(changed.data, changed.image_size)
    found = None if images is None else sample_network(changed, images)
    return list(_kept(suite.name, changed, methods, of_method, found, leave_out))


def _kept(
    suite_name: str,
    changed: Suite,
    methods: list[str],
    of_method: Mapping[str, Mapping[str, Any]],
    found: Sample | None,
    leave_out: Callable[[str], None] | None,
) -> dict[str, TrainingSettings]:
    """The settings of every method that can run on the suite and its network."""
    kept = {}
    for name in methods:
        try:
            settings = resolve_settings(changed, name, of_method.get(name, {}))
        except MissingSettingError as error:
            if leave_out is None:
                raise
            leave_out(f"{name} is left out: {error}")
            continue
        network = (None, None) if found is None else (found.model, found.image)
        reason = reason_against(name, changed, settings, *network)
        if not reason and found is not None:
            reason = reason_against_batches(settings, found)
        if not reason:
            kept[name] = settings
        elif leave_out is None or name in of_method:
            # What the user names is not left out.
            raise SettingError(f"{name} cannot run here: {reason}")
        else:
            leave_out(f"{name} is left out: {reason}")
    if not kept:
        raise SettingError(f"no method is left to run on {suite_name}; name others with --methods")
    return kept


def sorted_overrides(
    suite: Suite, methods: list[str], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The overrides of the suite, and those of each method.

    Raises:
        SettingError: for one that neither the suite nor any of the methods has.
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
    network = of_suite.get("network", suite.network)
    if isinstance(network, str) and not is_own(network):
        allowed = [*OVERRIDABLE, *schema_of(network).model_fields]
        for key in (key for key in of_suite if key not in allowed):
            for name in methods:
                if key in find_method(name).Settings.model_fields:
                    raise SettingError(f"--set {key}: the suite has no such setting, but {name} has; give {name}.{key}")
            raise unknown_setting(key, [*allowed, *(f"{name}.SETTING" for name in methods)], network)
    return of_suite, of_method


def unreached(specs: Sequence[RunSpec], overrides: Mapping[str, Any]) -> list[str]:
    """A sentence for each override of the suite that some methods, with a setting of their own, do not take."""
    said = []
    for key in (key for key in overrides if "." not in key):
        given = specs[0].suite.flat()[key]
        own = dict.fromkeys(
            spec.method
            for spec in specs
            if f"{spec.method}.{key}" not in overrides and getattr(spec.settings, key, given) != given
        )
        if own:
            value = given if isinstance(given, str) else json.dumps(given)
            instead = " ".join(f"--set {name}.{key}={value}" for name in own)
            said.append(
                f"--set {key}={value} has no effect on {', '.join(own)}, with {key} of their own; use {instead}"
            )
    return said
