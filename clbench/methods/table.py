"""The table of all methods: where each is, without importing it, and its hyper-parameters in a suite.

Adding a method is a file with a subclass of `Method`, a line in `METHODS`, and a test file. Others add theirs through
the entry point group `clbench.methods` (name = "package.module:Class"), or name a class of theirs where a method is
named, `./file.py:Class` or `package.module:Class`, without touching this file.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from clbench.errors import MissingSettingError, SettingError, unknown_name
from clbench.methods.method import Method
from clbench.methods.own import BROUGHT, bring, checked, is_reference
from clbench.methods.settings import TrainingSettings
from clbench.own.code import digest_of, package_identity, said_by
from clbench.own.installed import load_installed, named
from clbench.suites.settings import base_name, setting_error
from clbench.suites.suite import Suite, absolute


@dataclass(frozen=True)
class Entry:
    """A line of the table of methods, said without importing it.

    Attributes:
        target: `module:Class`.
        summary: what it does.
        family: what it has in common with others, as a heading.
        cites: keys of what to cite, in `references.bib` of the reports.
    """

    target: str
    summary: str
    family: str
    cites: tuple[str, ...] = ()


PARTS = "a part of the network for each task"
PENALTIES = "penalties on what mattered"
REMINDERS = "reminders: earlier images, answers or gradients"
REFERENCES = "references"
AVALANCHES = "Avalanche's, as they come"
_CITED = "lomonaco2021avalanche"

METHODS: Mapping[str, Entry] = {
    "clnp": Entry(
        "clbench.strategies.clnp.method:CLNP",
        "Continual Learning via Neural Pruning: sparse training, pruning under a margin, frozen neurons",
        PARTS,
        ("golkar2019clnp",),
    ),
    "ewc": Entry(
        "clbench.baselines.ewc:EWC",
        "Elastic Weight Consolidation, exact per-sample Fisher, merged penalty",
        PENALTIES,
        ("kirkpatrick2017ewc",),
    ),
    "online-ewc": Entry(
        "clbench.baselines.ewc:OnlineEWC",
        "Online EWC, one running Fisher around the latest weights",
        PENALTIES,
        ("schwarz2018onlineewc",),
    ),
    "mas": Entry(
        "clbench.baselines.mas:MAS",
        "Memory Aware Synapses, per-sample sensitivity of the outputs",
        PENALTIES,
        ("aljundi2018mas",),
    ),
    "si": Entry(
        "clbench.baselines.si:SI",
        "Synaptic Intelligence, path integral of the task's own gradient",
        PENALTIES,
        ("zenke2017si",),
    ),
    "classp": Entry(
        "clbench.baselines.classp:CLASSP",
        "CLASSP: an optimiser that lets weights move less the more they have moved",
        PENALTIES,
        ("ludwig2024classp",),
    ),
    "anpyc": Entry(
        "clbench.baselines.anpyc:ANPyC",
        "ANPyC: prune by importance, retrain, hold on to what is left",
        PENALTIES,
        ("peng2021anpyc",),
    ),
    "sor-snn-style": Entry(
        "clbench.baselines.sor_snn:SORSNN",
        "A spiking network with a sparse pathway per task, reconstructed after SOR-SNN",
        PARTS,
        ("han2023sorsnn",),
    ),
    "psp": Entry(
        "clbench.baselines.psp:PSP",
        "Parameter superposition with binary, complex or rotation contexts",
        PARTS,
        ("cheung2019psp",),
    ),
    "hat": Entry(
        "clbench.baselines.hat:HAT",
        "Hard Attention to the Task: every task gates the units, by embeddings that learn",
        PARTS,
        ("serra2018hat",),
    ),
    "packnet": Entry(
        "clbench.baselines.packnet:PackNet",
        "PackNet: train, prune, retrain; every weight has an owner",
        PARTS,
        ("mallya2018packnet",),
    ),
    "wsn": Entry(
        "clbench.baselines.wsn:WSN",
        "Winning SubNetworks: weights and their scores learn, a mask per task",
        PARTS,
        ("kang2022wsn",),
    ),
    "supsup": Entry(
        "clbench.baselines.supsup:SupSup",
        "Supermasks in superposition: constant weights, a mask per task",
        PARTS,
        ("wortsman2020supsup",),
    ),
    "gpm": Entry(
        "clbench.baselines.gpm:GPM",
        "Gradient Projection Memory: gradients leave the space of earlier inputs alone",
        REMINDERS,
        ("saha2021gpm",),
    ),
    "lwf": Entry(
        "clbench.baselines.lwf:LwF",
        "Learning without Forgetting: the old network's answers are distilled",
        REMINDERS,
        ("li2016lwf",),
    ),
    "er": Entry(
        "clbench.baselines.replay:ER",
        "Experience replay from a small memory",
        REMINDERS,
        ("chaudhry2019er",),
    ),
    "der++": Entry(
        "clbench.baselines.replay:DERPlusPlus",
        "Dark Experience Replay: a small memory with logits",
        REMINDERS,
        ("buzzega2020der",),
    ),
    "naive": Entry("clbench.baselines.naive:Naive", "Fine-tuning on one task after another, no protection", REFERENCES),
    "joint": Entry("clbench.baselines.joint:Joint", "A new network on all tasks so far together", REFERENCES),
    "single-task": Entry("clbench.baselines.single_task:SingleTask", "A network of its own for every task", REFERENCES),
    "frozen-trunk": Entry(
        "clbench.baselines.frozen_trunk:FrozenTrunk",
        "The hidden layers of the first task for all; output layers train",
        REFERENCES,
    ),
    "avalanche-ewc": Entry(
        "clbench.baselines.avalanche:AvalancheEWC",
        "Avalanche's EWCPlugin, its code as it comes",
        AVALANCHES,
        ("kirkpatrick2017ewc", _CITED),
    ),
    "avalanche-si": Entry(
        "clbench.baselines.avalanche:AvalancheSI",
        "Avalanche's SynapticIntelligencePlugin, its code as it comes",
        AVALANCHES,
        ("zenke2017si", _CITED),
    ),
}

_BY_NAME = "clbench.baselines.avalanche_by_name"

AVALANCHE: Mapping[str, Entry] = {
    name: Entry(f"{_BY_NAME}:{attribute}", f"Avalanche's {summary}, its code as it comes", AVALANCHES, (*cites, _CITED))
    for name, attribute, summary, cites in (
        ("avalanche-lwf", "LwF", "Learning without Forgetting", ("li2016lwf",)),
        ("avalanche-replay", "Replay", "experience replay", ("chaudhry2019er",)),
        ("avalanche-gem", "GEM", "Gradient Episodic Memory", ("lopezpaz2017gem",)),
        ("avalanche-agem", "AGEM", "averaged GEM", ("chaudhry2019agem",)),
        ("avalanche-mas", "MAS", "Memory Aware Synapses", ("aljundi2018mas",)),
        ("avalanche-gdumb", "GDumb", "GDumb, trained on a memory alone", ("prabhu2020gdumb",)),
        ("avalanche-rwalk", "RWalk", "Riemannian Walk", ("chaudhry2018rwalk",)),
        ("avalanche-der", "DER", "Dark Experience Replay (DER++)", ("buzzega2020der",)),
        ("avalanche-er-ace", "ERACE", "replay with asymmetric cross-entropy", ("caccia2022erace",)),
        ("avalanche-icarl", "ICaRL", "iCaRL", ("rebuffi2017icarl",)),
        ("avalanche-cumulative", "Cumulative", "training on all tasks so far", ()),
        ("avalanche-packnet", "PackNet", "PackNet", ("mallya2018packnet",)),
    )
}
"""Methods that `--methods all` leaves out."""


def method_names() -> list[str]:
    """Every method's name: the tables', then those of installed packages."""
    return [*METHODS, *AVALANCHE, *_of_packages()]


def working_methods(warn: Callable[[str], None]) -> list[str]:
    """The methods that `all` means: ours, and those of installed packages that load; `warn` is told of others."""
    names = [*METHODS]
    for name in _of_packages():
        try:
            find_method(name)
        except SettingError as error:
            warn(str(error))
        else:
            names.append(name)
    return names


def entry_of(name: str) -> Entry | None:
    """What the tables say of a method; None for one that is not in them."""
    return METHODS.get(base_name(name)) or AVALANCHE.get(base_name(name))


def exists(name: str) -> bool:
    """Whether there is a method of that name."""
    return name in BROUGHT or name in method_names()


def _of_packages() -> list[str]:
    return sorted({entry.name for entry in _plugins()} - {*METHODS, *AVALANCHE})


def find_method(name: str) -> type[Method]:
    """The method of that name; a variant (`psp:rotation`) is the method with other settings.

    Raises:
        SettingError: for an unknown name, listing the right ones, or an installed package that does not load.
    """
    name = base_name(name)
    if name in BROUGHT:
        return BROUGHT[name].method
    if entry := entry_of(name):
        module, _, attribute = entry.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert issubclass(found, Method)
        return found
    for installed in _plugins():
        if installed.name == name:
            return checked(load_installed(installed, "method"), named(installed))
    raise unknown_method(name)


def unknown_method(name: str, others: Sequence[str] = (), elsewhere: str = "") -> SettingError:
    """What is said of a name that no method has, and how to bring one.

    Args:
        name: as it was given.
        others: names that would do as well.
        elsewhere: the suites that have such a variant.
    """
    known = unknown_name("method", name, [*method_names(), *others], elsewhere)
    return SettingError(f"{known}, or one of your own as ./file.py:Class or package.module:Class")


def names_of(methods: Sequence[str], base: Path) -> list[str]:
    """The names that methods go by, each once; those of the user's are loaded for it, as their files are now.

    Args:
        methods: names, variants, `./file.py:Class` or `package.module:Class`.
        base: the folder that a path is relative to.

    Raises:
        SettingError: for a class that does not load or is no method, and for two of one name.
    """
    found: dict[str, str] = {}
    for method in methods:
        is_own = is_reference(method) or (":" in method and _is_module(base_name(method)))
        reference = absolute(method, base) if is_own else method
        name = bring(reference, method_names()) if is_own else method
        if found.setdefault(name, reference) != reference:
            raise SettingError(f"{found[name]} and {reference} are two methods of one name; rename one of the classes")
    return list(found)


def _is_module(name: str) -> bool:
    """Whether what stands before a colon is a module rather than a method with variants."""
    if name in METHODS or name in BROUGHT or not name.isidentifier() or name in method_names():
        return False
    return importlib.util.find_spec(name) is not None


def content_of(name: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """What a record says of the code of a method that is not ours, and the user's files that it is made of.

    Raises:
        SettingError: as `find_method`.
    """
    name = base_name(name)
    if name in BROUGHT:
        return BROUGHT[name].content, dict(BROUGHT[name].own.files)
    if entry_of(name):
        return {}, {}
    find_method(name)
    module = next(entry.module for entry in _plugins() if entry.name == name)
    version, files = package_identity(module, "method")
    return ({"method_version": version} if version else {"method_sha256": digest_of(files)}), files


def _plugins() -> list[Any]:
    return list(entry_points(group="clbench.methods"))


def resolve_settings(suite: Suite, name: str, overrides: Mapping[str, Any]) -> TrainingSettings:
    """The method's hyper-parameters in this suite: its defaults, then the suite's, its variant's, the overrides.

    Raises:
        MissingSettingError: for a setting that must be given and is not.
        SettingError: for a variant that the suite does not have, a setting that the method does not have, or a value
            that does not fit.
    """
    schema = find_method(name).Settings
    try:
        return schema.model_validate(_given(suite, name, overrides))
    except ValidationError as error:
        said = setting_error(error, prefix=f"{name}.")
        if isinstance(said, MissingSettingError):
            raise MissingSettingError(f"{said}; it has no default, so give it with --set") from None
        raise said from None


def reason_against(name: str, suite: Suite, settings: TrainingSettings, network: Any = None, image: Any = None) -> str:
    """Why a method cannot run on a suite, with its network if that is known, in one sentence; empty where it can.

    Args:
        name: of the method.
        suite, settings: overrides applied.
        network, image: see `Method.unfit`; None where the images are not known.

    Raises:
        SettingError: if the method's own code fails at the question.
    """
    method = find_method(name)
    try:
        reason = method.refuses(suite, settings)
        return reason if reason or network is None else method.unfit(network, image, settings)
    except (Exception, SystemExit) as error:
        raise SettingError(f"{name} fails when it is asked whether it can run here: {said_by(error)}") from error


def must_be_given(suite: Suite, name: str) -> set[str]:
    """The method's hyper-parameters that have no default, nor a value in this suite."""
    schema = find_method(name).Settings
    required = {key for key, field in schema.model_fields.items() if field.is_required()}
    return required - _given(suite, name, {}).keys()


