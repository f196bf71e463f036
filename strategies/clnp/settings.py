"""The hyper-parameters of CLNP, for the plugin and for the method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from clbench.errors import MethodError
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.suites.settings import setting_error


def _listed(value: Any) -> Any:
    """One number for a list of it, `a=1,b=2` for a mapping, as `--set` reads them; a tuple for a list."""
    if isinstance(value, str) and "=" not in value:
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            return value
    if isinstance(value, str):
        pairs = [part.split("=") for part in value.split(",")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("expected a number for each group, such as conv1=0.3,conv2=0.5")
        names = [name.strip() for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"expected each group once, but {twice[0]} has several numbers")
        try:
            return {name.strip(): float(number) for name, number in pairs}
        except ValueError:
            raise ValueError("expected a number for each group, such as conv1=0.3,conv2=0.5") from None
    return [value] if isinstance(value, int | float) else list(value) if isinstance(value, tuple) else value


def _even(value: Any) -> Any:
    """`even` as it is, and otherwise what `_listed` and `_within` make of it."""
    if value in ("even", "none", None):
        return None if value == "none" else value
    listed = _listed(value)
    numbers = [*listed.values()] if isinstance(listed, dict) else listed
    if not isinstance(numbers, list) or not all(isinstance(n, int | float) and 0 < n <= 1 for n in numbers):
        raise ValueError("expected even, none, or shares of more than 0 and at most 1")
    return listed


def _within(low: float, high: float, *, or_equal: bool = True) -> AfterValidator:
    """Refuses numbers that do not lie in an interval, its lower end included or not."""

    def check(value: "list[float] | dict[str, float]") -> "list[float] | dict[str, float]":
        if not value:
            raise ValueError("expected at least one number")
        for number in value.values() if isinstance(value, dict) else value:
            if not (low <= number if or_equal else low < number) or not number <= high:
                more = "at least" if or_equal else "more than"
                raise ValueError(f"expected numbers of {more} {low:g} and at most {high:g}")
        return value

    return AfterValidator(check)


PerGroup = Annotated[list[float] | dict[str, float], BeforeValidator(_listed)]
"""A number for each group in the network's order, or by name; in a list a single one is for all of them."""


def of_groups(value: "list[float] | dict[str, float]", names: list[str], default: float) -> list[float]:
    """The number of each group.

    Args:
        value: as set.
        names: of the groups, in their order.
        default: of those that a mapping leaves out.

    Raises:
        ValueError: for a name that no group has, or another number of values, in one sentence.
    """
    if isinstance(value, dict):
        for name in value:
            if name not in names:
                raise ValueError(f"has the group '{name}', but the network's are {', '.join(names)}")
        return [value.get(name, default) for name in names]
    if len(value) == 1:
        return [value[0]] * len(names)
    if len(value) != len(names):
        groups = "one group" if len(names) == 1 else f"{len(names)} groups"
        raise ValueError(
            f"has {len(value)} values for {groups} of units ({', '.join(names)}); give one for each, or a single "
            "number for all"
        )
    return value


