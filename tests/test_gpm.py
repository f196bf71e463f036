"""GPM: what a layer reads, how a basis grows, and what is taken out of a gradient."""

import pytest
import torch
from torch import nn

from clbench.baselines.gpm import columns_of, grown
from clbench.methods.table import find_method, resolve_settings
from clbench.suites.files import SUITES


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(5, 3),
        nn.Linear(5, 3, bias=False),
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, dilation=(1, 2), bias=False),
        nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"),
    ],
    ids=repr,
)
def test_a_layers_rows_times_its_columns_are_its_outputs(layer):
    x = torch.randn(4, 5) if isinstance(layer, nn.Linear) else torch.randn(4, 2, 7, 8)
    rows = layer.weight.flatten(1)
    if layer.bias is not None:
        rows = torch.cat([rows, layer.bias[:, None]], 1)
    found = columns_of(layer, x) @ rows.T
    wanted = layer(x)
    torch.testing.assert_close(found, wanted.flatten(2).transpose(1, 2).flatten(0, 1) if wanted.ndim == 4 else wanted)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_basis_grows_by_the_fewest_directions_that_hold_the_share(share):
    generator = torch.Generator().manual_seed(1)
    basis = None
    for _ in range(3):
        inputs = torch.randn(40, 12, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, 12)
        inputs = inputs @ torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
        gram = inputs.T @ inputs
        before = basis
        basis = grown(before, gram, share)
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)

        def held(found, inputs=inputs):
            return float((inputs @ found.double()).square().sum() / inputs.square().sum())

        assert held(basis) >= share - 1e-6
        if before is not None:
            torch.testing.assert_close(basis @ (basis.T @ before), before, atol=1e-5, rtol=0)
        n_before = 0 if before is None else before.shape[1]
        if basis.shape[1] > n_before:
            # The best directions that one fewer would be hold less.
            outside = inputs if before is None else inputs - inputs @ before.double() @ before.double().T
            energies = torch.linalg.svdvals(outside).square()
            fewer = (0 if before is None else held(before)) + float(
                energies[: basis.shape[1] - n_before - 1].sum() / inputs.square().sum()
            )
            assert fewer < share


@pytest.mark.parametrize("suite", ["permuted-digits", "split-digits"])
def test_a_step_leaves_what_earlier_inputs_give_as_it_is(suite, make_workplace, make_method):
    workplace = make_workplace(suite, n_tasks=2, epochs=1)
    method = make_method("gpm", workplace, energy=[1.0], images=40)
    first = workplace.stream.tasks[0]
    torch.manual_seed(0)
    positions = torch.randperm(len(first.train))[:40]
    torch.manual_seed(0)
    method.remember(first)
    name, layer = next(iter(method.layers().items()))
    layer.weight.grad = torch.randn_like(layer.weight)
    layer.bias.grad = torch.randn_like(layer.bias)
    x, _ = first.train.batch(positions)
    x = x.flatten(1) if isinstance(layer, nn.Linear) else x
    with torch.no_grad():
        raw = columns_of(layer, x) @ torch.cat([layer.weight.grad.flatten(1), layer.bias.grad[:, None]], 1).T
        method.project()
        moved = columns_of(layer, x) @ torch.cat([layer.weight.grad.flatten(1), layer.bias.grad[:, None]], 1).T
    assert raw.abs().max() > 0.1
    assert moved.abs().max() < 1e-3 * raw.abs().max()
    rank = method.bases[name].shape[1]
    assert 0 < rank <= layer.weight[0].numel() + 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_batch_reads_is_projected_to_the_same_gradient(make_workplace, make_method, monkeypatch, precision):
    workplace = make_workplace("split-digits", n_tasks=2, hidden_sizes=[24, 20], epochs=2, precision=precision)
    learned = []
    for large in (2**40, 0):
        monkeypatch.setattr("clbench.baselines.gpm._LARGE", large)
        method = make_method("gpm", workplace, energy=[0.9])
        heard, ask = [], method._outside

        def outside(name, layer, of=method, ask=ask, heard=heard):
            heard.append(bool(of.heard))
            return ask(name, layer)

        monkeypatch.setattr(method, "_outside", outside)
        for task in workplace.stream.tasks:
            method.learn(task)
        assert set(heard) == {large == 0}
        assert method.heard == {}
        assert not any(layer._forward_hooks for layer in method.layers().values())
        learned.append(method.model.state_dict())
    # In bfloat16 the gradient by the weights has been rounded before it is projected.
    torch.testing.assert_close(*learned, atol=1e-5 if precision == "float32" else 1e-2, rtol=0)


def test_layers_that_share_their_weights_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
    image, settings = torch.zeros(1, 1, 8, 8), find_method("gpm").Settings()
    assert find_method("gpm").unfit(network, image, settings) == ""
    network[3].weight = network[1].weight
    assert "share their weights" in find_method("gpm").unfit(network, image, settings)


def test_groups_of_channels_are_refused_and_one_share_stands_for_all(make_workplace):
    image = torch.zeros(1, 2, 8, 8)
    network = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 3))
    settings = resolve_settings(SUITES["permuted-digits"], "gpm", {"energy": 0.9})
    assert settings.energy == [0.9]
    assert "'0' has groups" in find_method("gpm").unfit(network, image, settings)


def test_each_layer_has_its_share_which_grows_with_the_tasks(make_workplace, make_method, monkeypatch):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[12, 10], epochs=1)
    method, shares = make_method("gpm", workplace, energy=[0.5, 0.7], energy_step=0.1, images=20), []

    def noting(basis, gram, share):
        shares.append(share)
        return grown(basis, gram, share)

    monkeypatch.setattr("clbench.baselines.gpm.grown", noting)
    for task in workplace.stream.tasks:
        method.remember(task)
    assert shares == pytest.approx([0.5, 0.7, 0.7, 0.6, 0.8, 0.8])


def test_what_is_left_of_each_layers_space_is_told_and_shrinks(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[12, 10], epochs=1)
    method, told = make_method("gpm", workplace, energy=[0.5, 0.9]), []
    for task in workplace.stream.tasks:
        method.learn(task)
        told.append(method.measures())
    names = [f"gradient_space_left_layer_{number}" for number in (1, 2, 3)]
    assert [list(each) for each in told] == [names, names]
    for name, basis in zip(names, method.bases.values(), strict=True):
        assert told[1][name] == pytest.approx((len(basis) - basis.shape[1]) / len(basis))
        assert told[1][name] <= told[0][name]
    assert sum(told[1].values()) < sum(told[0].values())


def test_batch_norms_stay_as_the_first_task_left_them_and_heads_are_free(
    make_workplace, make_method, split_digits, tmp_path
):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, image_shape, n_outputs):\n"
        "        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, n_outputs)\n"
        "        super().__init__(*layers)\n"
    )
    workplace = make_workplace(split_digits, network=f"{path}:Net", n_tasks=2, epochs=1)
    method = make_method("gpm", workplace)
    first, second = workplace.stream.tasks
    method.learn(first)
    (norm,) = [layer for layer in method.model.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert norm.num_batches_tracked > 0
    method.learn(second)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert [name.rpartition(".")[2] for name in method.bases] == ["0"]
