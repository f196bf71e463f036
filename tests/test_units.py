"""The units of a network: which layers write each, and which read it where, against brute force and Torch-Pruning."""

import copy

import pytest
import torch
import torch_pruning
import torchvision
from avalanche.models import MTSimpleCNN, MTSimpleMLP, MTSlimResNet18, SimpleCNN, SimpleMLP, SlimResNet18
from torch import nn
from torch.func import functional_call

from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.settings import MLPSettings
from clbench.networks.table import NETWORKS, build, find_network
from clbench.networks.unit_map import Masking
from clbench.networks.units import find_units

PER_ROW = ("weight", "bias", "running_mean", "running_var")


def tensors_of(network):
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def with_other_rows(tensors, units, unit):
    """The unit's rows in all layers hold other numbers."""
    generator, changed = torch.Generator().manual_seed(unit), {}
    for name, layer in units.layers.items():
        rows = layer.writes == unit
        for key in (f"{name}.{kind}" for kind in PER_ROW):
            if rows.any() and key in tensors:
                changed[key] = tensors[key].detach().clone()
                changed[key][rows] += torch.rand(changed[key][rows].shape, generator=generator) + 0.1
    return tensors | changed


def unread(tensors, units, unit, but=None):
    """Columns that read the unit are 0, but for those of one layer."""
    changed = {}
    for name, layer in units.layers.items():
        if layer.kind in ("linear", "conv") and name != but and (layer.reads == unit).any():
            changed[f"{name}.weight"] = tensors[f"{name}.weight"].detach().clone()
            changed[f"{name}.weight"][:, layer.reads == unit] = 0
    return tensors | changed


def check_by_brute_force(network, images, units, *label, most=None):
    """Rows of a unit show in the outputs through each layer that reads it, and through nothing else."""
    tensors = tensors_of(network)

    @torch.no_grad()
    def outputs(tensors):
        return functional_call(network, tensors, (images, *label))

    for group in units.groups:
        for unit in range(group.start, group.start + group.size)[:most]:
            silent = unread(tensors, units, unit)
            assert torch.equal(outputs(silent), outputs(with_other_rows(silent, units, unit))), (group.name, unit)
            for reader in group.readers:
                if (units.layers[reader].reads == unit).any():
                    heard = unread(tensors, units, unit, but=reader)
                    found = outputs(heard), outputs(with_other_rows(heard, units, unit))
                    assert not torch.equal(*found), (group.name, unit, reader)


def test_the_rows_of_a_unit_show_in_the_outputs_through_what_reads_it_and_nothing_else(small_network):
    network, images = small_network
    units = find_units(network, images[:1])
    check_by_brute_force(network, images, units, most=1 if units.n_units > 1000 else None)


def test_each_unit_has_a_group_each_row_a_unit_and_each_column_one_or_an_input(small_network):
    network, images = small_network
    units = find_units(network, images[:1])
    starts = [group.start for group in units.groups]
    assert [*starts, units.n_units] == [0, *(group.start + group.size for group in units.groups)]
    for name, layer in units.layers.items():
        weight = dict(network.named_parameters()).get(f"{name}.weight")
        if weight is not None:
            assert len(layer.writes) == len(weight)
            assert layer.kind not in ("linear", "conv") or len(layer.reads) == weight.shape[1]
        of_inputs = layer.kind in ("norm", "depthwise") and bool((layer.reads < 0).all())
        assert bool((layer.writes < 0).all()) == (name in units.outputs or of_inputs)
        assert int(max(layer.reads.max(), layer.writes.max())) < units.n_units
    for group in units.groups:
        mine = set(range(group.start, group.start + group.size))
        for role, kinds in (("readers", ("linear", "conv")), ("along", ("norm", "depthwise"))):
            with_mine = [
                name for name, layer in units.layers.items() if layer.kind in kinds and mine & set(layer.reads.tolist())
            ]
            assert [*getattr(group, role)] == with_mine
        written = [
            n for n, layer in units.layers.items()
            if layer.kind in ("linear", "conv") and mine & set(layer.writes.tolist())
        ]  # fmt: skip
        assert [*group.writers] == written
    assert units.unused == ()


