"""One GPU in numbers, by one command: beside Avalanche and a bare loop, one run and several at once, memory, a table.

    python benchmarks/gpu.py --data-root DIR [--jobs 4] [--out FILE.json]
    python benchmarks/gpu.py --device cpu --small                     # tries the script itself in a minute

It prints images per second of the methods beside a bare PyTorch loop and Avalanche as it comes, in float32 and in
bfloat16, peak memory, the bare loop in CUDA graphs, so many runs at once, and the time of the permuted-mnist table. At
the end it holds them against the goals: five times Avalanche, 0.9 of the bare loop, the table in ten minutes.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn

from clbench.bench import STOCK, bare_loop, bench, bench_images, bench_suite, ours
from clbench.data.streams import make_stream
from clbench.records.environment import git_state, package_versions
from clbench.seeding import RandomStreams

METHODS = ("naive", "ewc", "si", "psp", "clnp")
TABLE = "single-task,clnp,clnp:10-epochs,clnp:best,psp,si,si:10-epochs,ewc,ewc:20-epochs,online-ewc,mas,naive"
_SECONDS_TO_START = 300.0
GOALS = {"times Avalanche": 5.0, "share of the bare loop": 0.9, "minutes for the table": 10.0}


def main() -> int:
    """The exit code: 0, also where a goal is missed, for that is a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--jobs", type=int, default=4, help="runs at once")
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-table", action="store_true", help="leave the permuted-mnist table out")
    parser.add_argument("--small", action="store_true", help="the smallest setting of all, to try the script")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU; give --device cpu --small to try the script")
    if given.small:
        given.tasks, given.epochs, given.repeats, given.jobs = 2, 1, 1, 2
        torch.set_num_threads(1)
    device = torch.device(given.device)
    found = {"device": name_of(device), "versions": package_versions(), "git_commit": git_state()[0], "goals": GOALS}
    tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    print(f"{found['device']}, TF32 {tf32}, commit {found['git_commit'][:12]}", flush=True)
    found |= {"tf32": tf32}
    for precision in ("float32", "bfloat16"):
        found[precision] = measured(given, device, precision)
        write(given.out, found)
    if not given.no_table:
        found["table_seconds"] = table(given)
        print(f"the table: {found['table_seconds'] / 60:.1f} min", flush=True)
    judge(found)
    write(given.out, found)
    return 0


