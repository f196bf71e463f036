"""Commands in processes of their own: killed, and many at once."""

import random
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clbench.methods.table import METHODS
from clbench.records.folder import RunFolder

GRIDS = runpy.run_path(str(Path(__file__).with_name("grids.py")))
begin, points, wait_for, statuses = (GRIDS[name] for name in ("begin", "points", "wait_for", "statuses"))

HOLDER = """
import signal, sys
from pathlib import Path
from clbench.records.folder import RunFolder
with RunFolder(Path(sys.argv[1]), sys.argv[2]).lease() as is_ours:
    print(is_ours, flush=True)
    signal.pause()
"""


def test_a_lease_is_held_by_one_process_and_ends_with_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path, "abc"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with RunFolder(tmp_path, "abc").lease() as is_ours:
            assert not is_ours
        with RunFolder(tmp_path, "another").lease() as is_ours:
            assert is_ours
        holder.kill()
    with RunFolder(tmp_path, "abc").lease() as is_ours:
        assert is_ours


@pytest.fixture
def killed_at_random_instants(command, outcomes, make_store, tmp_path):
    """(methods, kills) -> passes if runs killed that often end like uninterrupted ones, bit for bit."""

    def check(methods, kills):
        whole, parts = make_store(tmp_path / "whole"), make_store(tmp_path / "parts")
        began = time.monotonic()
        process = command(whole, methods)
        process.join()
        assert process.exitcode == 0, (whole / "said.txt").read_text()
        seconds = time.monotonic() - began
        draw = random.Random(1)
        for _ in range(kills):
            process = command(parts, methods)
            # Short enough that the last kill still finds something to interrupt.
            process.join(draw.uniform(0, 2 * seconds / kills))
            process.kill()
            process.join()
        process = command(parts, methods)
        process.join()
        assert process.exitcode == 0, (parts / "said.txt").read_text()
        assert outcomes(parts) == outcomes(whole)
        assert set(outcomes(parts)) == set(methods.split(","))
        assert points(parts) == points(whole)
        assert set(points(parts)) == set(methods.split(","))

    return check


@pytest.mark.long
def test_a_run_killed_at_random_instants_ends_like_an_uninterrupted_one(killed_at_random_instants):
    killed_at_random_instants("clnp,si", 4)


@pytest.mark.slow
def test_eight_processes_that_start_at_once_share_the_work(command, outcomes, tmp_path):
    # A fresh folder, and a store that none of them finds.
    processes = [command(tmp_path, "clnp,ewc,si,naive") for _ in range(8)]
    for process in processes:
        process.join()
    said = (tmp_path / "said.txt").read_text()
    assert [process.exitcode for process in processes] == [0] * 8, said
    assert set(outcomes(tmp_path)) == {"clnp", "ewc", "si", "naive"}
    # Each task was learned once, by whichever process.
    assert said.count("task 4/4 learned") == 4
    assert not list(tmp_path.glob("clbench-runs/*.unfinished-*"))
    assert set(points(tmp_path)) == {"clnp", "ewc", "si", "naive"}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_killed_at_random_instants_ends_like_an_uninterrupted_one(name, killed_at_random_instants):
    killed_at_random_instants(name, 6)


SMALL_CIFAR = ["run", "--suite", "../small.toml", "--seeds", "0", "--threads", "1", "--no-report"]
SMALL_CIFAR += ["--precision", "bfloat16", "--keep-weights"]


@pytest.fixture
def small_cifar(tmp_path):
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


@pytest.mark.long
@pytest.mark.parametrize(
    ("learner", "settings"),
    [("clnp", {"budget": 0.4, "rank": "contribution"}), pytest.param("si", {}, marks=pytest.mark.slow)],
)
def test_cifars_suite_killed_within_a_run_goes_on_to_the_same_bits(
    learner, settings, processes, small_cifar, make_store, outcomes
):
    whole, parts = make_store(small_cifar / "whole"), make_store(small_cifar / "parts")
    overrides = [word for key, value in settings.items() for word in ("--set", f"{learner}.{key}={value}")]
    command = [*SMALL_CIFAR, "--methods", learner, *overrides]
    undisturbed = begin(processes, whole, command)
    process = begin(processes, parts, command)
    wait_for(parts / "said.txt", "task 2/6 learned", process)
    process.kill()
    process.join()
    again = begin(processes, parts, command)
    for process in (undisturbed, again):
        process.join()
    assert undisturbed.exitcode == 0, (whole / "said.txt").read_text()
    assert again.exitcode == 0, (parts / "said.txt").read_text()
    assert outcomes(parts) == outcomes(whole)
    assert set(outcomes(parts)) == {learner}
    assert len(statuses(parts)[learner]["resumed"]) == 1
    assert statuses(parts)[learner]["networks"] == statuses(whole)[learner]["networks"]
