"""Fixtures: the embedded data, small workplaces, prepared methods."""

import pytest
import torch

from clbench.data import ImageSet, load_images
from clbench.methods import Method, Workplace, find_method, resolve_settings
from clbench.seeding import RandomStreams
from clbench.streams import make_stream
from clbench.suites import Suite, find_suite


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_images("digits")


@pytest.fixture(scope="session")
def split_digits() -> Suite:
    """Two tasks of five digits each, with a head per task, on the embedded data."""
    return find_suite("permuted-digits").model_copy(
        update={"name": "split-digits", "scenario": "split", "n_tasks": 2, "classes_per_task": 5, "head": "multi"}
    )


@pytest.fixture
def make_workplace(digits):
    """(suite, seed, precision, overrides) -> Workplace on the embedded digits."""

    def make(suite="permuted-digits", seed=0, precision="float32", **overrides) -> Workplace:
        found = find_suite(suite) if isinstance(suite, str) else suite
        changed = found.with_overrides(overrides)
        seeds = RandomStreams(seed)
        return Workplace(changed, make_stream(changed, digits, seeds), seeds, torch.device("cpu"), precision)

    return make


@pytest.fixture
def make_method():
    """(name, workplace, settings) -> prepared Method."""

    def make(name: str, workplace: Workplace, **settings) -> Method:
        method = find_method(name)(resolve_settings(workplace.suite, name, settings), workplace)
        method.prepare()
        return method

    return make
