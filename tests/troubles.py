"""Fixtures for `conftest.py`: something that happens in the midst of a run, and a disk that fills up."""

import contextlib
import subprocess

import pytest

from clbench.baselines.naive import Naive


@pytest.fixture
def during_task(monkeypatch):
    """(number, action) -> the action happens when the naive method begins its number-th task, runs counted through."""

    def arrange(number, action):
        learn, begun = Naive.learn, []

        def learn_after_action(method, task):
            begun.append(task)
            if len(begun) == number:
                action()
            learn(method, task)

        monkeypatch.setattr(Naive, "learn", learn_after_action)

    return arrange


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"only root can mount a small file system ({mounted.stderr.strip()})")
    yield folder
    # MLflow keeps its connections.
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def fill(small_disk):
    """() -> the small file system is full; its file `ballast` is what fills it."""

    def write() -> None:
        with (small_disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)

    return write
