"""What could lead units astray: permutations, hooks, work in place, sizes, shared weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from clbench.errors import MethodError
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.units import find_units


class Net(nn.Module):
    """Two linear layers, something between them, and an output layer."""

    def __init__(self, between, n=8):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, n), nn.Linear(n, n), nn.Linear(n, 3)
        self.between = between

    def forward(self, x):
        h = self.a(x.flatten(1)).relu()
        return self.c(self.between(self, h).relu())


IMAGE = torch.zeros(1, 1, 8, 8)


def ignored(net, h):
    g = net.b(h)
    g.mul_(torch.softmax(g, 1))
    return g


def sum_of_old_and_new(net, h):
    g = net.b(h)
    old = h
    h += g
    return old + h


REFUSED = {
    "reversed": (lambda net, h: net.b(h.flip(1)), "cannot follow units through the function flip to the layer 'b'"),
    "two swapped": (
        lambda net, h: net.b(h[:, [0, 1, 2, 6, 4, 5, 3, 7]]),
        "cannot follow units through the function getitem to the layer 'b'",
    ),
    "rolled": (lambda net, h: net.b(h.roll(2, 1)), "through the function roll"),
    "in place and ignored": (ignored, "the function mul_ changes a tensor in place that is used again"),
    "in place and used": (
        sum_of_old_and_new,
        "other answers than what could be traced of it; something may work in place",
    ),
    "divided by their number": (lambda net, h: net.b(h / h.shape[1]), "computes with the number of its neurons"),
}


@pytest.mark.parametrize(("between", "said"), REFUSED.values(), ids=REFUSED)
def test_what_leads_units_astray_is_refused(between, said):
    # Weights that silence most neurons would hide what is computed with their number.
    torch.manual_seed(0)
    with pytest.raises(MethodError, match=said):
        find_units(Net(between), IMAGE)


@pytest.mark.parametrize("n", [2, 3, 7, 8, 33])
def test_no_exchange_of_two_units_goes_unseen(n):
    for one in range(n):
        for other in range(one):
            order = list(range(n))
            order[one], order[other] = other, one
            with pytest.raises(MethodError, match="cannot follow units"):
                find_units(Net(lambda net, h, order=order: net.b(h[:, order]), n), IMAGE)
            if n > 8:
                break


def test_a_hook_that_changes_what_a_layer_gives_is_refused_and_one_that_looks_on_is_not():
    net, seen = Net(lambda net, h: net.b(h)), []
    looking = net.b.register_forward_hook(lambda module, args, output: seen.append(output))
    assert [group.name for group in find_units(net, IMAGE).groups] == ["a", "b"]
    looking.remove()
    net.b.register_forward_pre_hook(lambda module, args: (torch.softmax(args[0], 1),))
    with pytest.raises(MethodError, match="a hook of 'b' changes what it is given or gives"):
        find_units(net, IMAGE)


def test_layers_that_share_their_weights_are_refused():
    net = Net(lambda net, h: net.b(net.d(h)))
    net.d = nn.Linear(8, 8)
    net.d.weight = net.b.weight
    with pytest.raises(MethodError, match="'b' and 'd' share their weights"):
        find_units(net, IMAGE)


def test_a_bias_that_is_pruned_is_refused():
    net = Net(lambda net, h: net.b(h))
    prune.l1_unstructured(net.b, "bias", 0.5)
    with pytest.raises(MethodError, match="the weights of 'b' are computed from others"):
        find_units(net, IMAGE)


FOLLOWED = {
    "a constant made by the code": lambda net, h: net.b(h * torch.ones(1) + torch.linspace(0, 1, 1)),
    "where": lambda net, h: net.b(torch.where(h > 0.1, h, 0.2 * h)),
    "the same twice": lambda net, h: net.b(torch.cat([h, h], 1)),
    "in place": lambda net, h: net.b(h.mul_(2).clamp_(min=0.1)),
}


@pytest.mark.parametrize("between", FOLLOWED.values(), ids=FOLLOWED)
def test_what_keeps_units_apart_is_followed_whatever_it_is_called(between):
    torch.manual_seed(0)
    net = Net(between).eval()
    if between is FOLLOWED["the same twice"]:
        net.b = nn.Linear(16, 8)
    units = find_units(net, IMAGE)
    x, mask = torch.rand(5, 1, 8, 8), torch.arange(units.n_units) % 3 > 0
    whole = ReducedNetwork(net, units, seen_only(torch.ones_like(mask))).eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(x), net(x))
        with whole.seen_through(mask):
            torch.testing.assert_close(ReducedNetwork(net, units, seen_only(mask)).eval()(x), whole(x))


@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm2d], ids=["plain", "with batch norm"])
def test_a_group_of_which_nothing_is_kept_gives_nothing(norm, group):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), *([norm(6)] if norm is nn.BatchNorm2d else []), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    units = find_units(net, IMAGE)
    mask = torch.ones(units.n_units, dtype=torch.bool)
    found = units.groups[group]
    mask[found.start : found.start + found.size] = False
    x = torch.rand(4, 1, 8, 8)
    whole = ReducedNetwork(net, units, seen_only(torch.ones_like(mask))).eval()
    with torch.no_grad(), whole.seen_through(mask):
        torch.testing.assert_close(ReducedNetwork(net, units, seen_only(mask)).eval()(x), whole(x))
        assert not torch.allclose(whole(x), net(x))


def test_finding_units_draws_no_random_number():
    torch.manual_seed(0)
    expected = torch.rand(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 3))
    torch.manual_seed(0)
    find_units(net, IMAGE)
    assert torch.equal(torch.rand(1), expected)
