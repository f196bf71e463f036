import hashlib
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from clbench.data import data_folder, load_images
from clbench.errors import DataError

FILES = runpy.run_path(str(Path(__file__).with_name("files.py")))
DIGITS_SHA256 = FILES["DIGITS_SHA256"]
REAL_FILES = FILES["REAL_FILES"]
needs_mnist = FILES["needs_mnist"]
IDX_FILES = FILES["IDX_FILES"]
idx = FILES["idx"]
TEST = FILES["TEST"]
TRAIN = FILES["TRAIN"]

MNIST_SHA256 = "0e8383649ea45e02ea84f209cc331c5be5f96b159bfba6afca400beff6e9cdae"


def content_of(folder):
    return {
        path.relative_to(folder): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def unpack_by_class(batches, folder):
    """Writes the images of small CIFAR-100 as files NNN.png into a folder per part and class."""
    for part in ("train", "test"):
        for number, (row, label) in enumerate(zip(batches[part]["data"], batches[part]["fine_labels"], strict=True)):
            path = folder / part / batches["meta"]["fine_label_names"][label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)


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
