import json
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clbench.data import DataWarning, cache, cache_entries, cache_limit, clear_cache, load_images
from clbench.errors import DataError, SettingError

PER_CLASS = 5
FILES = {"header.json", "test.npy", "train.npy"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CLBENCH_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def decoded(tmp_path):
    """The folder of the cache's entries."""
    return tmp_path / "cache" / "clbench" / "decoded"


@pytest.fixture
def make_photos(tmp_path):
    """(name, seed) -> a folder of 20 images, 16 x 16 in colour, of two classes."""

    def make(name="photos", seed=0):
        random = np.random.default_rng(seed)
        for part in ("train", "test"):
            for of_class in ("cat", "dog"):
                folder = tmp_path / name / part / of_class
                folder.mkdir(parents=True)
                for number in range(PER_CLASS):
                    path = folder / f"{number}.png"
                    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
                    # What follows the end of a PNG is not read; so all files have one size.
                    path.write_bytes(path.read_bytes().ljust(2000, b"\0"))
        return str(tmp_path / name)

    return make


@pytest.fixture
def photos(make_photos):
    return make_photos()


def times_of(decoded):
    """When each entry's images were written."""
    return {path: path.stat().st_mtime_ns for path in decoded.rglob("*.npy")}


def load_quietly(source, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_images(source, **settings)


def as_arrays(images):
    return [getattr(images, name).numpy() for name in ("train_images", "train_labels", "test_images", "test_labels")]


def same(one, other):
    return one.sha256 == other.sha256 and all(map(np.array_equal, as_arrays(one), as_arrays(other)))


# Claims


def test_images_are_decoded_once_and_then_mapped_from_one_whole_entry(photos, decoded):
    first = load_quietly(photos)
    (entry,) = decoded.iterdir()
    assert {path.name for path in entry.iterdir()} == FILES
    written = times_of(decoded)
    again = load_quietly(photos)
    assert same(first, again)
    assert times_of(decoded) == written
    with open("/proc/self/maps") as maps:
        assert f"{entry}/train.npy" in maps.read()


def test_what_the_entry_holds_and_not_the_image_files_is_read_again(photos, decoded):
    whole = load_quietly(photos)
    (path,) = decoded.glob("*/train.npy")
    times = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    # No pixel is hashed when an entry is read: the digest is the one that was written with it.
    altered = load_quietly(photos)
    assert altered.sha256 == whole.sha256
    assert altered.train_images[-1, -1, -1, -1] == content[-1] ^ 255


@pytest.mark.parametrize("change", ["pixels", "touched", "added", "removed", "renamed", "size"])
def test_a_changed_folder_or_size_is_decoded_anew(change, photos, decoded, tmp_path):
    before = load_quietly(photos)
    path, settings = tmp_path / "photos" / "train" / "cat" / "0.png", {}
    if change == "pixels":
        # The same size and the same time of the last change, as an archive unpacked over the old files leaves them.
        times, pixels = path.stat(), np.asarray(Image.open(path)).copy()
        Image.fromarray(255 - pixels).save(path)
        assert path.stat().st_size <= times.st_size
        path.write_bytes(path.read_bytes().ljust(times.st_size, b"\0"))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "touched":
        os.utime(path, ns=(0, 0))
    elif change == "added":
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path.with_name("new.png"))
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("new.png"))
    else:
        settings = {"image_size": 8}
    after = load_quietly(photos, **settings)
    assert len(list(decoded.iterdir())) == 2
    assert (after.sha256 == before.sha256) is (change in ("touched", "renamed"))
    assert same(after, load_quietly(photos, **settings))


def test_two_folders_with_files_of_the_same_names_sizes_and_times_are_never_mixed_up(make_photos, tmp_path):
    first, second = make_photos("first", seed=1), make_photos("second", seed=2)
    for folder in ("first", "second"):
        for path in (tmp_path / folder).rglob("*.png"):
            os.utime(path, ns=(10**18, 10**18))
    assert load_quietly(first).sha256 != load_quietly(second).sha256


