"""What a crop and a flip are, that they are random as they should be, and that nothing else is touched."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from clbench.data.augmentation import Augmentation
from clbench.data.loading import TensorLoader
from clbench.data.streams import Permutation, Samples, Unchanged

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n, n_channels=3, height=4, width=5):
    """Images without a black pixel, so that every one of their windows is recognised."""
    return torch.randint(1, 256, (n, n_channels, height, width), generator=generator(9)).to(torch.uint8)


def windows_of(image, padding, flip):
    """By slicing: {bytes of a window: (top, left, flipped)} of one image [C, H, W]."""
    height, width = image.shape[1:]
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            found[window.tobytes()] = (top, left, False)
            if flip:
                found[window[:, :, ::-1].tobytes()] = (top, left, True)
    return found


def recognised(images, augmented, padding, flip):
    """What was done to each image: (top, left, flipped)."""
    return [
        windows_of(before, padding, flip)[after.numpy().tobytes()]
        for before, after in zip(images, augmented, strict=True)
    ]


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True), (7, False)])
def test_every_image_becomes_a_window_of_itself_between_black_pixels_maybe_turned_around(padding, flip, n_channels):
    images = drawn(200, n_channels)
    before = images.clone()
    augmented = Augmentation(padding, flip)(images, generator())
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8
    assert torch.equal(images, before)
    if padding < 5:
        recognised(images, augmented, padding, flip)
    else:
        # Of these many are black all over.
        for image, after in zip(images, augmented, strict=True):
            assert after.numpy().tobytes() in windows_of(image, padding, flip)


def test_every_window_and_both_directions_are_as_likely_in_every_combination():
    n = 18_000
    images = drawn(1).expand(n, -1, -1, -1)
    windows = windows_of(images[0], 1, True)
    counts = Counter(windows[after.numpy().tobytes()] for after in Augmentation(1, True)(images, generator()))
    assert len(counts) == 3 * 3 * 2
    # Six standard deviations of a binomial distribution around the mean of 1000.
    assert all(abs(count - 1000) < 6 * (n * 1 / 18 * 17 / 18) ** 0.5 for count in counts.values())


def test_the_same_generator_gives_the_same_bits_and_another_does_not():
    images, augmentation = drawn(64), Augmentation(2, True)
    first = augmentation(images, generator(0))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(augmentation(images, generator(0)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(augmentation(images, generator(1)), first)
    one = generator(0)
    assert not torch.equal(augmentation(images, one), augmentation(images, one))


# In the loader


def samples_of(images, change=None, task=0, normalisation=None):
    indices = torch.arange(len(images) - 1, -1, -2)
    return Samples(images, indices, indices % 10, change or Unchanged(), task, normalisation)


def test_the_loader_augments_every_batch_anew_and_leaves_labels_and_order_alone():
    samples = samples_of(drawn(100))
    augment = partial(Augmentation(2, True), generator=generator(1))
    plain = TensorLoader([samples], 8, CPU, generator())
    augmented = TensorLoader([samples], 8, CPU, generator(), augment=augment)
    assert augmented.resident() is None
    for _ in range(2):
        for (x, y, t), (ours, labels, tasks) in zip(plain, augmented, strict=True):
            assert torch.equal(labels, y)
            assert torch.equal(tasks, t)
            recognised(*((255 * part).round().to(torch.uint8) for part in (x, ours)), 2, True)
            assert augmented.positions(ours) is None
    in_one_order = TensorLoader([samples], 50, CPU, augment=augment)
    (first, *_), (second, *_) = next(iter(in_one_order)), next(iter(in_one_order))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_an_image_is_augmented_before_the_task_moves_its_pixels(n_tasks):
    images = drawn(60)
    order = torch.randperm(20, generator=generator())
    tasks = [samples_of(images, Permutation(order)), samples_of(images, task=1)][:n_tasks]
    loader = TensorLoader(tasks, 16, CPU, augment=partial(Augmentation(2, True), generator=generator(1)))
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for task in range(n_tasks):
        x = (255 * found[0][found[2] == task]).round().to(torch.uint8)
        if task == 0:
            back = torch.empty_like(order)
            back[order] = torch.arange(20)
            x = Permutation(back)(x)
        recognised(images[tasks[task].indices], x, 2, True)


# In a run


@pytest.fixture
def learned(make_method, make_workplace):
    """(name, tasks to learn, settings) -> the method, and what its first layer saw of every training batch."""

    def learn(name="naive", n_tasks=2, seed=0, **settings):
        small = {"n_tasks": 2, "epochs": 1, "hidden_sizes": [16], "batch_size": 32}
        padding = {"crop_padding": 2} if "crop" in settings.get("augmentation", ()) else {}
        workplace = make_workplace(seed=seed, **small | padding | settings)
        method = make_method(name, workplace)
        seen = []

        def note(module, args):
            if module.training:
                seen.append(args[0])

        method.model.register_forward_pre_hook(note)
        for task in workplace.stream.tasks[:n_tasks]:
            method.learn(task)
        return method, seen

    return learn


def test_training_sees_augmented_images_in_the_order_that_it_has_without(learned):
    _, plain = learned(n_tasks=1)
    method, seen = learned(n_tasks=1, augmentation="crop,flip")
    images = [(255 * torch.cat(batches)).round().to(torch.uint8) for batches in (plain, seen)]
    assert len(images[0]) == len(method.workplace.stream.tasks[0].train)
    for before, after in zip(*images, strict=True):
        assert after.numpy().tobytes() in windows_of(before, 2, True)
    assert not torch.equal(*images)


def test_what_is_added_at_the_border_is_black_before_images_are_normalised(learned):
    method, seen = learned(n_tasks=1, augmentation="crop", normalise=True)
    normalisation = method.workplace.stream.tasks[0].train.normalisation
    border = torch.cat(seen)[:, :, 0, 0]
    black = torch.tensor((0 - normalisation.mean[0]) / normalisation.std[0])
    # Digits have dark corners, but not so many of exactly that value.
    assert torch.isclose(border, black).float().mean() > 0.8
    assert float(torch.cat(seen).mean()) < -0.1


def test_only_training_images_are_augmented(learned, make_workplace):
    method, _ = learned(augmentation="crop,flip")
    plain = make_workplace(n_tasks=2).stream
    seen = []
    method.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for split in ("validation", "test", "train"):
        for task, expected in zip(method.workplace.stream.tasks, plain.tasks, strict=True):
            assert torch.equal(getattr(task, split).tensors()[0], getattr(expected, split).tensors()[0])
            seen.clear()
            method.strategy.eval(method.workplace.stream.benchmark.streams[split][task.index])
            assert torch.equal(torch.cat(seen), getattr(expected, split).tensors()[0])


@pytest.mark.parametrize("name", ["naive", "joint", "ewc", "mas", "si", "psp", "clnp", "single-task"])
def test_the_seed_alone_decides_and_a_run_goes_on_after_a_task_to_the_same_bits(name, learned):
    whole, _ = learned(name, augmentation="crop,flip")
    torch.rand(5)
    again, _ = learned(name, augmentation="crop,flip")
    half, _ = learned(name, n_tasks=1, augmentation="crop,flip")
    resumed, _ = learned(name, n_tasks=0, augmentation="crop,flip")
    resumed.load_state_dict(half.state_dict())
    resumed.learn(resumed.workplace.stream.tasks[1])
    plain, _ = learned(name)
    weights = whole.model.state_dict()
    for other, same in ((again, True), (resumed, True), (plain, False)):
        found = other.model.state_dict()
        assert all(torch.equal(found[key], weights[key]) for key in weights) == same


def test_every_task_is_augmented_by_a_stream_of_its_own(learned):
    _, seen = learned(augmentation="crop", learning_rate=1e-9)
    first, second = torch.cat(seen).split(len(torch.cat(seen)) // 2)
    # The same image stands at the same place of no two tasks, but what is black at its border would.
    offsets = [(images[:, 0, 0, :].sum(1) == 0, images[:, 0, -1, :].sum(1) == 0) for images in (first, second)]
    assert not torch.equal(offsets[0][1], offsets[1][1])


def test_the_command_line_takes_one_kind_or_both_and_records_them(run, place):
    for given, recorded in (("crop,flip", ["crop", "flip"]), ("flip", ["flip"]), ("flip,crop", ["crop", "flip"])):
        assert run(place, "--set", f"augmentation={given}", "--no-report").code == 0
        configs = [json.loads(path.read_text()) for path in place.glob("clbench-runs/*/config.json")]
        assert recorded in [config["suite_settings"]["augmentation"] for config in configs]
    # The order in which they are named makes no other run.
    assert len(configs) == 2


def test_an_unknown_kind_is_refused_with_those_there_are(run, assert_refused, place):
    assert_refused(run(place, "--set", "augmentation=crop,flop"), "augmentation", "flop", "'crop' or 'flip'")
