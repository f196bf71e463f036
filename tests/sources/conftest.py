"""Tests of the known sources of images: small ones in the published formats, no network, no settings of the user's."""

import gzip
import hashlib
import io
import pickle
import runpy
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets

from clbench.data import SOURCES

FILES = runpy.run_path(str(Path(__file__).with_name("files.py")))
idx, TEST, TRAIN = (FILES[name] for name in ("idx", "TEST", "TRAIN"))


@pytest.fixture(autouse=True)
def _no_network_and_no_settings(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise URLError("the network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def arrays():
    random = np.random.default_rng(7)
    return {
        "train-images-idx3-ubyte": random.integers(0, 256, (TRAIN, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(TRAIN, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": random.integers(0, 256, (TEST, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(TEST, dtype=np.uint8)[::-1] % 10,
    }


@pytest.fixture
def archives(arrays):
    return {f"{name}.gz": gzip.compress(idx(array), mtime=0) for name, array in arrays.items()}


@pytest.fixture
def small_kmnist(monkeypatch, archives):
    """KMNIST with 40 and 20 images, published with the MD5s of the archives that the test wrote."""
    monkeypatch.setitem(SOURCES, "kmnist", replace(SOURCES["kmnist"], train_count=TRAIN, test_count=TEST))
    published = [(name, md5(content)) for name, content in archives.items()]
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", published)


@pytest.fixture
def raw(small_kmnist, tmp_path):
    """The folder of KMNIST's files below the data root `tmp_path / "data"`, empty."""
    folder = tmp_path / "data" / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def unpacked(raw, arrays):
    for name, array in arrays.items():
        (raw / name).write_bytes(idx(array))
    return raw


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def small_mnist(small_kmnist, arrays, root, monkeypatch):
    """MNIST with 40 and 20 images and their digests pinned; the folder of its files, empty."""
    digests = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["kmnist"], name="mnist", sha256=digests))
    folder = root / "KMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def cifar100(monkeypatch, root):
    """The folder of a small CIFAR-100 in the published format, with its own MD5s listed as published."""
    random = np.random.default_rng(3)
    batches = {
        "train": {
            "data": random.integers(0, 256, (200, 3072), dtype=np.uint8),
            "fine_labels": [k % 100 for k in range(200)],
        },
        "test": {
            "data": random.integers(0, 256, (100, 3072), dtype=np.uint8),
            "fine_labels": [99 - k for k in range(100)],
        },
        "meta": {"fine_label_names": [f"class {k}" for k in range(100)]},
    }
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    digests = {}
    for name, batch in batches.items():
        content = pickle.dumps(batch, protocol=2)
        (folder / name).write_bytes(content)
        digests[name] = md5(content)
    dataset = torchvision.datasets.CIFAR100
    monkeypatch.setattr(dataset, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(dataset, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": digests["meta"]})
    monkeypatch.setitem(SOURCES, "cifar100", replace(SOURCES["cifar100"], train_count=200, test_count=100))
    return folder, batches


class Response(io.BytesIO):
    """What urlopen returns, as far as torchvision uses it."""

    def __init__(self, url, content, *, breaks_off_with=None):
        super().__init__(content)
        self.url, self.length, self.breaks_off_with = url, len(content), breaks_off_with

    def read(self, size=-1):
        chunk = super().read(size)
        if not chunk and self.breaks_off_with is not None:
            raise self.breaks_off_with
        return chunk


@pytest.fixture
def serve(monkeypatch):
    def serve_files(files, **settings):
        def urlopen(request, *args, **kwargs):
            url = request.full_url
            return Response(url, files[url.rsplit("/", 1)[1]], **settings)

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)

    return serve_files
