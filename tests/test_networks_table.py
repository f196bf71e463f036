import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from clbench.errors import SettingError
from clbench.networks.heads import OneHead
from clbench.networks.network import Network
from clbench.networks.settings import ConvSettings, MLPSettings, NetworkSettings, ResNetSettings
from clbench.networks.several_heads import HeadPerTask, SlicedHeads
from clbench.networks.table import NETWORKS, build, find_network, network_names, schema_of

SHAPE = (3, 32, 32)


def flat(settings, image_shape, n_outputs=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], n_outputs))


@pytest.fixture
def make():
    """(name, ...) -> the network of the table, with three outputs and two tasks."""

    def built(name, head="multi", seed=0):
        settings = schema_of(name)(**({"hidden_sizes": [8, 9]} if name == "mlp" else {}))
        return build(find_network(name), settings, SHAPE, n_outputs=3, head=head, n_tasks=2, seed=seed)

    return built


@pytest.fixture
def package(tmp_path, monkeypatch):
    """(entry points) -> an installed package with a module `their_networks` and these in the group of networks."""
    (tmp_path / "their_networks.py").write_text(
        "from torch import nn\n"
        "from clbench.networks.network import Network\n"
        "from clbench.networks.settings import NetworkSettings\n"
        "class TheirSettings(NetworkSettings):\n"
        "    factor: int = 2\n"
        "def trunk(settings, image_shape):\n"
        "    return nn.Sequential(nn.Conv2d(image_shape[0], settings.factor, 3), nn.Flatten())\n"
        "TINY = Network(TheirSettings, trunk)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def install(**entries):
        info = tmp_path / "their_networks-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their_networks\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {target}\n" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("[clbench.networks]\n" + "".join(lines))

    yield install
    sys.modules.pop("their_networks", None)


def test_names_and_settings_are_known_without_importing_torch():
    code = (
        "import sys; from clbench.networks.table import *; schema_of('resnet18')(width=3); network_names(); "
        "print([name for name in ('torch', 'avalanche', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_tells_the_settings_that_the_network_has(name):
    assert find_network(name).Settings is schema_of(name)


@pytest.mark.parametrize(("head", "kind"), [("single", OneHead), ("multi", HeadPerTask), ("classes", OneHead)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_have_every_kind_of_head(make, name, head, kind):
    model = make(name, head)
    assert isinstance(model, kind)
    logits = model(torch.rand(4, *SHAPE), 1) if head == "multi" else model(torch.rand(4, *SHAPE))
    assert logits.shape == (4, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_weights_depend_on_the_seed_and_on_nothing_else(make, name):
    torch.manual_seed(1)
    first = make(name, seed=7).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = make(name, seed=7).state_dict(), make(name, seed=2**63 - 1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    matrices = [key for key in first if key.startswith("trunk") and first[key].ndim > 1]
    assert not any(torch.equal(first[key], other[key]) for key in matrices)


def test_an_unknown_network_is_refused_with_the_nearest_and_the_way_to_ones_own():
    with pytest.raises(
        SettingError, match=r"'resnet'.* 'resnet18'.*conv-zenke.*\./file\.py:Class.*package\.module:Class"
    ):
        find_network("resnet")


def test_an_installed_package_adds_its_network(package):
    package(tiny_net="their_networks:TINY")
    assert network_names() == [*NETWORKS, "tiny-net"]
    settings = schema_of("tiny-net")(factor=4)
    model = build(find_network("tiny-net"), settings, SHAPE, n_outputs=3, head="multi", n_tasks=2, seed=0)
    assert [head.in_features for head in model.heads] == [4 * 30 * 30] * 2


def test_an_installed_package_cannot_take_the_place_of_a_network_of_ours(package):
    package(conv="their_networks:TINY")
    assert network_names() == list(NETWORKS)
    assert find_network("conv").Settings is ConvSettings


@pytest.mark.parametrize(
    ("target", "said"),
    [("their_networks:ABSENT", "does not load.*ABSENT"), ("their_networks:trunk", "must be a .*Network.* is function")],
)
def test_an_installed_package_without_a_network_is_refused(package, target, said):
    package(broken=target)
    with pytest.raises(SettingError, match=f"'broken'.*{said}"):
        find_network("broken")


def test_a_whole_network_gets_the_number_of_its_outputs_and_its_heads_are_slices():
    network = Network(NetworkSettings, flat, whole=True)
    one = build(network, NetworkSettings(), SHAPE, n_outputs=5, head="single", n_tasks=3, seed=0)
    assert isinstance(one, nn.Sequential)
    assert one(torch.rand(2, *SHAPE)).shape == (2, 5)
    several = build(network, NetworkSettings(), SHAPE, n_outputs=5, head="multi", n_tasks=3, seed=0)
    assert isinstance(several, SlicedHeads)
    x = torch.rand(2, *SHAPE)
    assert torch.equal(several(x, 2), several.network(x)[:, 10:15])


@pytest.mark.parametrize(("head", "wanted"), [("single", 4), ("multi", 12)])
def test_a_whole_network_with_another_number_of_outputs_is_refused(head, wanted):
    def stubborn(settings, image_shape, n_outputs):
        return flat(settings, image_shape, 7)

    with pytest.raises(SettingError, match=f"must have {wanted} outputs, but Sequential has 7"):
        build(
            Network(NetworkSettings, stubborn, whole=True),
            NetworkSettings(),
            SHAPE,
            n_outputs=4,
            head=head,
            n_tasks=3,
            seed=0,
        )


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        (ResNetSettings, {"width": True}),
        (ResNetSettings, {"width": 0}),
        (ResNetSettings, {"depth": 18}),
        (MLPSettings, {}),
        (MLPSettings, {"hidden_sizes": []}),
        (ConvSettings, {"channels": [32, 1.5]}),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, given):
    with pytest.raises(ValidationError):
        settings(**given)


def test_one_width_is_a_list_of_one():
    assert MLPSettings(hidden_sizes=100) == MLPSettings(hidden_sizes=[100])
    assert ConvSettings(channels=8).channels == (8,)
