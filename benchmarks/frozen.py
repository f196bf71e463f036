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
from clbench.networks.reduced import Part, ReducedNetwork, seen_only
from clbench.networks.units import find_units
from clbench.runs.memory import keep_freed_memory

FROZEN = ((0, 0), (400, 250), (800, 500), (1200, 750), (1600, 1000))  # neurons of each layer, of 2000
IMAGES = 55_000
BATCH = 256
STEPS, WARM_UP = 60, 5
REPEATS = 3


def images_per_second(frozen: tuple[int, ...], precision: str, looked_up: bool) -> float:
    torch.manual_seed(0)
    model = mlp(784, (2000, 2000), 10)
    units = find_units(model, torch.zeros(1, 784))
    constant = torch.cat([torch.arange(2000) < n for n in frozen])
    network = ReducedNetwork(model, units, Part(constant, ~constant))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)
    x, y = torch.rand(IMAGES, 784), torch.randint(10, (IMAGES,))

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits: torch.Tensor = network(batch)
        return logits.float()

    if looked_up:
        keep_answers(network, ReducedNetwork(model, units, seen_only(constant)), x, precision)
    start = 0.0
    for step, chosen in enumerate(torch.randperm(IMAGES).split(BATCH)[: WARM_UP + STEPS]):
        if step == WARM_UP:
            start = time.perf_counter()
        if looked_up:
            network.at_images(chosen)
        optimizer.zero_grad()
        F.cross_entropy(forward(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return STEPS * BATCH / (time.perf_counter() - start)


@torch.no_grad()
def keep_answers(network: ReducedNetwork, of_frozen: ReducedNetwork, x: torch.Tensor, precision: str) -> None:
    """Gives the network what its frozen neurons answer to the images x, as CLNP does before a task."""
    found: dict[str, list[torch.Tensor]] = {"trunk.0": [], "trunk.2": []}
    for name, outputs in found.items():
        of_frozen.layers[name].register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for batch in x.split(1000):
            of_frozen(batch)
    for name, outputs in found.items():
        if outputs[0].shape[1]:
            network.layers[name].answers = torch.cat(outputs)


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