def settings_of(name):
    return MLPSettings(hidden_sizes=(12, 10)) if name == "mlp" else NETWORKS[name].settings()


@pytest.mark.parametrize("head", ["single", "multi", "classes"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_table_has_units_with_every_kind_of_head(name, head):
    shape = (3, 32, 32)
    network = build(
        find_network(name), settings_of(name), shape, n_outputs=4, head=head, n_tasks=3, seed=0
    ).eval()  # fmt: skip
    torch.manual_seed(0)
    if name == "conv-zenke":
        # Its output layer starts at 0, and then nothing shows.
        for key, parameter in network.named_parameters():
            if key.startswith("head"):
                nn.init.normal_(parameter)
    images = torch.randn(3, *shape)
    units = find_units(network, images[:1], 1)
    if head == "multi":
        assert (units.outputs, units.unused) == (("heads.1",), ("heads.0", "heads.2"))
        check_by_brute_force(network, images, units, 1, most=1)
    else:
        assert (units.outputs, units.unused) == (("head",), ())
        check_by_brute_force(network, images, units, most=1)


@pytest.mark.parametrize(
    ("make", "shape", "n_units", "output"),
    [
        (lambda: SimpleMLP(hidden_layers=2, hidden_size=20), (784,), 40, "classifier"),
        (SimpleCNN, (3, 32, 32), 256, "classifier.0"),
        (lambda: MTSimpleMLP(hidden_size=20), (784,), 20, "classifier.classifiers.0.classifier"),
        (MTSimpleCNN, (3, 32, 32), 256, "classifier.classifiers.0.classifier"),
        (lambda: SlimResNet18(4), (3, 32, 32), 900, "linear"),
        (lambda: MTSlimResNet18(4), (3, 32, 32), 900, "linear.classifiers.0.classifier"),
    ],
    ids=["SimpleMLP", "SimpleCNN", "MTSimpleMLP", "MTSimpleCNN", "SlimResNet18", "MTSlimResNet18"],
)
def test_avalanches_networks_have_units(make, shape, n_units, output):
    torch.manual_seed(0)
    network, images = make().eval(), torch.randn(4, *shape)
    units = find_units(network, images[:1])
    assert (units.n_units, units.outputs) == (n_units, (output,))
    # Their masks of classes not seen yet would hide what is compared.
    for module in network.modules():
        if hasattr(module, "masking"):
            module.masking = False
    label = [torch.zeros(4, dtype=torch.long)] if type(network).__name__.startswith("MT") else []
    check_by_brute_force(network, images, units, *label, most=1)


def test_outputs_that_a_head_of_avalanches_masks_are_known():
    network, x = MTSimpleMLP(input_size=6, hidden_size=5).eval(), torch.randn(3, 6)
    network.classifier.mask_value = -7.0
    network.classifier.active_units_T0[:] = torch.tensor([1, 0])
    units = find_units(network, x[:1])
    assert units.masking == Masking("classifier.active_units_T0", -7.0)
    whole = ReducedNetwork(network, units, seen_only(torch.ones(units.n_units, dtype=torch.bool))).eval()
    assert whole(x)[:, 1].tolist() == [-7.0] * 3
    torch.testing.assert_close(whole(x), network(x, torch.zeros(3, dtype=torch.long)))
    network.classifier.masking = False
    assert find_units(network, x[:1]).masking is None


def test_groups_are_called_after_the_layers_that_write_them():
    torch.manual_seed(0)
    network = build(find_network("resnet18"), NETWORKS["resnet18"].settings(width=4), (3, 16, 16), n_outputs=2,
                    head="single", n_tasks=1, seed=0)  # fmt: skip
    groups = find_units(network, torch.zeros(1, 3, 16, 16)).groups
    assert [group.name for group in groups[:3]] == ["conv_1+stage1.1.conv2", "stage1.0.conv1", "stage1.1.conv1"]
    assert groups[0].writers == ("trunk.stem.0", "trunk.stage1.0.conv2", "trunk.stage1.1.conv2")
    assert groups[0].along == ("trunk.stem.1", "trunk.stage1.0.norm2", "trunk.stage1.1.norm2")
    assert groups[0].readers == (
        "trunk.stage1.0.conv1", "trunk.stage1.1.conv1", "trunk.stage2.0.conv1", "trunk.stage2.0.shortcut.0"
    )  # fmt: skip
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5), nn.Linear(5, 3))
    found = find_units(plain, torch.zeros(1, 1, 8, 8)).groups
    assert [(group.name, group.unit) for group in found] == [("conv_1", "filter"), ("layer_1", "neuron")]


