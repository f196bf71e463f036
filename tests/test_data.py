import gzip
import hashlib
import io
import pickle
import random
import socket
import struct
import subprocess
import sys
import urllib.request
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from clbench.data import SOURCES, data_folder, formats, load_images
from clbench.errors import DataError, SettingError

DIGITS_SHA256 = "82d9d9a6b1f24958111fbc6331ad9d5fceb0f970f5c8cfe9511229c1aef42639"
MNIST_SHA256 = "0e8383649ea45e02ea84f209cc331c5be5f96b159bfba6afca400beff6e9cdae"

REAL_FILES = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_mnist = pytest.mark.skipif(
    not (REAL_FILES / "MNIST" / "raw").is_dir(), reason="../shared/data/MNIST is not beside the repository"
)

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TRAIN, TEST = 40, 20


@pytest.fixture(autouse=True)
def _no_network_and_no_settings(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise URLError("the network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def md5(content):
    return hashlib.md5(content).hexdigest()


def content_of(folder):
    return {
        path.relative_to(folder): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


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


def unpack_by_class(batches, folder):
    """Writes the images of small CIFAR-100 as files NNN.png into a folder per part and class."""
    for part in ("train", "test"):
        for number, (row, label) in enumerate(zip(batches[part]["data"], batches[part]["fine_labels"], strict=True)):
            path = folder / part / batches["meta"]["fine_label_names"][label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)


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


# Claims


def test_digits_are_the_same_bytes_on_every_machine():
    assert load_images("digits").sha256 == DIGITS_SHA256
    assert load_images("digits", offline=True).sha256 == DIGITS_SHA256


def test_digits_do_not_depend_on_the_state_of_the_global_generators():
    np.random.seed(5)  # noqa: NPY002 - the global generator is the one that must not matter
    torch.manual_seed(5)
    assert load_images("digits").sha256 == DIGITS_SHA256


def test_digits_are_scaled_from_16_to_255_and_every_image_is_used_once():
    from sklearn.datasets import load_digits

    images = load_images("digits")
    original = load_digits()
    together = torch.cat([images.train_images, images.test_images]).flatten(1).numpy()
    labels = torch.cat([images.train_labels, images.test_labels]).numpy()
    expected = {
        (bytes(round(v * 255 / 16) for v in row), int(label))
        for row, label in zip(original.data, original.target, strict=True)
    }
    assert {(row.tobytes(), int(label)) for row, label in zip(together, labels, strict=True)} == expected
    assert len(together) == len(original.data) == 1797


def test_one_fifth_of_every_class_of_digits_is_for_testing():
    images = load_images("digits")
    assert images.train_images.shape == (1438, 1, 8, 8)
    assert images.test_images.shape == (359, 1, 8, 8)
    test, train = images.test_labels.bincount(), images.train_labels.bincount()
    assert ((test - 0.2 * (test + train)).abs() <= 0.5).all()


def test_idx_files_are_handed_out_pixel_by_pixel(unpacked, root, arrays):
    images = load_images("kmnist", root, offline=True)
    assert images.source == "kmnist"
    assert images.class_names[:3] == ("o", "ki", "su")
    for tensor, name in [(images.train_images, IDX_FILES[0]), (images.test_images, IDX_FILES[2])]:
        assert tensor.dtype == torch.uint8
        assert tensor.shape == (len(arrays[name]), 1, 28, 28)
        assert np.array_equal(tensor[:, 0].numpy(), arrays[name])
    for tensor, name in [(images.train_labels, IDX_FILES[1]), (images.test_labels, IDX_FILES[3])]:
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == arrays[name].tolist()


def test_packed_files_alone_give_the_same_images_as_unpacked_ones(raw, root, arrays, archives):
    for name, content in archives.items():
        (raw / name).write_bytes(content)
    packed = load_images("kmnist", root, offline=True)
    for name, array in arrays.items():
        (raw / name).write_bytes(idx(array))
    both = load_images("kmnist", root, offline=True)
    for name in archives:
        (raw / name).unlink()
    assert packed.sha256 == both.sha256 == load_images("kmnist", root, offline=True).sha256


def test_the_digest_tells_apart_files_that_differ_in_one_pixel(unpacked, root):
    before = load_images("kmnist", root).sha256
    path = unpacked / IDX_FILES[2]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert load_images("kmnist", root).sha256 != before


def test_the_digest_covers_types_shapes_and_bytes_in_a_fixed_form(unpacked, root, arrays):
    digest = hashlib.sha256()
    for part, prefix, count in [("train", "train", TRAIN), ("test", "t10k", TEST)]:
        digest.update(f"{part}_images uint8 [{count}, 1, 28, 28]\n".encode())
        digest.update(arrays[f"{prefix}-images-idx3-ubyte"].tobytes())
        digest.update(f"{part}_labels int64 [{count}]\n".encode())
        digest.update(struct.pack(f"<{count}q", *arrays[f"{prefix}-labels-idx1-ubyte"]))
    assert load_images("kmnist", root).sha256 == digest.hexdigest()


def test_cifar_is_handed_out_with_channels_first_by_name_of_the_fine_class_and_then_by_pixel_bytes(cifar100, root):
    _, batches = cifar100
    images = load_images("cifar100", root, offline=True)
    names = batches["meta"]["fine_label_names"]
    assert images.class_names == tuple(sorted(names)) != tuple(names)
    for part in ("train", "test"):
        labels = [images.class_names.index(names[k]) for k in batches[part]["fine_labels"]]
        expected = sorted(zip(labels, (row.tobytes() for row in batches[part]["data"]), strict=True))
        got = getattr(images, f"{part}_images")
        assert got.shape == (len(expected), 3, 32, 32)
        assert [row.tobytes() for row in got.numpy()] == [row for _, row in expected]
        assert getattr(images, f"{part}_labels").tolist() == [label for label, _ in expected]


@pytest.mark.parametrize("image_size", [None, 16])
def test_cifar_has_one_digest_whether_it_lies_in_torchvisions_files_or_in_folders_by_class(image_size, cifar100, root):
    folder, batches = cifar100
    from_files = load_images("cifar100", root, offline=True, image_size=image_size)
    unpack_by_class(batches, root / "cifar100")
    for path in folder.iterdir():
        path.unlink()
    from_folders = load_images("cifar100", root, offline=True, image_size=image_size)
    assert from_folders.sha256 == from_files.sha256
    assert from_folders.class_names == from_files.class_names
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(from_folders, name), getattr(from_files, name))
    assert from_folders.origin == "folders of images by class"


def test_cifar_in_folders_must_be_all_of_it(cifar100, root):
    folder, batches = cifar100
    unpack_by_class(batches, root / "cifar100")
    (folder / "train").unlink()
    load_images("cifar100", root, offline=True)
    (root / "cifar100" / "train" / "class 7" / "107.png").unlink()
    with pytest.raises(DataError, match=r"cifar100 is not cifar100: expected uint8 images of shape \[200, 3, 32, 32\]"):
        load_images("cifar100", root, offline=True)


def test_images_of_known_sources_are_scaled_on_request(unpacked, root, arrays):
    images = load_images("kmnist", root, offline=True, image_size=14)
    assert images.train_images.shape == (TRAIN, 1, 14, 14)
    expected = Image.fromarray(arrays[IDX_FILES[2]][5]).resize((14, 14), Image.Resampling.BILINEAR)
    assert np.array_equal(images.test_images[5, 0].numpy(), np.asarray(expected))
    assert images.sha256 != load_images("kmnist", root, offline=True).sha256
    assert load_images("kmnist", root, offline=True, image_size=28).sha256 == load_images("kmnist", root).sha256


@needs_mnist
def test_real_mnist_is_read_as_torchvision_reads_it():
    images = load_images("mnist", REAL_FILES, offline=True)
    assert images.sha256 == MNIST_SHA256
    for train, pixels, labels in [
        (True, images.train_images, images.train_labels),
        (False, images.test_images, images.test_labels),
    ]:
        theirs = torchvision.datasets.MNIST(REAL_FILES, train=train)
        assert torch.equal(pixels[:, 0], theirs.data)
        assert torch.equal(labels, theirs.targets)


def test_the_folder_given_comes_before_the_environment_and_that_before_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == tmp_path / "home" / ".cache" / "clbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "clbench"
    monkeypatch.setenv("CLBENCH_DATA", "~/sets")
    assert data_folder() == tmp_path / "home" / "sets"
    assert data_folder(Path("~/given")) == tmp_path / "home" / "given"


def test_files_are_read_from_the_folder_that_the_environment_names(unpacked, root, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(root))
    assert len(load_images("kmnist", offline=True).train_labels) == TRAIN


def test_a_complete_folder_is_never_written_and_may_be_read_only(unpacked, root, cifar100):
    before = content_of(root)
    folders = [path for path in [root, *root.rglob("*")] if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    try:
        load_images("kmnist", root)
        load_images("cifar100", root)
    finally:
        for path in folders:
            path.chmod(0o755)
    assert content_of(root) == before


def test_importing_the_module_imports_nothing_heavy():
    heavy = "('torch', 'torchvision', 'sklearn', 'avalanche', 'PIL')"
    code = f"import sys, clbench.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_download_leaves_complete_files_that_serve_offline_later(small_kmnist, tmp_path, archives, serve):
    serve(archives)
    first = load_images("kmnist")
    folder = tmp_path / "cache" / "clbench"
    assert {path.name for path in (folder / "KMNIST" / "raw").iterdir()} == {*IDX_FILES, *archives}
    assert [path.name for path in folder.iterdir()] == ["KMNIST"]
    assert load_images("kmnist", offline=True).sha256 == first.sha256


def test_a_download_adds_what_is_missing_and_leaves_the_rest_alone(unpacked, root, archives, serve):
    expected = load_images("kmnist", root).sha256
    (unpacked / IDX_FILES[0]).unlink()
    kept = (unpacked / IDX_FILES[1]).stat().st_ino
    serve(archives)
    assert load_images("kmnist", root).sha256 == expected
    assert (unpacked / IDX_FILES[1]).stat().st_ino == kept


# Refusals


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_where_cifar_is_absent_both_of_its_forms_are_named(source, tmp_path):
    with pytest.raises(DataError, match=rf"{source}/{{train,test}}/<class>/\*, there and pass --data-root"):
        load_images(source, tmp_path, offline=True)


@pytest.mark.parametrize("source", ["mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("offline", [True, False])
def test_an_absent_source_is_said_in_one_message_that_helps(source, offline, tmp_path, capsys):
    with pytest.raises(DataError) as caught:
        load_images(source, tmp_path, offline=offline)
    message = str(caught.value)
    dataset = getattr(torchvision.datasets, SOURCES[source].torchvision_class)
    if SOURCES[source].form == "idx":
        wanted = [f"{dataset.__name__}/raw/{name}" for name in IDX_FILES]
    else:
        wanted = [f"{dataset.base_folder}/{name}" for name, _ in (*dataset.train_list, *dataset.test_list)]
    for part in [source, str(tmp_path), *wanted, "--data-root", "CLBENCH_DATA", "permuted-digits"]:
        assert part in message
    assert ("unreachable" in message) is not offline
    # What was not given is no advice.
    assert ("without them" in message) is offline
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert capsys.readouterr() == ("", "")


def test_a_refused_network_leaves_the_folder_and_the_timeout_as_they_were(root):
    root.mkdir()
    with pytest.raises(DataError, match="could not be downloaded"):
        load_images("cifar10", root)
    assert list(root.iterdir()) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionResetError("connection reset"),
        TimeoutError("timed out"),
        IncompleteRead(b""),
        KeyboardInterrupt(),
        None,
    ],
)
def test_a_download_that_breaks_off_leaves_nothing_that_is_taken_for_good(failure, small_kmnist, root, archives, serve):
    root.mkdir()
    halves = {name: content[: len(content) // 2] for name, content in archives.items()}
    serve(halves, breaks_off_with=failure)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else DataError):
        load_images("kmnist", root)
    assert list(root.iterdir()) == []
    serve(archives)
    assert len(load_images("kmnist", root).train_labels) == TRAIN


def test_a_half_downloaded_archive_of_another_program_is_refused_by_name(raw, root, archives):
    for name, content in archives.items():
        (raw / name).write_bytes(content)
    cut = raw / f"{IDX_FILES[0]}.gz"
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged: expected the MD5 .* delete it"):
        load_images("kmnist", root)


def test_files_packed_anew_are_read_where_their_content_has_the_pinned_digest(small_mnist, root, arrays):
    for name, array in arrays.items():
        (small_mnist / f"{name}.gz").write_bytes(gzip.compress(idx(array), compresslevel=1, mtime=7))
    assert len(load_images("mnist", root, offline=True).train_labels) == TRAIN


def test_files_packed_anew_without_a_pinned_digest_are_refused_with_what_to_do(raw, root, arrays):
    for name, array in arrays.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(array), compresslevel=1, mtime=7))
    with pytest.raises(DataError, match=r"expected the MD5 .* \(if you packed it anew, unpack it"):
        load_images("kmnist", root, offline=True)
    for name in arrays:
        (raw / name).write_bytes(gzip.decompress((raw / f"{name}.gz").read_bytes()))
        (raw / f"{name}.gz").unlink()
    assert len(load_images("kmnist", root, offline=True).train_labels) == TRAIN


def test_an_unpacked_file_that_differs_from_its_archive_is_refused_by_name(unpacked, root, archives):
    name = IDX_FILES[2]
    (unpacked / f"{name}.gz").write_bytes(archives[f"{name}.gz"])
    load_images("kmnist", root)
    content = bytearray((unpacked / name).read_bytes())
    content[100] ^= 1
    (unpacked / name).write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is damaged: it differs from .*ubyte\.gz"):
        load_images("kmnist", root)


@pytest.mark.parametrize("name", IDX_FILES)
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0", lambda _: b""])
def test_a_file_of_the_wrong_size_is_refused_by_name(change, name, unpacked, root):
    path = unpacked / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{name} is damaged: expected \d+ bytes, but got \d+; delete it"):
        load_images("kmnist", root)


@pytest.mark.parametrize("position", [2, 3, 7])
def test_a_file_with_another_header_is_refused_by_name(position, unpacked, root):
    path = unpacked / IDX_FILES[0]
    content = bytearray(path.read_bytes())
    content[position] += 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="train-images-idx3-ubyte is damaged: expected the IDX header"):
        load_images("kmnist", root)


def test_labels_out_of_range_are_refused_by_name(unpacked, root, arrays):
    labels = arrays[IDX_FILES[3]].copy()
    labels[3] = 10
    (unpacked / IDX_FILES[3]).write_bytes(idx(labels))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is not kmnist: expected each label from 0 to 9"):
        load_images("kmnist", root)


def test_a_class_without_an_image_is_refused(unpacked, root):
    (unpacked / IDX_FILES[1]).write_bytes(idx(np.arange(TRAIN, dtype=np.uint8) % 9))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte is not kmnist: .* got 9 different ones"):
        load_images("kmnist", root)


def test_other_images_are_never_taken_for_mnist(unpacked, root, monkeypatch):
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], train_count=TRAIN, test_count=TEST))
    (root / "KMNIST").rename(root / "MNIST")
    with pytest.raises(DataError, match="train-images-idx3-ubyte is damaged: expected the SHA-256 ba891046"):
        load_images("mnist", root)


