"""What the hyper-parameters of a method are."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from clbench.suites.optimizers import OPTIMIZERS, Optimizer
from clbench.suites.settings import Schedule, without_sign_of_zero


class TrainingSettings(BaseModel):
    """Hyper-parameters of every method. One that brings an optimiser of its own extends these.

    Attributes:
        learning_rate, learning_rate_schedule, batch_size, epochs: of the training. `none` takes the suite's.
        initial_weights: `pytorch`, what the network begins with; or `glorot`, Keras's default, for every linear layer
            and convolution that does not start at 0: uniform, biases 0.
    """

    # Strict, so that nothing given is recorded as something else: true is no learning rate of 1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Settings that came later, and the value at which a run is the one that it was without them: a record leaves it
    # out, so that runs recorded before keep their ids.
    added_later: ClassVar[Mapping[str, Any]] = {"initial_weights": "pytorch"}
    # Those of them that a method had from its first record on.
    always_recorded: ClassVar[frozenset[str]] = frozenset()
    # Those that say how many images a network trains on at once.
    batches: ClassVar[tuple[str, ...]] = ("batch_size",)

    learning_rate: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    learning_rate_schedule: Schedule | None = None
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, strict=True)
    epochs: int | None = Field(default=None, ge=1, le=100_000, strict=True)
    initial_weights: Literal["pytorch", "glorot"] = "pytorch"

    @field_validator("*", mode="before")
    @classmethod
    def _zero_has_no_sign(cls, value: Any) -> Any:
        return without_sign_of_zero(value)


class MethodSettings(TrainingSettings):
    """Hyper-parameters of a method that an optimiser of `OPTIMIZERS` trains; each method extends these with its own.

    Attributes:
        optimizer: `none` takes the suite's.
        momentum: of sgd.
        weight_decay: L2 decay of every weight, through the optimiser.
        reset_optimizer: whether a new task starts with a new optimiser state.
        power_alpha: of powerpropagation (`clbench.methods.power`): small weights move less; 1 is without.

    Example:
        class L2Settings(MethodSettings):
            strength: float = 0.1
    """

    added_later: ClassVar[Mapping[str, Any]] = {"power_alpha": 1.0}

    optimizer: Optimizer | None = None
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    reset_optimizer: bool = True
    power_alpha: float = Field(default=1.0, ge=1, le=10)

    @model_validator(mode="after")
    def _momentum_is_of_one_that_takes_it(self) -> Self:
        if self.momentum and self.optimizer is not None and not OPTIMIZERS[self.optimizer].takes_momentum:
            taking = " or ".join(name for name, entry in OPTIMIZERS.items() if entry.takes_momentum)
            raise ValueError(
                f"momentum={self.momentum:g} would change nothing with optimizer={self.optimizer}; give "
                f"optimizer={taking} with it, or leave it out"
            )
        return self


def _is_always_new(value: bool) -> bool:
    if not value:
        raise ValueError("expected true: every task trains something else, with an optimiser of its own; leave it out")
    return value


AlwaysNew = Annotated[bool, AfterValidator(_is_always_new)]
"""`reset_optimizer` of a method that builds an optimiser for every task, because what it trains is another."""
