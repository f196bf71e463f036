import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clbench.data.decoding import decode
from clbench.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.delenv("CLBENCH_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def grey(random):
    return random.integers(0, 256, (6, 4), dtype=np.uint8)


@pytest.fixture
def colour(random):
    return random.integers(0, 256, (6, 4, 3), dtype=np.uint8)


@pytest.fixture
def alpha(random):
    return random.integers(0, 256, (6, 4, 1), dtype=np.uint8)


def save(pixels, path, mode=None, **settings):
    Image.fromarray(pixels, mode).save(path, **settings)
    return path


def on_black(pixels, alpha):
    return np.rint(pixels.astype(float) * alpha / 255).astype(np.uint8)


def test_grey_images_have_one_channel_and_others_three(tmp_path, grey, colour):
    assert np.array_equal(decode(str(save(grey, tmp_path / "a.png"))), grey[np.newaxis])
    assert np.array_equal(decode(str(save(colour, tmp_path / "b.png"))), colour.transpose(2, 0, 1))


def test_two_tones_become_black_and_white(tmp_path, grey):
    Image.fromarray(grey > 127).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    assert np.array_equal(decode(str(tmp_path / "a.png"))[0], np.where(grey > 127, 255, 0))


def test_what_is_transparent_turns_black_in_proportion(tmp_path, grey, colour, alpha):
    save(np.concatenate([colour, alpha], axis=2), tmp_path / "a.png")
    assert np.array_equal(decode(str(tmp_path / "a.png")).transpose(1, 2, 0), on_black(colour, alpha))
    save(np.concatenate([grey[..., np.newaxis], alpha], axis=2), tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").mode == "LA"
    assert np.array_equal(decode(str(tmp_path / "b.png"))[0], on_black(grey, alpha[..., 0]))


def test_a_colour_that_stands_for_transparent_turns_black(tmp_path, grey, colour):
    save(colour, tmp_path / "a.png", transparency=tuple(map(int, colour[2, 3])))
    colour[2, 3] = 0
    assert np.array_equal(decode(str(tmp_path / "a.png")).transpose(1, 2, 0), colour)
    grey[1, 1] = 200
    save(grey, tmp_path / "b.png", transparency=200)
    assert np.array_equal(decode(str(tmp_path / "b.png"))[0], np.where(grey == 200, 0, grey))


def test_a_palette_is_resolved_with_its_transparency(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 200, 100, 0])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png"))[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60], [200, 100, 0]]
    image.save(tmp_path / "b.png", transparency=bytes([255, 51, 0]))
    assert decode(str(tmp_path / "b.png"))[:, 0].T.tolist() == [[10, 20, 30], [8, 10, 12], [0, 0, 0]]


def test_print_colours_become_red_green_and_blue(tmp_path, colour):
    ink = np.concatenate([255 - colour, np.zeros((6, 4, 1), np.uint8)], axis=2)
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.tif")
    assert np.array_equal(decode(str(tmp_path / "a.tif")).transpose(1, 2, 0), colour)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_16_bits_of_grey_the_upper_8_count(suffix, tmp_path, random):
    values = random.integers(0, 2**16, (6, 4), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(decode(str(tmp_path / f"a.{suffix}")), (values >> 8).astype(np.uint8)[np.newaxis])


def png(values, colour_type, transparent=None):
    """A PNG file of 16 bits, which Pillow does not write in every mode."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    height, width = values.shape[:2]
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    parts += [chunk(b"tRNS", struct.pack(">H", transparent))] if transparent is not None else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def test_grey_of_16_bits_stays_grey_and_obeys_its_transparency(tmp_path, random):
    values = random.integers(0, 2**16, (6, 4, 2), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(values, 4))
    grey, opacity = (values >> 8).astype(np.uint8).transpose(2, 0, 1)
    assert np.array_equal(decode(str(tmp_path / "a.png")), on_black(grey, opacity)[np.newaxis])
    alone = values[..., 0]
    (tmp_path / "b.png").write_bytes(png(alone, 0, transparent=int(alone[2, 3])))
    expected = np.where(alone == alone[2, 3], 0, alone >> 8)
    assert np.array_equal(decode(str(tmp_path / "b.png"))[0], expected)


@pytest.mark.parametrize("brightest", [255, 256, 65535])
def test_a_dark_pgm_of_16_bits_is_as_dark_as_its_neighbours(brightest, tmp_path):
    values = np.array([[0, brightest // 2, brightest]], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + values.tobytes())
    assert decode(str(tmp_path / "a.pgm"))[0].tolist() == (values >> 8).tolist()


def test_of_16_bits_of_colour_the_upper_8_count(tmp_path, random):
    values = random.integers(0, 2**16, (6, 4, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(values, 2))
    assert np.array_equal(decode(str(tmp_path / "a.png")).transpose(1, 2, 0), values >> 8)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, np.rot90),
        (7, lambda x: np.rot90(x, 2).swapaxes(0, 1)),
        (8, lambda x: np.rot90(x, -1)),
    ],
)
def test_the_turn_that_a_camera_noted_is_carried_out(orientation, undo, tmp_path, colour):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(np.ascontiguousarray(undo(colour)), tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(str(tmp_path / "a.png")).transpose(1, 2, 0), colour)


def test_of_an_animation_the_first_image_counts(tmp_path):
    first, second = Image.new("L", (4, 4), 50), Image.new("L", (4, 4), 99)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (decode(str(tmp_path / "a.gif")) == 50).all()


def test_images_are_squeezed_to_the_size_with_antialiasing(tmp_path):
    stripes = np.tile(np.array([0, 200], np.uint8), (6, 32))
    save(stripes, tmp_path / "a.png")
    scaled = decode(str(tmp_path / "a.png"), 8)
    assert scaled.shape == (1, 8, 8)
    # Without antialiasing single columns would be picked: 0 or 200.
    assert abs(scaled.astype(int) - 100).max() <= 20


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_damage_to_an_image_is_refused_by_name_or_gives_an_image(tmp_path, colour, random):
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        path = save(colour, tmp_path / f"a.{suffix}")
        content = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            place = int(random.integers(len(content)))
            damaged[place] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged if random.integers(2) else content[:place])
            said = ""
            try:
                pixels = decode(str(path))
            except DataError as error:
                said = str(error)
            if said:
                assert said.startswith(f"the image {path} cannot be read (")
            else:
                assert pixels.dtype == np.uint8
                assert (pixels.ndim, len(pixels)) in ((3, 1), (3, 3))


def test_more_than_16_bits_and_fractions_are_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "b.tif")
    for name, why in (("a", "more than 16 bits"), ("b", "fractions")):
        with pytest.raises(DataError, match=rf"{name}\.tif cannot be read \(its pixels .*{why}\)"):
            decode(str(tmp_path / f"{name}.tif"))
