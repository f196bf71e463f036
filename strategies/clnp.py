r"""CLNP: Continual Learning via Neural Pruning.

Source: Golkar, Kagan and Cho 2019, "Continual learning via neural pruning" (arXiv 1903.04476).

After each task every hidden neuron is *active* (claimed by a task so far) or *free*. Letters: layers
l = 1 .. L - 1 are hidden, N_l neurons each, W_l has shape [N_l, N_{l-1}]; A_l active, F_l free; all inputs of
the network are active. For every task:

1. Train with cross-entropy + alpha |W|_1. The optimiser is given the weights of free neurons only (`compact.py`):
   zeroing the others' gradients would not do, since momentum, weight decay and L1 move a weight without one.
2. Measure each neuron's activity: its mean output after the ReLU over the task's training data.
3. Prune with graceful forgetting: a free neuron of activity <= theta_l is pruned; theta_l is as large as it can
   be while the validation accuracy stays within the margin of the unpruned network's (`thresholds.py`).
4. Partition the weights by (source, destination). Active to active: frozen for ever. Free to active:
   interference, set to 0 and held there. Anything to free: trainable, initialised anew for the next task.

A row of W_l that leads to an active neuron is therefore constant from then on, all of it, and freezing is by
row; of a single head's output layer the columns of active neurons are frozen. So what a task computed depends on
constants only, and *forgetting after the task's own pruning is exactly zero*, while later tasks may read from
active neurons. Which neurons a task reads is its mask, so the task must be known at test time.

Fine-tuning (the paper's improved variant): after step 3 the neurons just claimed train for a few more epochs
without L1, the pruned ones removed.

Departs from it, where the paper is silent: the L1 norm takes in the output layer's weights and no biases; the
activity is the mean size of the output over all inputs, in the precision of training; thresholds are found layer by
layer in order, by bisection over the activities, the margin shared evenly or by `margin_shares` (what an early layer
does not spend passes on to the later); fine-tuning runs at `fine_tune_rate`, by default a quarter, of the learning rate
and is undone if accuracy on the same validation images falls; a single head has a bias per task; each task has a new
optimiser. `l1_proximal` is the paper's norm taken past the optimiser's scaling. Output weights `per-task` are the
paper's multi-head form on a network with one output layer; which form its numbers on permuted MNIST have is not known.

Options beyond the paper, both off by default: `l1_activities`, the L1 norm of the free neurons' activities, and
`fine_tune_dropout`.

What matters, by docs/clnp.md: the margin together with fine-tuning, which gives back what a wide margin costs; the
strength of the L1 norm of the weights, which Adam's scaling makes slow, so that the suite gives it more epochs, and a
falling learning rate slower, so that on three tasks a constant one claimed a quarter to a third fewer neurons; output
weights per task, without which later tasks claim more and more. The proximal norm was the worse one, one threshold for
both layers as well, and how free weights start anew made no difference that shows. What matters beyond the paper: the
norm on activities, which does in few epochs what that of the weights does in many, and inputs dropped while
fine-tuning, which make many epochs of it pay.
"""

import copy
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from avalanche.benchmarks import CLExperience
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clbench.data.loading import TensorLoader
from clbench.data.streams import Stream, Task
from clbench.errors import DivergenceError, MethodError, MethodWarning
from clbench.methods.method import EVALUATION_BATCH, Answers, Method, Phase
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.seeding import RandomStreams
from clbench.strategies.compact import CompactChain, Neurons
from clbench.strategies.thresholds import Validation, choose_thresholds
from clbench.suites.settings import setting_error
from clbench.suites.suite import Suite


def _as_list(value: Any) -> Any:
    """One number for a list of it, as `--set` reads it; a tuple for a list, as one may write it in Python."""
    return [value] if isinstance(value, int | float) else list(value) if isinstance(value, tuple) else value


Strength = Annotated[float, Field(ge=0, le=1)]
Strengths = Annotated[list[Strength], BeforeValidator(_as_list), Field(min_length=1)]
MarginShares = Annotated[list[Annotated[float, Field(gt=0, le=100)]], BeforeValidator(_as_list), Field(min_length=1)]


