"""The benchmark of drift: what it prints of a method that forgets nothing, and of one that does."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "drift.py"


def test_clnps_answers_do_not_move_and_those_of_naive_do() -> None:
    small = ["--suite", "split-digits", "--methods", "clnp,naive", "--set", "n_tasks=3", "--set", "epochs=2"]
    done = subprocess.run([sys.executable, "-W", "ignore", SCRIPT, *small], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (_, clnp, naive) = (line.split() for line in done.stdout.splitlines())
    assert clnp == ["clnp", "0", "0.00", "0.00"]
    assert naive[0] == "naive"
    assert float(naive[1]) > 0.1


@pytest.mark.parametrize(
    "wrong", [["--suite", "splitdigits"], ["--methods", "clmp"], ["--set", "epochs"]], ids=" ".join
)
def test_bad_input_is_refused_in_a_sentence(wrong, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *wrong])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "Traceback" not in said
