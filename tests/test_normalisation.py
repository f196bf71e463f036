from fractions import Fraction

import numpy as np
import pytest
import torch

from clbench.data import normalisation as module
from clbench.data.normalisation import Normalisation, normalisation_of
from clbench.data.streams import Rotation, make_stream
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

# Of the streams below, as they were before images could be normalised.
DIGESTS = {
    "permuted": "477ef2b46185847a030ef4a78c1b9fb7ace8ecc28168053576030808c1a9b606",
    "rotated": "75498bb1651f8976927e614e4eb1ee2cde9ee6f1753e357d17b38ac3d50a0269",
    "split": "de7e1b8eb84acc125a3b472ab6b0af9cc70b8d9886acb628355a4e080ef6d34f",
}


def drawn(n_images=50, n_channels=3):
    generator = torch.Generator().manual_seed(0)
    # Channels that differ, and are not symmetrical.
    exponents = 1 + torch.arange(n_channels).view(-1, 1, 1)
    return (255 * torch.rand(n_images, n_channels, 5, 4, generator=generator) ** exponents).to(torch.uint8)


@pytest.fixture
def make_tasks(digits, split_digits):
    """(scenario, seed, overrides) -> Stream of the embedded digits."""

    def make(scenario, seed=0, **overrides):
        if scenario == "split":
            suite = split_digits.model_copy(update={"classes_per_task": 3})
        else:
            suite = find_suite("permuted-digits").model_copy(update={"scenario": scenario})
        changed = suite.with_overrides({"n_tasks": 3, "validation_share": 0.15} | overrides)
        return make_stream(changed, digits, RandomStreams(seed))

    return make


@pytest.mark.parametrize("n_channels", [1, 3])
def test_mean_and_deviation_are_those_of_every_pixel_of_a_channel(n_channels):
    images = drawn(n_channels=n_channels)
    found = normalisation_of(images)
    pixels = images.numpy().astype(np.float64) / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-12)
    assert found.std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-12)


def test_the_mean_is_exact_to_the_last_bit_of_a_float():
    images = drawn(n_channels=1)
    exact = Fraction(sum(images.flatten().tolist()), 255 * images.numel())
    assert normalisation_of(images).mean == (float(exact),)


def test_neither_the_order_of_the_images_nor_the_size_of_the_pieces_moves_a_bit(monkeypatch):
    images = drawn(1000)
    expected = normalisation_of(images)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    assert normalisation_of(images[order]) == expected
    # The first holds a fraction of an image, the second does not divide their number.
    for pixels in (1, 60 * 7):
        monkeypatch.setattr(module, "_PIXELS_AT_A_TIME", pixels)
        assert normalisation_of(images) == expected


def test_images_in_a_file_are_counted_as_those_in_memory(tmp_path):
    images = drawn()
    file = np.memmap(tmp_path / "images", np.uint8, "w+", shape=tuple(images.shape))
    file[:] = images.numpy()
    assert normalisation_of(torch.from_numpy(file)) == normalisation_of(images)


def test_a_channel_without_contrast_is_moved_to_zero_and_not_divided():
    images = torch.stack([torch.zeros(4, 3, 3), torch.full((4, 3, 3), 51)], 1).to(torch.uint8)
    found = normalisation_of(images)
    assert found == Normalisation((0.0, 0.2), (1.0, 1.0))
    assert found.apply_(images.float() / 255).abs().max() == 0


@pytest.mark.parametrize("scenario", ["permuted", "rotated", "split"])
def test_every_image_of_a_normalised_task_is_that_of_the_plain_task_less_the_mean_over_the_deviation(
    scenario, make_tasks
):
    plain, normalised = make_tasks(scenario), make_tasks(scenario, normalise=True)
    mean, std = plain_numbers(plain)
    for before, after in zip(plain.tasks, normalised.tasks, strict=True):
        for split in ("train", "validation", "test"):
            x, y = getattr(before, split).tensors()
            found, labels = getattr(after, split).tensors()
            assert torch.equal(labels, y)
            torch.testing.assert_close(found, (x - mean) / std, atol=1e-6, rtol=1e-6)
            # Avalanche's loaders read image by image.
            assert torch.equal(getattr(after, split)[1][0], found[1])


def plain_numbers(stream):
    """Mean and deviation of all training images, before the validation images are taken from them."""
    pixels = stream.tasks[0].train.images.double() / 255
    return float(pixels.mean()), float(pixels.std(correction=0))


def test_it_is_of_all_training_images_whatever_the_seed_and_the_share_that_is_held_out(make_tasks, digits):
    expected = normalisation_of(digits.train_images)
    for overrides in ({}, {"seed": 1}, {"validation_share": 0.5}):
        for task in make_tasks("split", normalise=True, **overrides).tasks:
            for samples in (task.train, task.validation, task.test):
                assert samples.normalisation == expected


def test_the_corners_of_a_turned_image_are_as_dark_as_its_black_pixels(make_tasks):
    task = make_tasks("rotated", normalise=True).tasks[1]
    assert isinstance(task.test.change, Rotation)
    normalisation = task.test.normalisation
    black = (0 - normalisation.mean[0]) / normalisation.std[0]
    assert task.test.tensors()[0].min() == pytest.approx(black)


@pytest.mark.parametrize("scenario", DIGESTS)
def test_the_digest_tells_normalised_images_apart_and_is_otherwise_what_it_was(scenario, make_tasks):
    assert make_tasks(scenario).digest == DIGESTS[scenario]
    assert make_tasks(scenario, normalise=True).digest != DIGESTS[scenario]


def test_a_method_trains_and_is_tested_on_normalised_images(make_method, make_workplace):
    workplace = make_workplace(n_tasks=1, epochs=1, hidden_sizes=[8], normalise=True)
    method = make_method("naive", workplace)
    seen = []
    method.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method.learn(workplace.stream.tasks[0])
    pixels = torch.cat(seen)
    assert float(pixels.mean()) == pytest.approx(0, abs=0.02)
    assert float(pixels.std()) == pytest.approx(1, abs=0.02)
