"""The command that measures a GPU, on the processor and in its smallest setting."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_it_prints_every_figure_and_holds_them_against_the_goals(tmp_path, clean_environment):
    with clean_environment():
        command = [sys.executable, SCRIPT, "--device", "cpu", "--small", "--out", "gpu.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    for precision in ("float32", "bfloat16"):
        assert {"naive", "ewc", "si", "psp", "clnp"} <= set(found[precision]["images_per_second"])
        assert found[precision]["naive_at_once"]["images_per_second"] > 0
    assert "avalanche-stock-naive" in found["float32"]["images_per_second"]
    assert found["table_seconds"] > 0
    assert "says nothing of a GPU" in found["device"]
    for goal in found["goals"]:
        assert f"\n{goal}: " in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "torch sees no GPU; give --device cpu --small to try the script" in done.stderr
