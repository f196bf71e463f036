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


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_answers_looked_up_train_the_same_as_answers_computed(share):
    constant, everything = masks(1, share), [torch.ones(size, dtype=torch.bool) for size in SIZES[1:-1]]
    images, labels = torch.randn(40, 7, dtype=torch.double), torch.randint(4, (40,))
    order = torch.randperm(40)
    trained = []
    for looked_up in (False, True):
        linears, model = network()
        cut_interference(linears, constant)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        chain = chain_of(linears, constant, everything, None)
        chain.enter(optimizer)
        if looked_up:
            chain.look_up(chain.answers(model, images, 16, 2**20))
            # Were they computed after all, they would come out wrong.
            for layer in chain.layers[:-1]:
                layer._constant = layer._constant[0] * torch.nan, layer._constant[1]
        for chosen in order.split(8):
            if looked_up:
                chain.at(chosen)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        chain.leave()
        trained.append([p.detach() for p in model.parameters()])
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def test_answers_keep_to_their_budget_and_give_way_to_other_images():
    linears, model = network()
    constant = [torch.arange(size) < count for size, count in zip(SIZES[1:-1], (6, 3), strict=True)]
    cut_interference(linears, constant)
    chain = chain_of(linears, constant, [torch.ones_like(mask) for mask in constant], None)
    images, others = torch.randn(40, 7, dtype=torch.double), torch.randn(5, 7, dtype=torch.double)
    first, second = 40 * 6 * 8, 40 * 3 * 8
    for budget, expected in {
        first + second: [True, True],
        first + second - 1: [True, False],
        first - 1: [False, True],
        second - 1: [False, False],
    }.items():
        assert [found is not None for found in chain.answers(model, images, 16, budget)] == expected
    chain.resume()
    computed, of_others = model(images[:5]).detach(), model(others).detach()
    chain.look_up(chain.answers(model, images, 16, first + second))
    chain.at(torch.arange(5))
    torch.testing.assert_close(model(images[:5]).detach(), computed)
    assert not torch.allclose(model(others), of_others)
    chain.at(None)
    assert torch.equal(model(others).detach(), of_others)
