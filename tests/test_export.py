"""A network taken out of a run answers as the run did, stands for itself, and costs what is said."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, load_file
from torch import nn

from clbench.errors import MethodError, RecordError
from clbench.export import kept as keeping
from clbench.export.exported import _check_room, export
from clbench.export.kept import check_answers
from clbench.export.plain import built, plain
from clbench.methods.table import METHODS as MINE
from clbench.methods.table import find_method, method_names
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.reduced_layers import has_channels_last
from clbench.networks.units import find_units

SMALL = ["--set", "n_tasks=2", "--set", "epochs=3", "--threads", "1", "--no-report"]
NEURONS = ["--set", "hidden_sizes=64,64"]
CONV = ["--set", "network=conv", "--set", "channels=8,8", "--set", "hidden_sizes=32", "--set", "head=multi"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Copies of runs, for the tests that begin with the same ones."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def kept(clbench, place, shelf):
    """(methods, network) -> the folders of small runs that kept their networks, by method."""

    def made(*, methods="clnp", network=NEURONS):
        runs, copy = place / "clbench-runs", shelf / re.sub(r"\W", "_", f"{methods} {network}")
        if copy.exists():
            shutil.copytree(copy, runs)
        else:
            command = ["run", "--suite", "permuted-digits", "--methods", methods, "--seeds", "0", *SMALL, *network]
            done = clbench(place, *command, "--keep-weights")
            assert done.code == 0, done.err
            shutil.copytree(runs, copy)
        folders = [path for path in runs.iterdir() if (path / "config.json").exists()]
        return {json.loads((path / "config.json").read_text())["method"]: path for path in folders}

    return made


# Written down


@pytest.mark.parametrize("part", ["whole", "units left out"])
def test_a_network_of_every_kind_is_written_as_plain_pytorch(small_network, part):
    network, images = small_network
    if part == "units left out":
        units = find_units(network, images[:1])
        mask = torch.rand(units.n_units, generator=torch.Generator().manual_seed(1)) < 0.6
        network = ReducedNetwork(network, units, seen_only(mask)).eval()
    written = plain(network, 0, images[:1], title="A network.", file="network.safetensors")
    assert "clbench" not in written.source
    assert "Dropout" not in written.source
    made = written.build()
    assert all(type(module).__module__.startswith("torch.") for module in list(made.modules())[1:])
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images))


class Shifted(nn.Module):
    """Makes a tensor on its way."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 3))

    def forward(self, x):
        return self.layers(x) + torch.ones(3)


def test_a_tensor_made_on_the_way_is_written_down():
    network, images = Shifted(), torch.randn(2, 1, 8, 8)
    made = plain(network, 0, images[:1], title="A network.", file="network.safetensors").build()
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_kernels_lie_in_memory_as_they_did(memory_format):
    network, images = Shifted().to(memory_format=memory_format), torch.randn(2, 1, 8, 8)
    made = plain(network, 0, images[:1], title="A network.", file="network.safetensors").build()
    kernels = next(parameter for parameter in made.parameters() if parameter.ndim == 4)
    assert has_channels_last(kernels) == (memory_format is torch.channels_last)


def test_a_network_of_ones_own_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "network.py").write_text("mine")
    with pytest.raises(RecordError, match="other files than an export's"):
        _check_room(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    _check_room(tmp_path)


class Odd(nn.Module):
    """Names that fall together, settings that layers do not print, numbers and shapes within the code."""

    def __init__(self):
        super().__init__()
        self.block_1 = nn.Conv2d(1, 3, 3, padding=1)
        self.block = nn.ModuleDict({"1": nn.Conv2d(3, 3, 1), "class": nn.PReLU(3)})
        self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.scale = nn.Parameter(torch.full((1,), 0.5))
        self.head = nn.Linear(3 * 64, 3)

    def forward(self, x):
        h = self.up(self.pool(self.block["class"](self.block["1"](self.block_1(x)))))
        h = torch.clamp(h, max=float("inf")) * self.scale
        return self.head(h.view(x.shape[0], -1))


def test_what_a_network_says_of_itself_in_an_odd_way_is_written_down_too():
    torch.manual_seed(0)
    network, images = Odd().eval(), torch.randn(4, 1, 8, 8)
    written = plain(network, 0, images[:1], title="A network.", file="network.safetensors")
    assert "from math import inf\nimport torch\n" in written.source
    made = written.build()
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images))
    assert sum(map(torch.numel, made.parameters())) == sum(map(torch.numel, network.parameters()))


