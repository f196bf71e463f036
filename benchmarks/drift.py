"""How far do answers for learned tasks move? Logits of test images right after each task, and after the last one.

    python benchmarks/drift.py [--suite split-digits] [--methods clnp,hat] [--seed 0] [--set hat.binarise=true]

A line for each method: the largest change of a logit, the share of images that get another answer, and what that costs,
mean over all tasks but the last. The images are the digits that come with scikit-learn.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clbench.data import load_images
from clbench.data.images import ImageSet
from clbench.data.streams import Task
from clbench.errors import SettingError
from clbench.methods.method import Method, Workplace
from clbench.methods.table import find_method
from clbench.runs.spec import make_specs
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite
from clbench.suites.settings import parse_overrides

METHODS = "clnp,packnet,wsn,supsup,frozen-trunk,hat,sor-snn-style,psp,ewc,naive"


def main() -> None:
    """Prints a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="permuted-digits")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images("digits")
    try:
        overrides = parse_overrides(given.set)
        print(f"{'method':<16}{'largest change of a logit':>27}{'other answers, %':>18}{'accuracy lost, points':>23}")
        for name in given.methods.split(","):
            largest, others, lost = drift(given.suite, name, given.seed, overrides, images)
            print(f"{name:<16}{largest:>27.3g}{100 * others:>18.2f}{100 * lost:>23.2f}", flush=True)
    except SettingError as error:
        parser.error(str(error))


def drift(
    suite: str, name: str, seed: int, overrides: Mapping[str, Any], images: ImageSet
) -> tuple[float, float, float]:
    """Largest change of a logit; shares of images: with another answer, and right before less right after."""
    cpu = torch.device("cpu")
    (spec,) = make_specs(find_suite(suite), [name], [seed], overrides, images, "float32", "cpu")
    stream = spec.stream(images)
    method = find_method(name)(spec.settings, Workplace(spec.suite, stream, RandomStreams(seed), cpu, "float32"))
    method.prepare()
    then = {}
    for task in stream.tasks:
        method.learn(task)
        then[task.index] = logits(method, task)
    largest, others, lost = 0.0, 0.0, 0.0
    earlier = stream.tasks[:-1]
    for task in earlier:
        now, before, labels = logits(method, task), then[task.index], task.test.tensors()[1]
        largest = max(largest, float((now - before).abs().max()))
        chosen, chose = now.argmax(1), before.argmax(1)
        others += float((chosen != chose).double().mean()) / len(earlier)
        lost += float(((chose == labels).double() - (chosen == labels).double()).mean()) / len(earlier)
    return largest, others, lost


def logits(method: Method, task: Task) -> Tensor:
    """Of the task's test images, [N, outputs]."""
    with torch.inference_mode(), method.network_for(task) as network:
        return network(task.test.tensors()[0]).clone()


if __name__ == "__main__":
    main()
