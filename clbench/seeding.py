"""Independent random streams from one seed.

Each purpose draws from its own generator, so that drawing more often for one (an extra evaluation, another
epoch) changes nothing for the others, and a run can be continued at any task without storing generator states.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RandomStreams:
    """The random streams of one run.

    Attributes:
        seed: the run's seed, any integer >= 0.
    """

    seed: int

    def derive(self, purpose: str, *indices: int) -> int:
        """A 63-bit seed for this purpose, such as `("batches", task)`; the same on every machine."""
        text = "/".join([str(self.seed), purpose, *map(str, indices)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, purpose: str, *indices: int) -> "torch.Generator":
        """A fresh CPU generator for this purpose, always in the same initial state."""
        import torch

        return torch.Generator().manual_seed(self.derive(purpose, *indices))
