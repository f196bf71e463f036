"""Plugins and strategies of Avalanche by name, their code untouched: `avalanche-lwf`, `avalanche-replay` and so on.

Source: avalanche-lib 0.6; each class names its paper.
Departs from it: optimiser, rate, network, batches and epochs are the suite's, as for every method. Settings have
Avalanche's names, and its values where it has some. DER takes no larger batches from its memory than the memory holds,
below which Avalanche's replays nothing. Images that Avalanche's loader gives are not augmented, which a run says.

Another plugin or strategy is two lines, `plugin = ThePlugin` and `Settings = settings_from(ThePlugin)`, in a subclass
of `ByName`. Some do nothing, or fail, on streams like ours, so each needs a test such as these have.

What Avalanche keeps (buffers, copies of networks) is no plain state, so a killed run begins anew.
"""

import copy
import functools
import inspect
import operator
import types
import warnings
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiTaskModule
from avalanche.models.packnet import PackNetModel, PackNetPlugin
from avalanche.training import plugins, supervised
from avalanche.training.templates import SupervisedTemplate
from pydantic import create_model
from torch import Tensor, nn

from clbench.data.streams import Task
from clbench.methods.method import Answers, Method, answering
from clbench.methods.settings import MethodSettings
from clbench.methods.strategy import TensorLoaders
from clbench.networks.heads import OneHead
from clbench.suites.suite import Suite

_PLAIN = (int, float, bool, str, type(None))


def settings_from(source: type, **defaults: Any) -> type[MethodSettings]:
    """Hyper-parameters from the signature of one of Avalanche's classes: those that are numbers, words or yes and no.

    Args:
        source: the plugin or strategy.
        defaults: values where the signature has none, or another is wanted.

    Raises:
        TypeError: for a default that is no parameter.

    Example:
        settings_from(LwFPlugin, alpha=1.0, temperature=2.0)
    """
    hints = get_type_hints(source.__init__)  # type: ignore[misc]
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(source).parameters.items():
        kind = _plain_type(hints.get(name), parameter.default)
        if name in defaults or (kind is not None and name not in _given_by_us(source)):
            value = defaults.pop(name, ... if parameter.default is parameter.empty else parameter.default)
            fields[name] = (kind or type(value), value)
    if defaults:
        raise TypeError(f"{source.__name__} has no parameter {', '.join(defaults)}")
    model: type[MethodSettings] = create_model(f"{source.__name__}Settings", __base__=MethodSettings, **fields)
    return model


def _given_by_us(source: type) -> set[str]:
    """Parameters that are the suite's, or of no concern here."""
    own = {"verbose", "num_workers", "device", *MethodSettings.model_fields}
    return own | (
        set(inspect.signature(SupervisedTemplate).parameters) if issubclass(source, SupervisedTemplate) else set()
    )


def _plain_type(hint: Any, default: Any) -> Any:
    """The type of a setting; None for a parameter that no setting can be."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [part for part in parts if part in _PLAIN]
    if hint is not None and plain:
        # A list of values, one for each task, is left out where one value will do.
        return functools.reduce(operator.or_, plain)
    if hint is not None or not isinstance(default, _PLAIN) or default is None:
        return None
    return type(default) if isinstance(default, bool | str) else float


class TaskAware(MultiTaskModule):
    """A network with a head per task, called as Avalanche's strategies do.

    Args:
        network: takes images [B, ...] and labels.

    Attributes:
        task: whose head answers where no label is given.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.task = 0

    def adaptation(self, experience: Any) -> None:
        """Notes the task that is trained on."""
        self.task = experience.current_experience
        self.known_train_tasks_labels.add(self.task)

    def forward(self, x: Tensor, *task_labels: Tensor | int | None) -> Any:
        """Logits [B, C]; with None for the labels, those of every task seen, by task."""
        if task_labels == (None,):
            return {task: self.network(x, task) for task in sorted(self.known_train_tasks_labels)}
        return self.network(x, *task_labels or (self.task,))


