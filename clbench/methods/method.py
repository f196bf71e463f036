"""What a method is: how one continual learner is built and trained, task after task.

The runner knows no method by name.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clbench.methods.settings import MethodSettings, TrainingSettings
from clbench.methods.space import Space
from clbench.seeding import RandomStreams, seeded
from clbench.suites.optimizers import build_optimizer
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from clbench.data.streams import Samples, Stream, Task
    from clbench.methods.strategy import TensorLoaders
    from clbench.networks.unit_map import Units


Answers = Callable[["Tensor"], "Tensor"]
"""Images [B, ...] to logits [B, C]."""

Plugin = Any
"""An Avalanche plugin: an object with those of its methods that it needs. Avalanche asks for them by name."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training within a task.

    Attributes:
        samples: what it trains on; samples of several tasks are mixed in every batch.
        epochs: passes over them, at most.
    """

    samples: "Sequence[Samples]"
    epochs: int


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
        searched: settings that `clbench tune` varies beside the rate, each within its range.
        stability: a setting of which more means that less is forgotten, and what a search that lowers it begins with.
            None where there is no such setting.
        says_what_it_hardly_learned: whether it warns of that by itself, so that a run need not.

    Args:
        settings: resolved hyper-parameters (`resolve_settings`).
        workplace: suite, tasks, seeds, device.
    """

    Settings: ClassVar[type[TrainingSettings]] = MethodSettings
    task_known_at_test: ClassVar[bool] = False
    numbers: ClassVar[int] = 0
    resumes: ClassVar[bool] = False
    searched: ClassVar[Space] = {}
    stability: ClassVar[tuple[str, float] | None] = None
    says_what_it_hardly_learned: ClassVar[bool] = False

    model: "nn.Module"
    strategy: "TensorLoaders"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.resumes = bool(vars(cls).get("resumes", False))

    def __init__(self, settings: Any, workplace: Workplace) -> None:
        self.settings = settings
        self.workplace = workplace

    @classmethod
    def refuses(cls, suite: Suite, settings: Any) -> str:
        """Why the method cannot run on this suite with these settings, in one sentence; empty where it can."""
        return ""

    @classmethod
    def unfit(cls, network: "nn.Module", image: "Tensor", settings: Any) -> str:
        """Why the method cannot train a network like this one, in one sentence; empty where it can.

        Args:
            network: as it is before training, perhaps without memory for its weights (torch's device "meta").
            image: one of the size that it is for [1, C, H, W], on its device.
            settings: of the method, each right by itself.
        """
        return ""

    @classmethod
    def one_task_more(cls, settings: Any) -> Any:
        """The same settings for a suite with one task more at its end. Some have a number for each task."""
        return settings

    def prepare(self, observers: "Sequence[Plugin]" = ()) -> None:
        """Builds network, optimiser, plugins and the Avalanche strategy; `observers` hear its events."""
        self.observers = observers
        self.tasks_learned = 0
        self.method_plugins = self.plugins()
        self.model = self.build_network()
        self.strategy = self.build_strategy()

    def plugins(self) -> "list[Plugin]":
        """The Avalanche plugins that make up the method."""
        return []

    def build_network(self, *key: int) -> "nn.Module":
        """The suite's network as the method trains it, on the device.

        Args:
            key: tells apart several networks of one method; initial weights come from the stream ("weights", *key).
        """
        stream = self.workplace.stream
        seeds = self.workplace.seeds
        network = self.workplace.suite.build_network(
            stream.image_shape, stream.n_outputs, seeds.derive("weights", *key)
        )
        if self.settings.initial_weights == "glorot":
            from clbench.networks.initial import glorot

            glorot(network, seeds.generator("weights", *key))
        return self.adapt(network).to(self.workplace.device)

    has_networks: ClassVar[bool] = True
    """Whether `network_alone` gives one."""

    def masked_for(self, task: "Task") -> "AbstractContextManager[Answers] | None":
        """What a network taken out of the run is held against: the whole one, through a mask where there is one."""
        return self.network_for(task)

    def network_alone(self, task: "Task") -> "nn.Module":
        """A network of its own that answers for a learned task as `network_for` does, to be taken out of the run.

        A method that answers in another way than through `model` says what is to be taken out, or that
        `has_networks` is False. Called after the last task.
        """
        return copy.deepcopy(self.model)

    def adapt(self, network: "nn.Module") -> "nn.Module":
        """What the method makes of the suite's network before it trains: the same, if need be changed, or another."""
        return network

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimiser that the settings name; the suite's, where they name none."""
        from clbench.methods.power import powered

        settings = self.settings
        made = build_optimizer(
            getattr(settings, "optimizer", self.workplace.suite.optimizer),
            model.parameters(),
            rate=settings.learning_rate,
            weight_decay=getattr(settings, "weight_decay", 0.0),
            momentum=getattr(settings, "momentum", 0.0),
        )
        return powered(made, getattr(settings, "power_alpha", 1.0))

    def build_strategy(self, template: "type[TensorLoaders] | None" = None, **settings: Any) -> "TensorLoaders":
        """Avalanche's training loop around `self.model`.

        Args:
            template: which; None for `TensorStrategy`.
            settings: of the template, beside those of every one.
        """
        from clbench.methods.strategy import LinearDecay, Plateau, TensorStrategy

        schedules: dict[str, list[Plugin]] = {
            "constant": [],
            "linear": [LinearDecay()],
            "plateau": [Plateau()],
        }
        schedule = schedules[self.settings.learning_rate_schedule]
        strategy = (template or TensorStrategy)(
            stream=self.workplace.stream,
            seeds=self.workplace.seeds,
            training_samples=lambda task: self.phases(task)[0].samples,
            steps_per_epoch=self.workplace.suite.steps_per_epoch,
            precision=self.workplace.precision,
            model=self.model,
            optimizer=self.build_optimizer(self.model),
            train_mb_size=self.settings.batch_size,
            eval_mb_size=EVALUATION_BATCH,
            device=self.workplace.device,
            plugins=[*self.observers, *schedule, *self.method_plugins],
            **settings,
        )
        # Avalanche resets the optimiser the first time it sees it; doing it now lets a state be loaded.
        strategy.make_optimizer(reset_optimizer_state=True)
        return strategy

    def phases(self, task: "Task") -> list[Phase]:
        """What is trained on when this task arrives, phase by phase; empty where nothing is.

        `learn` does the first. A method or plugin that adds others says so here, so that progress and costs are right.
        """
        return [Phase([task.train], self.settings.epochs)]

    @property
    def _resets_optimizer(self) -> bool:
        """Whether every task begins with a new state of the optimiser; so does one whose settings do not say."""
        return getattr(self.settings, "reset_optimizer", True)

    def benchmark(self) -> Any:
        """The tasks as Avalanche's strategy is given them."""
        return self.workplace.stream.benchmark

    def learn(self, task: "Task") -> None:
        """Trains on the task. Its randomness comes from (seed, task) alone, whatever was drawn before."""
        self.strategy.train_epochs = self.phases(task)[0].epochs
        with seeded(self.workplace.seeds.derive("training", task.index), self.workplace.device):
            self.strategy.train(
                self.benchmark().train_stream[task.index],
                reset_optimizer_state=self._resets_optimizer,
            )
        # A gradient that outlives its task is one more copy of the weights, of every network that is kept.
        self.model.zero_grad()
        self.tasks_learned = task.index + 1

    def network_for(self, task: "Task") -> AbstractContextManager[Answers] | None:
        """The network as it answers for a task, for as long as the context lasts; its label may be used as declared.

        None where an answer would mean nothing, such as before an output layer of its own was trained.

        Example:
            with torch.inference_mode(), method.network_for(task) as network:
                logits = network(images)
        """
        if task.index >= self.tasks_learned and self.workplace.suite.head != "single":
            return None
        return answering(self.model, task)

    def units_of(self, task: "Task") -> "tuple[Units, Tensor] | None":
        """The network's units, and which of them a learned task uses (bool [U]). None without units to tell apart."""
        return None

    def destroy(self, units: "Tensor") -> None:
        """Makes what leads to units 0, for every task; bool [U], of those that `units_of` gives."""
        raise NotImplementedError

    def capacity(self) -> list[dict[str, Any]]:
        """Rows (`records.format.CAPACITY_COLUMNS`) of the task just learned; empty without units to count."""
        return []

    def pruning(self) -> list[dict[str, Any]]:
        """Rows (`records.format.PRUNING_COLUMNS`) of what the task just learned cost to prune; empty without."""
        return []

    def measures(self) -> Mapping[str, float]:
        """Further numbers of the task just learned, by name (letters, digits and _); empty without.

        Example:
            return {"spikes_per_image": 812.0}
        """
        return {}

    def extra_state(self) -> "Mapping[str, Tensor]":
        """What must be kept between tasks beside the network's weights and the optimiser, by name."""
        return {}

    def extra_state_bytes(self) -> int | None:
        """Size of `extra_state`, booleans counted as bits. None for a method that does not declare its state."""
        # A subclass may carry more than its base says.
        if not self.resumes and "extra_state" not in vars(type(self)):
            return None
        return bytes_of(self.extra_state().values())

    def optimizer_state_bytes(self) -> int:
        """Size of what the optimiser keeps from task to task; 0 where every task begins with a new one."""
        import torch

        if self._resets_optimizer:
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


