"""Networks of the user's own: what they may be, and what is refused."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from clbench.errors import SettingError
from clbench.methods.table import METHODS
from clbench.networks.several_heads import SlicedHeads
from clbench.runs.runner import train
from clbench.runs.spec import make_specs
from clbench.seeding import RandomStreams

TEXTS = runpy.run_path(str(Path(__file__).with_name("texts.py")))
NET, CONV = (TEXTS[name] for name in ("NET", "CONV"))


# What a network may be


def test_batch_norm_dropout_and_convolutions_are_trained_and_their_buffers_belong_to_what_was_learned(
    write, spec_of, trained
):
    learned = trained(spec_of(write(CONV)))
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(learned)
    assert learned["1.num_batches_tracked"] > 0
    again = trained(spec_of(write(CONV)))
    assert all(torch.equal(learned[name], again[name]) for name in learned)


@pytest.mark.parametrize("head", ["single", "multi"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_the_network_of_the_docs_with_either_head(method, head, write, spec_of, trained):
    path = write(NET)
    if (method, head) == ("avalanche-si", "multi"):
        with pytest.raises(SettingError, match="avalanche-si cannot train a multi-head network"):
            spec_of(path, method, head=head)
        return
    learned = trained(spec_of(path, method, head=head, steps_per_epoch=2))
    assert all(tensor.isfinite().all() for tensor in learned.values())


def test_a_layer_that_finds_its_inputs_itself_is_trained(write, spec_of, trained):
    lazy = NET.replace("nn.Linear(channels * height * side, width)", "nn.LazyLinear(width)")
    path = write(lazy)
    spec = spec_of(path)
    assert spec.network["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    first, second = trained(spec), trained(spec_of(path))
    assert first["1.weight"].shape == (8, 64)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_function_may_build_the_network_and_so_may_a_partial_one(write, spec_of):
    path = write(
        "import functools\nfrom torch import nn\n"
        "def build(image_shape, n_outputs, *, depth: int = 1, names=('a', 'b')):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_outputs))\n"
        "Deep = functools.partial(build, depth=3)\n"
    )
    assert spec_of(f"{path}:build").suite.network_settings == {"depth": 1, "names": ("a", "b")}
    assert spec_of(f"{path}:Deep", names=["c"]).suite.network_settings == {"depth": 3, "names": ("c",)}
    assert spec_of(f"{path}:Deep", names="c").suite.network_settings == {"depth": 3, "names": ("c",)}


def test_the_word_none_is_a_text_for_a_parameter_that_is_a_text(write, spec_of):
    path = write(NET.replace("width=8", 'width=8, norm="none"'))
    assert spec_of(path, norm=None).run_id == spec_of(path).run_id


def test_zero_has_no_sign_in_a_networks_settings(write, spec_of):
    path = write(NET.replace("width=8", "width=8, share=0.5, shares=(0.5, 0.1)"))
    assert spec_of(path, share=-0.0).run_id == spec_of(path, share=0.0).run_id
    assert spec_of(path, shares=[-0.0]).run_id == spec_of(path, shares=[0.0]).run_id


@pytest.mark.parametrize(("head", "outputs"), [("single", 5), ("multi", 5), ("classes", 10)])
def test_a_network_gets_the_outputs_that_its_head_needs(write, digits, split_digits, head, outputs):
    suite = split_digits.with_overrides({"network": f"{write(NET)}:Net", "head": head, "epochs": 1})
    (spec,) = make_specs(suite, ["naive"], [0], {}, digits, "float32", "cpu")
    model = spec.suite.build_network((1, 8, 8), outputs, seed=0)
    assert isinstance(model, SlicedHeads) is (head == "multi")
    method = train(spec, digits, torch.device("cpu"), lambda result: None)
    last = [module for module in method.model.modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == 10 if head != "single" else 5


@pytest.mark.parametrize("method", ["clnp", "ewc", "mas", "si", "joint", "single-task"])
def test_a_chain_of_linear_layers_is_learned_by_methods_that_look_into_it(write, spec_of, trained, method):
    learned = trained(spec_of(write(NET), method=method))
    assert {"1.weight", "3.bias"} <= set(learned)


def test_ewc_holds_on_to_slices_as_it_does_to_heads(write, digits, split_digits):
    suite = split_digits.with_overrides({"network": f"{write(NET)}:Net", "head": "multi", "epochs": 4, "width": 32})
    kept = {}
    for method, settings in (("naive", {}), ("ewc", {"ewc.strength": 3000.0})):
        (spec,) = make_specs(suite, [method], [0], settings, digits, "float32", "cpu")
        results = []
        train(spec, digits, torch.device("cpu"), results.append)
        kept[method] = results[-1].matrix[2, 0] - results[-1].matrix[1, 0]
    assert kept["ewc"] > -0.05


@pytest.mark.parametrize("method", ["clnp", "ewc", "mas"])
def test_a_method_that_cannot_train_a_network_refuses_before_anything_is_trained(write, spec_of, method):
    text = CONV.replace("nn.BatchNorm2d(4)", "nn.GroupNorm(2, 4)")
    with pytest.raises(SettingError, match=f"{method} cannot run here: .*linear"):
        spec_of(write(text), method=method)


@pytest.mark.parametrize(
    ("method", "setting"), [("naive", "batch_size"), ("er", "memory_batch"), ("der++", "memory_batch")]
)
def test_batches_of_one_image_are_refused_where_a_batch_norm_cannot_train_on_them(
    write, spec_of, trained, method, setting
):
    flat = NET.replace("nn.ReLU()", "nn.BatchNorm1d(width), nn.ReLU()")
    assert flat != NET
    one, two = ({"n_tasks": 2, f"{method}.{setting}": size} for size in (1, 2))
    with pytest.raises(SettingError, match=f"cannot run here: .*one image; give {setting} 2 or more"):
        spec_of(write(flat), method=method, **one)
    # Two are enough, and so is one where it has many pixels.
    assert trained(spec_of(write(flat), method=method, **two))
    assert spec_of(write(CONV), method=method, **one).settings.model_dump()[setting] == 1


@pytest.mark.parametrize("method", ["clnp", "ewc", "mas"])
def test_methods_that_look_into_a_network_learn_filters_with_batch_norm(write, spec_of, trained, method):
    assert {"0.weight", "1.running_mean"} <= set(trained(spec_of(write(CONV), method=method)))


SHARED = NET.replace(
    "nn.Linear(width, n_outputs))", "again := nn.Linear(width, width), again, nn.Linear(width, n_outputs))"
)
TIED = NET + "        self.append(nn.Linear(n_outputs, n_outputs)); self[-1].bias = self[-2].bias\n"
POSITIONS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs):
        super().__init__(nn.Linear(image_shape[2], 2), nn.Flatten(), nn.Linear(16, n_outputs))
"""
OTHER = NET.replace(
    "class Net",
    "class Twice(nn.Linear):\n    def forward(self, x):\n        return 2 * super().forward(x)\n\nclass Net",
)
OTHER = OTHER.replace("nn.Linear(width, n_outputs)", "Twice(width, n_outputs)")


