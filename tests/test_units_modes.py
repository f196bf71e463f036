"""What a network does in training alone is known of it, and its reduced networks do it too, or are not trained."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbench.networks.reduced import Part, ReducedNetwork
from clbench.networks.units import find_units


class Modes(nn.Module):
    """Two layers, with something between them that may depend on the mode."""

    def __init__(self, between):
        super().__init__()
        self.between = between
        self.hidden = nn.Linear(6, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.between(self, torch.relu(self.hidden(x))))


def noise(module, h):
    return h + torch.randn_like(h) if module.training else h


def scaled(module, h):
    return h * (0.5 if module.training else 1.0)


def half_as_often(module, h):
    return F.dropout(h, 0.25 if module.training else 0.5, module.training)


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (noise, "other functions or layers"),
        (scaled, "another mul"),
        (half_as_often, "another dropout"),
        (lambda module, h: F.rrelu(h, training=module.training), "another rrelu"),
        (lambda module, h: F.feature_alpha_dropout(h, 0.5, module.training), "another feature_alpha_dropout"),
        (lambda module, h: h if not module.training or h.sum() > 0 else h + 1, "code that cannot be traced"),
    ],
)
def test_what_is_done_in_training_alone_is_named(between, said):
    found = find_units(Modes(between), torch.zeros(1, 6))
    assert found.only_in_training == said
    assert not found.dropouts


@pytest.mark.parametrize(
    ("between", "drops"),
    [
        (lambda module, h: F.dropout(h, 0.5, module.training), True),
        (lambda module, h: F.dropout(h, training=module.training), True),
        (lambda module, h: F.dropout(h, p=0.5, training=False), False),
        (lambda module, h: F.dropout(h, 0.5, False), False),
        (lambda module, h: h, False),
    ],
)
def test_a_reduced_network_drops_in_training_where_the_network_does_and_nowhere_else(between, drops):
    torch.manual_seed(0)
    network, x = Modes(between).train(), torch.randn(5, 6)
    units = find_units(network, x[:1])
    assert units.only_in_training == ""
    everything = torch.ones(units.n_units, dtype=torch.bool)
    reduced = ReducedNetwork(network, units, Part(~everything, everything)).train()
    for each in (network, reduced):
        assert torch.equal(each(x), each(x)) != drops
    assert torch.equal(reduced.eval()(x), reduced(x))


def test_modules_that_know_the_mode_themselves_are_no_difference_and_modes_are_left_as_they_were():
    network = nn.Sequential(nn.Linear(6, 32), nn.RReLU(), nn.Dropout(0.5), nn.BatchNorm1d(32), nn.Linear(32, 3))
    network[3].eval()
    assert find_units(network, torch.zeros(1, 6)).only_in_training == ""
    assert [module.training for module in network] == [True, True, True, False, True]


class Named(nn.Module):
    """Layers whose names are taken, or stand for something else in a record."""

    def __init__(self, *names):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        for name in names:
            self.add_module(name, nn.Linear(8, 8))
        self.names = names
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.body(x)
        for name in self.names:
            x = torch.relu(getattr(self, name)(x))
        return self.head(x)


def test_every_group_has_a_name_of_its_own_that_a_record_can_hold():
    groups = find_units(Named("layer_1", "all", "fc:1", "fc_1", "x" * 300), torch.zeros(1, 6)).groups
    names = [group.name for group in groups]
    assert names == ["layer_1", "layer_1_2", "all_2", "fc_1", "fc_1_2", "x" * 80]
