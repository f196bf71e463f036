"""RMSprop in Adam's kernel is RMSprop."""

import pytest
import torch
from torch import nn

from clbench.optim import FusedRMSprop


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"alpha": 0.9, "eps": 1e-3}], ids=str)
def test_every_step_is_that_of_torchs_rmsprop(options):
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(5)]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    fused = FusedRMSprop(ours, lr=0.01, **options)
    plain = torch.optim.RMSprop(theirs, lr=0.01, **options)
    for step in range(50):
        if step == 25:
            # As when a new task starts with a new state.
            fused.state.clear()
            plain.state.clear()
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a) * 10.0 ** (step % 5 - 3)
            b.grad = a.grad.clone()
        fused.step()
        plain.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours[0], start[0], atol=0.1)


def test_a_saved_state_goes_on_to_the_same_bits():
    torch.manual_seed(0)
    gradients = torch.randn(6, 4)
    whole, half = (nn.Parameter(torch.ones(4)) for _ in range(2))
    through, before = FusedRMSprop([whole]), FusedRMSprop([half])
    for gradient in gradients:
        whole.grad = gradient
        through.step()
    for gradient in gradients[:3]:
        half.grad = gradient
        before.step()
    after = FusedRMSprop([half])
    after.load_state_dict(before.state_dict())
    for gradient in gradients[3:]:
        half.grad = gradient
        after.step()
    assert torch.equal(whole, half)


def test_a_closure_works_from_the_first_step_on():
    ours, theirs = (nn.Parameter(torch.ones(4)) for _ in range(2))
    for parameter, optimizer in ((ours, FusedRMSprop([ours])), (theirs, torch.optim.RMSprop([theirs]))):

        def closure(parameter=parameter):
            parameter.grad = None
            loss = (parameter**2).sum()
            loss.backward()
            return loss

        assert optimizer.step(closure) == 4
    torch.testing.assert_close(ours, theirs)