class CLNPSettings(MethodSettings):
    """Hyper-parameters of CLNP.

    Attributes:
        margin: m, accuracy in percentage points that pruning may cost on the task's validation data.
        margin_shares: in what proportion the hidden layers, in order, may spend it, one number for each; none for
            evenly. A layer's larger share leaves more of it free.
        l1_weights: alpha, the weight of the L1 norm of all trainable weights.
        l1_proximal: strength of the same L1 norm by soft thresholding: after a step of learning rate r every weight
            moves r * l1_proximal towards 0, whatever the optimiser's scaling.
        l1_activities: weight of the sum, over free neurons, of their mean output in the batch; one for all hidden
            layers, or one for each, which shifts the claims from one layer to another. Beyond the paper.
        fine_tune_share: share of the epochs that come after pruning, rounded to whole epochs; 0 is the paper's plain
            form.
        fine_tune_rate: their learning rate, as a share of the task's; it falls linearly, from epoch to epoch.
        fine_tune_dropout: share d of the network's inputs (pixels) that are set to 0 at random while fine-tuning, the
            rest times 1 / (1 - d). Beyond the paper.
        output_weights: of a single head: `shared`, where what leads from a task's neurons to the outputs is frozen with
            them and adds to the outputs of every later task; or `per-task`, where every task has its own, from all
            neurons active then, as with a head per task.
        thresholds: one theta `per-layer`, or one `global` theta for all layers.
        initial_scale: before every task but the first, free neurons draw their weights from the uniform distribution
            that PyTorch gives a linear layer, this many times as wide; none: they stay as the task before left them.
        frozen_cache_mib: how much memory, in MiB, may be used to compute once per task, not once per step, what active
            neurons give for the training images; 0 for none. The same within rounding. Images that are augmented, or
            too many for the loader to keep as floats, are computed with at every step.
    """

    added_later: ClassVar[Mapping[str, Any]] = {"frozen_cache_mib": 1024, "initial_scale": 1.0, "margin_shares": None}

    margin: float = Field(default=1.0, ge=0, le=100)
    margin_shares: MarginShares | None = None
    l1_weights: float = Field(default=1e-5, ge=0, le=1)
    l1_proximal: float = Field(default=0.0, ge=0, le=100)
    l1_activities: Strengths = [0.0]
    fine_tune_share: float = Field(default=0.3, ge=0, lt=1)
    fine_tune_rate: float = Field(default=0.25, gt=0, le=1)
    fine_tune_dropout: float = Field(default=0.0, ge=0, lt=1)
    output_weights: Literal["shared", "per-task"] = "shared"
    thresholds: Literal["per-layer", "global"] = "per-layer"
    initial_scale: float | None = Field(default=1.0, gt=0, le=10)
    frozen_cache_mib: int = Field(default=1024, ge=0, le=2**20)
    reset_optimizer: AlwaysNew = True

    @model_validator(mode="after")
    def _shares_are_of_layers(self) -> "CLNPSettings":
        if self.margin_shares is not None and self.thresholds == "global":
            raise ValueError(
                "CLNP's margin_shares need thresholds per-layer, but got global, which has no shares; give "
                "margin_shares=none with it"
            )
        return self


# Below this share of free neurons a task is told that it may not fit.
_SCARCE = 0.05


@dataclass
class HiddenLayer:
    """One prunable layer.

    Attributes:
        linear: its weights.
        active: bool [N_l], neurons claimed by a task so far.
    """

    linear: nn.Linear
    active: Tensor


@dataclass(frozen=True)
class LayerReport:
    """What one task did to one hidden layer.

    Attributes:
        layer: its number, from 1.
        neurons, free, new, reused: counts after the task; `reused` are neurons of earlier tasks that are active
            on this one and reach a newly claimed neuron, or the head, through a weight that is not 0.
        threshold: theta_l.
        margin_spent: accuracy in percentage points that pruning this layer cost on the validation data.
    """

    layer: int
    neurons: int
    free: int
    new: int
    reused: int
    threshold: float
    margin_spent: float


