import random
import runpy
from pathlib import Path

import pytest

from clbench.data import formats, load_images
from clbench.errors import DataError

FILES = runpy.run_path(str(Path(__file__).with_name("files.py")))
DIGITS_SHA256, IDX_FILES = (FILES[name] for name in ("DIGITS_SHA256", "IDX_FILES"))


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