def write(path, found):
    """Also before all is measured: what was, is not lost with what fails."""
    if path:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def name_of(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU, which says nothing of a GPU"


def setting(given):
    """Suite and images that are measured."""
    suite, images = bench_suite("mlp", given.tasks), bench_images(given.data_root)
    return suite.with_overrides({"hidden_sizes": [32, 32]} if given.small else {}), images


def measured(given, device, precision):
    """Images per second by method; of Avalanche, which has one precision, in float32 alone."""
    suite, images = setting(given)
    stock = STOCK if precision == "float32" else ()
    found = {"images_per_second": {}, "share_of_bare_loop": {}}
    for row in bench(images, device, precision, (*METHODS, *stock), given.tasks, given.epochs, given.repeats, suite):
        found["images_per_second"][row.name] = row.images_per_second
        found["share_of_bare_loop"][row.name] = row.share_of_bare_loop
        bare = row.bare_images_per_second
        print(f"{precision:>8}  {row.name:<24}{row.images_per_second:>12,.0f} images/s", end="")
        print(f"  {row.share_of_bare_loop:.2f} of the bare loop's {bare:,.0f}", flush=True)
    found["peak_memory_bytes"] = {name: peak(name, given, device, precision) for name in METHODS}
    if device.type == "cuda":
        stream = make_stream(suite, images, RandomStreams(0))
        rates = [in_graphs(stream, suite, device, precision) for _ in range(given.repeats)]
        found["bare_loop_in_cuda_graphs"] = statistics.median(rates)
        print(f"{precision:>8}  the bare loop in CUDA graphs: {statistics.median(rates):,.0f} images/s", flush=True)
    alone, together = found["images_per_second"]["naive"], at_once(given, precision)
    found["naive_at_once"] = {"runs": given.jobs, "images_per_second": together}
    print(
        f"{precision:>8}  {given.jobs} runs at once: {together:,.0f} images/s, {together / alone:.1f} x one", flush=True
    )
    return found


def peak(name, given, device, precision):
    """Bytes that a method held on the GPU at most; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    suite, images = setting(given)
    torch.cuda.reset_peak_memory_stats(device)
    ours(name, suite.with_overrides({"n_tasks": given.tasks, "epochs": 1}), images, device, precision)
    return torch.cuda.max_memory_allocated(device)


def in_graphs(stream, suite, device, precision):
    """Images per second of the bare loop whose step is a CUDA graph, whole batches alone."""
    model = suite.build_network(stream.image_shape, stream.n_outputs, seed=0).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=suite.learning_rate, fused=True, capturable=True)
    x, y = (tensor.to(device) for tensor in stream.tasks[0].train.tensors())
    static_x, static_y = x[: suite.batch_size].clone(), y[: suite.batch_size].clone()

    def step():
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            output = model(static_x)
        nn.functional.cross_entropy(output.float(), static_y).backward()
        optimizer.step()

    # Captured once everything has its memory.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    order = torch.randperm(len(x), device=device).split(suite.batch_size)[:-1]
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for chosen in order:
        torch.index_select(x, 0, chosen, out=static_x)
        torch.index_select(y, 0, chosen, out=static_y)
        graph.replay()
    torch.cuda.synchronize()
    return len(order) * suite.batch_size / (time.perf_counter() - begin)


def at_once(given, precision):
    """Images per second of so many runs of plain fine-tuning at once, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(given.jobs, context) as pool:
        # One that fails, for want of memory perhaps, does not leave the others waiting.
        barrier = manager.Barrier(given.jobs, timeout=_SECONDS_TO_START)
        rates = [pool.submit(_one, vars(given), precision, barrier) for _ in range(given.jobs)]
        return sum(rate.result() for rate in rates)


def _one(given, precision, barrier):
    given = argparse.Namespace(**given)
    torch.set_num_threads(1)
    device = torch.device(given.device)
    suite, images = setting(given)
    suite = suite.with_overrides({"n_tasks": given.tasks, "epochs": given.epochs})
    # The first steps find caches cold.
    bare_loop(make_stream(suite, images, RandomStreams(0)), suite.with_overrides({"epochs": 1}), device, precision)
    barrier.wait()
    return ours("naive", suite, images, device, precision)["naive"].rate


def table(given):
    """Seconds that the permuted-mnist table takes: every method but joint and Avalanche's, three seeds."""
    with tempfile.TemporaryDirectory() as place:
        command = ["run", "--suite", "permuted-mnist", "--methods", TABLE, "--seeds", "0-2", "--precision", "bfloat16"]
        if given.small:
            command = ["run", "--suite", "permuted-digits", "--methods", "naive,clnp", "--seeds", "0", "--set=epochs=1"]
        command += ["--device", given.device, "--jobs", str(given.jobs), "--threads", "1", "--offline", "--no-report"]
        command += ["--tracking-uri", f"sqlite:///{place}/mlflow.db", "--output", f"{place}/runs"]
        command += ["--data-root", str(given.data_root)] if given.data_root else []
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "clbench", *command], check=False, stdout=subprocess.DEVNULL)
        # A table that is not whole takes no time that means anything.
        return time.perf_counter() - begin if done.returncode == 0 else float("nan")


def judge(found):
    """Prints each goal with what came out."""
    speeds = found["float32"]["images_per_second"]
    came_out = {
        "times Avalanche": speeds["naive"] / speeds["avalanche-stock-naive"],
        "share of the bare loop": found["float32"]["share_of_bare_loop"]["naive"],
        "minutes for the table": found.get("table_seconds", float("nan")) / 60,
    }
    for name, goal in GOALS.items():
        value = came_out[name]
        if math.isnan(value):
            print(f"{name}: not measured, goal {goal:g}")
            continue
        reached = value <= goal if "minutes" in name else value >= goal
        print(f"{name}: {value:.2f}, goal {goal:g}: {'reached' if reached else 'not reached'}")


if __name__ == "__main__":
    sys.exit(main())