def damage_header(entry):
    whole = json.loads((entry / "header.json").read_text())
    whole["content"] = whole["content"].replace('"sha256": "', '"sha256": "0')
    (entry / "header.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: os.truncate(entry / "train.npy", 5000),
        lambda entry: os.truncate(entry / "test.npy", 0),
        lambda entry: (entry / "train.npy").unlink(),
        lambda entry: (entry / "train.npy").write_bytes(bytes((entry / "train.npy").stat().st_size)),
        lambda entry: (entry / "header.json").unlink(),
        lambda entry: (entry / "header.json").write_text(""),
        lambda entry: (entry / "header.json").write_text('{"content": 5}'),
        damage_header,
    ],
)
def test_a_damaged_entry_is_noticed_and_decoded_anew(damage, photos, decoded):
    whole = load_quietly(photos)
    expected = [array.copy() for array in as_arrays(whole)]
    (entry,) = decoded.iterdir()
    damage(entry)
    again = load_quietly(photos)
    assert again.sha256 == whole.sha256
    assert all(map(np.array_equal, as_arrays(again), expected))
    assert {path.name for path in entry.iterdir()} == FILES
    written = times_of(decoded)
    load_quietly(photos)
    assert times_of(decoded) == written
    assert list(decoded.iterdir()) == [entry]


def test_several_processes_that_decode_at_once_all_get_the_images_and_leave_one_entry(photos, decoded):
    code = (
        "from pathlib import Path; from clbench.data.folder import class_folders, read_folders; "
        f"train, _, digest = read_folders(class_folders(Path({photos!r})), None); print(digest, train.images.sum())"
    )

    def load(_):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(load, range(8)))
    assert [run.stderr for run in done] == [""] * 8
    expected = load_quietly(photos)
    assert {run.stdout for run in done} == {f"{expected.sha256} {int(expected.train_images.sum())}\n"}
    assert len(list(decoded.iterdir())) == 1


def test_an_entry_that_is_removed_while_it_is_used_stays_readable(photos):
    images = load_quietly(photos)
    before = int(images.train_images.sum())
    assert clear_cache() > 0
    assert int(images.train_images.sum()) == before


def test_clearing_removes_every_entry_and_what_interrupted_commands_left(make_photos, decoded):
    for seed in range(2):
        load_quietly(make_photos(str(seed), seed))
    (decoded / ".unfinished-abc").mkdir()
    entries = cache_entries()
    assert [os.path.basename(entry.source) for entry in entries] == ["1", "0"]
    pixels = 20 * 3 * 16 * 16
    assert all(pixels < entry.n_bytes < pixels + 2000 for entry in entries)
    assert clear_cache() == sum(entry.n_bytes for entry in entries)
    assert not decoded.exists()
    assert cache_entries() == []
    assert clear_cache() == 0


def test_the_entries_not_used_for_longest_make_room(make_photos, monkeypatch, decoded):
    first, second, third = (make_photos(str(seed), seed) for seed in range(3))
    load_quietly(first)
    load_quietly(second)
    for age, entry in enumerate(cache_entries(), start=1):
        os.utime(entry.path / "header.json", (time.time() - 1000 * age,) * 2)
    load_quietly(first)
    monkeypatch.setenv("CLBENCH_CACHE_LIMIT", str(int(2.5 * cache_entries()[0].n_bytes)))
    load_quietly(third)
    assert sorted(os.path.basename(entry.source) for entry in cache_entries()) == ["0", "2"]


def test_what_another_process_adds_meanwhile_makes_room_as_well(make_photos, monkeypatch, decoded):
    first, second = make_photos("first", 1), make_photos("second", 2)
    load_quietly(first)
    monkeypatch.setenv("CLBENCH_CACHE_LIMIT", str(int(1.5 * cache_entries()[0].n_bytes)))
    clear_cache()
    to_disk, begun = cache._to_disk, []

    def while_the_other_decodes(path):
        if not begun:
            begun.append(path)
            load_quietly(second)
        to_disk(path)

    monkeypatch.setattr(cache, "_to_disk", while_the_other_decodes)
    load_quietly(first)
    assert [os.path.basename(entry.source) for entry in cache_entries()] == ["first"]


def test_what_an_interrupted_command_left_a_day_ago_is_removed(make_photos, decoded):
    for name, age in ((".unfinished-old", 100_000), (".unfinished-new", 100)):
        (decoded / name).mkdir(parents=True)
        os.utime(decoded / name, (time.time() - age,) * 2)
    load_quietly(make_photos())
    assert not (decoded / ".unfinished-old").exists()
    assert (decoded / ".unfinished-new").exists()


def test_the_limit_is_20_gigabytes_or_most_of_what_the_disk_leaves_unless_it_is_given(monkeypatch, small_disk):
    assert 0 < cache_limit() <= 20 * 10**9
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    assert 3 * 10**6 < cache_limit() < 4 * 2**20
    monkeypatch.setenv("CLBENCH_CACHE_LIMIT", "7")
    assert cache_limit() == 7
    for wrong in ("20 GB", "-1", "1e9"):
        monkeypatch.setenv("CLBENCH_CACHE_LIMIT", wrong)
        with pytest.raises(SettingError, match=f"must be a number of bytes such as 20000000000, but is '{wrong}'"):
            cache_limit()