@needs_mnist
@pytest.mark.parametrize("name", IDX_FILES)
def test_one_altered_byte_of_real_mnist_is_refused_by_name(name, root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for other in IDX_FILES:
        (raw / other).symlink_to(REAL_FILES / "MNIST" / "raw" / other)
    load_images("mnist", root, offline=True)
    content = bytearray((raw / name).read_bytes())
    content[-1] ^= 1
    (raw / name).unlink()
    (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is damaged: expected the SHA-256 .* delete it"):
        load_images("mnist", root, offline=True)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_cifar_file_with_another_md5_is_refused_by_name_and_never_unpickled(name, cifar100, root, tmp_path):
    folder, _ = cifar100
    marker = tmp_path / "unpickled"

    class Touch:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (folder / name).write_bytes(pickle.dumps(Touch()))
    with pytest.raises(DataError, match=rf"cifar-100-python/{name} is damaged: expected the MD5 .* delete it"):
        load_images("cifar100", root)
    assert not marker.exists()


def test_cifar_of_the_wrong_size_is_refused(cifar100, root, monkeypatch):
    monkeypatch.setitem(SOURCES, "cifar100", replace(SOURCES["cifar100"], train_count=201))
    with pytest.raises(DataError, match=r"is not cifar100: expected uint8 images of shape \[201, 3, 32, 32\]"):
        load_images("cifar100", root)


def test_a_file_that_cannot_be_read_is_named(unpacked, root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte cannot be read \(Permission denied\)"):
        load_images("kmnist", root)


@pytest.mark.parametrize("offline", [True, False])
def test_a_folder_that_was_named_but_does_not_exist_is_said_and_not_created(offline, tmp_path, monkeypatch):
    absent = tmp_path / "absent"
    with pytest.raises(DataError, match=f"there is no data folder {absent}; create it, or name another"):
        load_images("mnist", absent, offline=offline)
    monkeypatch.setenv("CLBENCH_DATA", str(absent))
    with pytest.raises(DataError, match=f"there is no data folder {absent}; create it, or name another"):
        load_images("mnist", offline=offline)
    assert not absent.exists()
    assert load_images("digits").sha256 == DIGITS_SHA256


def test_a_file_where_a_data_folder_was_named_is_said_to_be_none(tmp_path):
    file = tmp_path / "train.csv"
    file.touch()
    with pytest.raises(DataError, match=f"the data folder {file} is no folder; name another"):
        load_images("mnist", file)


def test_an_unknown_source_lists_the_right_ones_and_the_nearest():
    with pytest.raises(SettingError, match=r"did you mean 'fashion-mnist'\? expected one of cifar10, cifar100"):
        load_images("fashionmnist")


# Damage


def damages(content, seed):
    """200 times one bit flipped, 50 times cut short."""
    chosen = random.Random(seed)
    for place in chosen.sample(range(8 * len(content)), min(200, 8 * len(content))):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)
    for length in chosen.sample(range(len(content)), min(50, len(content))):
        yield content[:length]


def attempt(load):
    """What was loaded and nothing, or None and how it was refused; anything else fails the test."""
    try:
        return load(), ""
    except DataError as error:
        return None, str(error)


def assert_refused_by_name(path, load):
    """Every damage to the file is refused with its name, and afterwards it is whole again."""
    content = path.read_bytes()
    for damaged in damages(content, path.name):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path} is damaged"):
            load()
    path.write_bytes(content)
    load()


@pytest.mark.parametrize("name", IDX_FILES)
def test_every_damage_to_a_file_with_a_pinned_digest_is_refused_by_name(name, unpacked, small_mnist, root):
    assert_refused_by_name(unpacked / name, lambda: load_images("mnist", root, offline=True))


@pytest.mark.parametrize("name", IDX_FILES)
def test_every_damage_to_an_unpacked_file_is_refused_by_name_where_its_archive_lies_beside(
    name, unpacked, root, archives
):
    for packed, content in archives.items():
        (unpacked / packed).write_bytes(content)
    assert_refused_by_name(unpacked / name, lambda: load_images("kmnist", root, offline=True))


@pytest.mark.parametrize("name", IDX_FILES)
def test_every_damage_to_an_archive_is_refused_by_name(name, raw, root, archives):
    for packed, content in archives.items():
        (raw / packed).write_bytes(content)
    assert_refused_by_name(raw / f"{name}.gz", lambda: load_images("kmnist", root, offline=True))


@pytest.mark.parametrize("name", IDX_FILES)
def test_every_damage_to_an_archive_with_a_pinned_digest_is_refused_by_name_or_changes_nothing(
    name, small_mnist, root, archives
):
    for packed, content in archives.items():
        (small_mnist / packed).write_bytes(content)
    whole = load_images("mnist", root, offline=True).sha256
    for damaged in damages(archives[f"{name}.gz"], name):
        (small_mnist / f"{name}.gz").write_bytes(damaged)
        found, said = attempt(lambda: load_images("mnist", root, offline=True))
        # Among the bytes before the content are those that say when it was packed.
        assert f"{name}.gz is damaged" in said if found is None else found.sha256 == whole


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_every_damage_to_a_file_of_cifar_is_refused_by_name(name, cifar100, root):
    assert_refused_by_name(cifar100[0] / name, lambda: load_images("cifar100", root, offline=True))


@pytest.mark.parametrize("name", IDX_FILES)
def test_damage_without_any_digest_is_refused_by_name_or_makes_other_data_that_no_run_is_averaged_over(
    name, unpacked, root
):
    whole = load_images("kmnist", root, offline=True).sha256
    for damaged in damages((unpacked / name).read_bytes(), name):
        (unpacked / name).write_bytes(damaged)
        found, said = attempt(lambda: load_images("kmnist", root, offline=True))
        # The digest is part of a run's id and of what runs must share in a report.
        assert name in said if found is None else found.sha256 != whole


def test_every_damage_to_the_embedded_digits_is_refused_or_harmless(monkeypatch, tmp_path):
    place = Path("datasets", "data", "digits.csv.gz")
    content = (formats._folder_of("sklearn") / place).read_bytes()
    monkeypatch.setattr(formats, "_folder_of", lambda package: tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    refused = 0
    # Few, because each takes as long as unpacking: nearly every bit counts in a compressed file.
    for damaged in [*damages(content, "digits")][::5]:
        (tmp_path / place).write_bytes(damaged)
        found, said = attempt(lambda: load_images("digits"))
        assert "digits" in said if found is None else found.sha256 == DIGITS_SHA256
        refused += found is None
    assert refused >= 40
