"""Networks of the user's own: what belongs to them, what their ids depend on, and what is refused."""

import os
import py_compile
import sys

import pytest
import torch
from torch import nn

from clbench.errors import SettingError
from clbench.networks.own import own_network
from clbench.networks.several_heads import SlicedHeads
from clbench.networks.table import find_network
from clbench.runs.runner import train
from clbench.runs.spec import check_unchanged, make_specs
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs, width=8):
        channels, height, side = image_shape
        first = nn.Linear(channels * height * side, width)
        super().__init__(nn.Flatten(), first, nn.ReLU(), nn.Linear(width, n_outputs))
"""
CONV = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs):
        super().__init__(nn.Conv2d(image_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
                         nn.Linear(4 * (image_shape[1] - 2) * (image_shape[2] - 2), n_outputs))
"""


@pytest.fixture
def write(tmp_path):
    """(text, name) -> the path of a file with that text below the folder `lab` of the test's."""

    def written(text, name="net.py"):
        path = tmp_path / "lab" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.fixture
def spec_of(digits):
    """(path or reference, changes) -> one run of the naive method on the embedded digits with that network."""

    def make(network, method="naive", **changes):
        reference = network if ":" in str(network) else f"{network}:Net"
        overrides = {"network": str(reference), "n_tasks": 2, "epochs": 1, **changes}
        (spec,) = make_specs(find_suite("permuted-digits"), [method], [0], overrides, digits, "float32", "cpu")
        return spec

    return make


@pytest.fixture
def trained(digits):
    """(spec) -> the weights that the run learns, by name."""

    def learn(spec):
        return train(spec, digits, torch.device("cpu"), lambda result: None).model.state_dict()

    return learn


@pytest.fixture
def imported_from(monkeypatch):
    """(folder) -> packages of that folder can be imported in the test."""
    before = set(sys.modules)

    def add(folder):
        monkeypatch.syspath_prepend(folder)

    yield add
    for name in [name for name in sys.modules if name.partition(".")[0] == "mynets" and name not in before]:
        del sys.modules[name]


# What the id depends on


def test_the_id_has_the_class_and_the_content_and_no_path(write, spec_of, tmp_path):
    spec = spec_of(write(NET))
    recorded = spec.recorded["suite_settings"]
    assert (recorded["network"], recorded["width"], len(recorded["network_sha256"])) == ("Net", 8, 64)
    assert str(tmp_path) not in str([spec.identity, spec.overrides, spec.network])
    (tmp_path / "lab").rename(tmp_path / "other")
    assert spec_of(tmp_path / "other" / "net.py").run_id == spec.run_id
    os.symlink(tmp_path / "other", tmp_path / "linked")
    assert spec_of(tmp_path / "linked" / "net.py").run_id == spec.run_id


HELPED = {
    "at the top": ("import helper\n" + NET, "helper.py"),
    "by a name of it": ("from helper import size\n" + NET, "helper.py"),
    "in a function": (NET.replace("channels, h", "import helper; channels, h"), "helper.py"),
    "in a package": ("import parts.inner.helper\n" + NET, "parts/inner/helper.py"),
    "as part of a package": ("from parts import helper\n" + NET, "parts/helper.py"),
    "as a package": ("import parts\n" + NET, "parts/__init__.py"),
    "by another module": ("import parts.first\n" + NET, "parts/helper.py"),
    "by its name as a text": ('import importlib\nimportlib.import_module("helper")\n' + NET, "helper.py"),
}


@pytest.mark.parametrize("how", HELPED)
def test_the_id_depends_on_every_byte_of_a_module_that_is_imported(write, spec_of, how):
    text, name = HELPED[how]
    path = write(text)
    write("from . import helper\n", "parts/first.py")
    write("size = 1\n", name)
    first = spec_of(path)
    assert set(first.files) >= {"net.py", name}
    write("size = 1 \n", name)
    second = spec_of(path)
    assert first.run_id != second.run_id
    assert second.files[name] == b"size = 1 \n"
    write("size = 1\n", name)
    assert spec_of(path).run_id == first.run_id


