"""Whether a task was learned at all."""

import warnings

from clbench.errors import MethodWarning

# Of the way from chance to certainty. What is learned no better than this has most likely not been learned.
_HARDLY = 0.1


def warn_if_not_learned(method: str, task: int, right: float, chance: float, images: str) -> None:
    """Warns of a task whose images are classified hardly better than by chance.

    Args:
        method: who learned it, the subject of the sentence.
        task: counted from 0.
        right: the share of its images that are classified correctly. NaN is no reason to warn.
        chance: the share of the most frequent class among them.
        images: which images they are, in words.
    """
    if right < chance + _HARDLY * (1 - chance):
        warnings.warn(
            f"{method} has hardly learned task {task + 1}: {100 * right:.1f} % of {images} are right, and "
            f"{100 * chance:.1f} % would be by always saying the most frequent class",
            MethodWarning,
            stacklevel=3,
        )
