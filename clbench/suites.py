"""Every suite as a constant: the data, the sequence of tasks, the network and the training, with their source.

A suite is data. What a run does beyond it is an override (`--set`), and such a run is recorded as modified.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from clbench.errors import SettingError, unknown_name

Optimizer = Literal["adam", "sgd", "rmsprop"]
Schedule = Literal["constant", "linear"]
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


def base_name(method: str) -> str:
    """The method of a suite's variant: `psp` of `psp:rotation`."""
    return method.partition(":")[0]


def without_sign_of_zero(value: Any) -> Any:
    """A setting with 0.0 for -0.0, which are the same setting but would not be the same run id."""
    if isinstance(value, list):
        return [without_sign_of_zero(item) for item in value]
    return 0.0 if isinstance(value, float) and value == 0 else value


# What pydantic says in Python's words, or with less than it knows.
_SAID = {
    "extra_forbidden": "there is no setting of that name here",
    "finite_number": "expected a finite number",
    "float_type": "expected a finite number",
    "tuple_type": "expected numbers with commas between them, such as 100,100",
}


def setting_error(error: ValidationError, prefix: str = "") -> SettingError:
    """Says the first thing that a pydantic validation found wrong, in one sentence."""
    first = error.errors()[0]
    *path, last = first["loc"] or ("",)
    within = isinstance(last, int)
    where = prefix + ".".join(map(str, path if within else first["loc"]))
    if first["type"] == "missing":
        return SettingError(f"the setting {where} is missing")
    what = _SAID.get(first["type"]) or (first["msg"][:1].lower() + first["msg"][1:]).removeprefix("value error, ")
    if not first["loc"]:
        # A check of the whole says itself what it is about.
        return SettingError(what)
    given = f"{where} with {_short(first['input'])} in it" if within else f"{where}={_short(first['input'])}"
    return SettingError(f"the setting {given} does not fit: {what}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turns `["epochs=2", "hidden_sizes=100,100", "clnp.margin=0.5"]` into names and values.

    Values are read as JSON (numbers, true, false, null, lists), none as null, as reports write it; a comma-separated
    list of numbers needs no brackets, and a number no digit on both sides of its point; anything else is a string.

    Raises:
        SettingError: for an item without `=`, or a name given twice.
    """
    overrides: dict[str, Any] = {}
    for item in assignments:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name:
            raise SettingError(f"--set expects NAME=VALUE, such as --set epochs=2, but got '{_short(item)}'")
        if name in overrides:
            raise SettingError(f"--set gives '{name}' twice; give it once")
        overrides[name] = _parse_value(text.strip())
    return overrides


def _parse_value(text: str) -> Any:
    if text == "none":
        return None
    listed = f"[{text}]" if "," in text and not text.startswith("[") else text
    try:
        return json.loads(listed)
    except (ValueError, RecursionError):
        return float(text) if _NUMBER.fullmatch(text) else text


# What people write for a number and JSON does not: .5, 5., +1e-3
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def find_suite(name: str) -> Suite:
    """The suite of that name; `SettingError` lists the right ones."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]


_BASELINES = ("ewc", "si", "psp", "naive")

# The whole of the CLNP paper's table, what became of its methods since, and what Avalanche's own plugins give.
_TABLE_OF_PERMUTED_MNIST = (
    "single-task",
    "clnp",
    "clnp:10-epochs",
    "clnp:best",
    "psp",
    "si",
    "si:10-epochs",
    "ewc",
    "ewc:20-epochs",
    "online-ewc",
    "mas",
    "avalanche-ewc",
    "avalanche-si",
    "naive",
)

PERMUTED_MNIST = Suite(
    name="permuted-mnist",
    title="Permuted MNIST",
    data="mnist",
    scenario="permuted",
    n_tasks=10,
    hidden_sizes=(2000, 2000),
    head="single",
    optimizer="adam",
    learning_rate=0.002,
    learning_rate_schedule="linear",
    batch_size=256,
    epochs=10,
    validation_share=1 / 12,
    seeds=(0, 1, 2),
    methods=_TABLE_OF_PERMUTED_MNIST,
    method_settings={
        # Nothing beyond the paper, its multi-head form. Its L1 norm of the weights works slowly: at the suite's 10
        # epochs tasks claim more neurons (docs/clnp.md). The best of the trials in baselines/tuning had a margin of 2
        # points, 0.4 and 1.6 by layer, and left less of the second layer than the paper's 40 % after ten tasks.
        "clnp": {
            "epochs": 20,
            "l1_weights": 1.5e-5,
            "margin": 3.0,
            "margin_shares": [0.15, 0.85],
            "fine_tune_share": 0.4,
            "fine_tune_rate": 1.0,
            "output_weights": "per-task",
        },
        # At a constant rate the L1 norm works faster. Of two trials of ten tasks (baselines/tuning) the one with more
        # accuracy, its margin wider for the second layer, of which both left less than the paper's 40 %.
        "clnp:10-epochs": {
            "epochs": 10,
            "learning_rate_schedule": "constant",
            "l1_weights": 2e-5,
            "margin": 2.75,
            "margin_shares": [0.1, 0.9],
        },
        # The L1 norm on activities and the dropped inputs are ours (docs/clnp.md). What is left after pruning is small,
        # so that 24 epochs of fine-tuning take about as long as 6 before it.
        "clnp:best": {
            "epochs": 30,
            "l1_weights": 2e-5,
            "l1_activities": [4e-4, 5e-4],
            "margin": 1.0,
            "margin_shares": None,
            "fine_tune_share": 0.8,
            "fine_tune_rate": 1.0,
            "fine_tune_dropout": 0.2,
            "output_weights": "per-task",
        },
        # The paper does not give lambda: of 300, 1000, 3000 and 10,000 (baselines/tuning), 3000 keeps the most.
        "ewc": {"strength": 3000.0, "fisher_images": 6000},
        # As its paper has them where it compares with dropout (figure 3A); nothing else is another setting.
        "ewc:20-epochs": {"epochs": 20},
        # As ewc, from the same trials.
        "online-ewc": {"strength": 3000.0, "fisher_images": 6000},
        # Its paper's networks are others: of 0.001, 0.01, 0.1, 1 and 10, 0.01 keeps the most.
        "mas": {"strength": 0.01, "importance_images": 6000},
        # Of 1e3 to 1e7 the largest keeps the most. Its importances are those of batch means: of 256 images here, hence
        # some orders of magnitude below the Fisher information that ewc's strength weighs.
        "avalanche-ewc": {"strength": 1e7},
        # The authors' setting, 20 epochs included: c = 0.1 belongs to a path integral of that length. They hold no
        # images out (`train_on_validation`); here SI has the ones that every method has, see docs/results.md.
        "si": {"learning_rate": 0.001, "learning_rate_schedule": "constant", "epochs": 20},
        "si:10-epochs": {"epochs": 10},
    },
    source=(
        "Golkar, Kagan and Cho 2019 (arXiv 1903.04476): 10 tasks, 784-2000-2000-10 ReLU, Adam 0.002, batch 256. "
        "Zenke, Poole and Ganguli 2017 (arXiv 1703.04200): first task unpermuted, pixels in [0, 1]. "
        "Our choices: 10 epochs, learning rate falling linearly to 0 within a task, 5,000 validation images."
    ),
)

# What other suites take over from permuted-mnist: its methods' settings, without its variants.
_AS_IN_PERMUTED_MNIST = {name: given for name, given in PERMUTED_MNIST.method_settings.items() if ":" not in name}

# Claiming fewer neurons: 25 tasks have 80 of each layer each.
_CLNP_FOR_MANY_TASKS = {
    **PERMUTED_MNIST.method_settings["clnp:best"],
    "l1_activities": [1e-3, 1.5e-3],
    "margin": 1.2,
}

PERMUTED_MNIST_25 = PERMUTED_MNIST.model_copy(
    update={
        "name": "permuted-mnist-25",
        "title": "Permuted MNIST, 25 tasks",
        "n_tasks": 25,
        "methods": ("clnp:best",),
        "method_settings": {**_AS_IN_PERMUTED_MNIST, "clnp:best": _CLNP_FOR_MANY_TASKS},
        "source": (
            "permuted-mnist with 25 tasks, the number after which Golkar, Kagan and Cho 2019 (arXiv 1903.04476) "
            "estimate their network to be full."
        ),
    }
)

PERMUTED_MNIST_50 = PERMUTED_MNIST_25.model_copy(
    update={
        "name": "permuted-mnist-50",
        "title": "Permuted MNIST, 50 tasks",
        "n_tasks": 50,
        "source": "permuted-mnist with 50 tasks, which shows what happens when the network is full.",
    }
)

SUPERPOSITION_MNIST_50 = Suite(
    name="superposition-mnist-50",
    title="Permuted MNIST, 50 tasks, the superposition paper's setting",
    data="mnist",
    scenario="permuted",
    n_tasks=50,
    hidden_sizes=(256, 256, 256),
    head="single",
    optimizer="rmsprop",
    learning_rate=0.0001,
    learning_rate_schedule="constant",
    batch_size=128,
    epochs=1,
    steps_per_epoch=1000,
    validation_share=1 / 12,
    seeds=(0, 1, 2),
    methods=("psp", "psp:complex", "psp:rotation", "naive"),
    method_settings={"psp:complex": {"kind": "complex"}, "psp:rotation": {"kind": "rotation"}},
    source=(
        "Cheung et al. 2019 (arXiv 1902.05522) and its code: 50 tasks of 1,000 steps, three hidden layers (here of 256 "
        "neurons, of the 128 to 2048 studied), RMSprop 0.0001, batch 128, first task unpermuted; as there, "
        "psp normalises the pixels, which naive does not. "
        "Our choice: 5,000 validation images."
    ),
)

ROTATED_MNIST = PERMUTED_MNIST.model_copy(
    update={
        "name": "rotated-mnist",
        "title": "Rotated MNIST",
        "scenario": "rotated",
        "methods": ("clnp", "clnp:best", *_BASELINES),
        "method_settings": {**_AS_IN_PERMUTED_MNIST, "clnp:best": PERMUTED_MNIST.method_settings["clnp:best"]},
        "source": (
            "Our choice throughout, network and training as in permuted-mnist: task k is turned by "
            "(k - 1) x 180 / T degrees counter-clockwise, bilinear, black outside."
        ),
    }
)

SPLIT_MNIST = Suite(
    name="split-mnist",
    title="Split MNIST, task-incremental",
    data="mnist",
    scenario="split",
    n_tasks=5,
    classes_per_task=2,
    class_order="sorted",
    hidden_sizes=(256, 256),
    head="multi",
    optimizer="adam",
    learning_rate=0.001,
    learning_rate_schedule="linear",
    batch_size=64,
    epochs=10,
    validation_share=1 / 12,
    seeds=(0, 1, 2),
    methods=("clnp", *_BASELINES),
    method_settings={
        # As in its authors' code for this benchmark, but for their output weights, which start at 0.
        "si": {"strength": 1.0, "damping": 0.001, "learning_rate_schedule": "constant", "reset_optimizer": True},
    },
    source=(
        "Zenke, Poole and Ganguli 2017 (arXiv 1703.04200): digits 0/1, 2/3, 4/5, 6/7, 8/9, two hidden layers of "
        "256 ReLU neurons, a head per task, 10 epochs, batch 64, Adam 0.001. Our choices: learning rate falling "
        "linearly to 0 within a task (but for SI), 5,000 validation images, nothing searched."
    ),
)

PERMUTED_DIGITS = Suite(
    name="permuted-digits",
    title="Permuted digits (8 x 8)",
    data="digits",
    scenario="permuted",
    n_tasks=10,
    hidden_sizes=(1000, 1000),
    head="single",
    optimizer="adam",
    learning_rate=0.003,
    learning_rate_schedule="linear",
    batch_size=64,
    epochs=16,
    validation_share=0.15,
    seeds=(0, 1, 2),
    methods=("clnp", "clnp:best", *_BASELINES),
    method_settings={
        # Of nine trials each (baselines/tuning) the best; of CLNP's with its paper's norm alone, the best of those that
        # have the suite's epochs.
        "clnp": {
            "l1_weights": 3e-4,
            "margin": 2.0,
            "fine_tune_share": 0.5,
            "fine_tune_rate": 1.0,
            "output_weights": "per-task",
        },
        "clnp:best": {
            "l1_weights": 0.0,
            "l1_activities": [0.003, 0.006],
            "margin": 2.0,
            "fine_tune_share": 0.5,
            "fine_tune_rate": 1.0,
            "fine_tune_dropout": 0.1,
            "output_weights": "per-task",
        },
        "ewc": {"strength": 3000.0},
        "si": {"strength": 20.0, "learning_rate": 0.001, "learning_rate_schedule": "constant"},
        "psp": {"learning_rate": 0.0003},
    },
    source=(
        "Our choice throughout, the methods' settings from a search on validation images: a small comparison that "
        "needs no download. scikit-learn's 1,797 digits of 8 x 8 pixels, 80 % for training."
    ),
)

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        PERMUTED_MNIST,
        PERMUTED_MNIST_25,
        PERMUTED_MNIST_50,
        SUPERPOSITION_MNIST_50,
        ROTATED_MNIST,
        SPLIT_MNIST,
        PERMUTED_DIGITS,
    )
}
