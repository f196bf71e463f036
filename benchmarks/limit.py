"""Where the time of a training step goes, and how fast the processor's matrix products would let it be.

    python benchmarks/limit.py [float32|bfloat16]

Prints JSON, for permuted MNIST's network and batches: the images per second that the matrix products alone would allow
(two for the first layer, three for each of the others: output, weights' gradient, inputs' gradient), the bare loop's
beside it, and by method the share of the time that each kind of operation takes (torch.profiler).
"""

import itertools
import json
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

from clbench.bench import bare_loop, bench_images
from clbench.data import ImageSet
from clbench.data.streams import make_stream
from clbench.methods.method import Workplace
from clbench.methods.table import find_method
from clbench.runs.memory import keep_freed_memory
from clbench.runs.spec import Precision, make_specs
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

PERMUTED_MNIST = find_suite("permuted-mnist")

METHODS = ("naive", "ewc", "si", "psp", "clnp")
CPU = torch.device("cpu")
STEPS = 200  # of a task; what comes once per task weighs more than among the suite's 2,150
KINDS = {
    "matrix products": ("addmm", "mm", "mkldnn", "bmm", "linear"),
    "optimiser": ("_fused_adam", "_fused_sgd"),
    "batches and lookups": ("index", "randperm"),
}


def limit(precision: str) -> dict[str, float]:
    """Images per second if nothing were computed but the products, and at how many operations a second."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    batch = PERMUTED_MNIST.batch_size
    sizes = (784, *PERMUTED_MNIST.network_settings["hidden_sizes"], 10)
    operations = seconds = 0.0
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        x, w, g = (torch.rand(shape, dtype=dtype) for shape in ((batch, fan_in), (fan_out, fan_in), (batch, fan_out)))
        products = [(x, w.T), (g.T, x), *([(g, w)] if number else [])]
        for a, b in products:
            a @ b
            times = []
            for _ in range(20):
                start = time.perf_counter()
                a @ b
                times.append(time.perf_counter() - start)
            seconds += min(times)
            operations += 2 * batch * fan_in * fan_out
    return {"images_per_second": batch / seconds, "gflops": operations / seconds / 1e9}


def kind_of(operation: str) -> str:
    name = operation.removeprefix("aten::")
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), "other operations")


def where_time_goes(method: str, images: ImageSet, precision: Precision) -> dict[str, float]:
    """Shares of the wall-clock time of learning the second task; what is left to 1 is Python, and what torch hides."""
    suite = PERMUTED_MNIST.with_overrides({"n_tasks": 2, "epochs": 2, "steps_per_epoch": STEPS // 2})
    (spec,) = make_specs(suite, [method], [0], {f"{method}.epochs": 2}, images, precision, "cpu")
    seeds = RandomStreams(0)
    stream = make_stream(spec.suite, images, seeds)
    learner = find_method(method)(spec.settings, Workplace(spec.suite, stream, seeds, CPU, spec.precision))
    learner.prepare()
    learner.learn(stream.tasks[0])
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        learner.learn(stream.tasks[1])
        wall = time.perf_counter() - start
    shares = dict.fromkeys([*KINDS, "other operations"], 0.0)
    for event in profiled.key_averages():
        # Other ranges, such as an optimiser's step, span Python between the operations.
        if event.key.startswith("aten::"):
            shares[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / wall
    return {**shares, "python": 1 - sum(shares.values())}


def main() -> None:
    precision: Precision = "bfloat16" if sys.argv[1:] == ["bfloat16"] else "float32"
    images = bench_images(None)
    keep_freed_memory()
    suite = PERMUTED_MNIST.with_overrides({"n_tasks": 1, "epochs": 1})
    stream = make_stream(suite, images, RandomStreams(0))
    bare_loop(stream, suite, CPU, precision)
    content = {
        "precision": precision,
        "threads": torch.get_num_threads(),
        "products_alone": limit(precision),
        "bare_loop_images_per_second": bare_loop(stream, suite, CPU, precision),
        "shares_of_the_time": {name: where_time_goes(name, images, precision) for name in METHODS},
    }
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
