"""Every suite as a constant: the data, the sequence of tasks, the network and the training, with their source.

A suite is data. What a run does beyond it is an override (`--set`), and such a run is recorded as modified.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from clbench.errors import unknown_name
from clbench.suites.settings import Optimizer, Schedule, setting_error, without_sign_of_zero

Width = Annotated[int, Field(ge=1, le=65536, strict=True)]


class Suite(BaseModel):
    """One benchmark: everything that its runs have in common.

    Attributes:
        name, title: the name on the command line, and in words.
        data: name of the source of images (`clbench.data.SOURCES`).
        scenario: `permuted` (each task shuffles the pixels its own way, the first leaves them), `rotated` (each
            task turns the images by a further 180 / n_tasks degrees) or `split` (each task has its own classes).
        n_tasks: T, the number of tasks.
        classes_per_task: for `split`, how many classes a task has; otherwise every task has all classes.
        class_order: for `split`, the order of the classes: `sorted`, or `random` from the seed.
        hidden_sizes: neurons of each hidden ReLU layer of the network.
        head: `single` (one output layer for all tasks) or `multi` (one per task, chosen by the task's label).
        optimizer, learning_rate, learning_rate_schedule: of every method that has no own setting below;
            `linear` falls to 0 over each task.
        batch_size, epochs: images per step; passes over a task's training images.
        validation_share: share of the training images of each task that no method trains on (unless its settings say
            `train_on_validation`).
        seeds: the seeds of the canonical comparison.
        methods: the methods that `clbench run` takes when none are named.
        steps_per_epoch: batches in an epoch; None is one pass over a task's images. With a number, passes follow one
            another, and an epoch ends after so many batches wherever it is.
        method_settings: by method, what differs from its defaults in this suite. `psp:rotation` is a variant of `psp`:
            what differs from the suite's `psp`, reported beside it under that name.
        source: where the setting comes from, and what in it is our choice.
    """

    # Strict, so that nothing given is recorded as something else: true is no learning rate of 1. But a list will do for
    # a tuple, of which JSON has none.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    title: str
    data: str
    scenario: Literal["permuted", "rotated", "split"]
    n_tasks: int = Field(ge=1, le=1000, strict=True)
    classes_per_task: int | None = Field(default=None, ge=2)
    class_order: Literal["sorted", "random"] = "sorted"
    hidden_sizes: tuple[Width, ...] = Field(min_length=1, strict=False)
    head: Literal["single", "multi"]
    optimizer: Optimizer
    learning_rate: float = Field(gt=0, le=10, allow_inf_nan=False)
    learning_rate_schedule: Schedule
    batch_size: int = Field(ge=1, le=1_000_000, strict=True)
    epochs: int = Field(ge=1, le=100_000, strict=True)
    steps_per_epoch: int | None = Field(default=None, ge=1, strict=True)
    validation_share: float = Field(gt=0, lt=1, allow_inf_nan=False)
    seeds: tuple[int, ...] = Field(strict=False)
    methods: tuple[str, ...] = Field(strict=False)
    method_settings: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    source: str

    @property
    def variants(self) -> list[str]:
        """Names of the variants of methods that this suite defines."""
        return [name for name in self.method_settings if ":" in name]

    @field_validator("*", mode="before")
    @classmethod
    def _zero_has_no_sign(cls, value: Any) -> Any:
        return without_sign_of_zero(value)

    @field_validator("hidden_sizes", mode="before")
    @classmethod
    def _one_width_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else value

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Suite":
        """The suite with some of its settings replaced.

        Raises:
            SettingError: for a setting that does not exist, may not be changed, or a value that does not fit.
        """
        for key in overrides:
            if key not in OVERRIDABLE:
                raise unknown_name("setting", key, OVERRIDABLE)
        try:
            return Suite.model_validate({**self.model_dump(), **overrides})
        except ValidationError as error:
            raise setting_error(error) from None


# What a suite is (its data, its scenario, its head) is not for overriding: that would be another suite.
OVERRIDABLE = (
    "n_tasks",
    "class_order",
    "hidden_sizes",
    "optimizer",
    "learning_rate",
    "learning_rate_schedule",
    "batch_size",
    "epochs",
    "steps_per_epoch",
    "validation_share",
)
