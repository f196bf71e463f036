"""Files of arrays, and joined sources."""

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.data import load_images
from clbench.errors import DataError, SettingError


@pytest.fixture
def random():
    return np.random.default_rng(11)


@pytest.fixture
def arrays(random):
    """Images 5 x 4 in colour of the classes -3, 2 and 40."""
    return {
        "x_train": random.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([40, 2, -3, 40, 2, -3], np.int16),
        "x_test": random.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([2, -3, 40], np.int16),
    }


@pytest.fixture
def load(tmp_path):
    """(arrays, settings) -> what a file of them gives."""

    def load_saved(arrays, **settings):
        np.savez(tmp_path / "photos.npz", **arrays)
        return load_images(str(tmp_path / "photos.npz"), **settings)

    return load_saved


@pytest.fixture
def make_folder(tmp_path, random):
    """(name, classes, shape) -> a folder with one image of this shape per class and part."""

    def make(name, classes, shape):
        for part in ("train", "test"):
            for of_class in classes:
                folder = tmp_path / name / part / of_class
                folder.mkdir(parents=True)
                Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / "0.png")
        return tmp_path / name

    return make


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CLBENCH_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# Arrays


def test_arrays_keep_their_order_and_label_k_is_the_kth_smallest_number(load, arrays):
    images = load(arrays)
    assert (images.source, images.class_names) == ("npz", ("-3", "2", "40"))
    assert images.train_labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert images.test_labels.tolist() == [1, 0, 2]
    for part in ("train", "test"):
        assert np.array_equal(getattr(images, f"{part}_images"), arrays[f"x_{part}"].transpose(0, 3, 1, 2))
        assert getattr(images, f"{part}_labels").dtype == torch.int64


def test_images_without_channels_are_grey_and_labels_may_stand_in_a_column(load, arrays):
    grey = {name: array[..., 0] if name[0] == "x" else array[:, np.newaxis] for name, array in arrays.items()}
    images = load(grey)
    assert images.train_images.shape == (6, 1, 5, 4)
    assert np.array_equal(images.train_images[:, 0], grey["x_train"])
    with_channel = {name: array[..., :1] if name[0] == "x" else array for name, array in arrays.items()}
    assert load(with_channel).sha256 == images.sha256


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fractions_of_255_are_the_bytes_they_stand_for(dtype, load, arrays):
    fractions = {name: (array / 255).astype(dtype) if name[0] == "x" else array for name, array in arrays.items()}
    assert load(fractions).sha256 == load(arrays).sha256


