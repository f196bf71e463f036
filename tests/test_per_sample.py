"""What the sums over per-sample gradients leave as it was, and which form of the network they see."""

import pytest
import torch
from torch import nn

from clbench.baselines.ewc import fisher_diagonal
from clbench.baselines.mas import importance_of

MEASURES = [fisher_diagonal, importance_of]


def with_dropout(share):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.Dropout(share), nn.ReLU(), nn.Linear(5, 3)).double()


def hooks(model):
    return [len(module._forward_hooks) for module in model.modules()]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_seen_without_dropout_and_left_in_its_mode(measure, training, batches):
    model, x = with_dropout(0.5).train(training), torch.randn(9, 6, dtype=torch.double)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    found, expected = measure(model, batches(x, 4)), measure(with_dropout(0.0), batches(x, 4))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert found.keys() == {"0.weight", "3.weight", "3.bias"}
    assert model.training is training
    assert hooks(model) == [0] * 5
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, model.parameters(), weights))


@pytest.mark.parametrize("measure", MEASURES)
def test_it_can_be_measured_where_gradients_are_off(measure, batches):
    model, x = with_dropout(0.0), torch.randn(9, 6, dtype=torch.double)
    expected = measure(model, batches(x, 4))
    with torch.no_grad():
        found = measure(model, batches(x, 4))
    for name in expected:
        assert torch.equal(found[name], expected[name])
        assert not found[name].requires_grad


@pytest.mark.parametrize("measure", MEASURES)
def test_a_batch_that_fails_leaves_no_hook_behind(measure, batches):
    model = with_dropout(0.5).train()
    with pytest.raises(RuntimeError):
        measure(model, batches(torch.randn(9, 7, dtype=torch.double), 4))
    assert hooks(model) == [0] * 5
    assert model.training


@pytest.mark.parametrize("measure", MEASURES)
def test_no_batch_is_read_after_the_images_asked_for(measure, batches):
    source = iter(batches(torch.randn(24, 6, dtype=torch.double), 7))
    measure(with_dropout(0.0), source, 10)
    assert len(list(source)) == 2
