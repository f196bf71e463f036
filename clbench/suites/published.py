"""What a suite says beside its setting: published results, goals, and the search that settings come from."""

import contextlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Relation = Literal["inside", "above", "below"]


def _as_decimal(value: Any, info: ValidationInfo) -> Any:
    # TOML's 1 is no decimal, and JSON has text for one.
    is_text = info.mode == "json" and isinstance(value, str)
    with contextlib.suppress(InvalidOperation):
        return Decimal(value) if type(value) is int or is_text else value
    return value


Exact = Annotated[Decimal, BeforeValidator(_as_decimal)]
"""A number with the digits of its source."""


class Measured(Protocol):
    """A mean over seeds with the half width of its 95 % interval, None where there is none."""

    @property
    def mean(self) -> float: ...  # noqa: D102

    @property
    def half_width(self) -> float | None: ...  # noqa: D102


class PublishedResult(BaseModel):
    """One number from the literature.

    Attributes:
        method: the name it belongs to here.
        average_accuracy: a fraction, with the digits of its source (hence a Decimal: 0.970 is not 0.97).
        source: where it stands.
        setting: what it was measured under.
        spread: a fraction, or None where the source gives none.
        remark: what to know about our own number beside it; empty where there is nothing.
        known: what the source states of its setting, under our names of settings, to be compared with ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str
    average_accuracy: Exact = Field(ge=0, le=1)
    source: str
    setting: str
    spread: Exact | None = Field(default=None, gt=0, lt=1)
    remark: str = ""
    known: Mapping[str, Any] = Field(default_factory=dict)

    @field_validator("known")
    @classmethod
    def _settings_are_no_decimals(cls, known: Mapping[str, Any]) -> Mapping[str, Any]:
        # Compared with ours, of which 0.001 is a float: Decimal("0.001") is another number.
        return {key: float(value) if isinstance(value, Decimal) else value for key, value in known.items()}

    @property
    def last_digit(self) -> Decimal:
        """One unit of the last digit that the source gives, as a fraction."""
        return Decimal(1).scaleb(int(self.average_accuracy.as_tuple().exponent))

    @property
    def percent(self) -> str:
        """The accuracy, and the spread where there is one, in per cent: `98.42 ± 0.04`."""
        value = f"{self.average_accuracy.scaleb(2):f}"
        return value if self.spread is None else f"{value} ± {self.spread.scaleb(2):f}"

    def relation(self, ours: Measured) -> Relation:
        """Where ours lies.

        It is `inside` if its 95 % interval (if any) and the source's spread overlap. A source without a spread has
        half a unit of its last digit.
        """
        slack = float(self.spread or self.last_digit / 2) + (ours.half_width or 0.0)
        difference = ours.mean - float(self.average_accuracy)
        if abs(difference) <= slack:
            return "inside"
        return "above" if difference > 0 else "below"


class Goal(BaseModel):
    """What a method must reach in a suite.

    Attributes:
        method: its name.
        average_accuracy: the least mean over the seeds, a fraction; None where only the rest counts.
        within: how far the mean may lie from it on either side, a fraction; None for no bound above.
        above: methods that ours must exceed by more than the 95 % intervals of both.
        not_below: methods whose mean ours must reach.
        within_margin: whether a task may cost the margin at most, from before pruning to after fine-tuning, on test
            images: of each run the mean over its tasks, and of these the mean less its 95 % interval.
        seeds: how many the mean must be of to count as reached.
        no_forgetting: whether no task's accuracy may change after it was learned, in any run.
        free_share: per hidden layer, the least share of neurons that is free after the last task, mean over runs.
        capacity_used: CAP after the last task, a fraction, which may exceed 1; None for any.
        capacity_within: how far ours may lie from it on either side.
        capacity_below: CAP that ours must stay below; None for any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str
    average_accuracy: Exact | None = Field(default=None, ge=0, le=1)
    within: Exact | None = Field(default=None, gt=0, lt=1)
    above: tuple[str, ...] = Field(default=(), strict=False)
    not_below: tuple[str, ...] = Field(default=(), strict=False)
    within_margin: bool = False
    seeds: int = Field(default=3, ge=1)
    no_forgetting: bool = False
    free_share: tuple[Decimal, ...] = Field(default=(), strict=False)
    capacity_used: Exact | None = Field(default=None, gt=0)
    capacity_within: Exact = Field(default=Decimal("0.02"), gt=0, lt=1)
    capacity_below: Exact | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.average_accuracy is None and self.within is not None:
            raise ValueError("within is how far the mean may lie from average_accuracy, which is not given")
        asked = self.model_fields_set - {"method", "seeds", "capacity_within"}
        if not asked:
            raise ValueError("a goal asks for something, such as average_accuracy = 0.9 or above = ['naive']")
        return self

    @property
    def beside(self) -> tuple[str, ...]:
        """The methods that ours stands beside, each once."""
        return tuple(dict.fromkeys((*self.above, *self.not_below)))


class Search(BaseModel):
    """What `clbench tune` tries.

    Attributes:
        n_tasks: how many of the suite's tasks each trial learns.
        seed: of every trial; none of the suite's own, so that a choice owes nothing to the seeds reported.
        trials: by method, the settings of each trial; every method has as many. "none", as `clbench show` and
            reports print it, and "null" stand for None, which TOML has no word for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_tasks: int = Field(ge=1)
    seed: int = Field(ge=0)
    trials: Mapping[str, list[dict[str, Any]]]

    @field_validator("trials")
    @classmethod
    def _null_is_none(cls, trials: Mapping[str, list[dict[str, Any]]]) -> Mapping[str, list[dict[str, Any]]]:
        return {
            name: [
                {key: None if value in ("null", "none") else value for key, value in trial.items()} for trial in listed
            ]
            for name, listed in trials.items()
        }

    @model_validator(mode="after")
    def _same_budget(self) -> Self:
        counts = {name: len(trials) for name, trials in self.trials.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(f"every method must have the same number of trials, but got {listed}")
        return self
