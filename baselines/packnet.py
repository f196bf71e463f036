r"""PackNet: each task prunes what it trained, and the next one trains what is free.

Source: Mallya and Lazebnik 2018, "PackNet: adding multiple tasks to a single network by iterative pruning" (arXiv
1711.05769). Every hidden weight has an owner, 0 for none. A task trains all free weights while earlier tasks' take part
in the forward pass. Then of each layer the weights of smallest size that it trained become free and 0, and the others
are trained on. A task reads the weights of its own and of earlier tasks.

Departs from it: the network starts from drawn weights, where theirs was trained on ImageNet. Biases and batch norms are
every task's own and kept for it, where theirs stay as the first task left them. The shares follow from the number of
tasks, which must be known in advance, unless they are given or searched. Avalanche's baselines have equal shares too.
In the comparison of Kang et al. 2022 (WSN) each task keeps one in T of what is free.
"""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from clbench.baselines.holding import Held
from clbench.baselines.parts import MaskedMethod, PerTask
from clbench.data.streams import Task
from clbench.errors import MethodWarning
from clbench.methods.method import Phase, Plugin, answering, share_right
from clbench.methods.settings import AlwaysNew, MethodSettings
from clbench.methods.space import Between
from clbench.networks.initial import bound_of
from clbench.suites.suite import Suite

# As De Lange et al. 2021 (arXiv 1909.08383) search: from a high share downwards, by halves.
_FIRST_SHARE = 0.9
_MOST_TRIALS = 10
# Below this part of its share, one is told that a task keeps fewer weights.
_FEW = 0.9
Share = Annotated[float, Field(ge=0, lt=1)]


def _as_shares(given: Any) -> Any:
    """Says in one sentence what shares may be, where Pydantic would have one for each of its forms."""
    found = list(given) if isinstance(given, tuple) else given
    listed = found if isinstance(found, list) else [found]
    if found not in ("equal", "search") and not all(type(each) in (int, float) and 0 <= each < 1 for each in listed):
        raise ValueError("expected equal, search, or shares from 0 to below 1")
    return found


class PackNetSettings(MethodSettings):
    """Hyper-parameters of PackNet.

    Attributes:
        shares: of the weights that a task trained, which it gives up. `equal` lets all tasks end with as many. `search`
            takes the largest of 0.9, 0.45, ... that costs no more than `search_drop`. Or one for all, or one for each.
        search_drop: share of the validation accuracy that a searched share may cost, before the epochs that follow.
        fine_tune_share: share of the epochs that come after pruning, rounded to whole epochs.
        fine_tune_rate: learning rate after pruning, as a share of the one before.
        restart: free weights start a task at 0, as published (`zero`). Those around a unit that is never active get no
            gradient, so that late tasks may keep fewer weights. Or they are drawn anew, as a layer's are (`draw`).
        output_weights: a single head too gets weights of its own for every task.
    """

    shares: Annotated[Literal["equal", "search"] | Share | list[Share], BeforeValidator(_as_shares)] = "equal"
    search_drop: float = Field(default=0.2, ge=0, le=1)
    fine_tune_share: float = Field(default=0.33, ge=0, lt=1)
    fine_tune_rate: float = Field(default=0.1, gt=0, le=1)
    restart: Literal["zero", "draw"] = "zero"
    output_weights: PerTask = "per-task"
    reset_optimizer: AlwaysNew = True