class ByName(Method):
    """A plugin or strategy of Avalanche.

    Class attributes:
        plugin: the plugin, of the settings that its signature names; None where a strategy does it all.
        template: the strategy, likewise; None for the plain one.
    """

    plugin: ClassVar[type[SupervisedPlugin] | None] = None
    template: ClassVar[type[SupervisedTemplate] | None] = None

    def adapt(self, network: nn.Module) -> nn.Module:
        """A head per task answers to Avalanche's ways of asking."""
        # Some of its plugins view gradients as vectors, which channels that come last do not allow.
        network = network.to(memory_format=torch.contiguous_format)
        return TaskAware(network) if self.workplace.suite.head == "multi" else network

    def benchmark(self) -> Any:
        """A single head goes without labels, as in Avalanche's own benchmarks."""
        stream, head = self.workplace.stream, self.workplace.suite.head
        return stream.benchmark if head == "multi" else stream.unlabelled_benchmark

    def learn(self, task: Task) -> None:
        """Trains on the task; what Avalanche says of its own old functions is of no concern here."""
        said: list[warnings.WarningMessage] = []
        try:
            with warnings.catch_warnings(record=True) as said:
                super().learn(task)
            # A plugin may train another than it was given.
            self.model = self.strategy.model
        finally:
            for each in said:
                if not issubclass(each.category, DeprecationWarning):
                    warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)

    def plugins(self) -> list[SupervisedPlugin]:
        """Avalanche's plugin."""
        return [] if self.plugin is None else [self.plugin(**self._own_settings(self.plugin))]

    def build_strategy(self, template: type[TensorLoaders] | None = None, **settings: Any) -> TensorLoaders:
        """Avalanche's strategy, its loaders replaced by ours."""
        if self.template is not None:
            template = type(f"{self.template.__name__}OnTensors", (TensorLoaders, self.template), {})
            settings = {"criterion": nn.CrossEntropyLoss(), **self._own_settings(self.template)}
        strategy = super().build_strategy(template, **settings)
        # A strategy may put a network around the given one.
        self.model = strategy.model
        return strategy

    def _own_settings(self, source: type) -> dict[str, Any]:
        names = set(type(self.settings).model_fields) - set(MethodSettings.model_fields)
        return {name: getattr(self.settings, name) for name in inspect.signature(source).parameters if name in names}


class LwF(ByName):
    """Learning without Forgetting (Li and Hoiem 2016, arXiv 1606.09282)."""

    plugin = plugins.LwFPlugin
    Settings = settings_from(plugin)


class Replay(ByName):
    """Experience replay (Chaudhry et al. 2019, arXiv 1902.10486), as many images of memory as of the task."""

    plugin = plugins.ReplayPlugin
    Settings = settings_from(plugin)


class GEM(ByName):
    """Gradient Episodic Memory (Lopez-Paz and Ranzato 2017, arXiv 1706.08840), whose memory has 256 images a task."""

    plugin = plugins.GEMPlugin
    Settings = settings_from(plugin, patterns_per_experience=256, memory_strength=0.5)


class AGEM(ByName):
    """Averaged GEM (Chaudhry et al. 2019, arXiv 1812.00420), whose memory has 256 images a task."""

    plugin = plugins.AGEMPlugin
    Settings = settings_from(plugin, patterns_per_experience=256, sample_size=256)


class MAS(ByName):
    """Memory Aware Synapses (Aljundi et al. 2018, arXiv 1711.09601)."""

    plugin = plugins.MASPlugin
    Settings = settings_from(plugin)


class GDumb(ByName):
    """GDumb (Prabhu et al. 2020), which trains on its memory alone."""

    plugin = plugins.GDumbPlugin
    Settings = settings_from(plugin)


class RWalk(ByName):
    """Riemannian Walk (Chaudhry et al. 2018, arXiv 1801.10112)."""

    plugin = plugins.RWalkPlugin
    Settings = settings_from(plugin)


class _FromMemory(ByName):
    """Takes batches of a size of their own from its memory."""

    @classmethod
    def refuses(cls, suite: Suite, settings: Any) -> str:
        """Batches that the memory cannot fill: Avalanche would replay nothing, and say nothing."""
        if (settings.batch_size_mem or 0) <= settings.mem_size:
            return ""
        return (
            f"its batch_size_mem, {settings.batch_size_mem}, is more than its mem_size, {settings.mem_size}, so it "
            "would replay nothing; give a smaller one"
        )


