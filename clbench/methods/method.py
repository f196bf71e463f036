"""What a method is: how one continual learner is built and trained, task after task.

The runner knows no method by name.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from clbench.seeding import RandomStreams, seeded
from clbench.suites.settings import Optimizer, Schedule, without_sign_of_zero
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    import torch
    from avalanche.core import SupervisedPlugin
    from torch import Tensor, nn

    from clbench.data.streams import Samples, Stream, Task
    from clbench.methods.strategy import TensorStrategy


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

    # Settings that came later, and the value at which a run is the one that it was without them: a record leaves it
    # out, so that runs recorded before keep their ids.
    added_later: ClassVar[Mapping[str, Any]] = {}

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
        numbers: raised when a change moves the method's numbers, so that its runs get new ids and no others do.
        resumes: whether `state_dict` holds everything that the method carries from task to task, so that a killed run
            can go on after its last task. A class says so itself: a subclass may carry more than its base. Where it is
            False, a killed run begins anew.

    Args:
        settings: resolved hyper-parameters (`resolve_settings`).
        workplace: suite, tasks, seeds, device.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    task_known_at_test: ClassVar[bool] = False
    numbers: ClassVar[int] = 0
    resumes: ClassVar[bool] = False

    model: "nn.Module"
    strategy: "TensorStrategy"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.resumes = bool(vars(cls).get("resumes", False))

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

    @classmethod
    def unfit(cls, network: "nn.Module", image: "Tensor", settings: MethodSettings) -> str:
        """Why the method cannot train a network like this one, in one sentence; empty where it can.

        Args:
            network: as it is before training, perhaps without memory for its weights (torch's device "meta").
            image: one of the size that it is for [1, C, H, W], on its device.
            settings: of the method, each right by itself.
        """
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
        stream = self.workplace.stream
        seed = self.workplace.seeds.derive("weights", *key)
        model = self.workplace.suite.build_network(stream.image_shape, stream.n_outputs, seed)
        return model.to(self.workplace.device)

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimiser that the settings name."""
        import torch

        from clbench.methods.optimizers import FusedRMSprop

        settings = self.settings
        options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
        if settings.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **options)
        if settings.optimizer == "rmsprop":
            return FusedRMSprop(model.parameters(), **options)
        return torch.optim.Adam(model.parameters(), fused=True, **options)

    def build_strategy(self) -> "TensorStrategy":
        """Avalanche's training loop around `self.model`."""
        from clbench.methods.strategy import LinearDecay, Plateau, TensorStrategy

        schedules: dict[str, list[SupervisedPlugin]] = {
            "constant": [],
            "linear": [LinearDecay()],
            "plateau": [Plateau()],
        }
        schedule = schedules[self.settings.learning_rate_schedule]
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
            plugins=[*self.observers, *schedule, *self.method_plugins],
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
        """Rows (`records.format.CAPACITY_COLUMNS`) of the task just learned; empty without units to count."""
        return []

    def extra_state(self) -> "Mapping[str, Tensor]":
        """What must be kept between tasks beside the network's weights and the optimiser, by name."""
        return {}

    def extra_state_bytes(self) -> int | None:
        """Size of `extra_state`, booleans counted as bits. None for a method that does not declare its state."""
        import torch

        if not self.resumes and type(self).extra_state is Method.extra_state:
            return None
        return sum(
            -(-tensor.numel() // 8) if tensor.dtype == torch.bool else tensor.numel() * tensor.element_size()
            for tensor in self.extra_state().values()
        )

    def optimizer_state_bytes(self) -> int:
        """Size of what the optimiser keeps from task to task; 0 where every task begins with a new one."""
        import torch

        if self.settings.reset_optimizer:
            return 0
        kept = [value for state in self.strategy.optimizer.state.values() for value in state.values()]
        return sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))

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


def images_to_train(method: Method, tasks: "Sequence[Task]") -> int:
    """Images, each counted as often as it is used, that learning these tasks trains on; at most, with `plateau`."""
    steps, batch_size = method.workplace.suite.steps_per_epoch, method.settings.batch_size
    return sum(
        method.settings.epochs * (len(samples) if steps is None else steps * batch_size)
        for task in tasks
        for samples in method.training_samples(task)
    )


def steps_to_train(method: Method, tasks: "Sequence[Task]") -> int:
    """Steps of the optimiser that learning these tasks takes; at most, with `plateau`.

    The last batch of a pass may be smaller.
    """
    steps, batch_size = method.workplace.suite.steps_per_epoch, method.settings.batch_size
    found = 0
    for samples in map(method.training_samples, tasks):
        # Samples of several tasks are mixed in every batch.
        batches = -(-sum(map(len, samples)) // batch_size) if steps is None else steps * len(samples)
        found += method.settings.epochs * batches
    return found
