"""CLASSP: the optimiser's gate, its sum, and what its public code does instead."""

import copy

import pytest
import torch
from torch import nn

from clbench.baselines.classp import Suppressing


def stepped(optimizer, layer, gradients):
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
    return layer.weight.detach().clone()


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(4, 3, bias=False)


@pytest.fixture
def gradients():
    return list(torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)) * 0.1)


def test_with_power_2_and_no_threshold_it_is_adagrad_but_for_where_epsilon_stands(layer, gradients):
    other = copy.deepcopy(layer)
    ours = stepped(Suppressing([layer.weight], 0.1, threshold=0.0, power=2.0, epsilon=1e-12), layer, gradients)
    adagrad = stepped(torch.optim.Adagrad([other.weight], 0.1, eps=1e-12), other, gradients)
    torch.testing.assert_close(ours, adagrad)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_each_weight_has_a_gate_and_a_sum_of_its_own(layer, gradients, power):
    threshold, expected = 0.005, layer.weight.detach().clone().double()
    sums = torch.zeros(3, 4, dtype=torch.float64)
    for gradient in gradients:
        for i in range(3):
            for j in range(4):
                g = float(gradient[i, j])
                if g * g > threshold:
                    sums[i, j] += abs(g) ** power
                    expected[i, j] -= 0.1 * g / (0.01 + sums[i, j]) ** (1 / power)
    optimizer = Suppressing([layer.weight], 0.1, threshold=threshold, power=power, epsilon=0.01)
    found = stepped(optimizer, layer, gradients)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert bool((sums == 0).any()) or bool((torch.stack(gradients).square() <= threshold).any())


def test_a_weight_below_the_threshold_keeps_its_bits(layer, gradients):
    before = layer.weight.detach().clone()
    optimizer = Suppressing([layer.weight], 0.1, threshold=1.0)
    assert torch.equal(stepped(optimizer, layer, gradients), before)
    assert not optimizer.state[layer.weight]["sum"].any()


def test_the_public_code_has_no_gate_and_no_root(layer, gradients):
    expected = layer.weight.detach().clone()
    sums = torch.zeros(3, 4)
    for gradient in gradients:
        sums += gradient.square()
        expected -= 0.1 * gradient / (0.01 + sums)
    optimizer = Suppressing([layer.weight], 0.1, threshold=1.0, power=2.0, epsilon=0.01, reference=True)
    torch.testing.assert_close(stepped(optimizer, layer, gradients), expected)


def test_the_sums_live_on_from_task_to_task_and_count_as_the_optimisers_state(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[16], epochs=1)
    method = make_method("classp", workplace)
    sums = []
    for task in workplace.stream.tasks:
        method.learn(task)
        sums.append([state["sum"].clone() for state in method.strategy.optimizer.state.values()])
    assert all(bool((late >= early).all()) for early, late in zip(*sums, strict=True))
    assert any(bool((late > early).any()) for early, late in zip(*sums, strict=True))
    assert method.optimizer_state_bytes() == sum(p.nbytes for p in method.model.parameters())
