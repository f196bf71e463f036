"""Independent random streams from one seed.

Each purpose draws from its own generator, so that drawing more often for one (an extra evaluation, another
epoch) changes nothing for the others, and a run can be continued at any task without storing generator states.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def seeded(seed: int, device: "torch.device") -> Iterator[None]:
    """Within, the global generators of torch (CPU and `device`), NumPy and Python start from `seed`; then as before.

    For randomness that takes no generator: initial weights of a layer, dropout, a third party's plugin.
    """
    import numpy as np
    import torch

    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # Not torch.manual_seed, which would reseed every GPU of the machine as well.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