# Trouble


def assert_kept_in_memory(source, why, decoded):
    """The images are as from the cache, one warning says why they are not in it, and nothing is left there."""
    with pytest.warns(DataWarning) as said:
        images = load_images(source)
    (warning,) = said
    assert str(warning.message).startswith(f"the decoded images of {source} are kept in memory")
    assert why in str(warning.message)
    assert "\n" not in str(warning.message)
    assert not decoded.is_dir() or list(decoded.iterdir()) == []
    return images


def test_without_a_folder_to_write_in_images_are_decoded_into_memory(photos, monkeypatch, tmp_path):
    expected = load_quietly(photos)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = assert_kept_in_memory(photos, "cannot be written (Not a directory)", tmp_path / "file")
    assert same(found, expected)


def test_without_a_known_home_images_are_decoded_into_memory(photos, monkeypatch, decoded):
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-by-this-name")
    assert len(assert_kept_in_memory(photos, "cannot be found", decoded).train_labels) == 2 * PER_CLASS
    assert cache_entries() == []
    with pytest.raises(DataError, match=r"the cache folder ~nobody-by-this-name.* cannot be found"):
        clear_cache()


def test_a_set_beyond_the_limit_is_decoded_into_memory(photos, monkeypatch, decoded):
    monkeypatch.setenv("CLBENCH_CACHE_LIMIT", "15359")
    found = assert_kept_in_memory(photos, "they take 0.0154 MB and the cache's limit is 0.0154 MB", decoded)
    monkeypatch.setenv("CLBENCH_CACHE_LIMIT", "15360")
    assert same(load_quietly(photos), found)


def test_a_disk_that_fills_up_is_no_error(make_photos, monkeypatch, small_disk, fill):
    photos = make_photos()
    expected = load_quietly(photos)
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    (small_disk / "clbench" / "decoded").mkdir(parents=True)
    fill()
    # More than the disk has, so that the limit does not notice and the write does.
    monkeypatch.setenv("CLBENCH_CACHE_LIMIT", str(10**9))
    decoded = small_disk / "clbench" / "decoded"
    assert same(assert_kept_in_memory(photos, "cannot be written (No space left on device)", decoded), expected)
    monkeypatch.delenv("CLBENCH_CACHE_LIMIT")
    assert same(assert_kept_in_memory(photos, "the cache's limit is 0 MB", decoded), expected)


def test_a_refused_image_leaves_no_entry(photos, decoded, tmp_path):
    (tmp_path / "photos" / "test" / "dog" / "4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"4\.png cannot be read"):
        load_images(photos)
    assert list(decoded.iterdir()) == []


def test_an_interrupted_decoding_leaves_no_entry(photos, decoded, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_images(photos)
    assert list(decoded.iterdir()) == []


UNDER_A_LIMIT = """
import resource, sys
import numpy, PIL.Image, torch
from clbench.data import load_images

folder, total, more = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if more:
    with open("/proc/self/status") as status:
        total = more + next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (total, total))
try:
    numpy.empty((more or total) + 50_000_000, numpy.uint8)
except MemoryError:
    print("limited")
for _ in range(2):
    images = load_images(folder, image_size=600)
    # NumPy sums without a copy.
    pixels = images.train_images.numpy().sum(dtype=numpy.int64)
    print(images.sha256, images.train_images.numel() + images.test_images.numel(), pixels)
"""


@pytest.fixture
def load_under_a_limit(tmp_path):
    """(count, total, more) -> loads so many images of 600 x 600 pixels, once from their files and once from the cache.

    The process may take `total` bytes of anonymous memory in all, or `more` bytes beside what its imports took.
    """

    def load(count, *, total=0, more=0):
        random = np.random.default_rng(0)
        for number in range(count):
            part = "test" if number < 10 else "train"
            folder = tmp_path / "large" / part / str(number % 2)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (2, 2, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        arguments = [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path / "large"), str(total), str(more)]
        # Every thread's stack and heap count as well.
        done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.stderr == ""
        limited, decoded, cached = done.stdout.splitlines()
        assert limited == "limited"
        assert decoded == cached
        assert int(decoded.split()[1]) == count * 3 * 600 * 600

    return load


def test_a_set_larger_than_the_memory_it_may_take_is_decoded_and_read(load_under_a_limit):
    load_under_a_limit(240, more=180_000_000)


@pytest.mark.slow
def test_two_gigabytes_of_images_are_decoded_and_read_within_one_gigabyte_of_memory_in_all(load_under_a_limit):
    load_under_a_limit(2000, total=10**9)
