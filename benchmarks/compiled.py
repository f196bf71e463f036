"""Does `torch.compile` pay for a training step? The same step as it is and compiled, in turn.

    python benchmarks/compiled.py [--device cuda] [--precision bfloat16]

It prints images per second of the linear networks of our suites, medians of so many rounds, and what compiling costs.
On a GPU the step is compiled with `mode="reduce-overhead"`, which puts it in CUDA graphs.
"""

import argparse
import statistics
import time

import torch
from torch import nn

# Width of the two hidden layers, batch, steps of a round.
SETTINGS = ((100, 10, 1500), (2000, 256, 20))


def main() -> None:
    """Prints a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for width, batch, steps in SETTINGS:
        plain, compiled = (Step(width, batch, given, compiled=each) for each in (False, True))
        plain.rate(3)
        begin = time.perf_counter()
        compiled.rate(3)
        seconds = time.perf_counter() - begin
        rates = [(plain.rate(steps), compiled.rate(steps)) for _ in range(given.rounds)]
        as_it_is, faster = (statistics.median(each) for each in zip(*rates, strict=True))
        print(
            f"784-{width}-{width}-10, batches of {batch}, {given.precision}: {as_it_is:,.0f} images/s as it is,"
            f" {faster:,.0f} compiled ({faster / as_it_is:.2f} x), {seconds:.0f} s to compile"
        )


class Step:
    """A training step of a network of two hidden layers, on one batch of noise."""

    def __init__(self, width, batch, given, *, compiled):
        torch.manual_seed(0)
        device = torch.device(given.device)
        layers = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        self.network = nn.Sequential(*layers).to(device)
        if compiled:
            self.network.compile(mode="reduce-overhead" if device.type == "cuda" else None)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True)
        self.x, self.y = torch.randn(batch, 784, device=device), torch.randint(10, (batch,), device=device)
        self.bfloat16 = given.precision == "bfloat16"

    def rate(self, steps):
        """Images per second of so many steps."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bfloat16):
                output = self.network(self.x)
            nn.functional.cross_entropy(output.float(), self.y).backward()
            self.optimizer.step()
        if self.x.device.type == "cuda":
            torch.cuda.synchronize()
        return len(self.x) * steps / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
