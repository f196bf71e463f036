"""Tests of networks of the user's own: their files, runs with them, and what those learn."""

import pytest
import torch

from clbench.runs.runner import train
from clbench.runs.spec import make_specs
from clbench.suites.files import find_suite


@pytest.fixture
def write(tmp_path):
    """(text, name) -> the path of a file with that text below the folder `lab` of the test's."""

    def written(text, name="net.py"):
        path = tmp_path / "lab" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.fixture
def spec_of(digits):
    """(path or reference, changes) -> one run of the naive method on the embedded digits with that network."""

    def make(network, method="naive", **changes):
        reference = network if ":" in str(network) else f"{network}:Net"
        overrides = {"network": str(reference), "n_tasks": 2, "epochs": 1, **changes}
        (spec,) = make_specs(find_suite("permuted-digits"), [method], [0], overrides, digits, "float32", "cpu")
        return spec

    return make


@pytest.fixture
def trained(digits):
    """(spec) -> the weights that the run learns, by name."""

    def learn(spec):
        return train(spec, digits, torch.device("cpu"), lambda result: None).model.state_dict()

    return learn