class CLNPPlugin(SupervisedPlugin):
    """CLNP for any Avalanche strategy whose network is a chain of linear layers.

    The network may hold anything without parameters between the linear layers (ReLU, dropout, flatten). It has
    one output layer, or one per task (multi-head). Each training experience is a task; an evaluation experience
    is seen through the mask of the training experience with the same `current_experience`, an experience not
    learned yet through the latest mask. Outside Avalanche's loops use `with plugin.task(index): model(x)`.

    Args:
        margin, margin_shares, l1_weights, l1_proximal, l1_activities, fine_tune_rate, fine_tune_dropout,
            output_weights, thresholds, initial_scale: see `CLNPSettings`.
        fine_tune_epochs: epochs after pruning, on top of the strategy's own; 0 for none.
        validation_stream: per task, an Avalanche experience or an iterable of `[x, y, task_labels]` batches; None
            lets the plugin hold out `validation_share` of the task's training data.
        validation_share: of the training data, where no stream is given.
        seed: of new initial weights and of the held-out share.
        frozen_cache_bytes: memory for what active neurons give for the training images, see `CLNPSettings`. Needs
            batches from a `TensorLoader`, and a network that works image by image and without randomness between the
            linear layers.

    Attributes:
        layers: the hidden layers, found when the first task arrives.
        reports: per task, a `LayerReport` per layer.

    Raises:
        SettingError, MethodError: for an argument out of its range.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        margin_shares: Sequence[float] | float | None = None,
        l1_weights: float = 1e-5,
        l1_proximal: float = 0.0,
        l1_activities: float | Sequence[float] = 0.0,
        fine_tune_epochs: int = 3,
        fine_tune_rate: float = 0.25,
        fine_tune_dropout: float = 0.0,
        output_weights: Literal["shared", "per-task"] = "shared",
        thresholds: Literal["per-layer", "global"] = "per-layer",
        initial_scale: float | None = 1.0,
        validation_stream: Sequence[Any] | None = None,
        validation_share: float = 0.1,
        seed: int = 0,
        frozen_cache_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.margin_shares: Sequence[float] | None = _as_list(margin_shares)
        self.l1_weights = l1_weights
        self.l1_proximal = l1_proximal
        self.l1_activities = l1_activities
        self.fine_tune_epochs = fine_tune_epochs
        self.fine_tune_rate = fine_tune_rate
        self.fine_tune_dropout = fine_tune_dropout
        self.output_weights = output_weights
        self.thresholds = thresholds
        self.initial_scale = initial_scale
        self.validation_stream = validation_stream
        self.validation_share = validation_share
        self.seed = seed
        self.frozen_cache_bytes = frozen_cache_bytes
        self.layers: list[HiddenLayer] = []
        self.masks: dict[int, list[Tensor]] = {}  # task -> per layer, bool [N_l]: active after that task
        self.head_of: dict[int, str] = {}  # task -> name of its output layer
        self.output_bias: dict[int, Tensor] = {}  # task -> bias of its output layer, [C], empty without bias
        self.output_weight: dict[int, Tensor] = {}  # task -> weights of its output layer, [C, N_{L-1}], if its own
        self.reports: dict[int, list[LayerReport]] = {}
        self._heads: dict[str, nn.Linear] = {}  # output layers seen so far, by name
        self._hooked: set[str] = set()
        self._in_use: int | None = None  # the task that is looked back at
        self._mask: list[Tensor] | None = None  # masks in force, None: the whole network
        self._orders: list[Tensor] | None = None  # per hidden layer, which neurons it is reduced to, if it is
        # A head, its present bias and its present weights, while a task's are in their place.
        self._displaced: tuple[nn.Linear, Tensor, Tensor] | None = None
        self._inputs: list[Tensor | None] = []  # per hidden layer, its latest output (next layer's input)
        self._chain: CompactChain | None = None  # while training: the network as this task computes with it
        # Per hidden layer, what active neurons give for the training images, and the loader of these.
        self._answers: list[Tensor | None] = []
        self._answers_of: TensorLoader | None = None
        self._view: CompactChain | None = None  # the network of a task that is looked back at
        self._phase: Literal["idle", "train", "fine-tune"] = "idle"
        self._check_arguments()

    # -- Avalanche's events ------------------------------------------------------------------------------------

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Holds out validation data where no validation stream was given."""
        if self.validation_stream is not None:
            return
        dataset = strategy.adapted_dataset
        held_out = max(1, round(len(dataset) * self.validation_share))
        if held_out >= len(dataset):
            raise MethodError(f"CLNP cannot hold out {held_out} of {len(dataset)} training images for validation")
        order = torch.randperm(len(dataset), generator=self._generator("validation", strategy)).tolist()
        self._validation_data = dataset.subset(order[:held_out]).eval()
        strategy.adapted_dataset = dataset.subset(order[held_out:])

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Finds the layers, gives the free neurons new weights, and hands only these to the optimiser."""
        self._use(None)
        self._forget_answers()
        sample = strategy.experience.dataset[0]
        self._head_name = self.attach(
            strategy.model,
            _tensor_of(sample[0]).unsqueeze(0).to(strategy.device),
            torch.tensor([int(sample[-1])], device=strategy.device),
        )
        self._head = self._heads[self._head_name]
        if reason := _misfit_of_layers(self._given_activity_strengths(), self.margin_shares, len(self.layers)):
            raise MethodError(f"CLNP's settings do not fit: {reason}")
        if self.masks:
            self._initialise_free(strategy)
        if isinstance(source := self._validation_source(strategy), AvalancheDataset):
            # Now rather than after the task, whose images may be transformed in another way.
            _tensor_of(source[0][0])
        self._warn_if_full()
        self._enter(strategy, [torch.ones_like(layer.active) for layer in self.layers])
        self._answer_once(strategy)
        self._phase = "train"

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Drops inputs at random while fine-tuning, if asked for; otherwise says which images come."""
        if self._phase == "fine-tune" and self.fine_tune_dropout:
            strategy.mbatch[0] = nn.functional.dropout(strategy.mb_x, self.fine_tune_dropout)
        elif self._chain is not None:
            self._chain.at(self._positions(strategy.mb_x))

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """What comes next may be other images."""
        if self._chain is not None:
            self._chain.at(None)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the L1 norm of the free neurons' activities, if asked for, to the loss."""
        if self._phase == "train":
            assert self._chain is not None
            strengths = self._activity_strengths()
            for strength, reader, output in zip(strengths, self._chain.layers[1:], self._inputs, strict=True):
                assert output is not None
                if strength:
                    strategy.loss += strength * output[:, reader.n_constant :].float().mean(0).sum()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the gradient of the L1 norm of the weights."""
        if self._phase == "train" and self.l1_weights:
            for weight in self._trainable_weights():
                # Free neurons that lead to a full layer have no gradient.
                if weight.grad is not None:
                    weight.grad.add_(weight.detach().sign(), alpha=self.l1_weights)

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Shrinks the weights, if asked for."""
        if self._phase == "train" and self.l1_proximal:
            bound = self.l1_proximal * strategy.optimizer.param_groups[0]["lr"]
            for weight in self._trainable_weights():
                weight.sub_(weight.clamp(-bound, bound))

    def _given_activity_strengths(self) -> Sequence[float]:
        return self.l1_activities if isinstance(self.l1_activities, Sequence) else (self.l1_activities,)

    def _activity_strengths(self) -> Sequence[float]:
        given = self._given_activity_strengths()
        return given if len(given) > 1 else [given[0]] * len(self.layers)

    def _trainable_weights(self) -> list[nn.Parameter]:
        assert self._chain is not None
        return [weight for layer in self._chain.layers for weight in layer.weights]

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Prunes, fine-tunes, and freezes what the task has claimed."""
        task = strategy.experience.current_experience
        self._phase = "idle"
        activity = self._measure_activity(strategy)
        self._leave()
        self._check_finite()
        validation = Validation(self, strategy.model, self._validation_batches(strategy))
        masks, thresholds, spent = self._prune(activity, validation)
        self._warn_if_empty(masks)
        new = [mask & ~layer.active for mask, layer in zip(masks, self.layers, strict=True)]
        self._cut_interference(masks, new)
        if self.fine_tune_epochs and any(bool(claimed.any()) for claimed in new):
            self._fine_tune(strategy, validation, masks)
        reused = self._count_reused(activity, thresholds, new)
        for layer, claimed in zip(self.layers, new, strict=True):
            layer.active |= claimed
        self.masks[task] = masks
        self.head_of[task] = self._head_name
        self.output_bias[task] = _bias_of(self._head).clone()
        if self.output_weights == "per-task":
            self.output_weight[task] = self._head.weight.detach().clone()
        self.reports[task] = [
            LayerReport(
                layer=number + 1,
                neurons=len(layer.active),
                free=int((~layer.active).sum()),
                new=int(new[number].sum()),
                reused=reused[number],
                threshold=thresholds[number],
                margin_spent=spent[number],
            )
            for number, layer in enumerate(self.layers)
        ]
        self._inputs = [None] * len(self.layers)
        self._forget_answers()

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """In the midst of training, the whole network answers, with what was trained so far in it."""
        # An evaluation before this one may have been interrupted.
        self._use(None)
        if self._chain is not None:
            self._chain.suspend()

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Training goes on with what is left of the network."""
        if self._chain is not None:
            self._chain.resume()

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Sees the experience through its task's mask."""
        index = strategy.experience.current_experience
        # In the midst of training, the task at hand has no mask yet: it is seen as it is.
        if self._phase == "idle" or index in self.masks:
            self._use(index)

    def after_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Lets the whole network answer again."""
        self._use(None)

    def _check_arguments(self) -> None:
        try:
            CLNPSettings(
                margin=self.margin,
                margin_shares=self.margin_shares,  # type: ignore[arg-type]
                l1_weights=self.l1_weights,
                l1_proximal=self.l1_proximal,
                l1_activities=self.l1_activities,  # type: ignore[arg-type]
                fine_tune_rate=self.fine_tune_rate,
                fine_tune_dropout=self.fine_tune_dropout,
                output_weights=self.output_weights,
                thresholds=self.thresholds,
                initial_scale=self.initial_scale,
            )
        except ValidationError as error:
            raise setting_error(error, prefix="CLNPPlugin.") from None
        if self.fine_tune_epochs < 0 or not 0 < self.validation_share < 1:
            raise MethodError(
                "CLNPPlugin needs fine_tune_epochs >= 0 and 0 < validation_share < 1, but got "
                f"{self.fine_tune_epochs} and {self.validation_share}"
            )
        if self.frozen_cache_bytes < 0:
            raise MethodError(f"CLNPPlugin needs frozen_cache_bytes >= 0, but got {self.frozen_cache_bytes}")

    # -- Masks -------------------------------------------------------------------------------------------------

    @contextmanager
    def task(self, index: int) -> Iterator[None]:
        """Within this context the network answers as it did right after learning task `index`.

        A task that was not learned is seen through the latest mask. Without gradients (`torch.no_grad()`) only the
        task's own neurons are computed; with them the whole network is, masked, which is the same within rounding.
        """
        before, training = self._in_use, self._chain is not None and self._chain.in_force
        if training:
            assert self._chain is not None
            self._chain.suspend()
        try:
            self._use(index)
            yield
        finally:
            self._use(before)
            if training:
                assert self._chain is not None
                self._chain.resume()

    def _use(self, task: int | None) -> None:
        if task is not None and task == self._in_use and not (self._view and torch.is_grad_enabled()):
            return
        self._in_use = None
        if self._view is not None:
            self._view.release()
            self._view = None
        if self._displaced is not None:
            head, bias, weight = self._displaced
            _bias_of(head).copy_(bias)
            head.weight.detach().copy_(weight)
            self._displaced = None
        self._mask = None
        if task is None or not self.masks:
            return
        known = task if task in self.masks else next(reversed(self.masks))
        head = self._heads[self.head_of[known]]
        self._displaced = head, _bias_of(head).clone(), head.weight.detach().clone()
        _bias_of(head).copy_(self.output_bias[known])
        if known in self.output_weight:
            head.weight.detach().copy_(self.output_weight[known])
        # A task not learned yet may have a head of its own, which reads the whole layer before it.
        if known == task and not torch.is_grad_enabled():
            self._view = self._reduced(self.masks[known], head)
        else:
            self._mask = self.masks[known]
        self._in_use = task

    @contextmanager
    def _seen_through(self, masks: list[Tensor] | None) -> Iterator[None]:
        """Within, the network is masked: bool [N_l] per hidden layer; None stands for all of it."""
        previous, self._mask = self._mask, masks
        try:
            yield
        finally:
            self._mask = previous

    @contextmanager
    def _reduced_to(self, kept: list[Tensor]) -> Iterator[None]:
        """Within, the network consists of these neurons alone (bool [N_l] per layer); masks keep their shape."""
        chain = self._reduced(kept, self._head)
        self._orders = chain.orders
        try:
            yield
        finally:
            chain.release()
            self._orders = None

    def _hook(self, number: int) -> Any:
        """What sits before the layer that reads hidden layer `number`: applies the mask, notes the output."""

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            (output,) = args
            if self._mask is not None:
                mask = self._mask[number] if self._orders is None else self._mask[number][self._orders[number]]
                output = output * mask.to(output.dtype)
            self._inputs[number] = output
            return (output,)

        return before

    # -- The network -------------------------------------------------------------------------------------------

    def attach(self, model: nn.Module, x: Tensor, task_labels: Tensor) -> str:
        """Finds the layers by following a batch through the network: the linear layers it passes are the chain.

        Happens by itself when a task is trained; again for a network that it knows, it does nothing new.

        Returns:
            The name of the output layer, the last one passed.

        Raises:
            MethodError: if the network is not a chain of linear layers, or changed since an earlier task.
        """
        names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        passed: list[nn.Linear] = []
        hooks = [module.register_forward_hook(lambda m, _, __: passed.append(m)) for module in names]
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                avalanche_forward(model, x, task_labels)
        finally:
            model.train(was_training)
            for hook in hooks:
                hook.remove()
        _check_chain(model, passed, names)
        hidden, head = passed[:-1], passed[-1]
        if not self.layers:
            for number, linear in enumerate(hidden):
                nobody = torch.zeros(linear.out_features, dtype=torch.bool, device=linear.weight.device)
                self.layers.append(HiddenLayer(linear, nobody))
                if number:
                    linear.register_forward_pre_hook(self._hook(number - 1))
            self._inputs = [None] * len(self.layers)
        elif [layer.linear for layer in self.layers] != hidden:
            raise MethodError(
                "CLNP needs the same hidden layers for every task, but the network's have changed since the first"
            )
        name = names[head]
        if self._heads.setdefault(name, head) is not head:
            raise MethodError(
                f"CLNP needs output layers of fixed size, but '{name}' was replaced after an earlier task; "
                "build it for all classes from the start, or use a head per task"
            )
        if name not in self._hooked:
            self._hooked.add(name)
            head.register_forward_pre_hook(self._hook(len(self.layers) - 1))
        return name

    def _readers(self) -> list[nn.Linear]:
        """Per hidden layer, the layer that reads it."""
        return [*(layer.linear for layer in self.layers[1:]), self._head]

    @torch.no_grad()
    def _initialise_free(self, strategy: Any) -> None:
        """Free neurons, and what an output layer in its second use reads from them, start anew.

        The distribution is the one that PyTorch gives a linear layer, of the free neurons' weights as wide as
        `initial_scale` says; biases start at 0.
        """
        generator = self._generator("weights", strategy)

        def fresh(weight: Tensor) -> Tensor:
            bound = weight.shape[1] ** -0.5
            values = torch.rand(weight.shape, generator=generator, dtype=weight.dtype).mul_(2 * bound).sub_(bound)
            return values.to(weight.device)

        if self.initial_scale is not None:
            for layer in self.layers:
                free = ~layer.active
                layer.linear.weight[free] = fresh(layer.linear.weight)[free] * self.initial_scale
                if layer.linear.bias is not None:
                    layer.linear.bias[free] = 0
        if self._head_name in self.head_of.values():
            kept = self._columns_of_earlier_tasks()
            columns = slice(None) if kept is None else ~kept
            self._head.weight[:, columns] = fresh(self._head.weight)[:, columns]
            _bias_of(self._head).zero_()

    def _columns_of_earlier_tasks(self) -> Tensor | None:
        """Columns of the present output layer that earlier tasks use, bool [N_{L-1}]; None where they use none."""
        if self.output_weights == "per-task":
            return None
        masks = [self.masks[task][-1] for task, name in self.head_of.items() if name == self._head_name]
        return torch.stack(masks).any(0) if masks else None

    def _warn_if_full(self) -> None:
        for number, layer in enumerate(self.layers):
            free = int((~layer.active).sum())
            if free < _SCARCE * len(layer.active):
                warnings.warn(
                    f"CLNP has only {free} of {len(layer.active)} neurons of hidden layer {number + 1} left for the "
                    "next task; a wider network, a wider margin or more L1 leaves more",
                    MethodWarning,
                    stacklevel=2,
                )

    @staticmethod
    def _warn_if_empty(masks: list[Tensor]) -> None:
        for number, mask in enumerate(masks, start=1):
            if not mask.any():
                warnings.warn(
                    f"CLNP's pruning left no neuron of hidden layer {number}: the task now gets the same answer for "
                    "every image; a smaller margin or less L1 keeps some",
                    MethodWarning,
                    stacklevel=2,
                )

    def _not_finite(self) -> list[str]:
        """In words, the layers with weights that are no finite numbers."""
        names = [*(f"hidden layer {number}" for number in range(1, len(self.layers) + 1)), f"'{self._head_name}'"]
        layers = zip(names, self._linears(self._head), strict=True)
        return [name for name, linear in layers if not all(bool(p.isfinite().all()) for p in linear.parameters())]

    def _check_finite(self) -> None:
        if found := self._not_finite():
            raise DivergenceError(
                f"training for CLNP left weights of {', '.join(found)} that are not finite numbers, so nothing was "
                "claimed for the task; a lower learning rate may keep them finite"
            )

    def _enter(self, strategy: Any, kept: list[Tensor]) -> None:
        """Reduces the network to the neurons that are kept; of these, the free ones train."""
        neurons = [
            Neurons(layer.active.nonzero().squeeze(1), (keep & ~layer.active).nonzero().squeeze(1))
            for layer, keep in zip(self.layers, kept, strict=True)
        ]
        taken = self._columns_of_earlier_tasks()
        fixed = None if taken is None else taken[neurons[-1].constant]
        self._chain = CompactChain(self._linears(self._head), neurons, fixed)
        self._chain.look_up(self._answers)
        self._chain.enter(strategy.optimizer)

    def _linears(self, head: nn.Linear) -> list[nn.Linear]:
        return [*(layer.linear for layer in self.layers), head]

    def _reduced(self, kept: list[Tensor], head: nn.Linear) -> CompactChain:
        """The network of these neurons alone (bool [N_l] per layer), in force until it is released."""
        neurons = [Neurons(mask.nonzero().squeeze(1), mask.new_empty(0, dtype=torch.int64)) for mask in kept]
        chain = CompactChain(self._linears(head), neurons)
        chain.resume()
        return chain

    def _answer_once(self, strategy: Any) -> None:
        """Computes what the active neurons give for the task's images, which stays the same until its end."""
        loader = strategy.dataloader
        if not (self.frozen_cache_bytes and self.masks and isinstance(loader, TensorLoader)):
            return
        if len(loader) * loader.batch_size * strategy.train_epochs < loader.n_images:
            # Fewer answers would be needed than there are images.
            return
        kept = loader.resident()
        if kept is None:
            return
        assert self._chain is not None

        def forward(x: Tensor) -> None:
            with _autocast(strategy):
                avalanche_forward(strategy.model, x, loader.samples[0].task_label)

        self._answers = self._chain.answers(forward, kept[0], EVALUATION_BATCH, self.frozen_cache_bytes)
        self._answers_of = loader
        self._chain.look_up(self._answers)

    def _forget_answers(self) -> None:
        self._answers, self._answers_of = [], None

    def _positions(self, x: Tensor) -> Tensor | None:
        """Which of the images that there are answers for these are; None for others."""
        return None if self._answers_of is None else self._answers_of.positions(x)

    def _leave(self) -> None:
        assert self._chain is not None
        self._chain.leave()
        self._chain = None

    @torch.no_grad()
    def _cut_interference(self, masks: list[Tensor], new: list[Tensor]) -> None:
        """Zeroes the weights from pruned neurons to the ones just claimed, and to the head of the task."""
        for number, mask in enumerate(masks[:-1]):
            reader = self.layers[number + 1].linear.weight
            reader.masked_fill_(new[number + 1][:, None] & ~mask[None, :], 0)
        self._head.weight.masked_fill_(~masks[-1][None, :], 0)

    # -- Pruning -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _measure_activity(self, strategy: Any) -> list[Tensor]:
        """Mean output of every hidden neuron over the task's training data: per layer, float64 [N_l]."""
        assert self._chain is not None
        sums = [
            torch.zeros(layer.active.shape, dtype=torch.float64, device=layer.active.device) for layer in self.layers
        ]
        count = 0
        was_training = strategy.model.training
        strategy.model.eval()
        for batch in strategy.dataloader:
            x, labels = batch[0].to(strategy.device), batch[-1].to(strategy.device)
            # In the precision of training: a mean over so many outputs needs no other.
            self._chain.at(self._positions(x))
            with _autocast(strategy):
                avalanche_forward(strategy.model, x, labels)
            for total, order, output in zip(sums, self._chain.orders, self._inputs, strict=True):
                assert output is not None
                # A ReLU's output is its own size; for other activations the size is what matters.
                total[order] += output.abs().sum(0, dtype=torch.float32)
            count += len(x)
        strategy.model.train(was_training)
        return [total / count for total in sums]

    def _prune(self, activity: list[Tensor], validation: Validation) -> tuple[list[Tensor], list[float], list[float]]:
        """Chooses the thresholds: per layer the mask (bool [N_l], what stays), theta_l, and the points it cost."""
        active = [layer.active for layer in self.layers]
        return choose_thresholds(
            activity,
            active,
            validation,
            self.margin,
            self.margin_shares,
            global_threshold=self.thresholds == "global",
        )

    def _fine_tune(self, strategy: Any, validation: Validation, masks: list[Tensor]) -> None:
        """Trains what the task has claimed, the rest removed; undone if validation accuracy falls."""
        with self._reduced_to(masks):
            before = validation.accuracy(None)
        state = {name: tensor.clone() for name, tensor in strategy.model.state_dict().items()}
        full_rates = [group["lr"] for group in strategy.optimizer.param_groups]
        if self.fine_tune_dropout:
            # No image comes whole any more.
            self._forget_answers()
        self._enter(strategy, masks)
        self._phase = "fine-tune"
        for epoch in range(self.fine_tune_epochs):
            for group, full in zip(strategy.optimizer.param_groups, full_rates, strict=True):
                group["lr"] = full * self.fine_tune_rate * (1 - epoch / self.fine_tune_epochs)
            strategy.training_epoch()
        self._phase = "idle"
        after = validation.accuracy(None)
        self._leave()
        for group, full in zip(strategy.optimizer.param_groups, full_rates, strict=True):
            group["lr"] = full
        if after < before or self._not_finite():
            strategy.model.load_state_dict(state)

    def _validation_source(self, strategy: Any) -> Any:
        """What the task's validation images are in: a data set, a loader, or batches."""
        if self.validation_stream is None:
            return self._validation_data
        source = self.validation_stream[strategy.experience.current_experience]
        return source.dataset.eval() if isinstance(source, CLExperience) else source

    def _validation_batches(self, strategy: Any) -> Iterable[Sequence[Tensor]]:
        """The task's `[x, y, task_labels]` for validation, on the device."""
        source = self._validation_source(strategy)
        if isinstance(source, TensorLoader) and source.resident() is None:
            # Too many to keep them all as floats.
            return source
        if isinstance(source, AvalancheDataset):
            source = DataLoader(source, batch_size=EVALUATION_BATCH)
        return [[part.to(strategy.device) for part in (batch[0], batch[1], batch[-1])] for batch in source]

    def _count_reused(self, activity: list[Tensor], thresholds: list[float], new: list[Tensor]) -> list[int]:
        """Per layer, the neurons of earlier tasks that this task works with (see `LayerReport`)."""
        counts = []
        for number, (layer, reader) in enumerate(zip(self.layers, self._readers(), strict=True)):
            awake = layer.active & (activity[number] > thresholds[number])
            rows = reader.weight if reader is self._head else reader.weight[new[number + 1]]
            counts.append(int((awake & (rows != 0).any(0)).sum()))
        return counts

    def _generator(self, purpose: str, strategy: Any) -> torch.Generator:
        return RandomStreams(self.seed).generator(f"clnp-{purpose}", strategy.experience.current_experience)

    # -- State -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """What must be kept between tasks beside the weights: a bit per neuron and task, a bias per task, and its
        output weights where it has its own."""
        return {
            **{f"mask/{task}/{n}": mask for task, masks in self.masks.items() for n, mask in enumerate(masks)},
            **{f"bias/{task}/{self.head_of[task]}": bias for task, bias in self.output_bias.items()},
            **{f"weight/{task}/{self.head_of[task]}": weight for task, weight in self.output_weight.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave; call after `attach`."""
        device = self.layers[0].active.device
        for key, tensor in state.items():
            kind, task, name = key.split("/")
            own = tensor.to(device, copy=True)
            if kind == "mask":
                self.masks.setdefault(int(task), []).append(own)
            elif kind == "weight":
                self.output_weight[int(task)] = own
            else:
                self.head_of[int(task)] = name
                self.output_bias[int(task)] = own
        for masks in self.masks.values():
            for layer, mask in zip(self.layers, masks, strict=True):
                layer.active |= mask


