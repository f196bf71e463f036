"""Avalanche's own tests of plugins, strategies and loggers, with CLNP in every fine-tuning strategy."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import avalanche
import pytest

PLUGIN = """
from avalanche.training import Naive
from clbench.strategies import CLNPPlugin

_init = Naive.__init__

def init(self, *args, plugins=None, **kwargs):
    _init(self, *args, plugins=[*(plugins or []), CLNPPlugin({arguments})], **kwargs)

Naive.__init__ = init
"""

# It compares learning rates that follow from the losses of plain fine-tuning, to the last step.
OF_PLAIN_LOSSES = {"test_scheduler_reduce_on_plateau_plugin"}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["", "fine_tune_epochs=0"], ids=["by default", "without fine-tuning"])
def test_avalanches_own_tests_pass_as_they_do_without(arguments, tmp_path):
    folder = Path(avalanche.__file__).parents[1] / "tests"
    if not (folder / "training" / "test_plugins.py").is_file():
        pytest.skip("this avalanche-lib comes without its tests")
    (tmp_path / "with_clnp.py").write_text(PLUGIN.format(arguments=arguments))
    files = [
        "training/test_plugins.py",
        "training/test_strategies.py::BaseStrategyTest",
        "test_loggers.py",
    ]
    # Its tests import one another as `tests`.
    path = os.pathsep.join([str(tmp_path), str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "with_clnp",
        "-p",
        "no:cacheprovider",
        "--junitxml=found.xml",
    ]
    subprocess.run(
        [*command, *(str(folder / file) for file in files)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "FAST_TEST": "true"},
        check=False,
        capture_output=True,
    )
    cases = list(ElementTree.parse(tmp_path / "found.xml").iter("testcase"))
    failed = {case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None}
    assert len(cases) >= 16
    assert failed <= OF_PLAIN_LOSSES
