"""HAT: what it says when its units run out."""

import warnings

import pytest
import torch

from clbench.errors import MethodWarning


@pytest.fixture
def hat(make_method, make_workplace):
    method = make_method("hat", make_workplace(n_tasks=2, hidden_sizes=[20, 10]))
    method.taken = torch.zeros(30)
    return method


def test_groups_without_units_left_are_named(hat):
    hat.taken[:20] = 1.0
    with pytest.warns(MethodWarning, match="only 0 of 20 neurons of .* left for the next task") as said:
        hat.warn_if_full()
    assert len(said) == 1


def test_half_open_gates_and_some_units_left_are_no_reason(hat):
    hat.taken[:30] = 0.5
    hat.taken[:19] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hat.warn_if_full()
