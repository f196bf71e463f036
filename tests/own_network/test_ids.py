"""Networks of the user's own: what their ids depend on, and what is kept apart."""

import os
import py_compile
import runpy
import sys
from pathlib import Path

import pytest
import torch

from clbench.errors import SettingError
from clbench.networks.own import own_network
from clbench.runs.spec import check_unchanged, make_specs
from clbench.suites.files import find_suite

NET = runpy.run_path(str(Path(__file__).with_name("texts.py")))["NET"]


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
