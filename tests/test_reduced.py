"""A network reduced to some units computes and learns what the whole one would, the rest cut off or put back."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call

from clbench.networks.reduced import Part, ReducedNetwork, seen_only
from clbench.networks.reduced_layers import ReducedLayer, has_channels_last
from clbench.networks.units import find_units

PER_ROW = ("weight", "bias", "running_mean", "running_var")
OPTIMIZERS = {
    "momentum and decay": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adam with decay": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
}


@pytest.fixture
def found(small_network):
    """A small network in float64, its units, and images."""
    network, images = small_network
    return network.double(), find_units(network, images[:1].double()), images.double()


def drawn(units, share, seed=0):
    return torch.rand(units.n_units, generator=torch.Generator().manual_seed(seed)) < share


def is_of(mask, channels):
    return (channels >= 0) & mask[channels.clamp(min=0)]


def silenced(network, units, mask):
    """The network's tensors, with 0 for what reads units outside a mask."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, layer in units.layers.items():
        if layer.kind in ("linear", "conv"):
            tensors[f"{name}.weight"] = tensors[f"{name}.weight"].detach().clone()
            tensors[f"{name}.weight"][:, (layer.reads >= 0) & ~is_of(mask, layer.reads)] = 0
    return tensors


@torch.no_grad()
def outputs_of_whole(network, units, mask, images):
    return functional_call(network, silenced(network, units, mask), (images,))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_it_answers_as_the_whole_one_does_that_hears_nothing_of_the_other_units(share, found):
    network, units, images = found
    mask = drawn(units, share)
    expected = outputs_of_whole(network, units, mask, images)
    with torch.no_grad():
        torch.testing.assert_close(ReducedNetwork(network, units, seen_only(mask)).eval()(images), expected)
        whole = ReducedNetwork(network, units, seen_only(torch.ones_like(mask))).eval()
        with whole.seen_through(mask):
            torch.testing.assert_close(whole(images), expected)
        torch.testing.assert_close(whole(images), network(images))


def test_it_holds_no_more_numbers_than_its_units_have(found):
    network, units, _ = found
    mask = drawn(units, 0.5)
    mask[[group.start for group in units.groups]] = True
    reduced = ReducedNetwork(network, units, seen_only(mask))
    for name, layer in units.layers.items():
        if layer.kind in ("linear", "conv"):
            rows = is_of(mask, layer.writes) | (layer.writes < 0)
            columns = is_of(mask, layer.reads) | (layer.reads < 0)
            assert reduced.layers[name]._constant[0].shape[:2] == (int(rows.sum()), int(columns.sum()))
    assert not any(len(parameter) for parameter in reduced.parameters() if parameter.requires_grad)


def test_what_lies_before_a_group_is_computed_once_for_a_batch_and_the_answers_stay_the_same(found):
    network, units, images = found
    everything = torch.ones(units.n_units, dtype=torch.bool)
    n_held = []
    for number, group in enumerate(units.groups):
        reduced = ReducedNetwork(network, units, seen_only(everything)).eval()
        reduced.hold(number)
        n_held.append(sum(layer.held is not None for layer in reduced.layers.values()))
        for seed in range(2):
            mask = drawn(units, 0.5, seed)
            mask[: group.start] = True
            for batch, x in enumerate((images, -images)):
                reduced.at_batch(batch)
                with torch.no_grad(), reduced.seen_through(mask):
                    torch.testing.assert_close(reduced(x), outputs_of_whole(network, units, mask, x))
    # The first layer always; never the output layer.
    assert min(n_held) >= 1
    assert max(n_held) < len(reduced.layers)


def test_what_is_held_is_not_computed_again():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    images = torch.randn(4, 6)
    units = find_units(network, images)
    reduced = ReducedNetwork(network, units, seen_only(torch.ones(9, dtype=torch.bool))).eval()
    reduced.hold(1)
    assert [layer.held is not None for layer in reduced.layers.values()] == [True, True, False]
    before = reduced(images)
    for name in ("0", "2"):
        reduced.layers[name]._constant = (reduced.layers[name]._constant[0] * torch.nan, None)
        reduced.layers[name]._cast.clear()
    assert torch.equal(reduced(images), before)
    reduced.at_batch(1)
    assert reduced(images).isnan().any()


def test_other_values_may_stand_in_the_place_of_the_networks(found):
    network, units, images = found
    (head,) = units.outputs
    other = torch.randn_like(network.get_submodule(head).weight)
    mask = drawn(units, 0.6)
    reduced = ReducedNetwork(network, units, seen_only(mask), {f"{head}.weight": other}).eval()
    with torch.no_grad():
        answered = reduced(images)
        network.get_submodule(head).weight.copy_(other)
    torch.testing.assert_close(answered, outputs_of_whole(network, units, mask, images))


# -- Training ---------------------------------------------------------------------------------------------------------


def cut(network, units, constant, kept):
    """Constant units read constant ones only, and nothing reads what is left out."""
    tensors = dict(network.named_parameters())
    with torch.no_grad():
        for name, layer in units.layers.items():
            if layer.kind in ("linear", "conv"):
                weight, reads = tensors[f"{name}.weight"], layer.reads
                weight[:, (reads >= 0) & ~is_of(kept, reads)] = 0
                between = is_of(constant, layer.writes)[:, None] & ((reads >= 0) & ~is_of(constant, reads))[None, :]
                weight[between] = 0


