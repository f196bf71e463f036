"""HAT: what it drops, and what it says when its units run out."""

import warnings

import pytest
import torch

from clbench.errors import MethodWarning


@pytest.fixture
def hat(make_method, make_workplace):
    method = make_method("hat", make_workplace(n_tasks=2, hidden_sizes=[20, 10]))
    method.taken = torch.zeros(30)
    return method


def test_groups_without_units_left_are_named(hat):
    hat.taken[:20] = 1.0
    with pytest.warns(MethodWarning, match="only 0 of 20 neurons of .* left for the next task") as said:
        hat.warn_if_full()
    assert len(said) == 1


def test_half_open_gates_and_some_units_left_are_no_reason(hat):
    hat.taken[:30] = 0.5
    hat.taken[:19] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hat.warn_if_full()


def test_hat_drops_a_share_of_the_images_and_of_the_units_in_training_alone(make_workplace, make_method):
    method = make_method("hat", make_workplace(n_tasks=2), dropout_inputs=0.2, dropout=0.5)
    gates = method.of_tasks
    assert gates.dropouts == (0.2, 0.5)
    x, everywhere = torch.ones(500, 1000), torch.zeros(1000, dtype=torch.long)
    torch.testing.assert_close(gates.eval().multiply(everywhere, x), x * gates.now()[0])
    passed = gates.train().multiply(everywhere, x) / gates.now()[0]
    assert float((passed == 0).float().mean()) == pytest.approx(0.5, abs=0.005)
    torch.testing.assert_close(passed[passed != 0], torch.full((int((passed != 0).sum()),), 2.0))
    seen = []
    (first, *_) = method.shared
    method.model.get_submodule(first).register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    images = torch.ones(400, *method.workplace.stream.image_shape)
    for training, share in ((True, 0.2), (False, 0.0)):
        method.model.train(training)(images)
        assert float((seen[-1] == 0).float().mean()) == pytest.approx(share, abs=0.01)
        torch.testing.assert_close(seen[-1].max(), torch.tensor(1 / (1 - share)))
