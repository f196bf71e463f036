"""A suite: the data, the sequence of tasks, the network and the training of a benchmark, as one value.

A suite is data. What a run does beyond it is an override (`--set`), and such a run is recorded as modified.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clbench.errors import SettingError, unknown_name
from clbench.networks.network import ImageShape
from clbench.networks.table import NETWORKS, build, find_network, is_own, schema_of
from clbench.suites.optimizers import Optimizer
from clbench.suites.published import Goal, PublishedResult, Search
from clbench.suites.settings import Schedule, setting_error, shortened, without_sign_of_zero

if TYPE_CHECKING:
    from torch import nn

# It names files, experiments and runs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Suite(BaseModel):
    """One benchmark: everything that its runs have in common.

    Attributes:
        name, title: the name on the command line, and in words.
        data: the source of images (`clbench.data.SOURCES`), several joined by `+`, or the path of a folder or file.
        image_size: side to which images are resized; None leaves them as they are.
        normalise: whether pixels x in [0, 1] enter as (x - mean) / std, channel by channel, over the training images.
        augmentation: what is done to training images at random: `crop` (after `crop_padding` black pixels are added on
            every side) and `flip` (left and right).
        crop_padding: see there.
        scenario: `permuted` (each task shuffles the pixels its own way, the first leaves them), `rotated` (each
            task turns the images by a further 180 / n_tasks degrees) or `split` (each task has its own classes).
        n_tasks: T, the number of tasks.
        classes_per_task: for `split`, how many classes a task has; otherwise every task has all classes.
        class_order: for `split`, the order of the classes: `sorted`, or `random` from the seed.
        network: a name of `clbench.networks.table`, `./file.py:Class` or `package.module:Class`.
        network_settings: of the network, such as `hidden_sizes`; in files and on the command line they stand beside
            the suite's own.
        head: `single` (one output layer for all tasks), `multi` (one per task, chosen by the task's label) or `classes`
            (one over all classes, the task unknown).
        optimizer, learning_rate, learning_rate_schedule: of every method that has no own setting below;
            `linear` falls to 0 over each task, `plateau` halves after 6 epochs without a better validation loss.
        batch_size, epochs: images per step; passes over a task's training images, at most, for `plateau`.
        validation_share: share of the training images of each task that no method trains on (unless its settings say
            `train_on_validation`).
        seeds: the seeds of the canonical comparison.
        methods: the methods that `clbench run` takes when none are named.
        steps_per_epoch: batches in an epoch; None is one pass over a task's images. With a number, passes follow one
            another, and an epoch ends after so many batches wherever it is.
        method_settings: by method, what differs from its defaults in this suite. `psp:rotation` is a variant of `psp`:
            what differs from the suite's `psp`, reported beside it under that name.
        source: where the setting comes from, and what in it is our choice.
        published, goals, search: results from the literature, what ours must reach, and what `clbench tune` tries.
    """

    # Strict, so that nothing given is recorded as something else: true is no learning rate of 1. But a list will do for
    # a tuple, of which JSON has none.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Settings that came later, and the value at which a run is the one that it was without them: a record leaves it
    # out, so that runs recorded before keep their ids.
    added_later: ClassVar[Mapping[str, Any]] = {
        "steps_per_epoch": None,
        "network": "mlp",
        "image_size": None,
        "normalise": False,
        "augmentation": [],
        "crop_padding": 4,
        "dropout_share": 0.0,
        "batch_norm": False,
    }

    name: str
    title: str
    data: str
    image_size: int | None = Field(default=None, ge=1, le=4096)
    normalise: bool = False
    augmentation: tuple[Literal["crop", "flip"], ...] = Field(default=(), strict=False)
    crop_padding: int = Field(default=4, ge=1, le=256)
    scenario: Literal["permuted", "rotated", "split"]
    n_tasks: int = Field(ge=1, le=1000, strict=True)
    classes_per_task: int | None = Field(default=None, ge=2)
    class_order: Literal["sorted", "random"] = "sorted"
    network: str = "mlp"
    network_settings: Mapping[str, Any] = Field(default_factory=dict)
    head: Literal["single", "multi", "classes"]
    optimizer: Optimizer
    learning_rate: float = Field(gt=0, le=10, allow_inf_nan=False)
    learning_rate_schedule: Schedule
    batch_size: int = Field(ge=1, le=1_000_000, strict=True)
    epochs: int = Field(ge=1, le=100_000, strict=True)
    steps_per_epoch: int | None = Field(default=None, ge=1, strict=True)
    validation_share: float = Field(gt=0, lt=1, allow_inf_nan=False)
    seeds: tuple[Annotated[int, Field(ge=0, lt=10**18, strict=True)], ...] = Field(strict=False, min_length=1)
    methods: tuple[str, ...] = Field(strict=False, min_length=1)
    method_settings: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    source: str
    published: tuple[PublishedResult, ...] = Field(default=(), strict=False)
    goals: tuple[Goal, ...] = Field(default=(), strict=False)
    search: Search | None = None

    @property
    def variants(self) -> list[str]:
        """Names of the variants of methods that this suite defines."""
        return [name for name in self.method_settings if ":" in name]

    @property
    def overridable(self) -> tuple[str, ...]:
        """The settings that `--set` may change: the suite's, then its network's."""
        return (*OVERRIDABLE, *self.network_settings)

    @field_validator("*", mode="before")
    @classmethod
    def _zero_has_no_sign(cls, value: Any) -> Any:
        return without_sign_of_zero(value)

    @field_validator("augmentation", mode="before")
    @classmethod
    def _one_augmentation_is_a_list(cls, value: Any) -> Any:
        # As `--set augmentation=crop,flip` and `augmentation=none` give it.
        if value is None:
            return []
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("augmentation")
    @classmethod
    def _augmentation_has_no_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # One order, so that the same setting has one run id.
        return tuple(sorted(set(value)))

    @field_validator("name")
    @classmethod
    def _name_is_one_of_files(cls, value: str) -> str:
        # Reports are named after it, and --suite takes what holds a / or ends in .toml for a file.
        if not NAME.fullmatch(value) or value.endswith(".toml"):
            raise ValueError("expected letters, digits, hyphens, dots and underscores, and no .toml at the end")
        return value

    @field_validator("seeds", "methods")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Self:
        # Two ids for one question would be two runs of it.
        idle = {
            "classes_per_task": self.classes_per_task is not None,
            "class_order": self.class_order != "sorted",
            "head": self.head == "classes",
        }
        for key, is_given in idle.items():
            if is_given and self.scenario != "split":
                raise ValueError(f"{key}={getattr(self, key)} is for tasks of different classes; leave it out")
        if self.crop_padding != 4 and "crop" not in self.augmentation:
            raise ValueError(f"crop_padding={self.crop_padding} changes nothing without augmentation=crop")
        return self

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """A suite of settings as a file has them: the network's beside the suite's own.

        Raises:
            SettingError: for a setting that neither has, that is missing, or a value that does not fit.
        """
        own = {key: value for key, value in given.items() if key in {*cls.model_fields} - {"network_settings"}}
        network = own.get("network", cls.model_fields["network"].default)
        others = {key: value for key, value in given.items() if key not in own}
        if isinstance(network, str) and not is_own(network):
            schema = schema_of(network)
            for key in others:
                if key not in schema.model_fields:
                    known = ({*cls.model_fields} - {"network_settings"}) | {*schema.model_fields}
                    raise unknown_setting(key, known, network)
            try:
                others = dict(schema.model_validate(others))
            except ValidationError as error:
                raise setting_error(error) from None
        try:
            return cls.model_validate({**own, "network_settings": others})
        except ValidationError as error:
            raise setting_error(error) from None

    def flat(self) -> dict[str, Any]:
        """The settings as a file has them, which `of` takes."""
        found: dict[str, Any] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            found |= value if key == "network_settings" else {key: value}
        return found

    def build_network(self, image_shape: ImageShape, n_outputs: int, seed: int) -> "nn.Module":
        """The suite's network on the CPU, its weights from the seed alone.

        Args:
            image_shape: (C, H, W).
            n_outputs: of each of its output layers.
            seed: 0 to 2^63 - 1.

        Raises:
            SettingError: if it is not found, or does not fit the images or the outputs.
        """
        network = find_network(self.network)
        settings = network.Settings.model_validate(dict(self.network_settings))
        return build(
            network, settings, image_shape, n_outputs=n_outputs, head=self.head, n_tasks=self.n_tasks, seed=seed
        )

    def complete(self, *, anew: bool = True) -> "Suite":
        """The suite with every setting of its network, also of one of the user's, whose code is run for that.

        Args:
            anew: whether the user's code is taken as it is now, if it was loaded before.

        Raises:
            SettingError: if the network is not found, or lacks a setting or has a value that does not fit.
        """
        schema = find_network(self.network, anew=anew).Settings if is_own(self.network) else schema_of(self.network)
        for key in schema.model_fields:
            if key in type(self).model_fields:
                raise SettingError(
                    f"the parameter {key} of the network {self.network} has the name of a setting of the suite; give "
                    "it another"
                )
        for key in self.network_settings:
            if key not in schema.model_fields:
                raise unknown_setting(key, [*OVERRIDABLE, *schema.model_fields], self.network)
        try:
            settings = schema.model_validate(dict(self.network_settings))
        except ValidationError as error:
            raise setting_error(error) from None
        return self.model_copy(update={"network_settings": dict(settings)})

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Suite":
        """The suite with some of its settings replaced. Another network starts from its own defaults.

        Raises:
            SettingError: for a setting that does not exist, may not be changed, or a value that does not fit.
        """
        kept, given = self.flat(), dict(overrides)
        if isinstance(given.get("network"), str):
            given["network"] = absolute(given["network"], Path.cwd())
        if isinstance(given.get("data"), str):
            given["data"] = absolute(given["data"], Path.cwd())
        network = given.get("network", self.network)
        if network != self.network:
            kept = {key: value for key, value in kept.items() if key not in self.network_settings}
        if isinstance(network, str) and not is_own(network):
            allowed = (*OVERRIDABLE, *schema_of(network).model_fields)
            for key in given:
                if key not in allowed:
                    raise unknown_setting(key, allowed, network)
        else:
            for key in given:
                if key in type(self).model_fields and key not in OVERRIDABLE:
                    raise unknown_setting(key, OVERRIDABLE, str(network))
        return Suite.of({**kept, **given})


# What else a suite is (its name, its scenario, what is said of it) is not for overriding: that would be another suite.
OVERRIDABLE = (
    "n_tasks",
    "classes_per_task",
    "class_order",
    "data",
    "image_size",
    "normalise",
    "augmentation",
    "crop_padding",
    "network",
    "head",
    "optimizer",
    "learning_rate",
    "learning_rate_schedule",
    "batch_size",
    "epochs",
    "steps_per_epoch",
    "validation_share",
)


def unknown_setting(key: str, known: Iterable[str], network: str) -> SettingError:
    """What is said of a setting that a suite or its network does not have, or that cannot be changed."""
    if key in ("methods", "seeds") and key not in known:
        return SettingError(f"--set cannot change {key}; use --{key}")
    if key in Suite.model_fields and key not in (*known, "network_settings"):
        return SettingError(f"--set cannot change {key}; set it in a file, as clbench show SUITE --toml writes one")
    owners = [name for name, entry in NETWORKS.items() if key in entry.settings.model_fields]
    if owners and key not in known:
        have = f"{' and '.join(owners)} {'have' if owners[1:] else 'has'}"
        return SettingError(f"the network {network} has no setting {key}, as {have}; leave it out")
    return unknown_name("setting", key, known)


def absolute(reference: str, base: Path) -> str:
    """A path in a setting made absolute, below `base` where it is relative; any other word as it is.

    A path is what holds a `/`, or ends in `.npz` or `.py`, the name of a class behind it apart. Several parts joined by
    `+` are taken one by one, unless the whole is there.

    Raises:
        SettingError: for a path that cannot be.
    """

    path, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier():
        path, colon, name = reference, "", ""

    def whole(part: str) -> str:
        is_one = "/" in part or part.endswith((".npz", ".py"))
        return str((base / Path(part).expanduser()).resolve()) if is_one else part

    try:
        is_joined = not colon and not (base / Path(path).expanduser()).exists()
        return ("+".join(map(whole, path.split("+"))) if is_joined else whole(path)) + colon + name
    except (RuntimeError, OSError, ValueError) as error:
        raise SettingError(f"the path {shortened(reference)} cannot be found ({error}); give it in full") from None
