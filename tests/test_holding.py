"""Weights that no step may move."""

import pytest
import torch
from torch import nn

from clbench.baselines.holding import Held


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_held_entries_keep_their_bits_whatever_the_optimiser(optimizer):
    layer = nn.Linear(5, 4)
    mask = torch.rand(4, 5) < 0.5
    before = layer.weight.detach().clone()
    taken = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    made = optimizer(layer.parameters(), lr=0.1, weight_decay=0.1, **taken)
    layer(torch.randn(3, 5)).square().sum().backward()
    made.step()
    with torch.no_grad():
        layer.weight.copy_(before)
    held = Held({"weight": layer.weight}, {"weight": mask})
    for _ in range(3):
        made.zero_grad()
        layer(torch.randn(3, 5)).square().sum().backward()
        held.zero_gradients()
        assert not layer.weight.grad[mask].any()
        made.step()
        held.put_back()
    assert torch.equal(layer.weight[mask], before[mask])
    assert not torch.isclose(layer.weight[~mask], before[~mask]).any()