def test_arrays_are_scaled_on_request(load, arrays):
    assert load(arrays, image_size=2).train_images.shape == (6, 3, 2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("y_test"), "lacks y_test; write it with numpy.savez"),
        (
            lambda a: a.update(x_test=a["x_test"].astype(np.int64)),
            r"x_test in .* is int64 \[3, 5, 4, 3\]; expected uint8",
        ),
        (
            lambda a: a.update(x_train=a["x_train"].transpose(0, 3, 1, 2)),
            r"x_train in .* is uint8 \[6, 3, 5, 4\]; expected",
        ),
        (
            lambda a: a.update(x_train=a["x_train"][0, 0]),
            r"x_train in .* is uint8 \[4, 3\]; expected uint8 \[N, H, W\]",
        ),
        (
            lambda a: a.update(x_test=a["x_test"].astype(float)),
            r"floats from \d+ to 2\d\d; floats must lie between 0 and 1",
        ),
        (lambda a: a.update(x_test=a["x_test"] * np.nan), "floats from nan to nan; floats must lie between"),
        (lambda a: a.update(x_test=a["x_test"][:, :4]), r"images of one shape, but hold \[5, 4, 3\] and \[4, 4, 3\]"),
        (lambda a: a.update(y_train=a["y_train"][:5]), r"y_train in .* is int16 \[5\]; expected 6 whole numbers"),
        (lambda a: a.update(y_train=a["y_train"] + 0.5), r"y_train in .* is float64 \[6\]; expected 6 whole numbers"),
        (lambda a: a.update(y_test=np.array([2, 2, 40])), "the class -3 in .* is in only one of y_train and y_test"),
        (
            lambda a: a.update(y_train=np.ones(6, int), y_test=np.ones(3, int)),
            "holds one class alone, 1; give at least",
        ),
        (lambda a: a.update(y_train=np.array([{}] * 6)), r"cannot be read \(Object arrays cannot be loaded"),
    ],
)
def test_arrays_of_another_form_are_refused_in_one_sentence(change, said, load, arrays):
    change(arrays)
    with pytest.raises(DataError, match=said) as caught:
        load(arrays)
    assert "photos.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_absent_file_of_arrays_or_a_single_array_is_refused_by_name(load, arrays, tmp_path):
    path = tmp_path / "photos.npz"
    with pytest.raises(DataError, match=r"photos\.npz cannot be read \(No such file or directory\)"):
        load_images(str(path))
    load(arrays)
    content = path.read_bytes()
    for damaged in (b"", b"no zip", content[:200], content[:300] + b"\xff" + content[301:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"the file of arrays .*photos\.npz cannot be read \(.*write it anew"):
            load_images(str(path))
    with path.open("wb") as file:
        np.save(file, arrays["x_train"])
    with pytest.raises(DataError, match=r"photos\.npz is one array; expected a \.npz file with x_train, y_train"):
        load_images(str(path))


# Joined sources


def test_joined_sources_follow_one_another_with_labels_shifted(make_folder):
    pets, birds = make_folder("pets", ("cat", "dog"), (8, 8, 3)), make_folder("birds", ("emu", "owl"), (8, 8, 3))
    images = load_images(f"{pets}+{birds}")
    assert images.source == "image-folder+image-folder"
    assert images.class_names == ("cat", "dog", "emu", "owl")
    assert images.train_labels.tolist() == images.test_labels.tolist() == [0, 1, 2, 3]
    for part in ("train", "test"):
        parts = [getattr(load_images(str(folder)), f"{part}_images") for folder in (pets, birds)]
        assert torch.equal(getattr(images, f"{part}_images"), torch.cat(parts))
    assert images.sha256 != load_images(f"{birds}+{pets}").sha256


def test_a_grey_source_gets_three_channels_beside_a_coloured_one_and_keeps_one_beside_a_grey_one(make_folder):
    grey, colour = make_folder("grey", ("a", "b"), (8, 8)), make_folder("colour", ("c", "d"), (8, 8, 3))
    images = load_images(f"{grey}+{colour}")
    assert images.train_images.shape == (4, 3, 8, 8)
    for channel in range(3):
        assert torch.equal(images.train_images[:2, channel], load_images(str(grey)).train_images[:, 0])
    assert load_images("digits+digits").train_images.shape == (2 * 1438, 1, 8, 8)


def test_only_names_that_several_sources_have_say_their_source(make_folder, load, arrays, tmp_path):
    first, second = make_folder("first", ("cat", "dog"), (5, 4, 3)), make_folder("second", ("2", "cat"), (5, 4, 3))
    load(arrays)
    images = load_images(f"{first}+{second}+{tmp_path}/photos.npz")
    assert images.class_names == (
        "image-folder 1: cat",
        "dog",
        "image-folder 2: 2",
        "image-folder 2: cat",
        "-3",
        "npz: 2",
        "40",
    )


def test_joined_sources_of_several_sizes_are_refused_with_the_remedy(make_folder):
    folder = make_folder("pets", ("cat", "dog"), (12, 10, 3))
    with pytest.raises(DataError, match=r"digits has 8 x 8 pixels and image-folder has 10 x 12; .*--set image_size=8"):
        load_images(f"digits+{folder}")
    assert load_images(f"digits+{folder}", image_size=8).train_images.shape == (1438 + 2, 3, 8, 8)


@pytest.mark.parametrize("source", ["digits+cifar11", "digits+", "+", "photos"])
def test_an_unknown_source_among_joined_ones_is_refused_before_anything_is_read(source):
    with pytest.raises(
        SettingError, match=r"unknown source of images '.*expected one of cifar10, .* or a path such as"
    ):
        load_images(source)
