"""`clbench show` of a method or a network: every setting, and what it means."""

import re

import pytest

from clbench.methods.described import described
from clbench.methods.table import AVALANCHE, METHODS, find_method
from clbench.networks.table import NETWORKS, schema_of


@pytest.mark.parametrize("name", [name for name in METHODS if name not in AVALANCHE])
def test_every_setting_of_a_method_is_said_in_words(name):
    found = described(find_method(name).Settings)
    assert set(found) == set(find_method(name).Settings.model_fields)
    assert [setting for setting, (_, words) in found.items() if not words] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_every_setting_of_a_network_is_said_in_words(name):
    assert [setting for setting, (_, words) in described(schema_of(name)).items() if not words] == []


def test_a_method_shows_its_own_settings_first_with_their_defaults(clbench, tmp_path):
    shown = clbench(tmp_path, "show", "hat")
    assert shown.code == 0
    names = re.findall(r"^  (\w+)=", shown.out, re.MULTILINE)
    assert names.index("steepest") < names.index("momentum") < names.index("initial_weights")
    assert "\n  steepest=400.0\n      s_max.\n" in shown.out
    assert "--set hat.SETTING=VALUE" in shown.out
    assert "clbench.baselines.hat" in shown.out


def test_a_network_shows_what_must_be_given(clbench, tmp_path):
    shown = clbench(tmp_path, "show", "mlp")
    assert "\n  hidden_sizes=(must be given)\n      neurons of each hidden layer.\n" in shown.out


OWN = """
from clbench.methods import Method, MethodSettings

class L2(Method):
    class Settings(MethodSettings):
        strength: float = 0.1
"""


def test_a_method_of_ones_own_shows_its_settings(clbench, tmp_path):
    (tmp_path / "l2.py").write_text(OWN)
    shown = clbench(tmp_path, "show", "./l2.py:L2")
    assert shown.code == 0, shown.err
    assert "\n  strength=0.1\n  optimizer=none\n      `none` takes the suite's.\n" in shown.out


def test_only_a_suite_can_be_written_as_a_file(clbench, assert_refused, tmp_path):
    assert_refused(
        clbench(tmp_path, "show", "hat", "--toml"), "--toml writes a suite, and 'hat' is none", "split-mnist"
    )


def test_a_name_that_nothing_has_is_refused_with_the_nearest_of_suites_methods_and_networks(
    clbench, assert_refused, tmp_path
):
    assert_refused(clbench(tmp_path, "show", "packnett"), "unknown suite, method or network", "did you mean 'packnet'?")
    assert_refused(clbench(tmp_path, "show", "resnet19"), "did you mean 'resnet18'?", "split-mnist")
    assert_refused(clbench(tmp_path, "show", "wsn:less"), "is a variant of suites", "permuted-mnist-small")
