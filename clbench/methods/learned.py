"""Whether a task was learned at all."""

import warnings
from typing import TYPE_CHECKING

from clbench.errors import MethodWarning

if TYPE_CHECKING:
    from torch import Tensor

# Of the way from chance to certainty. What is learned no better than this has most likely not been learned.
_HARDLY = 0.1


def chance(labels: "Tensor") -> float:
    """The accuracy of who always says the most frequent class; labels int64 [N]."""
    return float(labels.unique(return_counts=True)[1].max()) / len(labels)


def warn_if_not_learned(method: str, task: int, right: float, by_chance: float, images: str) -> None:
    """Warns of a task whose images are classified hardly better than by chance.

    Args:
        method: who learned it, the subject of the sentence.
        task: counted from 0.
        right: the share of its images that are classified correctly. NaN is no reason to warn.
        by_chance: what `chance` gives of their labels.
        images: which images they are, in words.
    """
    if right < by_chance + _HARDLY * (1 - by_chance):
        warnings.warn(
            f"{method} has hardly learned task {task + 1}: {100 * right:.1f} % of {images} are right, and "
            f"{100 * by_chance:.1f} % would be by always saying the most frequent class",
            MethodWarning,
            stacklevel=3,
        )