class PackNet(MaskedMethod):
    """PackNet on a suite.

    With the schedule `plateau` it keeps the best weights before it prunes and the best after it. Rates that have fallen
    far enough let it prune before its time. Fine-tuning then has all epochs that are left.

    Attributes:
        owner: by layer, uint8 shaped like its weights: 0 of a free one, t + 1 of task t's.
    """

    Settings = PackNetSettings
    resumes = True
    numbers = 1
    searched = {"fine_tune_rate": Between(0.05, 1.0), "fine_tune_share": Between(0.2, 0.6, log=False)}
    stability = ("shares", 0.9)
    # The published tables count PackNet's masks as they are.
    mask_bits = 1.0

    @classmethod
    def refuses(cls, suite: Suite, settings: PackNetSettings) -> str:
        """Shares for another number of tasks, and powers that free weights of 0 would not recover from."""
        if settings.power_alpha != 1 and settings.restart == "zero":
            return "with power_alpha free weights of packnet stay at 0 for ever; give restart=draw with it"
        if settings.shares != "search" and settings.search_drop != PackNetSettings().search_drop:
            return "packnet's search_drop is for shares=search, and would change nothing; leave it out"
        if isinstance(settings.shares, list) and len(settings.shares) != suite.n_tasks:
            return f"packnet's shares need one for each of {suite.n_tasks} tasks, but got {len(settings.shares)}"
        return f"packnet counts up to 255 tasks, but the suite has {suite.n_tasks}" if suite.n_tasks > 255 else ""

    @classmethod
    def one_task_more(cls, settings: PackNetSettings) -> PackNetSettings:
        """Its shares, where they are listed, with a task that gives up nothing."""
        if not isinstance(settings.shares, list):
            return settings
        return settings.model_copy(update={"shares": [*settings.shares, 0.0]})

    def plugins(self) -> list[Plugin]:
        """What prunes, and holds what is others'."""
        return [_Packing(self)]

    def build_network(self, *key: int) -> Any:
        """The suite's network, all of whose shared weights are free."""
        self.model = super().build_network(*key)
        self.owner = {name: torch.zeros_like(weight, dtype=torch.uint8) for name, weight in self.weights().items()}
        return self.model

    @property
    def epochs_before(self) -> int:
        """Epochs before pruning."""
        epochs = self.settings.epochs
        return max(1, epochs - round(epochs * self.settings.fine_tune_share))

    def phases(self, task: Task) -> list[Phase]:
        """All epochs: pruning comes between two of them."""
        return [Phase([task.train], self.settings.epochs)]

    def share_of(self, task: int) -> float:
        """Of the weights that a task trained, which it gives up."""
        if self.settings.shares == "search":
            # The last task leaves nothing to others.
            return self._searched(task) if task + 1 < self.workplace.suite.n_tasks else 0.0
        if isinstance(self.settings.shares, float):
            return self.settings.shares
        if self.settings.shares != "equal":
            return float(self.settings.shares[task])
        left = self.workplace.suite.n_tasks - task
        return (left - 1) / left

    def _searched(self, task: int) -> float:
        weights = self.weights()
        kept = {name: weight.clone() for name, weight in weights.items()}
        accuracy = self._right(task)
        share = _FIRST_SHARE
        for _ in range(_MOST_TRIALS):
            for name, pruned in self._smallest(task, share).items():
                weights[name].masked_fill_(pruned, 0)
            enough = self._right(task) >= (1 - self.settings.search_drop) * accuracy
            for name, weight in weights.items():
                weight.copy_(kept[name])
            if enough:
                return share
            share /= 2
        return 0.0

    def _right(self, task: int) -> float:
        validation = self.workplace.stream.tasks[task].validation
        with answering(self.model, self.workplace.stream.tasks[task]) as network:
            return share_right(network, validation, self.workplace.device)

    def mask_of(self, task: int, layer: str) -> Tensor:
        """Weights of the task and of those before it."""
        return (self.owner[layer] > 0) & (self.owner[layer] <= task + 1)

    def used_before(self, task: int, layer: str) -> Tensor:
        """Weights of earlier tasks."""
        return (self.owner[layer] > 0) & (self.owner[layer] <= task)

    def _called(self, layer: str) -> str:
        """What reports call a layer; an output layer keeps its own name."""
        return {name: group for group, name in self.groups()}.get(layer, layer)

    @torch.no_grad()
    def begin(self, task: int) -> None:
        """Every free weight becomes the task's."""
        for name, weight in self.weights().items():
            free = self.owner[name] == 0
            if not free.any():
                warnings.warn(
                    f"packnet has no weight of {self._called(name)} left for task {task + 1}; larger shares of the "
                    "tasks before it leave some",
                    MethodWarning,
                    stacklevel=2,
                )
            if task > 0:
                fresh = torch.zeros_like(weight)
                if self.settings.restart == "draw":
                    fresh.uniform_(-1, 1).mul_(bound_of(weight, self.settings.initial_weights))
                torch.where(free, fresh, weight, out=weight)
            self.owner[name][free] = task + 1
        if task > 0:
            self.start_outputs()

    @torch.no_grad()
    def prune(self, task: int) -> None:
        """The task's weights of smallest size become free and 0."""
        weights, share = self.weights(), self.share_of(task)
        for name, pruned in self._smallest(task, share).items():
            mine = int((self.owner[name] == task + 1).sum())
            kept, due = mine - int(pruned.sum()), mine - round(share * mine)
            if self.settings.restart == "zero" and kept < _FEW * due:
                warnings.warn(
                    f"task {task + 1} of packnet keeps {kept} weights of {self._called(name)} instead of {due}: the "
                    "rest stayed at 0, because the units around them are never active; with packnet.restart=draw they "
                    "can learn",
                    MethodWarning,
                    stacklevel=2,
                )
            self.owner[name][pruned] = 0
            weights[name].masked_fill_(pruned, 0)

    def _smallest(self, task: int, share: float) -> dict[str, Tensor]:
        """By layer, bool: of the weights that the task trained, this share with the smallest size."""
        found = {}
        for name, weight in self.weights().items():
            mine = self.owner[name] == task + 1
            count = round(share * int(mine.sum()))
            found[name] = torch.zeros_like(mine)
            if count:
                cut = weight[mine].abs().kthvalue(count).values
                found[name] = mine & (weight.abs() <= cut)
        return found

    def extra_state(self) -> Mapping[str, Tensor]:
        """Owners, and what is each task's alone."""
        return {**super().extra_state(), **{f"owner/{name}": owner for name, owner in self.owner.items()}}

    def extra_state_bytes(self) -> int:
        """Size of `extra_state`, an owner counted by the bits that tell the tasks apart."""
        bits = self.workplace.suite.n_tasks.bit_length()
        own = sum(tensor.nbytes for tensor in super().extra_state().values())
        return own + sum(-(-bits * owner.numel() // 8) for owner in self.owner.values())

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        super().load_extra_state({key: tensor for key, tensor in extra.items() if key.startswith("own/")})
        self.owner = {name: extra[f"owner/{name}"].to(self.workplace.device, copy=True) for name in self.shared}


class _Packing:
    """Claims, prunes and holds weights at the right moments of training."""

    def __init__(self, method: PackNet) -> None:
        self.method = method

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.task = strategy.experience.current_experience
        self.is_pruned = False
        self._full = [group["lr"] for group in strategy.optimizer.param_groups]
        # Avalanche is imported where it is needed: `clbench list` does not.
        from clbench.methods.strategy import Plateau

        # Its rates may fall before pruning, where the task does not end.
        self.plateau = next((plugin for plugin in strategy.plugins if isinstance(plugin, Plateau)), None)
        if self.plateau:
            self.plateau.ends_task = False
        self.method.begin(self.task)
        self._hold()

    def _hold(self) -> None:
        owners = self.method.owner.items()
        self.held = Held(self.method.weights(), {name: owner != self.task + 1 for name, owner in owners})

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        is_over = self.plateau is not None and self.plateau.is_over
        if not self.is_pruned and (is_over or strategy.clock.train_exp_epochs == self.method.epochs_before):
            if self.plateau:
                self.plateau.begin_again(strategy, self.method.settings.fine_tune_rate)
                self.plateau.ends_task = True
            self._prune(strategy)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self.is_pruned and not self.plateau:
            settings = self.method.settings
            for group, full in zip(strategy.optimizer.param_groups, self._full, strict=True):
                # A schedule has just set its own rate for this step.
                now = group["lr"] if settings.learning_rate_schedule == "linear" else full
                group["lr"] = now * settings.fine_tune_rate

    def _prune(self, strategy: Any) -> None:
        self.method.prune(self.task)
        self.is_pruned = True
        self._hold()
        # Momentum is of weights that are there no more. The authors have a new optimiser too.
        strategy.optimizer.state.clear()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.held.zero_gradients()

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.held.put_back()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if not self.is_pruned:
            self._prune(strategy)
        for group, full in zip(strategy.optimizer.param_groups, self._full, strict=True):
            group["lr"] = full
        self.method.keep(self.task)
        del self.held, self.plateau
