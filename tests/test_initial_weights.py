"""What `initial_weights` does to every method's networks."""

import pytest
import torch
from torch import nn

from clbench.baselines.psp import PSP
from clbench.methods.table import reason_against, resolve_settings
from clbench.networks.initial import glorot
from clbench.suites.files import SUITES


@pytest.mark.parametrize("method", ["naive", "ewc", "clnp", "joint", "single-task"])
def test_a_network_starts_as_kerass_and_as_pytorchs_where_nothing_is_said(make_method, make_workplace, method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[300], epochs=1)
    plain = make_method(method, workplace).model.state_dict()
    model = make_method(method, workplace, initial_weights="glorot").model
    weight = next(layer for layer in model.modules() if isinstance(layer, nn.Linear)).weight
    bound = (6 / (64 + 300)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert all(not value.any() for name, value in model.state_dict().items() if name.endswith("bias"))
    default = next(value for name, value in plain.items() if name.endswith("weight") and value.ndim == 2)
    assert 0.99 / 8 < default.abs().max() <= 1 / 8


def test_every_network_of_single_task_draws_weights_of_its_own_and_the_same_again(make_method, make_workplace):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[16], epochs=1)
    method = make_method("single-task", workplace, initial_weights="glorot")
    first, second, again = (method.build_network(index).trunk[0].weight for index in (0, 1, 0))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_convolutions_count_their_kernels_positions_and_a_layer_at_zero_stays_so():
    layers = nn.ModuleList([nn.Conv2d(4, 8, 3), nn.Linear(5, 2)])
    nn.init.zeros_(layers[1].weight)
    glorot(layers, torch.Generator().manual_seed(0))
    bound = (6 / ((4 + 8) * 9)) ** 0.5
    assert 0.9 * bound < layers[0].weight.abs().max() <= bound
    assert not layers[1].weight.any()


def test_psp_refuses_what_it_would_not_do():
    suite = SUITES["permuted-digits"]
    settings = resolve_settings(suite, "psp", {"initial_weights": "glorot"})
    assert "draws the weights of the network mlp itself" in reason_against("psp", suite, settings)
    conv = SUITES["split-digits"]
    assert PSP.refuses(conv, resolve_settings(conv, "psp", {"initial_weights": "glorot"})) == ""
