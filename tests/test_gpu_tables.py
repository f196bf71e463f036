"""The command that fills the tables which wait for a GPU, on the processor and a small suite."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clbench.records.reading import read_runs

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_tables.py"


def tables(*arguments, cwd):
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.long
def test_it_runs_a_suite_verifies_it_and_repeats_nothing(tmp_path, clean_environment):
    small = ["--suites", "split-digits", "--device", "cpu", "--seeds", "0", "--output", "tables"]
    small += ["--methods", "clnp,naive"]
    with clean_environment():
        done = tables(*small, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "clbench verify --suite split-digits" in done.stdout
        runs = read_runs(tmp_path / "tables" / "split-digits")
        assert {run.method for run in runs} == {"clnp", "naive"}
        assert all(run.status == "finished" for run in runs)
        assert (tmp_path / "tables" / "reports" / "split-digits.html").exists()
        again = tables(*small, cwd=tmp_path)
    assert again.stdout.count("recorded before") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_trains_nothing(tmp_path):
    done = tables(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("torch sees no GPU; give --device cpu to train on the processor")
    assert list(tmp_path.iterdir()) == []