def _tensor_of(image: Any) -> Tensor:
    try:
        return torch.as_tensor(image)
    except (RuntimeError, TypeError, ValueError):
        raise MethodError(
            f"CLNP needs images as tensors, but the experience gives {type(image).__module__}.{type(image).__name__}; "
            "give its data set a transform, such as torchvision.transforms.ToTensor(), for training and for evaluation"
        ) from None


def _check_chain(model: nn.Module, passed: list[nn.Linear], names: Mapping[nn.Linear, str]) -> None:
    covered = {id(parameter) for linear in names for parameter in linear.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in covered:
            raise MethodError(
                f"CLNP prunes networks of linear layers so far, but '{name}' belongs to another kind of layer"
            )
    if len(passed) < 2:
        raise MethodError("CLNP needs at least one hidden linear layer before the output layer")
    if len(set(passed)) < len(passed):
        raise MethodError("CLNP needs a network that uses each linear layer once per forward pass")
    for earlier, later in itertools.pairwise(passed):
        if earlier.out_features != later.in_features:
            raise MethodError(
                "CLNP needs linear layers that follow one another, but "
                f"'{names[earlier]}' gives {earlier.out_features} values and '{names[later]}' reads "
                f"{later.in_features}"
            )


def _autocast(strategy: Any) -> AbstractContextManager[Any]:
    """The precision of training, where the strategy has one of its own."""
    return strategy.autocast() if hasattr(strategy, "autocast") else nullcontext()


def _bias_of(linear: nn.Linear) -> Tensor:
    """The bias itself, outside autograd; an empty tensor for a layer without."""
    return linear.weight.new_empty(0) if linear.bias is None else linear.bias.detach()


def _misfit_of_layers(l1_activities: Sequence[float], margin_shares: Sequence[float] | None, n_layers: int) -> str:
    """What is wrong with the number of values; empty where nothing is."""
    if len(l1_activities) not in (1, n_layers):
        return (
            f"l1_activities has {len(l1_activities)} values for {n_layers} hidden layers; give one for each, or a "
            "single number for all"
        )
    if margin_shares is not None and len(margin_shares) != n_layers:
        layers = "one hidden layer" if n_layers == 1 else f"{n_layers} hidden layers"
        return (
            f"margin_shares has {len(margin_shares)} values for {layers}; give one for each, or none with "
            "--set clnp.margin_shares=none"
        )
    return ""


@torch.no_grad()
def _bypass(network: nn.Module, image: Tensor, linears: Sequence[nn.Module]) -> str:
    """Whether what a layer gives reaches the outputs by another way than through the next; empty where it does not.

    With the first half of what the next layer reads set to 0, it must make no difference what the layer gave there.
    """
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, dtype=torch.long)
    was_training = network.training
    network.eval()

    def logits(layer: nn.Module, following: nn.Module, added: float) -> Tensor:
        half = layer.out_features // 2 + 1  # type: ignore[operator]

        def give(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :half] + added, output[:, half:]], dim=1)

        def read(module: nn.Module, args: Any) -> tuple[Tensor]:
            return (torch.cat([torch.zeros_like(args[0][:, :half]), args[0][:, half:]], dim=1),)

        hooks = [layer.register_forward_hook(give), following.register_forward_pre_hook(read)]
        try:
            return avalanche_forward(network, noise, labels)
        finally:
            for hook in hooks:
                hook.remove()

    try:
        for layer, following in itertools.pairwise(linears):
            if not torch.allclose(logits(layer, following, 0.0), logits(layer, following, 1.0), rtol=1e-4, atol=1e-6):
                return "CLNP needs a chain of linear layers, but here one reaches the outputs past the next"
    finally:
        network.train(was_training)
    return ""


