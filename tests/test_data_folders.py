import os

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.data import SOURCES, load_images
from clbench.errors import DataError, SettingError
from clbench.execution.plan import choose

KINDS = ("L", "RGB")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.delenv("CLBENCH_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def photos(tmp_path, random):
    """A folder of images in colour, 8 x 8: 6 for training and 3 for testing of each of the classes cat, dog and owl."""
    folder = tmp_path / "photos"
    for part, count in (("train", 6), ("test", 3)):
        for name in ("owl", "cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                save(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), folder / part / name / f"{number}.png")
    return folder


@pytest.fixture
def unsplit(photos, tmp_path):
    """The same classes with 9 images each, without a split."""
    folder = tmp_path / "unsplit"
    for part in ("train", "test"):
        for path in (photos / part).rglob("*.png"):
            target = folder / path.parent.name / f"{part}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    return folder


def save(pixels, path, mode=None, **settings):
    Image.fromarray(pixels, mode).save(path, **settings)
    return path


def pixels_of(path):
    """[C, H, W] of an RGB file."""
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def refused(folder, **settings):
    with pytest.raises(DataError) as caught:
        load_images(str(folder), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layouts


def test_folders_of_train_and_test_are_read_by_sorted_class_and_then_by_pixel_bytes(photos):
    images = load_images("image-folder", photos)
    assert images.source == "image-folder"
    assert images.class_names == ("cat", "dog", "owl")
    for part, count in (("train", 6), ("test", 3)):
        assert getattr(images, f"{part}_labels").tolist() == [0] * count + [1] * count + [2] * count
        got = getattr(images, f"{part}_images")
        assert got.dtype == torch.uint8
        assert got.shape == (3 * count, 3, 8, 8)
        expected = []
        for name in images.class_names:
            expected += sorted(pixels_of(path).tobytes() for path in (photos / part / name).iterdir())
        assert [image.tobytes() for image in got.numpy()] == expected


def test_the_digest_is_that_of_the_arrays_and_follows_no_file_name(photos):
    before = load_images("image-folder", photos)
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        path.rename(path.with_name(f"{number * 7919 % 101}.png"))
    after = load_images("image-folder", photos)
    assert after.sha256 == before.sha256
    joined = load_images(f"{photos}+{photos}")
    assert joined.sha256 != before.sha256


def test_a_folder_is_found_as_data_root_below_it_and_by_its_path(photos, tmp_path, monkeypatch):
    expected = load_images("image-folder", photos).sha256
    monkeypatch.setenv("CLBENCH_DATA", str(photos))
    assert load_images("image-folder").sha256 == expected
    found = load_images(str(photos), tmp_path / "absent")
    assert (found.source, found.sha256) == ("image-folder", expected)
    photos.rename(tmp_path / "image-folder")
    assert load_images("image-folder", tmp_path).sha256 == expected


def test_one_fifth_of_each_class_is_for_testing_where_no_split_is_given_and_always_the_same(unsplit):
    images = load_images(str(unsplit))
    assert images.train_labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert images.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    # Recorded when it was written: a split that moves makes old runs incomparable.
    held_out = {
        path.name
        for path in (unsplit / "cat").iterdir()
        if any(torch.equal(torch.tensor(pixels_of(path)), image) for image in images.test_images[:2])
    }
    assert held_out == {"train-4.png", "test-2.png"}
    scaled = load_images(str(unsplit), image_size=4)
    assert scaled.test_labels.tolist() == images.test_labels.tolist()


def test_images_deeper_within_a_class_belong_to_it_and_foreign_and_hidden_files_are_counted(photos):
    before = load_images(str(photos))
    inner = photos / "train" / "cat" / "more" / "still more"
    inner.mkdir(parents=True)
    (photos / "train" / "cat" / "0.png").rename(inner / "0.PNG")
    for name in ("README", "notes.txt", ".DS_Store", "Thumbs.db", ".0.png", "more/list.csv"):
        (photos / "train" / "cat" / name).write_bytes(b"no image")
    (photos / "train" / ".hidden").mkdir()
    (photos / "classes.txt").touch()
    after = load_images(str(photos))
    assert after.sha256 == before.sha256
    assert after.origin == "folders of images by class, 6 other files passed over"


def test_links_to_files_and_classes_are_followed_and_a_circle_does_no_harm(photos, tmp_path):
    expected = load_images(str(photos)).sha256
    (photos / "train" / "cat").rename(tmp_path / "cat")
    (photos / "train" / "cat").symlink_to(tmp_path / "cat")
    (photos / "train" / "dog" / "0.png").rename(tmp_path / "dog.png")
    (photos / "train" / "dog" / "0.png").symlink_to(tmp_path / "dog.png")
    (photos / "train" / "dog" / "circle").symlink_to(photos / "train" / "dog")
    assert load_images(str(photos)).sha256 == expected


def test_a_link_to_nothing_is_refused_by_name(photos):
    (photos / "train" / "cat" / "lost.png").symlink_to(photos / "nowhere.png")
    with pytest.raises(DataError, match=r"lost\.png cannot be read \(a link to nothing\); repair it, or take it out"):
        load_images(str(photos))


def test_a_class_is_called_by_what_a_terminal_may_show(photos):
    for part in ("train", "test"):
        (photos / part / "cat").rename(photos / part / "c\ta\x1bt")
    assert r"c\ta\x1bt" in load_images(str(photos)).class_names


def test_a_folder_of_images_is_never_written(photos):
    before = {path: path.stat().st_mtime_ns for path in [photos, *photos.rglob("*")]}
    for path in [photos, *photos.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    load_images(str(photos))
    assert {path: path.stat().st_mtime_ns for path in [photos, *photos.rglob("*")]} == before


@pytest.fixture
def tiny(tmp_path, monkeypatch, random):
    """Tiny ImageNet as it is published, with 3 classes of 2 and 1 images, one of them grey."""
    source = {"train_count": 6, "test_count": 3, "class_count": 3}
    monkeypatch.setitem(
        SOURCES, "tiny-imagenet", type(SOURCES["tiny-imagenet"])("tiny-imagenet", "folder", (3, 64, 64), **source)
    )
    folder, lines = tmp_path / "tiny-imagenet-200", []
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    for number, name in enumerate(("n03", "n01", "n02")):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        (images.parent / f"{name}_boxes.txt").touch()
        for k in range(2):
            save(random.integers(0, 256, (64, 64, 3), dtype=np.uint8), images / f"{name}_{k}.JPEG")
        shape = (64, 64) if number == 0 else (64, 64, 3)
        save(random.integers(0, 256, shape, dtype=np.uint8), folder / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet_is_read_as_published_with_its_validation_images_for_testing(tiny, tmp_path):
    images = load_images("tiny-imagenet", tmp_path)
    assert images.source == "tiny-imagenet"
    assert images.class_names == ("n01", "n02", "n03")
    assert images.train_images.shape == (6, 3, 64, 64)
    for label, number in enumerate((1, 2, 0)):
        expected = np.asarray(Image.open(tiny / "val" / "images" / f"val_{number}.JPEG").convert("RGB"))
        assert np.array_equal(images.test_images[label].numpy().transpose(1, 2, 0), expected)


def test_tiny_imagenet_by_class_has_the_digest_of_the_published_layout(tiny, tmp_path):
    expected = load_images("tiny-imagenet", tmp_path).sha256
    by_class = tmp_path / "tiny-imagenet"
    by_class.mkdir()
    (tiny / "train").rename(by_class / "train")
    for number, name in enumerate(("n03", "n01", "n02")):
        (by_class / "test" / name).mkdir(parents=True)
        (tiny / "val" / "images" / f"val_{number}.JPEG").rename(by_class / "test" / name / "a.JPEG")
    assert load_images("tiny-imagenet", tmp_path).sha256 == expected


def test_tiny_imagenet_with_a_damaged_table_or_too_few_images_or_absent_is_refused(tiny, tmp_path):
    (tiny / "train" / "n01" / "images" / "n01_0.JPEG").unlink()
    with pytest.raises(DataError, match=r"is not tiny-imagenet: expected uint8 images of shape \[6, 3, 64, 64\]"):
        load_images("tiny-imagenet", tmp_path)
    (tiny / "val" / "val_annotations.txt").write_text("val_7.JPEG\tn01\t0\t0\t0\t0\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt names 'val_7\.JPEG', which is no image in"):
        load_images("tiny-imagenet", tmp_path)
    with pytest.raises(
        DataError, match=r"tiny-imagenet is not in .*; unpack tiny-imagenet-200\.zip there.*--data-root"
    ):
        load_images("tiny-imagenet", tmp_path / "cache" / "clbench" / "..")


def test_a_record_names_no_path(photos):
    assert load_images(f"{photos}+digits", image_size=8).source == "image-folder+digits"
    plus = photos.rename(photos.with_name("a+b"))
    assert load_images(str(plus)).source == "image-folder"


def test_a_folder_is_grey_only_if_every_image_is(photos, random):
    for number, path in enumerate(photos.rglob("*.png")):
        save(random.integers(0, 256, (8, 8), dtype=np.uint8), path)
        assert number < 26 or load_images(str(photos)).train_images.shape == (18, 1, 8, 8)
    one = photos / "test" / "owl" / "2.png"
    save(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), one)
    images = load_images(str(photos))
    assert images.train_images.shape == (18, 3, 8, 8)
    assert (images.train_images == images.train_images[:, :1]).all()
    assert one.exists()
    assert any(torch.equal(image, torch.tensor(pixels_of(one))) for image in images.test_images)


def test_images_of_many_kinds_and_sizes_make_one_set(tmp_path, random):
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "mixed" / part / name
            folder.mkdir(parents=True)
            for number, (mode, suffix) in enumerate(
                [
                    ("RGB", "jpg"),
                    ("RGBA", "png"),
                    ("P", "gif"),
                    ("CMYK", "tif"),
                    ("LA", "webp"),
                    ("1", "bmp"),
                    ("L", "pgm"),
                ]
            ):
                size = (int(random.integers(5, 70)), int(random.integers(5, 70)))
                noise = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
                noise.convert("L" if mode == "LA" else mode).convert(mode).save(folder / f"{number}.{suffix}")
    images = load_images(str(tmp_path / "mixed"), image_size=16)
    assert images.train_images.shape == images.test_images.shape == (14, 3, 16, 16)
    assert len({image.numpy().tobytes() for image in images.train_images}) == 14
    assert "must have one size, but " in refused(tmp_path / "mixed")


# Refusals


def test_images_of_several_sizes_are_refused_with_the_names_of_two_and_the_remedy(photos, random):
    odd = photos / "test" / "dog" / "1.png"
    save(random.integers(0, 256, (9, 7, 3), dtype=np.uint8), odd)
    said = refused(photos)
    assert f"{photos}/train/cat/0.png has 8 x 8 pixels and {odd} has 7 x 9; give all one with --set image_size=" in said
    assert load_images(str(photos), image_size=8).train_images.shape == (18, 3, 8, 8)


@pytest.mark.parametrize("content", [b"", b"no image", None, "half"])
def test_an_unreadable_image_is_refused_by_name(content, photos):
    path = photos / "train" / "dog" / "3.png"
    if content is None:
        path.unlink()
        path.symlink_to(photos)
        (photos / "train" / "dog" / "4.png").write_bytes(b"\x89PNG")
        path = photos / "train" / "dog" / "4.png"
    elif content == "half":
        path.write_bytes(path.read_bytes()[:-80])
    else:
        path.write_bytes(content)
    said = refused(photos)
    assert said.startswith(f"the image {path} cannot be read (")
    assert said.endswith("); repair it, or take it out of the folder")


def test_a_class_that_is_missing_or_empty_in_one_part_is_refused_by_name(photos):
    for path in (photos / "test" / "dog").iterdir():
        path.unlink()
    assert f"the class 'dog' in {photos} has no image in test" in refused(photos)
    (photos / "test" / "dog").rmdir()
    assert f"the class 'dog' in {photos} has no image in test" in refused(photos)
    (photos / "test" / "cow").mkdir()
    assert f"the class 'cow' in {photos} has no image in train" in refused(photos)


def test_a_class_too_small_to_be_split_is_refused_by_name(unsplit):
    (unsplit / "emu").mkdir()
    assert f"the class 'emu' in {unsplit} has no image, but needs" in refused(unsplit)
    (unsplit / "cat" / "train-0.png").rename(unsplit / "emu" / "0.png")
    assert f"the class 'emu' in {unsplit} has 1 image, but needs" in refused(unsplit)
    (unsplit / "cat" / "train-1.png").rename(unsplit / "emu" / "1.png")
    assert load_images(str(unsplit)).test_labels.bincount().tolist() == [1, 2, 1, 2]


def test_one_class_alone_no_class_and_half_a_split_are_refused(photos, tmp_path):
    assert refused(photos / "train" / "cat").startswith(
        f"{photos}/train/cat holds no folder of a class; expected images"
    )
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (photos / part / name).rename(photos / part / f".{name}")
    assert f"{photos} holds one class alone, 'owl'; give a folder with at least two" in refused(photos)
    (photos / "test").rename(photos / "val")
    assert f"{photos} holds train alone; expected the two folders train and test in it" in refused(photos)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir(parents=True)
    assert "holds no class; give a folder" in refused(tmp_path / "empty")


def test_an_absent_folder_or_none_is_refused(tmp_path):
    assert refused(tmp_path / "absent") == (
        f"{tmp_path}/absent cannot be read (No such file or directory); make it readable, or give another path"
    )
    with pytest.raises(DataError, match="image-folder needs a folder of images; name it with --data-root"):
        load_images("image-folder")
    with pytest.raises(DataError, match=f"there is no data folder {tmp_path}/absent; create it"):
        load_images("image-folder", tmp_path / "absent")


def test_a_class_whose_name_is_no_text_is_named_in_plain_letters(photos):
    for part in ("train", "test"):
        (photos / part / "cat").rename(photos / part / os.fsdecode(b"caf\xe9"))
    assert load_images(str(photos)).class_names[0].encode() == b"caf\\udce9"


def test_a_class_of_one_training_image_is_refused_before_any_seed_is_trained(tmp_path):
    for part, name, count in [("train", "a", 1), ("train", "b", 40), ("test", "a", 2), ("test", "b", 2)]:
        (tmp_path / part / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    choice = choose("image-folder", ["naive"], range(40), {"n_tasks": 1}, tmp_path)
    images = choice.images(pytest.fail, offline=True)
    with pytest.raises(SettingError, match="the class 'a' of task 1 has no training image beside the 1 held out"):
        choice.specs(images, "float32", torch.device("cpu"), pytest.fail)