def share_right(network: Answers, samples: "Samples", device: "torch.device") -> float:
    """Share of the images that a network classifies correctly, in float32, always in the same batches."""
    import torch

    correct = torch.zeros((), dtype=torch.int64, device=device)
    for positions in torch.arange(len(samples)).split(EVALUATION_BATCH):
        x, y = samples.batch(positions, device=device)
        correct += (network(x).argmax(1) == y).sum()
    return int(correct) / len(samples)


@contextmanager
def answering(model: "nn.Module", task: "Task") -> Iterator[Answers]:
    """Within, a network is in evaluation mode and answers for a task, [B, ...] -> [B, C]."""
    from clbench.networks.answer import answer

    was_training = model.training
    model.eval()
    try:
        yield lambda images: answer(model, images, task.index)
    finally:
        model.train(was_training)


def bytes_of(tensors: "Iterable[Tensor]") -> int:
    """Size of tensors, booleans counted as bits."""
    import torch

    return sum(-(-tensor.numel() // 8) if tensor.dtype == torch.bool else tensor.nbytes for tensor in tensors)


def images_to_train(method: Method, tasks: "Sequence[Task]") -> int:
    """Images, each counted as often as it is used, that learning these tasks trains on; at most, with `plateau`."""
    steps, batch_size = method.workplace.suite.steps_per_epoch, method.settings.batch_size
    return sum(
        phase.epochs * (len(samples) if steps is None else steps * batch_size)
        for task in tasks
        for phase in method.phases(task)
        for samples in phase.samples
    )


def steps_to_train(method: Method, tasks: "Sequence[Task]") -> int:
    """Steps of the optimiser that learning these tasks takes; at most, with `plateau`.

    The last batch of a pass may be smaller.
    """
    steps, batch_size = method.workplace.suite.steps_per_epoch, method.settings.batch_size
    found = 0
    for phase in (phase for task in tasks for phase in method.phases(task)):
        batches = -(-sum(map(len, phase.samples)) // batch_size) if steps is None else steps * len(phase.samples)
        found += phase.epochs * batches
    return found
