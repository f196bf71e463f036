"""What a search may try of a method's settings: `Method.searched`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Between:
    """A number between two others.

    Attributes:
        low, high: the least and the largest.
        log: whether its logarithm is spread evenly, rather than itself.
    """

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Among:
    """One of several values: texts, numbers, or whether something is so."""

    values: tuple[Any, ...]


Range: TypeAlias = Between | Among
Space: TypeAlias = Mapping[str, Range]
