"""Tests of runs: a grid of them on the embedded digits."""

import pytest

from clbench.runs.spec import make_specs


@pytest.fixture
def make(plain, digits):
    """(methods, seeds, suite, images, precision, device, overrides) -> list of RunSpec."""

    def specs(
        methods=("naive",), seeds=(0,), suite=None, images=digits, precision="float32", device="cpu", **overrides
    ):
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        suite = suite or plain
        return make_specs(suite, list(methods), list(seeds), named, images, precision, device)

    return specs