class _ValidationStream(Sequence[TensorLoader]):
    """The validation batches of every task, made when they are asked for."""

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self.stream = stream
        self.device = device

    def __len__(self) -> int:
        return len(self.stream.tasks)

    def __getitem__(self, index: Any) -> Any:
        return TensorLoader([self.stream.tasks[index].validation], EVALUATION_BATCH, self.device)


class CLNP(Method):
    """CLNP on a suite; fine-tuning epochs are taken out of the method's, not added to them."""

    Settings = CLNPSettings
    resumes = True
    task_known_at_test = True

    @classmethod
    def refuses(cls, suite: Suite, settings: CLNPSettings) -> str:
        """Where settings for each hidden layer are for another number of them, or weights would have to be restored."""
        if settings.learning_rate_schedule == "plateau":
            return (
                "CLNP trains a part of the network at a time, which the learning_rate_schedule plateau cannot restore; "
                "give it linear or constant"
            )
        if suite.network != "mlp":
            return ""
        n_layers = len(suite.network_settings["hidden_sizes"])
        return _misfit_of_layers(settings.l1_activities, settings.margin_shares, n_layers)

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: CLNPSettings) -> str:
        """Refuses all but a chain of linear layers, and settings for another number of them."""
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                return f"CLNP trains every weight, but '{name}' is frozen"
        for name, _ in network.named_buffers():
            return f"CLNP prunes networks without buffers so far, but '{name}' is one"
        # The plugin leaves hooks behind.
        network, plugin = copy.deepcopy(network), CLNPPlugin()
        try:
            head = plugin.attach(network, image, torch.zeros(1, dtype=torch.long))
        except MethodError as error:
            return str(error)
        if misfit := _misfit_of_layers(settings.l1_activities, settings.margin_shares, len(plugin.layers)):
            return misfit
        linears = [*(layer.linear for layer in plugin.layers), network.get_submodule(head)]
        return "" if image.is_meta else _bypass(network, image, linears)

    def plugins(self) -> list[SupervisedPlugin]:
        """The CLNP plugin, with the suite's validation images."""
        s = self.settings
        self.clnp = CLNPPlugin(
            margin=s.margin,
            margin_shares=s.margin_shares,
            l1_weights=s.l1_weights,
            l1_proximal=s.l1_proximal,
            l1_activities=s.l1_activities,
            fine_tune_epochs=s.epochs - self._epochs_before_pruning(),
            fine_tune_rate=s.fine_tune_rate,
            fine_tune_dropout=s.fine_tune_dropout,
            output_weights=s.output_weights,
            thresholds=s.thresholds,
            initial_scale=s.initial_scale,
            validation_stream=_ValidationStream(self.workplace.stream, self.workplace.device),
            seed=self.workplace.seeds.derive("clnp"),
            frozen_cache_bytes=s.frozen_cache_mib * 2**20,
        )
        return [self.clnp]

    def phases(self, task: Task) -> list[Phase]:
        """The epochs before pruning, and those of fine-tuning."""
        before = self._epochs_before_pruning()
        return [Phase([task.train], before), Phase([task.train], self.settings.epochs - before)]

    def _epochs_before_pruning(self) -> int:
        return max(1, self.settings.epochs - round(self.settings.epochs * self.settings.fine_tune_share))

    def prepare(self, observers: Sequence[SupervisedPlugin] = ()) -> None:
        """Builds the strategy and attaches the plugin, so that a state can be loaded before training."""
        super().prepare(observers)
        image = torch.zeros(1, *self.workplace.stream.image_shape, device=self.workplace.device)
        for task in self.workplace.stream.tasks:
            self.clnp.attach(self.model, image, torch.tensor([task.index], device=self.workplace.device))

    def network_for(self, task: Task) -> AbstractContextManager[Answers] | None:
        """The network as it was after the task, through its mask."""
        plain = super().network_for(task)
        return None if plain is None else self._through_mask(plain, task)

    @contextmanager
    def _through_mask(self, plain: AbstractContextManager[Answers], task: Task) -> Iterator[Answers]:
        with plain as network, self.clnp.task(task.index):
            yield network

    def capacity(self) -> list[dict[str, Any]]:
        """Free, new and reused neurons of each layer after the last task."""
        if not self.clnp.reports:
            return []
        task, rows = next(reversed(self.clnp.reports.items()))
        return [
            {
                "task": task + 1,
                "group": f"layer_{row.layer}",
                "unit": "neuron",
                "units": row.neurons,
                "free": row.free,
                "new": row.new,
                "reused": row.reused,
                "threshold": row.threshold,
                "margin_spent": row.margin_spent,
            }
            for row in rows
        ]

    def extra_state(self) -> Mapping[str, Tensor]:
        """Masks and biases of every task."""
        return self.clnp.state()

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes masks and biases back."""
        self.clnp.load_state(extra)
