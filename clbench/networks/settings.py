"""The settings of every network, importable without torch: a suite is checked before anything is built."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Width = Annotated[int, Field(ge=1, le=65536, strict=True)]


class NetworkSettings(BaseModel):
    """What a researcher varies in a network; each network extends it with its own."""

    # Strict, so that nothing given is recorded as something else. A list will do for a tuple, of which JSON has none.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def head_bias(self) -> bool:
        """Whether the output layers have a bias."""
        return True

    @property
    def zero_head(self) -> bool:
        """Whether the output layers start at 0 instead of drawn weights."""
        return False


class MLPSettings(NetworkSettings):
    """Settings of `mlp`.

    Attributes:
        hidden_sizes: neurons of each hidden layer.
        dropout_share: of each hidden layer's neurons, that is dropped in training.
    """

    hidden_sizes: tuple[Width, ...] = Field(min_length=1, strict=False)
    dropout_share: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("hidden_sizes", mode="before")
    @classmethod
    def _one_width_is_a_list(cls, value: Any) -> Any:
        return _listed(value)


class ConvSettings(NetworkSettings):
    """Settings of `conv`.

    Attributes:
        channels: filters of each convolution.
        hidden_sizes: neurons of each linear layer after the pooling.
        dropout: whether to drop 0.25 of the channels after the pooling and 0.5 after each linear layer, in training.
    """

    channels: tuple[Width, ...] = Field(default=(32, 64), min_length=1, strict=False)
    hidden_sizes: tuple[Width, ...] = Field(default=(128,), strict=False)
    dropout: bool = False

    @field_validator("channels", "hidden_sizes", mode="before")
    @classmethod
    def _one_width_is_a_list(cls, value: Any) -> Any:
        return _listed(value)


class ConvZenkeSettings(NetworkSettings):
    """Settings of `conv-zenke`.

    Attributes:
        dropout: whether to drop 0.25, 0.25 and 0.5 in training.
        initial_head: `zero` as in the authors' code, or `drawn` as any other layer.
    """

    dropout: bool = True
    initial_head: Literal["zero", "drawn"] = "zero"

    @property
    def zero_head(self) -> bool:
        """Whether the output layers start at 0."""
        return self.initial_head == "zero"


class AlexNetSettings(NetworkSettings):
    """Settings of `alexnet-hat`.

    Attributes:
        dropout: whether to drop 0.2, 0.2, 0.5, 0.5 and 0.5 in training.
        bias: whether layers have biases, output layers included; WSN and GPM have none.
        batch_norm: whether a batch norm follows each convolution and hidden linear layer, as in GPM's runs.
    """

    dropout: bool = True
    bias: bool = True
    batch_norm: bool = False

    @property
    def head_bias(self) -> bool:
        """Whether the output layers have a bias."""
        return self.bias


class ResNetSettings(NetworkSettings):
    """Settings of `resnet18`.

    Attributes:
        width: channels of the first stage; the others have 2, 4 and 8 times as many. 20 is the reduced network of GEM
            and A-GEM, 64 the usual one.
    """

    width: int = Field(default=20, ge=1, le=4096)


class VGGSettings(NetworkSettings):
    """Settings of `vgg9`.

    Attributes:
        size: which of the authors' channel lists.
        dropout: whether to drop half of each linear layer's outputs in training.
    """

    size: Literal["small", "base", "wide"] = "base"
    dropout: bool = False


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, int) else value