class CLNPOptions(BaseModel):
    """What can be varied of CLNP.

    A setting per group of units takes one number for all groups, one for each in the network's order, or some by name:
    `0.3`, `0.9,0.3,0.3` or `conv_1=0.9,conv_2=0.3`.

    Attributes:
        margin: m, accuracy in percentage points that pruning may cost on the task's validation data.
        margin_shares: in what proportion the groups, in order, may spend it; none for evenly. A larger share leaves
            more of a group free.
        budget: how much of a group a task may claim at most. `even`: what is free, divided by the tasks still to come.
            A number: that share of what is free, per group. `none`: no limit, as in the paper. The margin holds below
            it. Where the budget costs more than the margin, nothing else is pruned. Beyond the paper.
        rank: by what units are ordered for pruning: `activity`, the paper's, or `contribution`, the standard deviation
            of a unit's activity times the norm of its outgoing weights.
        l1_weights: alpha, the weight of the L1 norm of all trainable weights.
        l1_proximal: strength of the same L1 norm by soft thresholding: after a step of learning rate r every weight
            moves r * l1_proximal towards 0, whatever the optimiser's scaling.
        l1_activities: weight of a norm of the free units' mean sizes of activity in the batch, per group. Beyond the
            paper.
        activity_norm: which: `l1`, their sum, or `effective`, the square of their sum over the sum of their squares,
            divided by the group's units. That one has no scale, so that one strength fits all groups.
        batch_norm: `frozen`: affine parameters and statistics of a claimed channel freeze with it; those of
            the network's inputs stay as they are from the beginning. `per-task`: every task has its own for all
            channels.
        fine_tune_rate: learning rate of fine-tuning, as a share of the task's; it falls linearly, epoch by epoch.
        fine_tune_dropout: share d of the network's inputs (pixels) that are set to 0 at random while fine-tuning, the
            rest times 1 / (1 - d). Beyond the paper.
        fine_tune_dropout_kept: share of the network's own dropout that stays while fine-tuning. What is left of the
            network is smaller, and needs less. Beyond the paper.
        output_weights: of a single head: `per-task`, where every task has its own, from all units active then, as with
            a head per task; or `shared`, where what leads from a task's units to the outputs is frozen with them and
            adds to the outputs of every later task.
        thresholds: one theta `per-layer`, which is per group, or one `global` theta for all.
        initial_weights: the uniform distribution that PyTorch gives a layer (`pytorch`), or Keras (`glorot`).
        initial_scale: before every task but the first, free units draw their weights from that distribution, this many
            times as wide; none: they stay as the task before left them.
        frozen_cache_mib: how much memory, in MiB, may be used to compute once per task, not once per step, what active
            neurons of linear layers give for the training images; 0 for none. The same within rounding. Images that are
            augmented, or too many for the loader to keep as floats, are computed with at every step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    margin: float = Field(default=1.0, ge=0, le=100)
    margin_shares: Annotated[PerGroup, _within(0, 100, or_equal=False)] | None = None
    budget: Annotated[Literal["even"] | list[float] | dict[str, float] | None, BeforeValidator(_even)] = None
    rank: Literal["activity", "contribution"] = "activity"
    l1_weights: float = Field(default=1e-5, ge=0, le=1)
    l1_proximal: float = Field(default=0.0, ge=0, le=100)
    l1_activities: Annotated[PerGroup, _within(0, 1)] = [0.0]
    activity_norm: Literal["l1", "effective"] = "l1"
    batch_norm: Literal["frozen", "per-task"] = "frozen"
    fine_tune_rate: float = Field(default=0.25, gt=0, le=1)
    fine_tune_dropout: float = Field(default=0.0, ge=0, lt=1)
    fine_tune_dropout_kept: float = Field(default=1.0, ge=0, le=1)
    output_weights: Literal["shared", "per-task"] = "per-task"
    thresholds: Literal["per-layer", "global"] = "per-layer"
    initial_weights: Literal["pytorch", "glorot"] = "pytorch"
    initial_scale: float | None = Field(default=1.0, gt=0, le=10)
    frozen_cache_mib: int = Field(default=1024, ge=0, le=2**20)

    @model_validator(mode="after")
    def _shares_are_of_layers(self) -> "CLNPOptions":
        if self.margin_shares is not None and self.thresholds == "global":
            raise ValueError(
                "CLNP's margin_shares need thresholds per-layer, but got global, which has no shares; give "
                "margin_shares=none with it"
            )
        return self


class CLNPSettings(MethodSettings, CLNPOptions):
    """Hyper-parameters of CLNP: those of every method, those of `CLNPOptions`, and its share of fine-tuning.

    Attributes:
        fine_tune_share: share of the epochs that come after pruning, rounded to whole epochs; 0 is the paper's plain
            form.
    """

    added_later: ClassVar[Mapping[str, Any]] = {
        "frozen_cache_mib": 1024,
        "initial_scale": 1.0,
        "margin_shares": None,
        "budget": None,
        "rank": "activity",
        "activity_norm": "l1",
        "batch_norm": "frozen",
        "fine_tune_dropout_kept": 1.0,
    }

    fine_tune_share: float = Field(default=0.3, ge=0, lt=1)
    reset_optimizer: AlwaysNew = True

    @property
    def options(self) -> CLNPOptions:
        """What the plugin is given."""
        return CLNPOptions.model_construct(**{name: getattr(self, name) for name in CLNPOptions.model_fields})


def options_of(options: CLNPOptions | None, changes: Mapping[str, Any]) -> CLNPOptions:
    """The options with changes.

    Raises:
        SettingError: for one that does not fit, or that there is not.
    """
    if not isinstance(options, CLNPOptions | None):
        raise MethodError(f"CLNPPlugin's options must be a CLNPOptions, but got {options!r}; give settings by name")
    try:
        return CLNPOptions(**{**(options.model_dump() if options else {}), **changes})
    except ValidationError as error:
        raise setting_error(error, prefix="CLNPPlugin.") from None


def check_arguments(fine_tune_epochs: Any, validation_share: Any, n_tasks: Any, engine: Any) -> None:
    """Checks the arguments of `CLNPPlugin` that are no options.

    Raises:
        MethodError: naming the one that does not fit.
    """
    for name, found, fits, expected in (
        ("fine_tune_epochs", fine_tune_epochs, type(fine_tune_epochs) is int and fine_tune_epochs >= 0, "0, 1, 2 ..."),
        ("validation_share", validation_share, 0 < validation_share < 1, "a share between 0 and 1"),
        ("n_tasks", n_tasks, n_tasks is None or (type(n_tasks) is int and n_tasks > 0), "None, 1, 2 ..."),
        ("engine", engine, engine in ("dense", "reduced"), "dense or reduced"),
    ):
        if not fits:
            raise MethodError(f"CLNPPlugin's {name} must be {expected}, but got {found!r}")


def misfit(options: "CLNPOptions | CLNPSettings", names: list[str]) -> str:
    """What is wrong with the settings of groups, for the groups of a network; empty where nothing is."""
    for key, default in (("l1_activities", 0.0), ("margin_shares", 1.0), ("budget", 1.0)):
        value = getattr(options, key)
        if value is None or isinstance(value, str):
            continue
        try:
            of_groups(value, names, default)
        except ValueError as error:
            return f"CLNP's {key} {error}"
    return ""


@dataclass(frozen=True)
class Settled:
    """The settings of groups, for those of one network: a number each.

    Attributes:
        strengths: `l1_activities`.
        shares: `margin_shares`; None for even ones.
        budget: None for no limit.
    """

    strengths: list[float]
    shares: list[float] | None
    budget: Literal["even"] | list[float] | None


def settled(options: CLNPOptions, names: list[str]) -> Settled:
    """The settings of groups for those of a network.

    Raises:
        MethodError: if they are for other groups.
    """
    if reason := misfit(options, names):
        raise MethodError(reason)
    budget = options.budget
    return Settled(
        of_groups(options.l1_activities, names, 0.0),
        None if options.margin_shares is None else of_groups(options.margin_shares, names, 1.0),
        budget if budget is None or isinstance(budget, str) else of_groups(budget, names, 1.0),
    )
