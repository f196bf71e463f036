"""CIFAR's suite, its network and its two sources, with a few drawn images: killed, it goes on to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths

COMMAND = ["run", "--suite", "small.toml", "--methods", "clnp", "--seeds", "0", "--threads", "1"]
COMMAND += ["--precision", "bfloat16", "--no-report", "--set", "clnp.budget=0.4", "--set", "clnp.rank=contribution"]
LAUNCHER = Path(__file__).parent / "processes" / "clbench.py"


@pytest.fixture
def place(tmp_path):
    """A folder with images of two classes, images of ten, and the suite over both."""
    generator = np.random.default_rng(0)
    for name, classes in (("first", 2), ("second", 10)):
        means = generator.integers(60, 190, (classes, 1, 1, 3))

        def drawn(each, means=means, classes=classes):
            labels = np.arange(classes).repeat(each)
            noise = generator.normal(0, 40, (len(labels), 32, 32, 3))
            return (means[labels] + noise).clip(0, 255).astype(np.uint8), labels

        arrays = {}
        for part, each in (("train", 40), ("test", 10)):
            arrays[f"x_{part}"], arrays[f"y_{part}"] = drawn(each)
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "small.toml").write_text(
        'name = "small"\ntitle = "Small"\nsource = "A test."\nextends = "cifar10-cifar100"\n'
        'data = "first.npz+second.npz"\nclasses_per_task = 2\nepochs = 2\nbatch_size = 16\nvalidation_share = 0.1\n'
    )
    return tmp_path


def begin(place, output):
    given = {"folder": str(place), "arguments": [*COMMAND, "--output", output], "output": str(place / f"{output}.txt")}
    code = f"import runpy; runpy.run_path({str(LAUNCHER)!r}, {given!r})"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def outcomes(folder, outcome_of):
    return {read_run(path).method: outcome_of(RunFolder(path.parent, path.name)) for path in run_paths(folder)}


def test_cifars_suite_killed_within_a_run_goes_on_to_the_same_bits(place, outcome_of):
    whole = begin(place, "whole")
    with begin(place, "parts") as process:
        said = place / "parts.txt"
        # Nothing tells when another process has written to a file; it ends in any case.
        while not (said.exists() and "task 2/6 learned" in said.read_text()):
            assert process.poll() is None, said.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert whole.wait() == 0, (place / "whole.txt").read_text()
    assert begin(place, "parts").wait() == 0, (place / "parts.txt").read_text()
    parts = outcomes(place / "parts", outcome_of)
    assert parts == outcomes(place / "whole", outcome_of)
    assert set(parts) == {"clnp"}
    (path,) = run_paths(place / "parts")
    assert len(json.loads((path / "status.json").read_text())["resumed"]) == 1