def test_the_id_depends_on_the_networks_own_bytes_and_its_settings_and_not_on_what_lies_beside_it(write, spec_of):
    path = write(NET)
    first = spec_of(path).run_id
    write("raise SystemExit", "unrelated.py")
    write("x", "notes.txt")
    assert spec_of(path).run_id == first
    assert spec_of(path, width=9).run_id != first
    assert spec_of(path, width=8).run_id == first
    write(NET + "\n")
    assert spec_of(path).run_id != first


def test_a_setting_that_is_the_default_does_not_mark_a_run_as_modified(write, digits):
    path = write(NET)
    suite = find_suite("permuted-digits").with_overrides({"network": f"{path}:Net"})
    (spec,) = make_specs(suite, ["naive"], [0], {"width": 8}, digits, "float32", "cpu")
    assert spec.overrides == {}
    (spec,) = make_specs(suite, ["naive"], [0], {"width": 9}, digits, "float32", "cpu")
    assert spec.overrides == {"width": 9}


def test_an_edit_within_the_same_second_and_to_the_same_size_is_noticed(write, spec_of):
    path = write("import helper\n" + NET.replace("width=8", "width=helper.SIZE"))
    helper = write("SIZE = 5\n", "helper.py")
    times = (helper.stat().st_atime_ns, helper.stat().st_mtime_ns)
    # A compiled copy that Python itself would take for either.
    py_compile.compile(str(helper))
    first = spec_of(path)
    write("SIZE = 6\n", "helper.py")
    os.utime(helper, ns=times)
    second = spec_of(path)
    assert (first.suite.network_settings["width"], second.suite.network_settings["width"]) == (5, 6)
    assert first.run_id != second.run_id


def test_a_network_that_is_edited_between_two_runs_is_trained_as_it_is_then(write, spec_of, trained):
    path = write(NET)
    first = trained(spec_of(path))
    write(NET.replace("nn.ReLU()", "nn.Tanh()"))
    second = trained(spec_of(path))
    assert first.keys() == second.keys()
    assert not torch.equal(first["1.weight"], second["1.weight"])
    write(NET)
    third = trained(spec_of(path))
    assert all(torch.equal(first[name], third[name]) for name in first)


def test_an_edit_after_a_command_began_does_not_reach_its_runs(write, spec_of, trained):
    path = write(NET)
    expected = trained(spec_of(path, method="single-task"))
    spec = spec_of(path, method="single-task")
    write("def broken(:\n")
    found = trained(spec)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_another_process_refuses_a_network_that_has_changed_since(write, spec_of):
    path = write(NET)
    spec = spec_of(path)
    check_unchanged(spec)
    write(NET + "\n")
    own_network(f"{path}:Net", anew=True)
    with pytest.raises(SettingError, match="has changed since the command began; give it again"):
        check_unchanged(spec)


# What is kept apart


def test_modules_of_the_same_name_in_two_folders_do_not_mix(write, spec_of):
    text = "import helper\n" + NET.replace("width=8", "width=helper.SIZE")
    text = text.replace("channels, h", "import late; width += late.SIZE; channels, h")
    paths = [write(text, f"{name}/net.py") for name in "ab"]
    for name, size in (("a", 3), ("b", 40)):
        write(f"SIZE = {size}\n", f"{name}/helper.py")
        write(f"SIZE = {size}00\n", f"{name}/late.py")
    first, second = map(spec_of, paths)
    for spec, width in ((first, 303), (second, 4040), (first, 303)):
        assert spec.suite.build_network((1, 8, 8), 10, seed=0)[1].out_features == width


