"""LwF: what it adds to the loss."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbench.baselines.lwf import LwFPlugin, answers


def test_what_has_not_changed_costs_nothing_and_what_has_the_published_sum():
    plugin = LwFPlugin(strength=1.0, temperature=2.0)
    then, now = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(plugin.distilled(then, then), torch.zeros(()))
    p, log_q = (then / 2).softmax(1), (now / 2).log_softmax(1)
    by_hand = (p * (p.log() - log_q)).sum() / 5
    torch.testing.assert_close(plugin.distilled(then, now), by_hand)


@pytest.mark.parametrize("head", ["one head", "a head per task"])
def test_the_first_task_costs_nothing_more_and_later_ones_the_sum_over_earlier_heads(
    head, make_workplace, make_method, split_digits
):
    several = head != "one head"
    changes = {"hidden_sizes": [16], "epochs": 1, "n_tasks": 2}
    workplace = make_workplace(split_digits, **changes) if several else make_workplace(**changes)
    model = make_method("lwf", workplace, strength=0.5).model.eval()
    x, y = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    plugin = LwFPlugin(0.5, several_heads=several)
    strategy = SimpleNamespace(model=model, mb_x=x, mb_y=y, loss=torch.zeros(()))
    plugin.before_training_exp(strategy)
    plugin.before_backward(strategy)
    assert strategy.loss == 0
    plugin.after_training_exp(strategy)
    plugin.before_training_exp(strategy)
    then = [found.detach() for found in answers(model, x, [0, 1] if several else [0])]
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(1.5)
    plugin.before_backward(strategy)
    (now,) = answers(model, x, [0])
    expected = 0.5 * F.kl_div((now / 2).log_softmax(1), (then[0] / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(strategy.loss, expected)
    strategy.loss.backward()
    assert all(parameter.grad is None for parameter in plugin.before.parameters())


def test_both_answers_are_those_of_evaluation():
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten())
    model = nn.Sequential(convolution, nn.Linear(3 * 36, 4)).train()
    plugin = LwFPlugin()
    plugin.n_learned = 1
    strategy = SimpleNamespace(model=model, mb_x=torch.rand(6, 1, 8, 8), loss=torch.zeros(()))
    plugin.before_training_exp(strategy)
    before = {name: value.clone() for name, value in convolution[1].state_dict().items()}
    plugin.before_backward(strategy)
    # Through dropout, or normalised by the batch, it would answer otherwise.
    assert strategy.loss == 0
    assert all(torch.equal(value, before[name]) for name, value in convolution[1].state_dict().items())
    assert all(part.training for part in model.modules())
