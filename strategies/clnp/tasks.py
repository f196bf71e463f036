"""Which task an experience of Avalanche's is, in training and in evaluation.

The number that an experience carries is not enough: two benchmarks number theirs alike, and a test stream need not have
as many experiences as the training stream.
"""

import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clbench.errors import MethodError, MethodWarning

_SEEN = "seen/"


@dataclass(frozen=True)
class Seen:
    """A training experience, as far as it tells tasks apart.

    Attributes:
        number: `current_experience`.
        classes: of its images.
        labels: task labels of its images.
        benchmark: refers to the benchmark that it is of; None where that is not known any more.
    """

    number: int
    classes: frozenset[int]
    labels: frozenset[int]
    benchmark: "weakref.ref[Any] | None" = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Seen, (self.number, self.classes, self.labels)

    def state(self) -> dict[str, Tensor]:
        """What tells it apart, by name, but for its benchmark."""
        return {
            "number": torch.tensor([self.number]),
            "classes": torch.tensor(sorted(self.classes), dtype=torch.int64),
            "labels": torch.tensor(sorted(self.labels), dtype=torch.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Seen":
        """What `state` was made of."""
        number, classes, labels = (state[name].tolist() for name in ("number", "classes", "labels"))
        return cls(number[0], frozenset(classes), frozenset(labels))


def look_at(experience: Any) -> Seen:
    """What tells an experience from others."""
    benchmark = _benchmark_of(experience)
    return Seen(
        int(experience.current_experience),
        frozenset(_distinct(experience.dataset, "targets")),
        frozenset(_distinct(experience.dataset, "targets_task_labels")),
        None if benchmark is None else weakref.ref(benchmark),
    )


class Tasks:
    """The training experiences learned so far, in their order.

    Args:
        task_of: says which task an evaluation experience is, by its place among those learned, from 0; None lets the
            numbers of experiences say so.
        n_tasks: how many there will be; None for as many as the stream has experiences.
    """

    def __init__(self, task_of: Callable[[Any], int] | None = None, n_tasks: int | None = None) -> None:
        self.task_of, self.n_tasks = task_of, n_tasks
        self.learned: list[Seen] = []
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self.learned)

    def state(self) -> dict[str, Tensor]:
        """What tells the tasks apart, by name."""
        return {
            f"{_SEEN}{place}/{name}": tensor
            for place, seen in enumerate(self.learned)
            for name, tensor in seen.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor], n_learned: int) -> None:
        """Takes what `state` gave; of a task of which nothing is known the number is its place."""
        self.learned = []
        for place in range(n_learned):
            start = f"{_SEEN}{place}/"
            found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            self.learned.append(Seen.from_state(found) if found else Seen(place, frozenset(), frozenset()))

    def labels(self) -> dict[int, int]:
        """The task label of each task whose images have but one."""
        return {place: next(iter(seen.labels)) for place, seen in enumerate(self.learned) if len(seen.labels) == 1}

    def begin(self, experience: Any) -> Seen:
        """A task that is about to be learned. Warns if its evaluation will be told more than it seems."""
        found = look_at(experience)
        # Of tasks that were loaded neither is known.
        known = [earlier for earlier in self.learned if earlier.labels]
        disjoint = not any(found.classes & earlier.classes for earlier in known)
        one_label = len(found.labels.union(*(earlier.labels for earlier in known))) == 1
        if known and disjoint and one_label:
            self._warn(
                "the experiences have classes of their own and one task label: CLNP needs the task, so the accuracy "
                "that Avalanche prints for an experience is told which it is"
            )
        return found

    def to_come(self, experience: Any) -> int:
        """How many tasks there will be from this one on, itself counted.

        Raises:
            MethodError: where nothing says it.
        """
        stream = getattr(experience, "origin_stream", None)
        if self.n_tasks is None and stream is None:
            raise MethodError("CLNP's budget=even needs to know how many tasks there will be; give it n_tasks")
        n_tasks = self.n_tasks if stream is None else self.n_tasks or len(stream)
        return max(1, (n_tasks or 1) - len(self))

    def find(self, experience: Any, present: Seen | None = None) -> int | None:
        """The place of an evaluation experience among the tasks learned; None for one not learned yet.

        Args:
            experience: to be evaluated.
            present: the task being learned; its place is behind the others.
        """
        if self.task_of is not None:
            return self.task_of(experience)
        learned = [*self.learned, *([] if present is None else [present])]
        number, benchmark = int(experience.current_experience), _benchmark_of(experience)
        places = [place for place, seen in enumerate(learned) if seen.number == number]
        # A benchmark of its own for evaluation is numbered like the one that was trained on.
        places = [place for place in places if _is_of(learned[place], benchmark)] or places
        self._check_stream(experience, benchmark)
        if not places:
            return None
        found = places[-1]
        classes, known = frozenset(_distinct(experience.dataset, "targets")), learned[found].classes
        if known and not classes & known:
            self._warn(
                f"the evaluation experience {number} has none of the classes of the training experience of that "
                "number, through whose mask it is seen; give CLNPPlugin a task_of that says which task it is"
            )
        return found

    def _check_stream(self, experience: Any, benchmark: Any) -> None:
        stream = getattr(experience, "origin_stream", None)
        trained_on = getattr(benchmark, "train_stream", None)
        if stream is None or trained_on is None or len(stream) == len(trained_on):
            return
        self._warn(
            f"the stream '{stream.name}' has {_counted(len(stream))} and the training stream {len(trained_on)}: each "
            "is seen through the mask of the training experience with its number; give CLNPPlugin a task_of that says "
            "which task it is, or use plugin.task(...)"
        )

    def _warn(self, sentence: str) -> None:
        # Not at every evaluation.
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, MethodWarning, stacklevel=2)


def _counted(n: int) -> str:
    return "1 experience" if n == 1 else f"{n} experiences"


def _is_of(seen: Seen, benchmark: Any) -> bool:
    return seen.benchmark is not None and benchmark is not None and seen.benchmark() is benchmark


def _benchmark_of(experience: Any) -> Any:
    return getattr(getattr(experience, "origin_stream", None), "benchmark", None)


def _distinct(dataset: Any, name: str) -> set[int]:
    values = getattr(dataset, name, ())
    try:
        return {int(value) for value in getattr(values, "uniques", values)}
    except (TypeError, ValueError):
        # Several labels an image, which is refused elsewhere.
        return set()