def known_settings(suite: Suite, name: str) -> dict[str, Any]:
    """The method's hyper-parameters in this suite, without those that must be given."""
    if not must_be_given(suite, name):
        return resolve_settings(suite, name, {}).model_dump()
    return find_method(name).Settings.model_construct(**_given(suite, name, {})).model_dump(warnings=False)


def _given(suite: Suite, name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What suite and overrides say of the method's hyper-parameters."""
    fields = find_method(name).Settings.model_fields
    if name != base_name(name) and name not in suite.method_settings:
        raise unknown_name(f"variant in the suite {suite.name}", name, suite.variants)
    given = {**suite.method_settings.get(base_name(name), {}), **suite.method_settings.get(name, {}), **overrides}
    for key in given:
        if key not in fields:
            raise unknown_name(f"setting of {name}", key, fields)
    for key in ("optimizer", "learning_rate", "learning_rate_schedule", "batch_size", "epochs"):
        if key in fields and given.get(key) is None:
            default = fields[key].get_default()
            given[key] = getattr(suite, key) if default in (None, PydanticUndefined) else default
    return given


def check_method_settings(suite: Suite) -> None:
    """Makes sure that whatever a suite sets for methods is a setting that they have.

    Raises:
        SettingError: for an unknown method or setting, or a value that does not fit.
    """
    for name in suite.method_settings:
        try:
            resolve_settings(suite, name, {})
        except MissingSettingError:
            # The command line may give it.
            continue
        except SettingError as error:
            raise SettingError(f"the suite {suite.name}: {error}") from None