def held(network, units, part):
    """Per tensor bool of its own shape: what must not move."""
    found = {}
    for name, layer in units.layers.items():
        norm = layer.kind == "norm" and part.own_norms
        trains = part.trainable | part.constant if norm else part.trainable
        rows = ~is_of(trains, layer.writes)
        if name in units.outputs:
            rows[:] = False
        if norm:
            rows &= layer.writes >= 0
        for kind in PER_ROW:
            tensor = getattr(network.get_submodule(name), kind, None)
            if tensor is not None:
                stays = torch.zeros_like(tensor, dtype=torch.bool)
                stays[rows] = True
                if kind == "weight" and layer.kind in ("linear", "conv"):
                    stays[:, (layer.reads >= 0) & ~is_of(part.constant | part.trainable, layer.reads)] = True
                    if name in units.outputs and part.fixed_outputs is not None:
                        stays[:, (layer.reads < 0) | is_of(part.fixed_outputs, layer.reads)] = True
                found[f"{name}.{kind}"] = stays
    return found


def train(network, optimizer, images, after=lambda: None, n=4):
    labels = torch.arange(len(images)) % 3
    for step in range(n):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images + 0.1 * step), labels).backward()
        for parameter in network.parameters():
            # What only constant units read has none in a reduced network, and weight decay would pass it over.
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        after()


def check_training(network, units, images, part, optimizer=OPTIMIZERS["adam"]):
    """The reduced network against the whole one, all of whose weights move and are put back."""
    cut(network, units, part.constant, part.constant | part.trainable)
    before, stays = copy.deepcopy(network.state_dict()), held(network, units, part)
    reduced = ReducedNetwork(network, units, part).eval()
    train(reduced, optimizer(list(reduced.parameters())), images)

    whole = copy.deepcopy(network)
    tensors = whole.state_dict()

    def put_back():
        for key, mask in stays.items():
            tensors[key][mask] = before[key][mask]

    train(whole, optimizer(list(whole.parameters())), images, put_back)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    reduced.write_back(network)
    moved = 0
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(
            tensor, tensors[key], atol=1e-8, rtol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
        if key in stays:
            assert torch.equal(tensor[stays[key]], before[key][stays[key]]), key
            moved += not torch.equal(tensor, before[key])
    assert moved
    torch.testing.assert_close(reduced(images), whole(images), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(make, id=name, marks=[] if name == "momentum and decay" else pytest.mark.slow)
        for name, make in OPTIMIZERS.items()
    ],
)
def test_training_equals_that_of_the_whole_network_with_its_constants_put_back(optimizer, found):
    constant = drawn(found[1], 0.4, 1)
    check_training(*found, Part(constant, ~constant), optimizer)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_so_it_does_with_units_left_out_and_some_that_lead_to_the_outputs_fixed(share, found):
    units = found[1]
    constant = drawn(units, share, 1)
    trainable, fixed = drawn(units, 0.5, 2) & ~constant, constant & drawn(units, 0.5, 3)
    check_training(*found, Part(constant, trainable, fixed_outputs=fixed), OPTIMIZERS["momentum and decay"])


def test_where_every_task_has_batch_norms_of_its_own_they_train_in_constant_units_too(found):
    constant = drawn(found[1], 0.4, 1)
    trainable = ~constant & drawn(found[1], 0.7, 2)
    check_training(*found, Part(constant, trainable, own_norms=True))


def test_a_full_network_without_biases_trains_nothing_and_can_be_differentiated():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    units, before = find_units(network, torch.zeros(1, 6)), copy.deepcopy(network.state_dict())
    full = torch.ones(5, dtype=torch.bool)
    reduced = ReducedNetwork(network, units, Part(full, ~full, fixed_outputs=full))
    train(reduced, torch.optim.SGD(reduced.parameters(), lr=0.1, weight_decay=0.1), torch.randn(4, 6))
    reduced.write_back(network)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_what_trains_are_the_trainable_rows_and_nothing_else():
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    units = find_units(network, torch.zeros(1, 6))
    constant = torch.tensor([1, 0, 1, 0, 0, 1, 0, 0, 0]).bool()
    trainable = torch.tensor([0, 1, 0, 0, 1, 0, 1, 1, 0]).bool()
    reduced = ReducedNetwork(network, units, Part(constant, trainable))
    trained = sum(parameter.numel() for parameter in reduced.parameters() if parameter.requires_grad)
    assert trained == 2 * (6 + 1) + 2 * 2 + 2 * (4 + 1) + 3 * (3 + 1)
    assert sum(weight.numel() for weight in reduced.weights) == 2 * 6 + 2 * 4 + 3 * 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_kernels_and_what_they_give_lie_in_memory_as_the_networks_do(memory_format, channels):
    trunk = nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()
    network = nn.Sequential(*trunk, nn.Flatten(), nn.Linear(72, 2)).to(memory_format=memory_format)
    images = torch.randn(4, channels, 7, 7)
    units = find_units(network, images)
    constant = drawn(units, 0.5)
    reduced = ReducedNetwork(network, units, Part(constant, ~constant))
    first, second = (layer for layer in reduced.layers.values() if layer.weights[0].ndim == 4)
    assert first.n_constant
    assert first.n_others
    for layer in (first, second):
        for weight in (*layer.weights, layer._constant[0]):
            assert has_channels_last(weight) == (memory_format is torch.channels_last)
    for part in first(images, None):
        assert part.is_contiguous(memory_format=memory_format)


