"""What a method is, and the table of all methods.

A method says how one continual learner is built and trained, task after task; the runner knows none by name.
Adding one is a file with a subclass of `Method`, a line in `METHODS`, and a test file. Others add theirs through
the entry point group `clbench.methods` (name = "package.module:Class"), without touching this file.
"""

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clbench.errors import SettingError, unknown_name
from clbench.seeding import RandomStreams, seeded
from clbench.suites import Optimizer, Schedule, Suite, base_name, setting_error, without_sign_of_zero

if TYPE_CHECKING:
    import torch
    from avalanche.core import SupervisedPlugin
    from torch import Tensor, nn

    from clbench.loading import TensorStrategy
    from clbench.streams import Samples, Stream, Task


@dataclass(frozen=True)
class Entry:
    """A line of the table of methods: where the class is, and what it does, said without importing it."""

    target: str
    summary: str


METHODS: Mapping[str, Entry] = {
    "clnp": Entry(
        "clbench.strategies.clnp:CLNP",
        "Continual Learning via Neural Pruning: sparse training, pruning under a margin, frozen neurons",
    ),
    "ewc": Entry("clbench.baselines.ewc:EWC", "Elastic Weight Consolidation, exact per-sample Fisher, merged penalty"),
    "online-ewc": Entry("clbench.baselines.ewc:OnlineEWC", "Online EWC, one running Fisher around the latest weights"),
    "mas": Entry("clbench.baselines.mas:MAS", "Memory Aware Synapses, per-sample sensitivity of the outputs"),
    "si": Entry("clbench.baselines.si:SI", "Synaptic Intelligence, path integral of the task's own gradient"),
    "psp": Entry("clbench.baselines.psp:PSP", "Parameter superposition with binary, complex or rotation contexts"),
    "naive": Entry("clbench.baselines.naive:Naive", "Fine-tuning on one task after another, no protection"),
    "joint": Entry("clbench.baselines.joint:Joint", "A new network on all tasks so far together"),
    "single-task": Entry("clbench.baselines.single_task:SingleTask", "A network of its own for every task"),
    "avalanche-ewc": Entry("clbench.baselines.avalanche:AvalancheEWC", "Avalanche's EWCPlugin, its code as it comes"),
    "avalanche-si": Entry(
        "clbench.baselines.avalanche:AvalancheSI", "Avalanche's SynapticIntelligencePlugin, its code as it comes"
    ),
}


class MethodSettings(BaseModel):
    """Hyper-parameters of a method; each method extends these with its own.

    Attributes:
        optimizer, learning_rate, learning_rate_schedule, batch_size, epochs: None takes the method's own default, else
            the suite's.
        momentum: of sgd.
        weight_decay: L2 decay of every weight, through the optimiser.
        reset_optimizer: whether a new task starts with a new optimiser state.
    """

    # Strict, so that nothing given is recorded as something else: true is no learning rate of 1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    optimizer: Optimizer | None = None
    learning_rate: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    learning_rate_schedule: Schedule | None = None
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, strict=True)
    epochs: int | None = Field(default=None, ge=1, le=100_000, strict=True)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    reset_optimizer: bool = True

    @field_validator("*", mode="before")
    @classmethod
    def _zero_has_no_sign(cls, value: Any) -> Any:
        return without_sign_of_zero(value)

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> Self:
        if self.momentum and self.optimizer not in (None, "sgd"):
            raise ValueError(
                f"momentum={self.momentum:g} would change nothing with optimizer={self.optimizer}; give optimizer=sgd "
                "with it, or leave it out"
            )
        return self


class NewOptimizerSettings(MethodSettings):
    """Of a method that builds an optimiser for every task, because what it trains is another."""

    @field_validator("reset_optimizer")
    @classmethod
    def _is_always_new(cls, value: bool) -> bool:
        if not value:
            raise ValueError("what is trained is another for every task, and so is the optimiser; leave it out")
        return value


@dataclass(frozen=True)
class Workplace:
    """What a method is given to work with.

    Attributes:
        suite, stream: the suite (overrides applied) and its tasks.
        seeds: the run's random streams.
        device: where to compute.
        precision: `float32` or `bfloat16`, of training.
    """

    suite: Suite
    stream: "Stream"
    seeds: RandomStreams
    device: "torch.device"
    precision: Literal["float32", "bfloat16"]


