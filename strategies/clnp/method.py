"""CLNP on a suite.

Source: Golkar, Kagan and Cho 2019, "Continual learning via neural pruning" (arXiv 1903.04476).
Departs from it as the package's own text says (`strategies/clnp/__init__.py`), which has the algorithm.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clbench.data.loading import TensorLoader
from clbench.data.streams import Stream, Task
from clbench.errors import MethodError
from clbench.methods.method import EVALUATION_BATCH, Answers, Method, Phase, Plugin, bytes_of, share_right
from clbench.methods.space import Between
from clbench.networks.heads import heads_of
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.units import Units, find_units
from clbench.records.format import ALL_GROUPS
from clbench.strategies.clnp.settings import CLNPSettings, misfit
from clbench.suites.suite import Suite

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


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
    searched = {"margin": Between(0.1, 5.0), "l1_weights": Between(1e-6, 1e-4)}
    stability = ("margin", 5.0)
    task_known_at_test = True
    says_what_it_hardly_learned = True

    @classmethod
    def refuses(cls, suite: Suite, settings: CLNPSettings) -> str:
        """A rate that falls by looking at weights, of which the plugin puts others in their place."""
        if settings.learning_rate_schedule == "plateau":
            return (
                "CLNP trains a part of the network at a time, which the learning_rate_schedule plateau cannot restore; "
                "give it linear or constant"
            )
        return ""

    @classmethod
    def unfit(cls, network: nn.Module, image: Tensor, settings: CLNPSettings) -> str:
        """Refuses networks whose units cannot be found, and settings for other groups of units than there are."""
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                return f"CLNP trains every weight, but '{name}' is frozen"
        try:
            units = find_units(network, image)
        except MethodError as error:
            return str(error)
        return misfit(settings, [group.name for group in units.groups])

    def plugins(self) -> list[Plugin]:
        """The CLNP plugin, with the suite's validation images."""
        # It brings Avalanche along, whose import takes seconds that a command with nothing to train can spare.
        from clbench.strategies.clnp.plugin import CLNPPlugin

        self.clnp = CLNPPlugin(
            self.settings.options,
            fine_tune_epochs=self.settings.epochs - self._epochs_before_pruning(),
            validation_stream=_ValidationStream(self.workplace.stream, self.workplace.device),
            n_tasks=len(self.workplace.stream.tasks),
            seed=self.workplace.seeds.derive("clnp"),
            engine="reduced",
            observers=self.observers,
            when_pruned=self._remember_unpruned,
        )
        return [self.clnp]

    def _remember_unpruned(self, mask: Tensor) -> None:
        """Keeps the network as it is before anything is cut, until `pruning` has measured it."""
        claims = self.clnp.claims
        assert claims is not None
        self._unpruned = mask.clone(), {name: tensor.clone() for name, tensor in claims.tensors().items()}
        self._on_test: tuple[float, float] | None = None

    def _tried_on_test(self, task: Task) -> tuple[float, float]:
        """Accuracy on the task's test images before pruning and after it, for the record alone."""
        if self._on_test is None:
            claims, (mask, unpruned) = self.clnp.claims, self._unpruned
            assert claims is not None
            found = []
            for kept in (torch.ones_like(mask), mask):
                network = ReducedNetwork(claims.network, claims.units, seen_only(kept), unpruned).eval()
                with torch.inference_mode():
                    found.append(share_right(network, task.test, self.workplace.device))
            self._on_test = found[0], found[1]
            del self._unpruned
        return self._on_test

    def phases(self, task: Task) -> list[Phase]:
        """The epochs before pruning, and those of fine-tuning."""
        before = self._epochs_before_pruning()
        return [Phase([task.train], before), Phase([task.train], self.settings.epochs - before)]

    def _epochs_before_pruning(self) -> int:
        return max(1, self.settings.epochs - round(self.settings.epochs * self.settings.fine_tune_share))

    def prepare(self, observers: Sequence[Plugin] = ()) -> None:
        """Builds the strategy and attaches the plugin, so that a state can be loaded before training."""
        super().prepare(observers)
        self._view: tuple[int, ReducedNetwork] | None = None
        image = torch.zeros(1, *self.workplace.stream.image_shape, device=self.workplace.device)
        tasks = self.workplace.stream.tasks
        # With one output layer all tasks see the same network.
        for task in tasks if self.workplace.suite.head == "multi" else tasks[:1]:
            self.clnp.attach(self.model, image, task.index)

    def learn(self, task: Task) -> None:
        """Trains on the task."""
        self._view = None
        super().learn(task)

    def network_for(self, task: Task) -> "AbstractContextManager[Answers] | None":
        """The network of the task's own units, as it was after the task; of one not learned yet, of the latest mask."""
        plain = super().network_for(task)
        known = task.index if task.index in self.clnp.masks else self.tasks_learned - 1
        return plain if plain is None or known < 0 else self._of_units(known)

    @contextmanager
    def masked_for(self, task: Task) -> Iterator[Answers]:
        """The whole network, of which units beyond the task's mask are read as 0."""
        claims = self.clnp.claims
        assert claims is not None
        with claims.masked(task.index) as network:
            yield network

    def network_alone(self, task: Task) -> nn.Module:
        """The network of the task's own units."""
        return self.clnp.network_of(task.index)

    @contextmanager
    def _of_units(self, task: int) -> Iterator[Answers]:
        if self._view is None or self._view[0] != task:
            self._view = task, self.clnp.network_of(task)
        yield self._view[1]

    def units_of(self, task: Task) -> tuple[Units, Tensor]:
        """The units that the task reads."""
        claims = self.clnp.claims
        assert claims is not None
        return claims.units, claims.masks[task.index]

    @torch.no_grad()
    def destroy(self, units: Tensor) -> None:
        """Makes what leads to units 0, for every task, and what their batch norms give."""
        claims, self._view = self.clnp.claims, None
        assert claims is not None
        claims.destroy(units)

    def capacity(self) -> list[dict[str, Any]]:
        """Free, new and reused units of each group after the last task."""
        if not self.clnp.reports:
            return []
        task, rows = next(reversed(self.clnp.reports.items()))
        return [
            {
                "task": task + 1,
                "group": row.group,
                "unit": row.unit,
                "units": row.units,
                "free": row.free,
                "new": row.new,
                "reused": row.reused,
                "threshold": row.threshold,
                "margin_spent": row.margin_spent,
                "weights_used": row.weights_used,
                "weights": row.weights,
            }
            for row in rows
        ]

    def pruning(self) -> list[dict[str, Any]]:
        """Each look of the last task's search for thresholds."""
        pruned, claims = self.clnp.pruned, self.clnp.claims
        if pruned is None or claims is None:
            return []
        names = [group.name for group in claims.units.groups]
        before, after = self._tried_on_test(self.workplace.stream.tasks[self.tasks_learned - 1])
        # The first and the last look are at the whole network.
        on_test = {0: before, len(pruned.probes) - 1: after}
        return [
            {
                "task": self.tasks_learned,
                "group": ALL_GROUPS if look.group is None else names[look.group],
                "kept": look.kept,
                "validation_accuracy": look.accuracy,
                "validation_images": pruned.n_images,
                "changed": look.changed,
                "chosen": int(look.is_chosen),
                "test_accuracy": on_test.get(number, math.nan),
            }
            for number, look in enumerate(pruned.probes)
        ]

    def extra_state(self) -> Mapping[str, Tensor]:
        """Masks, and what is a task's own, of every task."""
        return {} if self.clnp.claims is None else self.clnp.claims.state()

    def extra_state_bytes(self) -> int:
        """Size of it, without output layers that the network has for each task anyway."""
        heads = tuple(f"{head}." for head in heads_of(self.model))
        return bytes_of(tensor for key, tensor in self.extra_state().items() if not key.split("/")[2].startswith(heads))

    def load_extra_state(self, extra: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        self.clnp.load_state_dict(dict(extra))
