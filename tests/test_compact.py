"""The reduced chain computes and learns what the whole network would with its constant part put back."""

import itertools

import pytest
import torch
from torch import nn

from clbench.strategies.compact import CompactChain, Neurons

SIZES = (7, 12, 10, 4)
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
    "momentum and decay": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
}


def network(bias=True):
    torch.manual_seed(0)
    linears = [nn.Linear(a, b, bias=bias).double() for a, b in itertools.pairwise(SIZES)]
    return linears, nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2])


def cut_interference(linears, constant):
    """Constant neurons read constant ones only."""
    with torch.no_grad():
        linears[1].weight[constant[1][:, None] & ~constant[0][None, :]] = 0


def chain_of(linears, constant, kept, fixed):
    neurons = [
        Neurons(c.nonzero().squeeze(1), (k & ~c).nonzero().squeeze(1)) for c, k in zip(constant, kept, strict=True)
    ]
    return CompactChain(linears, neurons, None if fixed is None else fixed[constant[1]])


def masks(seed, share):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, generator=generator) < share for size in SIZES[1:-1]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("head", ["shared", "half shared", "new"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_training_equals_that_of_the_whole_network_with_its_constants_put_back(optimizer, bias, head, share):
    constant, everything = masks(1, share), [torch.ones(size, dtype=torch.bool) for size in SIZES[1:-1]]
    fixed = {"shared": constant[1], "half shared": constant[1] & masks(2, 0.5)[1], "new": None}[head]
    batches = [(torch.randn(5, 7, dtype=torch.double), torch.randint(4, (5,))) for _ in range(6)]

    whole, model = network(bias)
    cut_interference(whole, constant)
    before = [[p.detach().clone() for p in linear.parameters()] for linear in whole]
    step = OPTIMIZERS[optimizer](model.parameters())
    for x, y in batches:
        step.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        step.step()
        with torch.no_grad():
            for linear, kept, old in zip(whole, constant, before, strict=False):
                for p, values in zip(linear.parameters(), old, strict=True):
                    p[kept] = values[kept]
            if fixed is not None:
                whole[2].weight[:, fixed] = before[2][0][:, fixed]

    reduced, model = network(bias)
    cut_interference(reduced, constant)
    step = OPTIMIZERS[optimizer](model.parameters())
    chain = chain_of(reduced, constant, everything, fixed)
    chain.enter(step)
    for x, y in batches:
        step.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        step.step()
    chain.leave()

    for ours, theirs, old, kept in zip(reduced, whole, before, [*constant, None], strict=True):
        for p, expected, start in zip(ours.parameters(), theirs.parameters(), old, strict=True):
            torch.testing.assert_close(p, expected, atol=1e-10, rtol=1e-8)
            if kept is not None:
                assert torch.equal(p[kept], start[kept])
    if fixed is not None:
        assert torch.equal(reduced[2].weight[:, fixed], before[2][0][:, fixed])


def test_neurons_left_out_do_not_count_and_do_not_move():
    linears, model = network()
    constant, kept = masks(1, 0.3), [a | b for a, b in zip(masks(1, 0.3), masks(3, 0.5), strict=True)]
    cut_interference(linears, constant)
    before = [[p.detach().clone() for p in linear.parameters()] for linear in linears]
    x = torch.randn(5, 7, dtype=torch.double)
    hidden = torch.relu(linears[0](x)) * kept[0]
    expected = linears[2](torch.relu(linears[1](hidden)) * kept[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    chain = chain_of(linears, constant, kept, None)
    chain.enter(optimizer)
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    optimizer.step()
    chain.leave()
    for linear, keep, (weight, bias) in zip(linears, kept, before, strict=False):
        assert torch.equal(linear.weight[~keep], weight[~keep])
        assert torch.equal(linear.bias[~keep], bias[~keep])
        assert not torch.equal(linear.weight[keep], weight[keep])
    assert torch.equal(linears[1].weight[:, ~kept[0]], before[1][0][:, ~kept[0]])


def test_the_optimiser_holds_the_trainable_part_alone_and_the_whole_network_afterwards():
    linears, model = network()
    other_head = nn.Linear(10, 4).double()
    constant = masks(1, 0.4)
    everything = [torch.ones(size, dtype=torch.bool) for size in SIZES[1:-1]]
    groups = [{"params": list(model.parameters()), "lr": 0.1}, {"params": list(other_head.parameters()), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    whole = [list(group["params"]) for group in optimizer.param_groups]
    chain = chain_of(linears, constant, everything, None)
    chain.enter(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    free = [int((~c).sum()) for c in constant]
    assert sum(p.numel() for p in trained) == free[0] * (7 + 1) + free[1] * (12 + 1) + 4 * (10 + 1)
    assert optimizer.param_groups[1]["params"] == []
    chain.leave()
    for group, parameters in zip(optimizer.param_groups, whole, strict=True):
        assert all(a is b for a, b in zip(group["params"], parameters, strict=True))
    assert not optimizer.state
    assert all("forward" not in vars(linear) for linear in linears)


def test_the_whole_network_answers_in_between_with_what_was_trained_so_far():
    linears, model = network()
    constant = masks(1, 0.4)
    cut_interference(linears, constant)
    everything = [torch.ones(size, dtype=torch.bool) for size in SIZES[1:-1]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chain = chain_of(linears, constant, everything, constant[1])
    chain.enter(optimizer)
    x = torch.randn(5, 7, dtype=torch.double)
    model(x).sum().backward()
    optimizer.step()
    reduced = model(x).detach()
    chain.suspend()
    torch.testing.assert_close(model(x).detach(), reduced)
    assert len(optimizer.param_groups[0]["params"]) == len([p for layer in chain.layers for p in layer.parameters])
    chain.resume()
    assert torch.equal(model(x).detach(), reduced)