class DER(_FromMemory):
    """Dark Experience Replay, DER++ with beta above 0 (Buzzega et al. 2020, arXiv 2004.07211)."""

    template = supervised.DER
    Settings = settings_from(template)

    def _own_settings(self, source: type) -> dict[str, Any]:
        found, settings = super()._own_settings(source), self.settings
        return {**found, "batch_size_mem": settings.batch_size_mem or min(settings.batch_size, settings.mem_size)}


class ERACE(_FromMemory):
    """Experience replay with asymmetric cross-entropy (Caccia et al. 2022, arXiv 2104.05025)."""

    template = supervised.ER_ACE
    Settings = settings_from(template)


class Cumulative(ByName):
    """Training on all tasks so far, the network going on from the last."""

    template = supervised.Cumulative
    Settings = settings_from(template)


def _no_plateau(name: str, settings: Any) -> str:
    if settings.learning_rate_schedule != "plateau":
        return ""
    return (
        f"{name} changes its network at the end of a task, which the learning_rate_schedule plateau would undo; give "
        "it linear or constant"
    )


class _ICaRLOfOneNetwork(supervised.ICaRL):
    def __init__(self, *, model: OneHead, criterion: Any = None, **settings: Any) -> None:
        super().__init__(feature_extractor=model.trunk, classifier=model.head, buffer_transform=None, **settings)


class ICaRL(ByName):
    """iCaRL (Rebuffi et al. 2017, arXiv 1611.07725): 2,000 images in all."""

    template = _ICaRLOfOneNetwork
    Settings = settings_from(supervised.ICaRL, memory_size=2000, fixed_memory=True)

    @classmethod
    def refuses(cls, suite: Suite, settings: Any) -> str:
        """Tasks without classes of their own, and weights that are put back after its exemplars were chosen."""
        if suite.head != "classes":
            return (
                "avalanche-icarl needs new classes with every task and a head over all, as class-incremental-mnist has"
            )
        return _no_plateau("avalanche-icarl", settings)

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: Any) -> str:
        """Refuses a network whose features cannot be told from its output layer."""
        if isinstance(network, OneHead):
            return ""
        return "avalanche-icarl needs the features of a network, which only those that come with clbench tell apart"

    def benchmark(self) -> Any:
        """With the classes of each task, which only some of Avalanche's benchmarks tell."""
        found = super().benchmark()
        found.n_classes_per_exp = [len(task.train.labels.unique()) for task in self.workplace.stream.tasks]
        found.classes_order = list(range(sum(found.n_classes_per_exp)))
        return found

    def _own_settings(self, source: type) -> dict[str, Any]:
        return super()._own_settings(supervised.ICaRL)


class PackNet(ByName):
    """PackNet (Mallya and Lazebnik 2018, arXiv 1711.05769): half of what is free is pruned, then one epoch more."""

    plugin = PackNetPlugin
    Settings = settings_from(plugin, post_prune_epochs=1, prune_proportion=0.5)
    task_known_at_test = True

    @classmethod
    def refuses(cls, suite: Suite, settings: Any) -> str:
        """Too few epochs, and what would move weights that are frozen."""
        if settings.epochs <= settings.post_prune_epochs:
            return (
                f"avalanche-packnet needs more epochs than its post_prune_epochs, {settings.post_prune_epochs}, but "
                f"got {settings.epochs}"
            )
        if settings.weight_decay:
            return "weight decay moves the weights that avalanche-packnet has frozen; give it weight_decay=0"
        return _no_plateau("avalanche-packnet", settings)

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: Any) -> str:
        """Refuses layers that Avalanche's PackNet does not know."""
        try:
            PackNetModel(copy.deepcopy(network))
        except ValueError as error:
            return f"{error}"
        return ""

    def adapt(self, network: nn.Module) -> nn.Module:
        """Every layer with a mask."""
        return PackNetModel(super().adapt(network))

    def network_for(self, task: Task) -> AbstractContextManager[Answers] | None:
        """The weights of the task, and its head."""
        plain = super().network_for(task)
        return None if plain is None else self._masked(task)

    @contextmanager
    def _masked(self, task: Task) -> Any:
        label = torch.tensor([task.index], device=self.workplace.device)
        tasked = self.model.wrappee
        # A mask that was made while testing is trained with later.
        with torch.inference_mode(False), torch.no_grad(), answering(self.model, task):
            if isinstance(tasked, TaskAware):
                tasked.task = task.index
            yield lambda images: self.model(images, label)
