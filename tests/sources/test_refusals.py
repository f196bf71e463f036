import gzip
import pickle
import runpy
import socket
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from clbench.data import SOURCES, load_images
from clbench.errors import DataError, SettingError

FILES = runpy.run_path(str(Path(__file__).with_name("files.py")))
DIGITS_SHA256 = FILES["DIGITS_SHA256"]
REAL_FILES = FILES["REAL_FILES"]
needs_mnist = FILES["needs_mnist"]
IDX_FILES = FILES["IDX_FILES"]
idx = FILES["idx"]
TEST = FILES["TEST"]
TRAIN = FILES["TRAIN"]


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