def test_a_module_that_is_loaded_while_the_network_runs_is_the_folders_own(write, spec_of, trained):
    text = NET + "\n    def forward(self, x):\n        import late\n        return super().forward(x) * late.SIZE\n"
    for name, size in (("a", 1), ("b", 0)):
        path = write(text, f"{name}/net.py")
        write(f"SIZE = {size}\n", f"{name}/late.py")
        spec = spec_of(path)
        assert "late.py" in spec.files
        assert bool(trained(spec)["3.bias"].isfinite().all())
        model = spec.suite.build_network((1, 8, 8), 10, seed=0)
        assert bool(model(torch.rand(2, 1, 8, 8)).any()) is bool(size)


def test_a_module_that_nothing_names_is_refused_where_the_network_is_built(write, spec_of):
    path = write(NET.replace("channels, h", "import importlib; importlib.import_module('la' + 'te'); channels, h"))
    write("", "late.py")
    with pytest.raises(SettingError, match=r"cannot be built.*late is loaded late and no import names it"):
        spec_of(path)


def test_python_is_left_as_it_was(write, spec_of, monkeypatch):
    path = write("import helper, parts.inner\n" + NET)
    write("", "helper.py")
    write("", "parts/inner.py")
    stranger = type(sys)("helper")
    stranger.__file__ = "/elsewhere/helper.py"
    monkeypatch.setitem(sys.modules, "helper", stranger)
    before = {name: module for name, module in sys.modules.items() if not name.startswith("clbench_own")}
    path_before, writes = list(sys.path), sys.dont_write_bytecode
    spec_of(path)
    assert (sys.path, sys.dont_write_bytecode) == (path_before, writes)
    assert {name: sys.modules.get(name) for name in before} == before
    added = set(sys.modules) - set(before)
    assert {name for name in added if not name.startswith(("torch", "avalanche"))} <= {
        "parts",
        "parts.inner",
        *(name for name in added if name.startswith("clbench")),
    }
    assert not list(path.parent.rglob("__pycache__"))
    write("raise ValueError", "broken.py")
    with pytest.raises(SettingError):
        spec_of(path.with_name("broken.py"))
    assert not {name for name in sys.modules if name.endswith("_broken") or name.startswith("parts")}


def test_a_folder_may_hold_modules_that_are_named_like_pythons_and_like_installed_ones(write, spec_of):
    path = write("import csv, queue, numpy, clbench.metrics\n" + NET)
    for name in ("csv.py", "queue.py", "numpy.py", "clbench/metrics.py", "torch/__init__.py"):
        write("raise ValueError('this one is not meant')", name)
    assert set(spec_of(path).files) == {"net.py"}


# Packages


def installed(folder, text, *, editable=False, version="1.2"):
    """A package `mynets` with a module `nets`, as pip leaves it."""
    package = folder / "mynets"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(text)
    for old in folder.glob("*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    info = folder / f"mynets-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mynets\nVersion: {version}\n")
    (info / "top_level.txt").write_text("mynets\n")
    listed = ["mynets.pth"] if editable else ["mynets/__init__.py", "mynets/nets.py"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*listed, f"{info.name}/METADATA"]))
    directory = '{"url": "file:///here", "dir_info": {"editable": true}}' if editable else '{"url": "file:///here"}'
    (info / "direct_url.json").write_text(directory)


def test_an_installed_package_is_told_by_its_version(tmp_path, imported_from, spec_of):
    installed(tmp_path / "site", NET)
    imported_from(tmp_path / "site")
    first = spec_of("mynets.nets:Net")
    assert first.named == {"network": "mynets.nets:Net", "network_version": "mynets 1.2"}
    assert first.files == {}
    installed(tmp_path / "site", NET, version="1.3")
    second = spec_of("mynets.nets:Net")
    assert second.named["network_version"] == "mynets 1.3"
    assert first.run_id != second.run_id