def test_statistics_of_trainable_channels_follow_the_batches_and_those_of_constant_ones_stay():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
    ).double()
    images = torch.randn(9, 1, 8, 8).double()
    units, constant = find_units(network, images), torch.tensor([0, 1, 0, 1, 1, 0]).bool()
    whole, before = copy.deepcopy(network).train(), copy.deepcopy(network.state_dict())
    reduced = ReducedNetwork(network, units, Part(constant, ~constant)).train()
    for batch in images.split(3):
        whole(batch)
        reduced(batch)
    reduced.write_back(network)
    for kind in ("running_mean", "running_var"):
        found, expected = network.state_dict()[f"1.{kind}"], whole.state_dict()[f"1.{kind}"]
        torch.testing.assert_close(found[~constant], expected[~constant])
        assert torch.equal(found[constant], before[f"1.{kind}"][constant])
        assert not torch.isclose(expected, before[f"1.{kind}"]).any()


def test_functions_that_drop_in_training_do_so_in_training_alone(found):
    network, units, images = found
    reduced = ReducedNetwork(network, units, seen_only(drawn(units, 0.7)))
    drops = any("dropout" in str(node.target).lower() for node in units.graph.nodes) or any(
        isinstance(module, nn.Dropout | nn.Dropout2d) for module in network.modules()
    )
    with torch.no_grad():
        assert torch.equal(reduced.train()(images), reduced(images)) != drops
        assert torch.equal(reduced.eval()(images), reduced(images))


def test_answers_looked_up_train_the_same_as_answers_computed():
    images, labels, order = torch.randn(40, 7).double(), torch.randint(4, (40,)), torch.randperm(40)
    trained = []
    for looked_up in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)).double()
        units = find_units(network, images)
        constant = drawn(units, 0.4)
        cut(network, units, constant, torch.ones_like(constant))
        reduced = ReducedNetwork(network, units, Part(constant, ~constant))
        if looked_up:
            look_up(reduced, ReducedNetwork(network, units, seen_only(constant)), images)
        optimizer = torch.optim.Adam(reduced.parameters(), lr=0.01)
        for chosen in order.split(8):
            reduced.at_images(chosen if looked_up else None)
            optimizer.zero_grad()
            nn.functional.cross_entropy(reduced(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        reduced.write_back(network)
        trained.append(network.state_dict())
    for key, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][key], tensor, atol=1e-10, rtol=1e-8)


def look_up(reduced, constant, images):
    hidden: list[tuple[str, ReducedLayer]] = [*constant.layers.items()][:-1]
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: setattr(reduced.layers[name], "answers", output))
        for name, layer in hidden
    ]
    with torch.no_grad():
        constant(images)
    for hook, (name, _) in zip(hooks, hidden, strict=True):
        hook.remove()
        # Were they computed after all, they would come out wrong.
        reduced.layers[name]._constant = (reduced.layers[name]._constant[0] * torch.nan, None)


def test_for_other_images_answers_are_computed():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 4))
    units, images = find_units(network, torch.zeros(1, 7)), torch.randn(5, 7)
    everything = torch.ones(12, dtype=torch.bool)
    reduced = ReducedNetwork(network, units, seen_only(everything))
    reduced.layers["0"].answers = torch.zeros(3, 12)
    reduced.at_images(torch.tensor([2, 0, 1, 1, 0]))
    torch.testing.assert_close(reduced(images), network[2].bias.expand(5, 4))
    reduced.at_images(None)
    torch.testing.assert_close(reduced(images), network(images))


def test_what_layers_are_given_can_be_asked_for(found):
    network, units, images = found
    mask = drawn(units, 0.5)
    reduced = ReducedNetwork(network, units, seen_only(mask)).eval()
    with torch.no_grad(), reduced.noting():
        reduced(images)
        noted = reduced.given()
        readers = {name for group in units.groups for name in group.readers if (name in noted)}
        assert {*noted} == readers
        for name, given in noted.items():
            assert given.shape[1] == len(reduced.layers[name].inputs.units)
    assert reduced.given() == {}


def test_its_tensors_are_freed_without_the_garbage_collector(small_network):
    network, images = small_network
    units = find_units(network, images[:1])
    reduced = ReducedNetwork(network, units, seen_only(torch.ones(units.n_units, dtype=torch.bool))).eval()
    reduced(images)
    parts = [weakref.ref(part) for part in [*reduced.layers.values(), *reduced.others.values()]]
    gc.disable()
    try:
        del reduced
        assert parts
        assert not any(part() for part in parts)
    finally:
        gc.enable()
