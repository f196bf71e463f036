"""CLNP as a plugin for Avalanche: train, measure, prune, cut, fine-tune, freeze."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from clbench.errors import MethodError
from clbench.methods.learned import warn_if_not_learned
from clbench.networks.reduced import ReducedNetwork
from clbench.networks.units import find_units
from clbench.seeding import RandomStreams
from clbench.strategies.clnp.checks import diverged, not_finite, warn_if_empty, warn_if_full
from clbench.strategies.clnp.claims import Claims, tasks_in
from clbench.strategies.clnp.dense import Dense
from clbench.strategies.clnp.fine_tuning import check_dropout, fine_tune
from clbench.strategies.clnp.loop import (
    check_alone,
    check_images,
    check_optimizer,
    images_of,
    label_of,
    may_mix_heads,
    precision_of,
    sample_of,
)
from clbench.strategies.clnp.measuring import contribution, measure
from clbench.strategies.clnp.norms import Norms
from clbench.strategies.clnp.pruning import Pruned, choose, limits_of
from clbench.strategies.clnp.reduced import Reduced
from clbench.strategies.clnp.reporting import GroupReport, reports_of
from clbench.strategies.clnp.settings import CLNPOptions, check_arguments, options_of, settled
from clbench.strategies.clnp.starting import draw_free, given_units
from clbench.strategies.clnp.tasks import Seen, Tasks
from clbench.strategies.clnp.validation import Accuracy, batches_of, hold_out, source_of


class CLNPPlugin(SupervisedPlugin):
    """CLNP for any Avalanche strategy and any feed-forward network that `find_units` can take apart.

    Each training experience is a task. An evaluation experience is seen through the mask of the training experience
    with the same number, one that was not learned yet through the latest mask. Outside Avalanche's loops use
    `with plugin.task(index): model(x)`, where tasks count from 0 in the order in which they were learned.

    The model's own parameters train, with their own gradients, so other plugins work beside it as without it.
    Fine-tuning comes after the strategy's epochs and is no part of them: no plugin hears of its epochs and iterations,
    all hear of what is within a step.

    Args:
        options: see `CLNPOptions`; None for the defaults.
        fine_tune_epochs: epochs after pruning, on top of the strategy's own; 0 for none.
        validation_stream: per task, an Avalanche experience or an iterable of `[x, y, task_labels]` batches; None
            lets the plugin hold out `validation_share` of the task's training data, class by class.
        validation_share: of the training data, where no stream is given.
        n_tasks: how many there will be, for `budget=even`; None asks the benchmark.
        task_of: says which task an evaluation experience is; None lets the numbers of experiences say so.
        seed: of new initial weights and of the held-out share.
        engine: `dense` trains the model's own parameters. `reduced` trains a smaller network in their place: faster,
            but hidden from other plugins. A network that does more in training than dropout trains dense.
        observers: plugins that hear of the iterations of fine-tuning as well.
        when_pruned: called with what stays of the network, bool [U], before anything is cut, for who wants to measure.
        changes: options by name.

    Attributes:
        claims: the tasks' units, once the first task has arrived.
        reports: per task, a `GroupReport` for each group of units.

    Raises:
        SettingError, MethodError: for an argument out of its range.

    Example:
        strategy = Naive(model=model, optimizer=optimizer, plugins=[CLNPPlugin(margin=2.0, budget="even")])
    """

    def __init__(
        self,
        options: CLNPOptions | None = None,
        *,
        fine_tune_epochs: int = 3,
        validation_stream: Sequence[Any] | None = None,
        validation_share: float = 0.1,
        n_tasks: int | None = None,
        task_of: Callable[[Any], int] | None = None,
        seed: int = 0,
        engine: Literal["dense", "reduced"] = "dense",
        observers: Sequence[Any] = (),
        when_pruned: Callable[[Tensor], None] | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        self.options = options_of(options, changes)
        check_arguments(fine_tune_epochs, validation_share, n_tasks, engine)
        self.fine_tune_epochs = fine_tune_epochs
        self.validation_stream = validation_stream
        self.validation_share = validation_share
        self.seed = seed
        self.engine_name = engine
        self._own_weights = self.options.output_weights == "per-task"
        self.observers = observers
        self.when_pruned = when_pruned
        self.claims: Claims | None = None
        self.tasks = Tasks(task_of, n_tasks)
        self.reports: dict[int, list[GroupReport]] = {}
        self.pruned: Pruned | None = None
        self._engine: Dense | Reduced | None = None
        self._present: Seen | None = None
        self._phase: Literal["idle", "train", "fine-tune"] = "idle"
        self._loaded: dict[str, Tensor] | None = None

    # -- Avalanche's events ------------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Tidies up after a training that was interrupted."""
        self._abandon()

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Holds out validation data where no validation stream was given."""
        if self.validation_stream is None:
            found = hold_out(strategy.adapted_dataset, self.validation_share, self._generator("validation"))
            strategy.adapted_dataset, self._validation_data = found

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Finds the units, gives the free ones new weights, and lets only these train."""
        self._abandon()
        check_alone(self, strategy)
        image, labels = sample_of(strategy)
        head = self.attach(strategy.model, image, labels)
        claims = self._claims
        check_dropout(self.options.fine_tune_dropout_kept, claims.units, self.engine_name)
        self._groups = settled(self.options, [group.name for group in claims.units.groups])
        held_out = self._validation_data if self.validation_stream is None else None
        self._source = source_of(held_out, self.validation_stream, len(self.tasks))
        check_images(self._source)
        self._present = self.tasks.begin(strategy.experience)
        self._only_label = may_mix_heads(strategy)
        if claims.masks:
            draw_free(claims, head, self.options, self._taken(head), self._generator("weights"))
        warn_if_full(claims)
        everything = torch.ones_like(claims.active)
        self._norms = Norms(self.options, strategy.optimizer)
        self._enter(strategy, everything)
        self._phase = "train"

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Drops inputs at random while fine-tuning, if asked for. Refuses images of other heads."""
        if self._phase == "idle" or self._engine is None:
            return
        check_optimizer(self._engine.optimizer, strategy)
        self._engine.listen(True)
        if self._only_label and int(strategy.mb_task_id.unique().numel()) > 1:
            raise MethodError(
                "CLNP trains the head of one task, but there are images of other tasks among the batches; leave the "
                "replay out, or use one head for all tasks"
            )
        if self._phase == "fine-tune" and self.options.fine_tune_dropout:
            strategy.mbatch[0] = nn.functional.dropout(strategy.mb_x, self.options.fine_tune_dropout)
        elif isinstance(self._engine, Reduced):
            self._engine.expect(strategy.mb_x)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """What other plugins run through the network has no part in the norm of activities."""
        if self._engine is not None:
            self._engine.listen(False)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the norm of the free units' activities, if asked for, to the loss."""
        if self._phase == "train" and any(self._groups.strengths):
            assert self._engine is not None
            strategy.loss += self._norms.of_activities(self._engine.activities(self._groups.strengths))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Prunes, fine-tunes, and freezes what the task has claimed."""
        claims, engine, task = self._claims, self._engine, len(self.tasks)
        assert engine is not None
        assert self._present is not None
        head = claims.units.outputs[0]
        self._phase = "idle"
        by_activity = self.options.rank == "activity"
        activity = measure(*engine.measuring(), images_of(strategy), precision_of(strategy), spread=not by_activity)
        engine.leave()
        if not_finite(claims):
            self._abandon()
            raise diverged(claims)
        scores = activity.size if by_activity else contribution(activity, claims)
        validation = Accuracy(claims.network, claims.units, batches_of(self._source, strategy.device))
        pruned = self._prune(scores, validation, strategy)
        if self.when_pruned is not None:
            self.when_pruned(pruned.mask)
        new = pruned.mask & ~claims.active
        warn_if_empty(claims, pruned.mask)
        claims.cut(pruned.mask, new)
        if self.fine_tune_epochs and (bool(new.any()) or self._own_weights):
            self._fine_tune(strategy, pruned.mask)
        warn_if_not_learned(
            "CLNP", task, self._accuracy(strategy, pruned.mask), validation.chance, "its validation images"
        )
        self.reports[task] = reports_of(claims, pruned, activity, new, head)
        claims.claim(
            task,
            pruned.mask,
            head,
            own_weights=self._own_weights,
            own_norms=self.options.batch_norm == "per-task",
        )
        self.tasks.learned.append(self._present)
        self.pruned, self._present, self._engine = pruned, None, None

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """What others have run through the network after the task changes nothing of what was claimed."""
        if self.claims is not None:
            self.claims.put_back_norms()

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """In the midst of training, the whole network answers, with what was trained so far in it."""
        # An evaluation before this one may have been interrupted.
        self._show(None)
        if self._engine is not None:
            self._engine.suspend()

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Training goes on with what is left of the network."""
        if self._engine is not None:
            self._engine.resume()

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Sees the experience as its task, which in the midst of being learned has no mask yet."""
        if self.claims is None and self._loaded is not None:
            self.attach(strategy.model, *sample_of(strategy))
        place = self.tasks.find(strategy.experience, self._present)
        if self._present is None or (place is not None and place < len(self.tasks)):
            self._show(place)

    def after_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Lets the whole network answer again."""
        self._show(None)

    # -- Looking back, keeping ---------------------------------------------------------------------------------

    @contextmanager
    def task(self, index: int) -> Iterator[None]:
        """Within this context the model answers as it did right after learning task `index`.

        A task that was not learned is seen through the latest mask.
        """
        if self.claims is None:
            yield
            return
        with self.claims.through(index if index in self.masks else self.claims.latest):
            yield

    @property
    def masks(self) -> dict[int, Tensor]:
        """Task -> bool [U], the units that it reads."""
        return {} if self.claims is None else self.claims.masks

    def network_of(self, index: int) -> ReducedNetwork:
        """A network of its own, of the units of a learned task alone, that answers as after the task.

        Raises:
            MethodError: for a task that was not learned.
        """
        if index not in self.masks:
            raise MethodError(f"CLNP has not learned task {index}; expected one of {', '.join(map(str, self.masks))}")
        return self._claims.alone(index)

    def state_dict(self) -> dict[str, Tensor]:
        """What must be kept between tasks beside the model: masks, what is a task's own, what tells tasks apart."""
        if self.claims is None:
            return dict(self._loaded or {})
        self.claims.put_back_norms()
        return {**self.claims.state(), **self.tasks.state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes what `state_dict` gave, before or after the first task has arrived."""
        if self.claims is None:
            self._loaded = dict(state)
        else:
            self.claims.load_state(state)
        self.tasks.load_state(state, len(tasks_in(state)))
        if self.claims is not None:
            self.claims.labels = self.tasks.labels()

    def attach(self, model: nn.Module, image: Tensor, task_labels: Tensor | int = 0) -> str:
        """Finds the model's units. Happens by itself when a task is trained; needed to load a state before that.

        Args:
            model: the network.
            image: one that it takes, [1, ...].
            task_labels: of the image; which output layer.

        Returns:
            The name of the output layer.

        Raises:
            MethodError: if the network cannot be pruned, or changed since an earlier task.
        """
        label = label_of(model, task_labels)
        units = find_units(model, image, label)
        if self.claims is None:
            self.claims = Claims(model, units, given_units(model, units))
        elif self.claims.network is not model:
            raise MethodError("CLNPPlugin has learned another model; give each model a plugin of its own")
        self.claims.move(image.device)
        head = self.claims.see(units, label)
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            self.load_state_dict(loaded)
        return head

    # -- The five steps ----------------------------------------------------------------------------------------

    @property
    def _claims(self) -> Claims:
        assert self.claims is not None
        return self.claims

    def _enter(self, strategy: Any, kept: Tensor) -> None:
        claims, o = self._claims, self.options
        claims.put_back_norms()
        if self._engine is None:
            kind = Dense if self.engine_name == "dense" or claims.units.only_in_training else Reduced
            self._engine = kind(claims, own_norms=o.batch_norm == "per-task", notes=any(self._groups.strengths))
        head = claims.units.outputs[0]
        fixed = self._taken(head)
        self._engine.enter(
            strategy, kept & ~claims.active, kept, fixed, self._norms.before_step, self._norms.after_step
        )
        if isinstance(self._engine, Reduced) and not (self._phase == "fine-tune" and o.fine_tune_dropout):
            self._engine.answer_once(strategy, precision_of(strategy), o.frozen_cache_mib * 2**20)

    def _taken(self, head: str) -> Tensor | None:
        return None if self._own_weights else self._claims.taken(head)

    def _prune(self, scores: Tensor, validation: Accuracy, strategy: Any) -> Pruned:
        claims = self._claims
        groups = claims.units.groups
        free = [claims.free_of(number) for number in range(len(groups))]
        to_come = self.tasks.to_come(strategy.experience) if self._groups.budget == "even" else 1
        return choose(
            scores,
            claims.active,
            [group.slice for group in groups],
            validation,
            self.options.margin,
            shares=self._groups.shares,
            limits=limits_of(self._groups.budget, free, to_come),
            names=[group.name for group in groups],
            global_threshold=self.options.thresholds == "global",
        )

    def _fine_tune(self, strategy: Any, mask: Tensor) -> None:
        """Trains what the task has claimed, the rest removed; undone if validation accuracy falls."""
        claims = self._claims
        before = self._accuracy(strategy, mask)
        state = {name: tensor.clone() for name, tensor in claims.network.state_dict().items()}
        self._phase, self._norms.are_on = "fine-tune", False
        self._enter(strategy, mask)
        o = self.options
        try:
            fine_tune(
                strategy,
                self.observers,
                epochs=self.fine_tune_epochs,
                rate=o.fine_tune_rate,
                dropout_kept=o.fine_tune_dropout_kept,
            )
        finally:
            self._phase = "idle"
            assert self._engine is not None
            self._engine.leave()
        if not_finite(claims) or self._accuracy(strategy, mask) < before:
            claims.network.load_state_dict(state)

    def _accuracy(self, strategy: Any, mask: Tensor) -> float:
        """Of the units of a mask on the validation images, as they are now."""
        claims = self._claims
        return Accuracy(claims.network, claims.units, batches_of(self._source, strategy.device), mask).accuracy(None)

    # -- Odds and ends -----------------------------------------------------------------------------------------

    def _show(self, task: int | None) -> None:
        """Lets the model answer for a task; for one that was not learned, through the latest mask."""
        if self.claims is not None:
            self.claims.show(task if task is None or task in self.claims.masks else self.claims.latest)

    def _abandon(self) -> None:
        self._show(None)
        if self._engine is not None:
            self._engine.leave()
            self._engine = None
        self._phase, self._present = "idle", None

    def _generator(self, purpose: str) -> torch.Generator:
        return RandomStreams(self.seed).generator(f"clnp-{purpose}", len(self.tasks))