def test_a_package_that_can_be_edited_is_told_by_its_modules_and_loaded_as_it_is(tmp_path, imported_from, spec_of):
    installed(tmp_path / "site", NET, editable=True)
    imported_from(tmp_path / "site")
    first = spec_of("mynets.nets:Net")
    assert set(first.files) == {"mynets/__init__.py", "mynets/nets.py"}
    assert "network_version" not in first.named
    installed(tmp_path / "site", NET.replace("width=8", "width=9"), editable=True)
    second = spec_of("mynets.nets:Net")
    assert (first.suite.network_settings, second.suite.network_settings) == ({"width": 8}, {"width": 9})
    assert first.run_id != second.run_id
    (tmp_path / "site" / "mynets" / "unused.py").write_text("")
    assert spec_of("mynets.nets:Net").run_id != second.run_id


def test_a_working_copy_with_the_list_of_its_own_files_is_told_by_its_modules(tmp_path, imported_from, spec_of):
    package, info = tmp_path / "copy" / "mynets", tmp_path / "copy" / "mynets.egg-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(NET)
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("mynets\n")
    (info / "SOURCES.txt").write_text("mynets/__init__.py\nmynets/nets.py\n")
    imported_from(tmp_path / "copy")
    assert set(spec_of("mynets.nets:Net").files) == {"mynets/__init__.py", "mynets/nets.py"}


def test_a_module_without_a_package_is_told_with_what_it_imports_from_its_folder(tmp_path, imported_from, spec_of):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "flatnet.py").write_text("import flathelper\n" + NET)
    (tmp_path / "flat" / "flathelper.py").write_text("SIZE = 1\n")
    imported_from(tmp_path / "flat")
    first = spec_of("flatnet:Net")
    assert set(first.files) == {"flatnet.py", "flathelper.py"}
    (tmp_path / "flat" / "flathelper.py").write_text("SIZE = 2\n")
    assert spec_of("flatnet:Net").run_id != first.run_id


def test_a_working_copy_that_hides_an_installed_package_is_told_by_its_modules(tmp_path, imported_from, spec_of):
    installed(tmp_path / "site", NET)
    copy = tmp_path / "copy" / "mynets"
    copy.mkdir(parents=True)
    (copy / "nets.py").write_text(NET)
    (copy / "__init__.py").write_text("")
    imported_from(tmp_path / "site")
    imported_from(tmp_path / "copy")
    assert set(spec_of("mynets.nets:Net").files) == {"mynets/__init__.py", "mynets/nets.py"}


def test_an_installed_packages_network_in_the_table_is_told_by_its_version(tmp_path, imported_from, digits):
    text = (
        "from torch import nn\nfrom clbench.networks.network import Network\n"
        "from clbench.networks.settings import NetworkSettings\n"
        "TINY = Network(NetworkSettings, lambda settings, image_shape: nn.Flatten())\n"
    )
    installed(tmp_path / "site", text)
    (next((tmp_path / "site").glob("*.dist-info")) / "entry_points.txt").write_text(
        "[clbench.networks]\ntiny = mynets.nets:TINY\n"
    )
    imported_from(tmp_path / "site")
    overrides = {"network": "tiny", "n_tasks": 2}
    (spec,) = make_specs(find_suite("permuted-digits"), ["naive"], [0], overrides, digits, "float32", "cpu")
    assert spec.recorded["suite_settings"]["network_version"] == "mynets 1.2"


def test_a_module_that_is_not_installed_is_refused():
    with pytest.raises(SettingError, match=r"absent\.nets of the network Net is not installed.*\./file\.py:Net"):
        find_network("absent.nets:Net")


# What a network may be


def test_batch_norm_dropout_and_convolutions_are_trained_and_their_buffers_belong_to_what_was_learned(
    write, spec_of, trained
):
    learned = trained(spec_of(write(CONV)))
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(learned)
    assert learned["1.num_batches_tracked"] > 0
    again = trained(spec_of(write(CONV)))
    assert all(torch.equal(learned[name], again[name]) for name in learned)


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
