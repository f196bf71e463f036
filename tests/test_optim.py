"""Our optimisers take the steps of torch's: RMSprop in Adam's kernel, and Adam piece by piece."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from clbench.methods.optimizers import FusedRMSprop, PiecewiseAdam, piece_of


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


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"betas": (0.8, 0.9), "eps": 1e-3}], ids=str)
def test_adam_piece_by_piece_takes_adams_steps(options, monkeypatch):
    monkeypatch.setattr("clbench.methods.optimizers._PIECE", 16)
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(16), torch.randn(3)]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    groups = ([{"params": p[:2]}, {"params": p[2:], "lr": 0.1}] for p in (ours, theirs))
    pieces = PiecewiseAdam(next(groups), lr=0.01, **options)
    plain = torch.optim.Adam(next(groups), lr=0.01, fused=True, **options)
    seen = []

    @contextmanager
    def doubled(parameter, part):
        before = parameter.detach().clone().view(-1)
        yield 2 * piece_of(parameter.grad, part)
        moved = (parameter.detach().view(-1) != before).nonzero().flatten()
        # The step has been taken, and for this piece alone.
        assert torch.equal(moved, torch.arange(parameter.numel())[part or slice(None)])
        seen.append(len(moved))

    for step in range(20):
        pieces.around = doubled if step < 10 else None
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn_like(a)
            b.grad = a.grad * (2 if step < 10 else 1)
            if number == 2 and step % 2:
                a.grad = b.grad = None  # as a parameter that the loss does not reach
        pieces.step()
        plain.step()
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
    assert seen[:5] == [16, 16, 3, 16, 3]
    assert pieces.state[ours[0]]["step"] == 20


def test_a_closure_is_heard_before_the_pieces_are_stepped():
    parameter = nn.Parameter(torch.ones(4))
    optimizer = PiecewiseAdam([parameter], lr=0.5)

    @contextmanager
    def plain(parameter, part):
        yield parameter.grad

    optimizer.around = plain

    def closure():
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    torch.testing.assert_close(parameter.detach(), torch.full((4,), 0.5))


def test_a_copy_of_piecewise_adam_goes_on_to_the_same_bits():
    parameter = nn.Parameter(torch.ones(4))
    optimizer = PiecewiseAdam([parameter])
    for _ in range(2):
        parameter.grad = torch.randn(4)
        optimizer.step()
        copied = copy.deepcopy(optimizer)
        (its_parameter,) = copied.param_groups[0]["params"]
        its_parameter.grad = parameter.grad.clone()
        copied.step()
        optimizer.step()
        assert torch.equal(its_parameter, parameter)
