"""What PSP claims: contexts, equivalence to a plain network, and interference that shrinks with width."""

import pytest
import torch
from torch import nn

from clbench.baselines.psp import PSP, PSPSettings
from clbench.baselines.superposed import ComplexLinear, SuperposedMLP, SuperposedNetwork, draw_context
from clbench.networks.several_heads import HeadPerTask

KINDS = ["binary", "complex", "rotation"]


def network(kind, sizes=(12, 16, 16, 4)):
    torch.manual_seed(0)
    return SuperposedMLP(sizes, 1, kind, lambda task, layer: 1000 * task + layer, 0.0, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_do_not_depend_on_the_order_in_which_tasks_are_asked_for(kind):
    forwards, backwards = network(kind), network(kind)
    first = [[c.clone() for c in forwards.contexts(task)] for task in (0, 1, 2)]
    second = [[c.clone() for c in backwards.contexts(task)] for task in (2, 1, 0)][::-1]
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][1], first[0][2])


def test_binary_contexts_are_fair_signs():
    context = draw_context("binary", 10_000, seed=3)
    assert set(context.tolist()) == {-1.0, 1.0}
    assert abs(float(context.mean())) < 0.05


def test_complex_contexts_lie_on_the_unit_circle_in_all_directions():
    context = draw_context("complex", 10_000, seed=3)
    torch.testing.assert_close(context.abs(), torch.ones(10_000))
    assert abs(complex(context.mean())) < 0.05


def test_rotation_contexts_are_orthogonal():
    context = draw_context("rotation", 50, seed=3)
    torch.testing.assert_close(context @ context.T, torch.eye(50), atol=1e-5, rtol=0)


def test_the_rotations_are_haar_distributed():
    # Under Haar measure the trace has mean 0 and variance 1 in every dimension; QR without the correction of
    # signs gives a biased trace.
    traces = torch.stack([draw_context("rotation", 5, seed=s).trace() for s in range(4000)])
    assert abs(float(traces.mean())) < 0.06
    assert abs(float(traces.var()) - 1) < 0.1


def test_with_one_task_binary_psp_is_a_plain_network_with_its_columns_signed():
    model, x = network("binary"), torch.randn(7, 12)
    h = x
    layers = [*model.hidden, model.heads[0]]
    for number, (layer, context) in enumerate(zip(layers, model.contexts(5), strict=True)):
        h = h @ (layer.weight * context[None, :]).T
        h = h.relu() if number < len(layers) - 1 else h
    torch.testing.assert_close(model(x, 5), h)


def test_with_one_task_rotated_psp_is_a_plain_network_with_rotated_weights():
    model, x = network("rotation"), torch.randn(7, 12)
    h = x
    layers = [*model.hidden, model.heads[0]]
    for number, (layer, context) in enumerate(zip(layers, model.contexts(5), strict=True)):
        h = h @ (layer.weight @ context.T).T + layer.bias
        h = h.relu() if number < len(layers) - 1 else h
    torch.testing.assert_close(model(x, 5), h, atol=1e-5, rtol=1e-5)


def test_with_one_task_complex_psp_is_a_plain_complex_network():
    model, x = network("complex"), torch.randn(7, 12)
    h = x.to(torch.complex64)
    layers = [*model.hidden, model.heads[0]]
    for number, (layer, context) in enumerate(zip(layers, model.contexts(5), strict=True)):
        real, imag = layer.weight.chunk(2)
        h = (h * context) @ torch.complex(real, imag).T
        h = torch.complex(h.real.relu(), h.imag.relu()) if number < len(layers) - 1 else h
    torch.testing.assert_close(model(x, 5), h.real, atol=1e-5, rtol=1e-5)


def test_the_complex_layer_equals_torchs_complex_product():
    layer = ComplexLinear(6, 5)
    x = torch.randn(3, 6, dtype=torch.complex64)
    real, imag = layer.weight.chunk(2)
    torch.testing.assert_close(layer(x), x @ torch.complex(real, imag).T)


def test_the_parts_of_a_complex_weight_share_the_variance_of_a_real_one():
    real, imag = ComplexLinear(500, 400).weight.detach().chunk(2)
    # PyTorch's linear layer: uniform up to 1 / sqrt(fan-in).
    assert float((real**2 + imag**2).mean()) == pytest.approx(1 / (3 * 500), rel=0.02)
    assert float((real**2).mean()) == pytest.approx(float((imag**2).mean()), rel=0.02)


def test_pixels_are_normalised_before_they_are_superposed():
    plain = network("binary")
    torch.manual_seed(0)
    model = SuperposedMLP((12, 16, 16, 4), 1, "binary", lambda task, layer: 1000 * task + layer, 0.25, 0.5)
    x = torch.rand(7, 12)
    torch.testing.assert_close(model(x, 3), plain((x - 0.25) / 0.5, 3))


def test_contexts_come_from_the_seed_of_the_run(make_method, make_workplace):
    def contexts(seed):
        return make_method("psp", make_workplace(n_tasks=2, hidden_sizes=[64], seed=seed)).model.contexts(1)

    for same, again, other in zip(contexts(0), contexts(0), contexts(1), strict=True):
        assert torch.equal(same, again)
        assert not torch.equal(same, other)