@pytest.mark.parametrize("method", ["ewc", "mas"])
@pytest.mark.parametrize("text", [SHARED, TIED, POSITIONS, OTHER], ids=["shared", "tied", "positions", "other"])
def test_linear_layers_of_another_use_than_once_per_image_are_refused(write, spec_of, text, method):
    assert spec_of(write(text)).network["parameters"] > 0
    with pytest.raises(SettingError, match="per-sample gradients need"):
        spec_of(write(text), method=method)


FROZEN = NET.replace("nn.Linear(channels * height * side, width)", "nn.Linear(64, width).requires_grad_(False)")


@pytest.mark.parametrize("method", ["clnp", "ewc", "mas"])
def test_a_frozen_weight_stays_as_it_is_or_the_method_refuses(write, spec_of, trained, method):
    path = write(FROZEN)
    spec = spec_of(path)
    begun = spec.suite.build_network((1, 8, 8), 10, RandomStreams(0).derive("weights")).state_dict()
    assert torch.equal(trained(spec)["1.weight"], begun["1.weight"])
    with pytest.raises(SettingError, match=r"1\.weight'? is frozen"):
        spec_of(path, method=method)


def test_settings_for_another_number_of_layers_are_refused_before_anything_is_trained(write, spec_of):
    path = write(NET)
    assert spec_of(path, method="clnp", **{"clnp.l1_activities": [0.1]})
    with pytest.raises(SettingError, match="l1_activities has 2 values for one group of units"):
        spec_of(path, method="clnp", **{"clnp.l1_activities": [0.1, 0.2]})