def test_the_network_is_left_as_it_was(small_network):
    network, images = small_network
    for number, module in enumerate(network.modules()):
        module.training = number % 2 == 0
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    generator = torch.get_rng_state()
    find_units(network, images[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    for module in network.modules():
        assert not any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))


def same(a, b):
    return a.groups == b.groups and all(
        torch.equal(a.layers[name].reads, b.layers[name].reads) and torch.equal(layer.writes, a.layers[name].writes)
        for name, layer in b.layers.items()
    )


def test_on_the_device_meta_the_units_are_the_same(small_network):
    network, images = small_network
    expected = find_units(network, images[:1])
    assert same(find_units(copy.deepcopy(network).to("meta"), images[:1].to("meta")), expected)


def test_the_units_depend_neither_on_the_image_nor_on_the_weights_nor_on_how_many_images_there_are(small_network):
    network, images = small_network
    expected = find_units(network, images[:1])
    assert same(find_units(network, torch.zeros_like(images)), expected)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert same(find_units(network, images[:2]), expected)


# -- Against Torch-Pruning --------------------------------------------------------------------------------------------


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.c = nn.Conv2d(9, 6, 3)
        self.head = nn.Linear(6 * 36, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return self.head(self.c(self.norm(torch.cat([h, self.b(h).relu()], 1))).relu().flatten(1))


def vgg_like():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(2704, 20), nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape", "most"),
    [
        (vgg_like, (1, 28, 28), 16),
        (lambda: of_the_table("vgg9", size="small"), (3, 32, 32), 8),
        (lambda: torchvision.models.resnet18(num_classes=3), (3, 32, 32), 2),
        (Joined, (1, 8, 8), 6),
    ],
    ids=["VGG-like", "VGG9", "ResNet-18", "concatenation"],
)
def test_torch_pruning_finds_the_same_rows_and_columns_of_a_unit(make, shape, most):
    network, image = make().eval(), torch.randn(1, *shape)
    units = find_units(network, image)
    names = {module: name for name, module in network.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=image)
    compared = 0
    for group in units.groups:
        for root in group.writers:
            layer = network.get_submodule(root)
            pruning = graph.get_pruner_of_module(layer).prune_out_channels
            for row in range(min(most, group.size)):
                theirs = {}
                for dependency, indices in graph.get_pruning_group(layer, pruning, idxs=[row]):
                    module = dependency.target.module
                    if module in names:
                        reads = graph.is_in_channel_pruning_fn(dependency.handler) and not is_norm(module)
                        theirs.setdefault((names[module], reads), set()).update(indices)
                unit = int(units.layers[root].writes[row])
                assert theirs == rows_and_columns(units, unit)
                compared += 1
    assert compared >= 5


def of_the_table(name, **settings):
    settings = NETWORKS[name].settings(**settings)
    return build(find_network(name), settings, (3, 32, 32), n_outputs=3, head="single", n_tasks=1, seed=0)


def is_norm(module):
    return isinstance(module, nn.BatchNorm2d)


def rows_and_columns(units, unit):
    found = {}
    for name, layer in units.layers.items():
        for reads, channels in ((False, layer.writes), (True, layer.reads)):
            places = set((channels == unit).nonzero().flatten().tolist())
            if places and (not reads or layer.kind in ("linear", "conv")):
                found[name, reads] = places
    return found


def test_behind_flattening_a_filter_has_a_column_for_each_position():
    reads = find_units(vgg_like(), torch.zeros(1, 1, 28, 28)).layers["4"].reads
    assert len(reads) == 2704
    assert all((reads == unit).nonzero().flatten().tolist() == [*range(169 * unit, 169 * unit + 169)]
               for unit in range(16))  # fmt: skip
