"""Powerpropagation: a step in phi is what torch's own reparameterisation gives."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from clbench.methods.power import powered, to_phi, to_weight
from clbench.methods.table import reason_against, resolve_settings
from clbench.suites.files import SUITES


class Power(nn.Module):
    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def forward(self, phi):
        return to_weight(phi, self.alpha)

    def right_inverse(self, weight):
        return to_phi(weight, self.alpha)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
}


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_that_of_torchs_reparameterisation(optimizer, alpha):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5))
    other = copy.deepcopy(network)
    for layer in (other[0], other[3]):
        parametrize.register_parametrization(layer, "weight", Power(alpha))
    ours = powered(OPTIMIZERS[optimizer](network.parameters()), alpha)
    theirs = OPTIMIZERS[optimizer](other.parameters())
    x, y = torch.randn(20, 1, 6, 6), torch.randint(5, (20,))
    for _ in range(15):
        for model, step in ((network, ours), (other, theirs)):
            step.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            step.step()
    for index in (0, 3):
        torch.testing.assert_close(network[index].weight, other[index].weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(network[index].bias, other[index].bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_without_a_gradient_keep_every_bit(optimizer):
    layer = nn.Linear(40, 30)
    plain = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1), "adam": OPTIMIZERS["adam"]}[optimizer]
    before, made = layer.weight.detach().clone(), powered(plain([layer.weight]), 3.0)
    for _ in range(50):
        layer.weight.grad = torch.zeros_like(layer.weight)
        layer.weight.grad[0] = 1
        made.step()
    assert torch.equal(layer.weight[1:], before[1:])
    assert not torch.equal(layer.weight[0], before[0])


def test_a_weight_of_0_stays_and_a_layer_of_zeros_does_not():
    layer, zeros = nn.Linear(4, 3), nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0, 1] = 0
        zeros.weight.zero_()
    optimizer = powered(torch.optim.SGD([*layer.parameters(), *zeros.parameters()], lr=0.1), 2.0)
    for _ in range(3):
        optimizer.zero_grad()
        zeros(layer(torch.randn(8, 4))).square().sub(1).square().sum().backward()
        optimizer.step()
    assert layer.weight[0, 1] == 0
    assert zeros.weight.any()


@pytest.mark.parametrize("method", ["clnp", "packnet", "ewc", "si"])
def test_any_method_can_ask_for_it_and_small_weights_stay_small(method, make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[64], epochs=20)
    small, sgd = {}, {"optimizer": "sgd", "learning_rate": 0.5}
    for alpha in (1.0, 3.0):
        settings = {"restart": "draw", "fine_tune_share": 0.0} if method == "packnet" else {}
        settings |= {"l1_weights": 0.0, "fine_tune_share": 0.0} if method == "clnp" else {}
        made = make_method(method, workplace, power_alpha=alpha, **sgd, **settings)
        made.learn(workplace.stream.tasks[0])
        weight = made.model.trunk[0].weight.detach()
        kept = weight[weight != 0].abs()
        small[alpha] = float((kept < 0.02 * kept.max()).float().mean())
    assert small[3.0] > 2 * small[1.0]


def test_pruned_weights_that_would_stay_at_0_are_refused():
    suite = SUITES["permuted-digits"]
    for method in ("packnet", "anpyc"):
        settings = resolve_settings(suite, method, {"power_alpha": 2.0})
        assert "at 0 for ever" in reason_against(method, suite, settings)


def test_the_gradient_by_the_weight_is_there_again_after_a_step():
    layer = nn.Linear(4, 3)
    layer(torch.randn(8, 4)).square().sum().backward()
    before = layer.weight.grad.clone()
    powered(torch.optim.SGD(layer.parameters(), lr=0.1), 3.0).step()
    assert torch.equal(layer.weight.grad, before)