def test_a_layer_that_cannot_be_written_down_is_refused_by_its_name():
    class Own(nn.Linear):
        pass

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), Own(4, 3))
    with pytest.raises(MethodError, match=r"the layer '.*3' is a Own, which export cannot write down"):
        plain(network, 0, torch.zeros(1, 1, 8, 8), title="", file="")


# Kept and taken out


@pytest.mark.parametrize("network", [NEURONS, CONV], ids=["neurons", "filters"])
def test_what_is_exported_stands_for_itself_and_answers_as_the_run_did(kept, clbench, place, network, assert_refused):
    run = kept(network=network)["clnp"]
    outcome = clbench(place, "export", run.name[:6], "--task", "1", "--out", place / "first", "--onnx")
    assert outcome.code == 0, outcome.err
    alone = place / "first"
    assert_refused(clbench(place, "export", run.name, "--task", "3", "--out", alone), "but not task 3")
    imports = [line for line in (alone / "network.py").read_text().splitlines() if re.match("from|import", line)]
    assert imports == ["import torch", "from torch import nn"]
    check = (
        "import sys, torch, safetensors.torch as st\n"
        "from network import Network\n"
        "network = Network()\nnetwork.load_state_dict(st.load_file('network.safetensors'))\nnetwork.eval()\n"
        "example = st.load_file('example.safetensors')\n"
        "torch.testing.assert_close(network(example['images']), example['logits'])\n"
        "assert not any(name.partition('.')[0] == 'clbench' for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads((alone / "export.json").read_text())
    own, whole = said["network"], said["whole_network"]
    state = load_file(alone / "network.safetensors")
    assert own["parameters"] == sum(tensor.numel() for tensor in state.values()) < whole["parameters"]
    assert own["multiply_adds"] < whole["multiply_adds"]
    assert {*own["milliseconds_by_batch"]} == {"1", "256"}
    assert said["largest_difference_in_onnx_runtime"] < 1e-4
    assert said["weights_sha256"] == json.loads((run / "status.json").read_text())["weights_sha256"]
    # Of a linear network by hand.
    if network is NEURONS:
        weights = [tensor for name, tensor in state.items() if name.endswith("weight")]
        assert own["multiply_adds"] == sum(weight.numel() for weight in weights)


@pytest.mark.long
def test_the_first_tasks_network_is_the_one_that_the_run_had_when_it_ended(kept, place):
    run = kept()["clnp"]
    for task in (1, 2):
        found = export(run, task, place / f"task-{task}")
        assert found.difference < 1e-5
    first, second = (load_file(place / f"task-{task}" / "network.safetensors") for task in (1, 2))
    assert first["trunk_0.weight"].shape != second["trunk_0.weight"].shape
    # Pixels of the second task come in another order.
    assert "permuted_by" not in json.loads((place / "task-1" / "export.json").read_text())["pixels"]
    order = json.loads((place / "task-2" / "export.json").read_text())["pixels"]["permuted_by"]
    assert sorted(order) == list(range(64))


def test_an_earlier_export_is_replaced_as_a_whole_and_other_files_are_left_alone(kept, clbench, place, assert_refused):
    run, out = kept()["clnp"], place / "out"
    command = ["export", run, "--out", out, "--task"]
    assert clbench(place, *command, "2", "--onnx").code == 0
    assert clbench(place, *command, "1").code == 0
    assert {path.name for path in out.iterdir()} == {
        "network.py", "network.safetensors", "example.safetensors", "export.json"
    }  # fmt: skip
    said = json.loads((out / "export.json").read_text())
    assert (said["task"], said["image_shape"]) == (1, [1, 8, 8])
    assert said["task_name"]
    network = run / "networks" / "task_02.safetensors"
    before = network.read_bytes()
    network.write_bytes(before + b"x")
    checked = clbench(place, "verify-run", run)
    assert (checked.code, "networks/task_02.safetensors is not what the run kept" in checked.out) == (1, True)
    network.write_bytes(before)
    (out / "notes.txt").write_text("mine")
    assert_refused(clbench(place, *command, "2"), "holds other files than an export's (notes.txt)")
    assert json.loads((out / "export.json").read_text()) == said


@pytest.mark.long
def test_other_methods_give_their_whole_network(kept, place):
    runs = kept(methods="naive,single-task")
    for run in runs.values():
        found = export(run, 1, place / run.name)
        assert found.own.parameters == found.whole.parameters
    alone = load_file(place / runs["single-task"].name / "network.safetensors")
    shared = load_file(place / runs["naive"].name / "network.safetensors")
    assert not torch.equal(alone["head.weight"], shared["head.weight"])


@pytest.mark.parametrize("plan", [[], ["--dry-run"]], ids=["trained", "planned"])
def test_a_method_without_networks_is_refused_before_anything_is_trained(plan, clbench, place, assert_refused):
    command = ["run", "--suite", "permuted-digits", "--methods", "psp", "--seeds", "0", *SMALL, "--keep-weights"]
    done = clbench(place, *command, *plan)
    assert_refused(done, "psp has no network for a task alone", "leave out --keep-weights")


METHODS = [
    name
    for name in method_names()
    if name in MINE
    and find_method(name).has_networks
    and find_method(name).network_for is not find_method("psp").network_for
]


@pytest.mark.parametrize(
    "method", [name if name == "wsn" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_that_has_networks_keeps_them_and_gives_them(kept, method, place):
    (run,) = kept(methods=method, network=[*NEURONS, "--set", "head=multi"]).values()
    found = export(run, 1, place / "first")
    assert 0 < found.own.parameters <= found.whole.parameters


ODD = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs):
        super().__init__(nn.Conv2d(1, 3, 3), nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(48, n_outputs))
"""


@pytest.mark.long
def test_what_onnx_does_not_know_is_said_in_a_sentence_and_the_earlier_export_stays(
    kept, clbench, place, assert_refused
):
    (place / "net.py").write_text(ODD)
    run = kept(methods="naive", network=["--set", "network=./net.py:Net"])["naive"]
    out = ["--task", "1", "--out", place / "out"]
    assert clbench(place, "export", run, *out).code == 0
    before = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
    assert_refused(clbench(place, "export", run, *out, "--onnx"), "cannot be written as ONNX", "leave out --onnx")
    assert {path.name: path.read_bytes() for path in (place / "out").iterdir()} == before


@pytest.mark.parametrize("wrong", [2e-4, float("nan"), float("inf")])
def test_answers_that_differ_by_more_than_rounding_are_refused(wrong):
    expected = torch.tensor([[1.0, -10.0], [0.5, 2.0]])
    assert check_answers(expected + 5e-4, expected, "it") == pytest.approx(5e-5, rel=0.01)
    with pytest.raises(RecordError, match="it answers otherwise than the run did"):
        check_answers(expected + 10 * wrong, expected, "it")


def test_a_network_that_answers_otherwise_is_not_kept_and_costs_the_run_nothing(clbench, place, monkeypatch):
    def another(*arguments, **how):
        written = plain(*arguments, **how)
        (first, *_) = written.tensors
        return replace(written, tensors=written.tensors | {first: written.tensors[first] * 1.01})

    monkeypatch.setattr(keeping, "plain", another)
    command = ["run", "--suite", "permuted-digits", "--methods", "naive", "--seeds", "0", *SMALL, "--keep-weights"]
    done = clbench(place, *command)
    assert done.code == 0
    assert "the networks are not kept: the network taken out answers otherwise than the run did" in done.err
    assert "naive seed 0: finished" in done.out
    assert not list((place / "clbench-runs").glob("*/networks"))


def test_examples_are_of_all_classes_where_images_lie_by_class(make_method, make_workplace):
    method = make_method("naive", make_workplace("split-digits", epochs=1))
    (task, *_) = method.workplace.stream.tasks
    method.learn(task)
    order = task.test.labels.argsort(stable=True)
    test = replace(task.test, indices=task.test.indices[order], labels=task.test.labels[order])
    config = {"suite": "split-digits", "method": "naive", "seed": 0, "run_id": "", "suite_settings": {}}
    content = keeping._content(method, replace(task, test=test), config, "")
    examples = load(content)["example.images"]
    images, labels = test.batch(torch.arange(len(test)))
    assert len(images) > 2 * len(examples)
    same = (images.flatten(1)[:, None] == examples.flatten(1)).all(2).any(1)
    assert {*labels[same].tolist()} == {*labels.tolist()}


def test_what_earlier_versions_kept_is_read_as_well():
    said = {"source": "text", "whole": "other text", "about": {"task": 1}}
    assert keeping._description({"kept": json.dumps(said)}) == said
    assert keeping._description({**said, "about": '{"task": 1}'}) == said


@pytest.mark.long
def test_a_network_that_cannot_be_written_down_costs_the_run_nothing(clbench, place):
    (place / "net.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Linear):\n    pass\n"
        "class Net(nn.Sequential):\n    def __init__(self, image_shape, n_outputs):\n"
        "        super().__init__(nn.Flatten(), Own(64, n_outputs))\n"
    )
    command = ["run", "--suite", "permuted-digits", "--methods", "naive", "--seeds", "0", *SMALL, "--keep-weights"]
    done = clbench(place, *command, "--set", "network=./net.py:Net")
    assert done.code == 0
    assert "the networks are not kept: the layer '1' is a Own, which export cannot write down" in done.err
    assert "naive seed 0: finished" in done.out
    assert not list((place / "clbench-runs").glob("*/networks"))


@pytest.mark.long
def test_a_run_is_the_same_run_whether_it_keeps_its_networks_or_not(kept, clbench, place):
    run = kept()["clnp"]
    before = json.loads((run / "status.json").read_text())["weights_sha256"]
    again = clbench(
        place, "run", "--suite", "permuted-digits", "--methods", "clnp", "--seeds", "0", *SMALL, *NEURONS, "--rerun"
    )
    assert again.code == 0
    status = json.loads((run / "status.json").read_text())
    assert status["weights_sha256"] == before
    assert "networks" not in status
    assert not (run / "networks").exists()


# Refusals


@pytest.mark.long
def test_what_cannot_be_exported_is_said_in_a_sentence(kept, clbench, place, assert_refused, monkeypatch):
    run = kept()["clnp"]
    out = ["--out", place / "out"]
    assert_refused(clbench(place, "export", run, "--task", "3", *out), "has learned the tasks 1 to 2, but not task 3")
    assert_refused(clbench(place, "export", "ffff", "--task", "1", *out), "holds no run 'ffff'")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_refused(clbench(place, "export", run, "--task", "1", *out, "--onnx"), "pip install 'clbench[onnx]'")
    (place / "out").write_text("a file")
    assert_refused(clbench(place, "export", run, "--task", "1", *out), "cannot be written", "give another with --out")
    path = run / "networks" / "task_01.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert_refused(clbench(place, "export", run, "--task", "1", *out), "is not what the run kept")


def test_a_run_without_networks_says_how_to_get_them(clbench, place, assert_refused):
    command = ["run", "--suite", "permuted-digits", "--methods", "naive", "--seeds", "0", *SMALL]
    assert clbench(place, *command).code == 0
    (run,) = [path for path in (place / "clbench-runs").iterdir() if (path / "config.json").exists()]
    out = ["--task", "1", "--out", place / "out"]
    assert_refused(clbench(place, "export", run, *out), "kept no networks; train it with --keep-weights")
    again = clbench(place, *command, "--keep-weights")
    assert f"{run.name} are recorded without networks; --rerun trains them again" in again.err
    assert clbench(place, *command, "--keep-weights", "--rerun").code == 0
    assert clbench(place, "export", run, *out).code == 0


def test_a_text_that_defines_a_network_is_built_in_evaluation():
    source = "from torch import nn\nclass Network(nn.Sequential):\n    pass\n"
    assert built(source).training is False
