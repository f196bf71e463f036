"""What it brings to look frozen neurons' answers up instead of computing them, by how many neurons are frozen.

    python benchmarks/frozen.py [float32|bfloat16]

Prints JSON: training images per second of CLNP's main phase on a network of permuted MNIST's size, with both, measured
in turn, the best of three each.
"""

import json
import sys
import time

import torch
from torch.nn import functional as F

from clbench.networks.mlp import mlp
from clbench.runs.memory import keep_freed_memory
from clbench.strategies.compact import CompactChain, Neurons

FROZEN = ((0, 0), (400, 250), (800, 500), (1200, 750), (1600, 1000))  # neurons of each layer, of 2000
IMAGES = 55_000
BATCH = 256
STEPS, WARM_UP = 60, 5
REPEATS = 3


def images_per_second(frozen: tuple[int, ...], precision: str, looked_up: bool) -> float:
    torch.manual_seed(0)
    model = mlp(784, (2000, 2000), 10)
    linears = [model.trunk[0], model.trunk[2], model.head]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    chain = CompactChain(linears, [Neurons(torch.arange(n), torch.arange(n, 2000)) for n in frozen])
    chain.enter(optimizer)
    x, y = torch.rand(IMAGES, 784), torch.randint(10, (IMAGES,))

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return model(batch).float()

    if looked_up:
        chain.look_up(chain.answers(forward, x, 1000, 2**30))
    start = 0.0
    for step, chosen in enumerate(torch.randperm(IMAGES).split(BATCH)[: WARM_UP + STEPS]):
        if step == WARM_UP:
            start = time.perf_counter()
        if looked_up:
            chain.at(chosen)
        optimizer.zero_grad()
        F.cross_entropy(forward(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return STEPS * BATCH / (time.perf_counter() - start)


def main() -> None:
    precision = sys.argv[1] if len(sys.argv) > 1 else "float32"
    keep_freed_memory()
    rows = []
    for frozen in FROZEN:
        rates = [
            [images_per_second(frozen, precision, looked_up) for looked_up in (False, True)] for _ in range(REPEATS)
        ]
        computed, looked_up = (round(max(column)) for column in zip(*rates, strict=True))
        rows.append(
            {
                "frozen": frozen,
                "computed": computed,
                "looked_up": looked_up,
                "ratio": round(looked_up / computed, 2),
            }
        )
    print(json.dumps({"precision": precision, "threads": torch.get_num_threads(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