class Method:
    """A continual learner on one suite with one seed; the base is plain fine-tuning.

    Subclasses override what differs. Constructors store arguments; `prepare` builds.

    Class attributes:
        Settings: the method's hyper-parameters.
        task_known_at_test: whether predictions need to be told the task, even with a single head.

    Args:
        settings: resolved hyper-parameters (`resolve_settings`).
        workplace: suite, tasks, seeds, device.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    task_known_at_test: ClassVar[bool] = False

    model: "nn.Module"
    strategy: "TensorStrategy"

    def __init__(self, settings: Any, workplace: Workplace) -> None:
        self.settings = settings
        self.workplace = workplace

    @classmethod
    def refusal(cls, suite: Suite) -> str:
        """Why the method cannot run on this suite, in one sentence; empty where it can."""
        return ""

    @classmethod
    def misfit(cls, settings: MethodSettings, suite: Suite) -> str:
        """Why these settings, each right by itself, do not fit the suite, in one sentence; empty where they do."""
        return ""

    def prepare(self, observers: "Sequence[SupervisedPlugin]" = ()) -> None:
        """Builds network, optimiser, plugins and the Avalanche strategy; `observers` hear its events."""
        self.observers = observers
        self.tasks_learned = 0
        self.method_plugins = self.plugins()
        self.model = self.build_model()
        self.strategy = self.build_strategy()

    def plugins(self) -> "list[SupervisedPlugin]":
        """The Avalanche plugins that make up the method."""
        return []

    def build_model(self, *key: int) -> "nn.Module":
        """The suite's network on the device, its initial weights from the stream ("weights", *key)."""
        from clbench.models import MLP, MultiHeadMLP, initialise

        suite, stream = self.workplace.suite, self.workplace.stream
        channels, height, width = stream.image_shape
        sizes = (channels * height * width, suite.hidden_sizes, stream.n_outputs)
        seed = self.workplace.seeds.derive("weights", *key)
        if suite.head == "multi":
            model = initialise(MultiHeadMLP, *sizes, suite.n_tasks, seed=seed)
        else:
            model = initialise(MLP, *sizes, seed=seed)
        return model.to(self.workplace.device)

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimiser that the settings name."""
        import torch

        from clbench.optim import FusedRMSprop

        settings = self.settings
        options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
        if settings.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **options)
        if settings.optimizer == "rmsprop":
            return FusedRMSprop(model.parameters(), **options)
        return torch.optim.Adam(model.parameters(), fused=True, **options)

    def build_strategy(self) -> "TensorStrategy":
        """Avalanche's training loop around `self.model`."""
        from clbench.loading import LinearDecay, TensorStrategy

        decay = [LinearDecay()] if self.settings.learning_rate_schedule == "linear" else []
        strategy = TensorStrategy(
            stream=self.workplace.stream,
            seeds=self.workplace.seeds,
            training_samples=self.training_samples,
            steps_per_epoch=self.workplace.suite.steps_per_epoch,
            precision=self.workplace.precision,
            model=self.model,
            optimizer=self.build_optimizer(self.model),
            train_mb_size=self.settings.batch_size,
            train_epochs=self.training_epochs(),
            eval_mb_size=EVALUATION_BATCH,
            device=self.workplace.device,
            plugins=[*self.observers, *decay, *self.method_plugins],
        )
        # Avalanche resets the optimiser the first time it sees it; doing it now lets a state be loaded.
        strategy.make_optimizer(reset_optimizer_state=True)
        return strategy

    def training_epochs(self) -> int:
        """Passes over a task's training images in the main phase."""
        return int(self.settings.epochs)

    def training_samples(self, task: "Task") -> "Sequence[Samples]":
        """What is trained on when this task arrives."""
        return [task.train]

    def learn(self, task: "Task") -> None:
        """Trains on the task. Its randomness comes from (seed, task) alone, whatever was drawn before."""
        with seeded(self.workplace.seeds.derive("training", task.index), self.workplace.device):
            self.strategy.train(
                self.workplace.stream.benchmark.train_stream[task.index],
                reset_optimizer_state=self.settings.reset_optimizer,
            )
        # A gradient that outlives its task is one more copy of the weights, of every network that is kept.
        self.model.zero_grad()
        self.tasks_learned = task.index + 1

    def predict(self, images: "Tensor", task: "Task") -> "Tensor":
        """Logits [B, C] for images [B, ...] of the task, whose label may be used only as the method declares."""
        from avalanche.models.utils import avalanche_forward

        return avalanche_forward(self.model, images, task.index)

    def looking_back_at(self, task: "Task") -> AbstractContextManager[Any]:
        """Within, only this task is predicted: for what is done once, not once per batch."""
        return nullcontext()

    def set_training(self, training: bool) -> None:
        """Puts the network into training or evaluation mode (dropout and the like)."""
        self.model.train(training)

    def can_predict(self, task: "Task", learned: int) -> bool:
        """Whether predictions for the task mean anything after `learned` tasks."""
        return task.index < learned or self.workplace.suite.head == "single"

    def capacity(self) -> list[dict[str, Any]]:
        """Rows (`records.CAPACITY_COLUMNS`) of the task just learned; empty without units to count."""
        return []

    def extra_state(self) -> "Mapping[str, Tensor]":
        """What must be kept between tasks beside the network's weights and the optimiser, by name."""
        return {}

    def extra_state_bytes(self) -> int:
        """Size of `extra_state`, booleans counted as bits."""
        import torch

        return sum(
            -(-tensor.numel() // 8) if tensor.dtype == torch.bool else tensor.numel() * tensor.element_size()
            for tensor in self.extra_state().values()
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on after the last task learned: tensors, numbers and strings only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.strategy.optimizer.state_dict(),
            "extra": dict(self.extra_state()),
            "tasks_learned": self.tasks_learned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the state of another instance of the same settings; call after `prepare`."""
        self.model.load_state_dict(state["model"])
        self.strategy.optimizer.load_state_dict(state["optimizer"])
        self.tasks_learned = self.strategy.clock.train_exp_counter = state["tasks_learned"]
        self.load_extra_state(state["extra"])

    def load_extra_state(self, extra: "Mapping[str, Tensor]") -> None:
        """Takes what `extra_state` gave."""


# One batch size for every evaluation: the same images in the same batches give the same bits.
EVALUATION_BATCH = 1000


def method_names() -> list[str]:
    """Every method's name: the table's, then those of installed packages."""
    return [*METHODS, *sorted(entry.name for entry in _plugins() if entry.name not in METHODS)]


def find_method(name: str) -> type[Method]:
    """The method of that name; a variant (`psp:rotation`) is the method with other settings.

    Raises:
        SettingError: for an unknown name, listing the right ones, or an installed package that does not load.
    """
    name = base_name(name)
    if name in METHODS:
        module, _, attribute = METHODS[name].target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert issubclass(found, Method)
        return found
    for entry in _plugins():
        if entry.name == name:
            try:
                found = entry.load()
            except Exception as error:
                raise SettingError(f"the method '{name}' of {entry.value} does not load: {error}") from error
            if not (isinstance(found, type) and issubclass(found, Method)):
                raise SettingError(f"the method '{name}': {entry.value} is not a subclass of clbench.methods.Method")
            return found
    raise unknown_name("method", name, method_names())


def _plugins() -> list[Any]:
    return list(entry_points(group="clbench.methods"))


def resolve_settings(suite: Suite, name: str, overrides: Mapping[str, Any]) -> MethodSettings:
    """The method's hyper-parameters in this suite: its defaults, then the suite's, its variant's, the overrides.

    Raises:
        SettingError: for a variant that the suite does not have, a setting that the method does not have, or a value
            that does not fit.
    """
    schema = find_method(name).Settings
    if name != base_name(name) and name not in suite.method_settings:
        raise unknown_name(f"variant in the suite {suite.name}", name, suite.variants)
    for key in overrides:
        if key not in schema.model_fields:
            raise unknown_name(f"setting of {name}", key, schema.model_fields)
    given = {**suite.method_settings.get(base_name(name), {}), **suite.method_settings.get(name, {}), **overrides}
    for key in ("optimizer", "learning_rate", "learning_rate_schedule", "batch_size", "epochs"):
        if given.get(key) is None:
            default = schema.model_fields[key].default
            given[key] = getattr(suite, key) if default is None else default
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise setting_error(error, prefix=f"{name}.") from None