def test_a_network_is_seen_in_its_own_modes(write, spec_of):
    path = write(CONV.replace("nn.Flatten(),", "nn.Flatten(), nn.Dropout(0.1).eval(),"))
    model = spec_of(path).suite.build_network((1, 8, 8), 10, seed=0)
    assert [module.training for module in model] == [True, True, True, True, True, False, True]
    assert int(model[1].num_batches_tracked) == 0


# What is refused


INIT = "class Net(nn.Module):\n    def __init__(self, image_shape, n_outputs{}):\n        super().__init__()\n"
REFUSED = {
    "syntax": ("x = 1\ndef broken(:\n", ["net.py has a syntax error in line 2"]),
    "null": ("x = '\0'\n", ["net.py"]),
    "no class": (
        "from torch import nn\nclass First: ...\ndef second(): ...\n",
        ["no class Net", "it has First, second"],
    ),
    "nothing": ("", ["no class Net", "it has none"]),
    "no callable": ("Net = 3\n", ["no class Net"]),
    "import": ("import absent_module\n" + NET, ["does not load", "absent_module"]),
    "raises": ("raise ValueError('a\\nb')\n", ["does not load: ValueError: a b"]),
    "exits": ("import sys\nsys.exit(3)\n", ["does not load: SystemExit: 3"]),
    "relative": ("from . import helper\n" + NET, ["does not load", "relative import"]),
    "raises when built": (NET.replace("channels, h", "1 / 0; channels, h"), ["cannot be built: ZeroDivisionError"]),
    "raises when run": (
        NET + "\n    def forward(self, x):\n        return x[5]\n",
        ["cannot take an image of 1 x 8 x 8"],
    ),
    "shape": (NET + "\n    def forward(self, x):\n        return x\n", ["[1, 1, 8, 8]", "flatten"]),
    "outputs": (NET.replace("width, n_outputs)", "width, 7)"), ["must have 10 outputs", "has 7"]),
    "tuple": (NET + "\n    def forward(self, x):\n        return x, x\n", ["gave tuple"]),
    "no module": ("class Net:\n    def __init__(self, image_shape, n_outputs): ...\n", ["must be a torch.nn.Module"]),
    "made": (NET + "\nNet = Net((1, 8, 8), 10)\n", ["cannot be built"]),
    "no image shape": (NET.replace("image_shape, n", "shape, n"), ["must take image_shape", "takes shape, n_outputs"]),
    "no parameters": (NET.replace("self, image_shape, n_outputs, width=8", "self"), ["takes nothing"]),
    "no default": (NET.replace("width=8", "width"), ["parameter width", "needs a default"]),
    "default": (NET.replace("width=8", "width=8, act=nn.ReLU"), ["parameter act", "cannot be recorded"]),
    "endless": (NET.replace("width=8", "width=8, rate=float('nan')"), ["parameter rate", "cannot be recorded"]),
    "suite's": (NET.replace("width=8", "width=8, epochs=3"), ["parameter epochs", "name of a setting of the suite"]),
    "hidden": (NET.replace("width=8", "_width=8"), ["parameter _width", "name that no setting can have"]),
    "pydantic's": (NET.replace("width=8", "model_dump=8"), ["model_dump", "name that no setting can have"]),
    "frozen": (NET + "        self.requires_grad_(False)\n", ["no weights to train"]),
    "weightless": (
        NET + "        [self.pop(3), self.pop(1)]\n    def forward(self, x):\n        return x.flatten(1)[:, :10]\n",
        ["no weights"],
    ),
    "untrainable": (
        NET + "    def forward(self, x):\n        return super().forward(x).detach()\n",
        ["cannot be trained"],
    ),
    "train mode": (
        NET
        + "    def forward(self, x):\n        y = super().forward(x)\n        return (y, y) if self.training else y\n",
        ["cannot be trained"],
    ),
    "double": (NET + "        self.double()\n", ["cannot take an image"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_network_with_something_wrong_is_refused_in_one_sentence_and_nothing_is_written(
    clbench, assert_refused, write, tmp_path, what
):
    text, said = REFUSED[what]
    write(text)
    outcome = clbench(tmp_path / "lab", "run", "--suite", "permuted-digits", "--set", "network=./net.py:Net")
    assert_refused(outcome, *said)
    assert [path.name for path in (tmp_path / "lab").iterdir()] == ["net.py"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["network=./absent.py:Net"], ["absent.py", "No such file", "./net.py:Net"]),
        (["network=./:Net"], ["is not installed"]),
        (["network=./net.py:"], ["must be named ./file.py:Class"]),
        (["network=./net.py:a b"], ["must be named ./file.py:Class"]),
        (["network=./lab.py:Net"], ["lab.py cannot be read (not a regular file)"]),
        (["network=./net.py:Net", "widht=3"], ["unknown setting 'widht'", "did you mean 'width'"]),
        (
            ["network=./net.py:Net", "hidden_sizes=3"],
            ["net.py:Net has no setting hidden_sizes, as mlp and conv have; leave it out"],
        ),
        (["network=./net.py:Net", "width=wide"], ["the setting width=wide does not fit"]),
        (["network=./net.py:Net", "width=1.5"], ["the setting width=1.5 does not fit"]),
        (["network=./net.py:Net", "rate=NaN"], ["the setting rate=nan does not fit"]),
        (["network=./net.py:Net", "sizes=[NaN]"], ["the setting sizes"]),
        (["network=./net.py:Net", "network_settings=3"], ["unknown setting 'network_settings'"]),
    ],
)
def test_a_setting_that_a_network_does_not_have_is_refused(clbench, assert_refused, write, tmp_path, settings, said):
    write(NET.replace("width=8", "width=8, rate=0.5, sizes=(1, 2)"))
    (tmp_path / "lab" / "lab.py").mkdir()
    options = [word for setting in settings for word in ("--set", setting)]
    outcome = clbench(tmp_path / "lab", "run", "--suite", "permuted-digits", *options)
    assert_refused(outcome, *said)
    assert sorted(path.name for path in (tmp_path / "lab").iterdir()) == ["lab.py", "net.py"]


def test_a_syntax_error_in_a_helper_is_found_in_its_own_file(write, spec_of):
    path = write("import helper\n" + NET)
    write("\n\ndef (:\n", "helper.py")
    with pytest.raises(SettingError, match=r"helper\.py has a syntax error in line 3"):
        spec_of(path)


def test_a_module_of_many_megabytes_is_refused(write, spec_of):
    path = write("import helper\n" + NET)
    write("#" + "x" * 21 * 2**20, "helper.py")
    with pytest.raises(SettingError, match=r"loads 22,\d+,\d+ bytes of modules"):
        spec_of(path)