@pytest.mark.parametrize("kind", KINDS)
def test_interference_between_tasks_falls_as_one_over_the_width(kind):
    def in_context(x, seed):
        context = draw_context(kind, len(x), seed=seed)
        return x @ context if context.ndim == 2 else x * context

    def power_read(width, apart):
        # A weight row that gives 1 for an input in its own task's context; what the same input reads of it in a context
        # drawn from another seed. In the same context, `apart` = 0, nothing falls.
        powers = []
        for trial in range(400):
            x = torch.randn(width, generator=torch.Generator().manual_seed(trial))
            row = in_context(x, seed=trial).conj() / x.square().sum()
            powers.append((row * in_context(x, seed=trial + apart)).sum().abs() ** 2)
        return float(torch.stack(powers).mean())

    assert power_read(16, apart=0) == pytest.approx(1) == power_read(128, apart=0)
    narrow, wide = power_read(16, apart=1000), power_read(128, apart=1000)
    assert narrow / wide == pytest.approx(8, rel=0.3)
    # Of signs and phases x^4 / (x^2)^2 is left, three of the width for Gaussian inputs; of rotations one.
    assert wide * 128 == pytest.approx(1 if kind == "rotation" else 3, rel=0.3)


def test_the_optimisers_state_is_kept_between_tasks_as_in_the_authors_code(make_method, make_workplace):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[16], epochs=1)
    method = make_method("psp", workplace)
    squares = []
    for task in workplace.stream.tasks:
        method.learn(task)
        squares.append(next(iter(method.strategy.optimizer.state.values()))["exp_avg_sq"])
    # RMSprop's running mean of squares is one and the same throughout.
    assert squares[0] is squares[1]
    assert squares[0].any()


def test_kinds_are_a_setting_and_each_learns(make_method, make_workplace):
    from clbench.runs.runner import accuracy

    for kind in KINDS:
        workplace = make_workplace(n_tasks=2, hidden_sizes=[128, 128], epochs=4)
        method = make_method("psp", workplace, kind=kind, learning_rate=0.001)
        for task in workplace.stream.tasks:
            method.learn(task)
        assert accuracy(method, workplace.stream.tasks[1]) > 0.85
        assert accuracy(method, workplace.stream.tasks[0]) > 0.75


def filters():
    """Two convolutions with a batch norm, and two linear layers; images [B, 1, 8, 8] -> [B, 3]."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 3, groups=1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(96, 7), nn.ReLU(), nn.Linear(7, 3))


def superposed(made, mean=0.0, std=1.0):
    return SuperposedNetwork(made, torch.zeros(1, 1, 8, 8), lambda task, layer: 1000 * task + layer, mean, std)


def test_kernels_are_signed_weight_by_weight_but_for_those_of_the_first_convolution():
    model, plain, x = superposed(filters()), filters(), torch.randn(4, 1, 8, 8)
    contexts = model.contexts(2)
    assert {name: tuple(context.shape) for name, context in contexts.items()} == {
        "3.weight": (5, 3, 3),
        "6.weight": (96,),
        "8.weight": (7,),
    }
    assert all(context.abs().eq(1).all() for context in contexts.values())
    # Signs differ within a kernel.
    assert contexts["3.weight"].flatten(1).sum(1).abs().max() < 9
    with torch.no_grad():
        for name, context in contexts.items():
            plain.get_parameter(name).mul_(context)
        for number in (0, 3, 6, 8):
            plain[number].bias.zero_()
    torch.testing.assert_close(model.eval()(x, 2), plain.eval()(x))
    torch.testing.assert_close(superposed(filters(), 0.25, 0.5).eval()(x, 2), plain((x - 0.25) / 0.5))


def test_a_linear_first_layer_has_contexts_and_so_has_the_head_of_each_task():
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU())
    model = superposed(HeadPerTask(trunk, [nn.Linear(7, 3), nn.Linear(7, 3)]))
    assert {*model.contexts(0)} == {"trunk.1.weight", "heads.0.weight", "heads.1.weight"}
    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(model(x, 0), model(x, 1))


def test_what_a_task_learns_reaches_the_weights_that_all_share_and_batch_norm_is_left_as_it_is():
    model = superposed(filters())
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    model(torch.randn(16, 1, 8, 8), 1).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = model.network.state_dict()
    assert {*after} == {f"{n}.weight" for n in (0, 1, 3, 6, 8)} | {
        "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    }  # fmt: skip
    assert all(not torch.equal(after[name], before[name]) for name in after)


def test_it_learns_filters_better_than_without_contexts(make_method, make_workplace):
    from clbench.runs.runner import accuracy

    small = {"network": "conv", "channels": [24, 24], "hidden_sizes": [64], "n_tasks": 3, "epochs": 6}
    kept = {}
    for name in ("naive", "psp"):
        workplace = make_workplace(**small)
        own = {"optimizer": "adam", "learning_rate": 0.002, "input_mean": 0.0, "input_std": 1.0}
        method = make_method(name, workplace, **own if name == "psp" else {})
        for task in workplace.stream.tasks:
            method.learn(task)
        kept[name] = [accuracy(method, task) for task in workplace.stream.tasks]
    assert kept["psp"][2] > 0.8
    assert sum(kept["psp"][:2]) > sum(kept["naive"][:2]) + 0.1


def test_what_it_cannot_superpose_is_refused(make_workplace):
    suite = make_workplace(network="conv").suite
    assert "psp has rotation contexts for the network mlp alone; give kind=binary" in PSP.refuses(
        suite, PSPSettings(kind="rotation")
    )
    assert PSP.refuses(suite, PSPSettings()) == ""
    assert "the network has none" in PSP.unfit(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.zeros(1), PSPSettings())
