"""EWC's Fisher and penalty against brute force and closed form."""

import pytest
import torch
from torch import nn

from clbench.baselines.ewc import EWCPlugin, fisher_diagonal
from clbench.errors import MethodError
from clbench.models import MLP, MultiHeadMLP


def network(seed=0):
    torch.manual_seed(seed)
    return MLP(6, (5, 4), 3).double()


def batches(x, size):
    labels = torch.zeros(len(x), dtype=torch.long)
    return [[a, torch.zeros(len(a)), b] for a, b in zip(x.split(size), labels.split(size), strict=True)]


def brute_force(model, x, task=None):
    """One backward pass per sample and label."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for sample in x.split(1):
        log_p = (model(sample) if task is None else model(sample, task)).log_softmax(1)[0]
        for label in range(len(log_p)):
            grads = torch.autograd.grad(log_p[label], list(model.parameters()), retain_graph=True, allow_unused=True)
            for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
                if grad is not None:
                    total[name] += log_p[label].detach().exp() * grad**2
    return {name: tensor / len(x) for name, tensor in total.items()}


def test_the_fisher_equals_the_per_sample_one_by_brute_force():
    model, x = network(), torch.randn(17, 6, dtype=torch.double)
    fast, slow = fisher_diagonal(model, batches(x, 5)), brute_force(model, x)
    assert fast.keys() == slow.keys()
    for name in slow:
        assert torch.count_nonzero(slow[name]) > 0
        torch.testing.assert_close(fast[name], slow[name], atol=1e-12, rtol=1e-9)


def test_the_fisher_of_a_head_counts_for_its_own_task_only():
    torch.manual_seed(0)
    model, x = MultiHeadMLP(6, (5,), 3, 2).double(), torch.randn(9, 6, dtype=torch.double)
    marked = [[x, torch.zeros(9), torch.ones(9, dtype=torch.long)]]
    fast, slow = fisher_diagonal(model, marked), brute_force(model, x, task=1)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-12, rtol=1e-9)
    assert torch.count_nonzero(fast["heads.0.weight"]) == 0
    assert torch.count_nonzero(fast["heads.1.weight"]) > 0


def test_the_fisher_does_not_depend_on_the_batch_size():
    model, x = network(), torch.randn(24, 6, dtype=torch.double)
    reference = fisher_diagonal(model, batches(x, 24))
    for size in (1, 7):
        other = fisher_diagonal(model, batches(x, size))
        for name in reference:
            torch.testing.assert_close(other[name], reference[name], atol=1e-12, rtol=1e-9)


def test_the_fisher_of_some_images_is_that_of_the_first_ones():
    model, x = network(), torch.randn(24, 6, dtype=torch.double)
    some, same = fisher_diagonal(model, batches(x, 7), n_images=10), fisher_diagonal(model, batches(x[:10], 10))
    for name in same:
        torch.testing.assert_close(some[name], same[name], atol=1e-12, rtol=1e-9)


def test_logistic_regression_has_the_fisher_of_the_textbook():
    torch.manual_seed(1)
    model, x = nn.Linear(4, 2).double(), torch.randn(11, 4, dtype=torch.double)
    p = model(x).softmax(1)[:, 1]
    # With two classes d log p(y|x) / d w_1 = (y - p) x, whose variance is p (1 - p) x^2.
    expected = ((p * (1 - p))[:, None] * x**2).mean(0)
    torch.testing.assert_close(fisher_diagonal(model, batches(x, 4))["weight"][1], expected.detach())


def test_the_merged_penalty_is_the_sum_of_the_per_task_ones():
    model, plugin = network(), EWCPlugin(strength=3.0)
    fishers, anchors = [], []
    for task in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        fishers.append(fisher_diagonal(model, batches(torch.randn(8, 6, dtype=torch.double), 8)))
        anchors.append({name: p.detach().clone() for name, p in model.named_parameters()})
        plugin.merge(fishers[task], model)

    def separate():
        return sum(
            3.0 / 2 * (fisher[name] * (p - anchor[name]) ** 2).sum()
            for fisher, anchor in zip(fishers, anchors, strict=True)
            for name, p in model.named_parameters()
        )

    constant = sum(3.0 / 2 * (f[n] * a[n] ** 2).sum() for f, a in zip(fishers, anchors, strict=True) for n in f)
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    torch.testing.assert_close(plugin.penalty_up_to_constant(model) + constant, separate())
    # What training uses is the gradient; it must be that of the sum as well.
    expected = torch.autograd.grad(separate(), list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    plugin.before_update(type("Strategy", (), {"model": model}))
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_online_ewc_keeps_one_decayed_fisher_around_the_latest_weights():
    model, plugin = network(), EWCPlugin(strength=1.0, decay=0.5)
    running = None
    for _ in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        fisher = fisher_diagonal(model, batches(torch.randn(8, 6, dtype=torch.double), 8))
        running = fisher if running is None else {name: 0.5 * running[name] + fisher[name] for name in fisher}
        plugin.merge(fisher, model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(plugin.fisher[name], running[name])
        torch.testing.assert_close(plugin.fisher_anchor[name], running[name] * p)


def test_memory_does_not_grow_with_the_tasks(make_method, make_workplace):
    workplace = make_workplace(n_tasks=3, hidden_sizes=[16], epochs=1)
    method = make_method("ewc", workplace)
    sizes = []
    for task in workplace.stream.tasks:
        method.learn(task)
        sizes.append(method.extra_state_bytes())
    assert sizes[0] == sizes[1] == sizes[2] == 2 * sum(4 * p.numel() for p in method.model.parameters())


def test_a_strong_penalty_holds_the_weights_where_they_were(make_method, make_workplace):
    moved = []
    for strength in (0.0, 1000.0):
        workplace = make_workplace(n_tasks=2, hidden_sizes=[32], epochs=2)
        method = make_method("ewc", workplace, strength=strength)
        method.learn(workplace.stream.tasks[0])
        important = method.ewc.fisher["trunk.0.weight"] > method.ewc.fisher["trunk.0.weight"].quantile(0.9)
        before = method.model.trunk[0].weight.detach().clone()
        method.learn(workplace.stream.tasks[1])
        moved.append(float((method.model.trunk[0].weight.detach() - before)[important].abs().mean()))
    assert moved[1] < moved[0] / 3


def test_layers_without_an_exact_fisher_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(MethodError, match=r"linear layers only, but 1\.weight"):
        fisher_diagonal(model, batches(torch.randn(3, 4), 3))
