import runpy
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from clbench.data import loading, streams
from clbench.data.augmentation import Augmentation
from clbench.data.loading import TensorLoader
from clbench.data.normalisation import Normalisation

TOY_BATCHES = runpy.run_path(str(Path(__file__).with_name("toy_batches.py")))
toy_samples = TOY_BATCHES["toy_samples"]
toy_tasks = TOY_BATCHES["toy_tasks"]
rows = TOY_BATCHES["rows"]
expected_rows = TOY_BATCHES["expected_rows"]
generator = TOY_BATCHES["generator"]

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
@pytest.mark.parametrize("tasks", [[0], [2], [0, 1, 2], [1, 2]])
def test_every_image_of_every_task_comes_once_per_pass_with_its_own_label_and_change(tasks, batch_size):
    parts = [toy_tasks()[task] for task in tasks]
    loader = TensorLoader(parts, batch_size, CPU, generator())
    for _ in range(2):
        batches = list(loader)
        assert sorted(rows(batches)) == sorted(expected_rows(parts))
        sizes = [len(batch[1]) for batch in batches]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert len(batches) == len(loader)
        assert sum(sizes) == loader.n_images == sum(map(len, parts))


def test_without_a_generator_a_task_keeps_its_order():
    parts = toy_tasks()[:1]
    assert rows(TensorLoader(parts, 7, CPU)) == expected_rows(parts)


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_the_order_comes_from_the_generator_alone_and_changes_with_every_pass(n_tasks):
    parts = toy_tasks()[:n_tasks]

    def passes(seed):
        loader = TensorLoader(parts, 8, CPU, generator(seed))
        return rows(loader), rows(loader)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = passes(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert passes(0) == (first, second)
    assert first != second
    assert passes(1)[0] != first


@pytest.mark.parametrize("n_batches", [1, 3, 20, 400])
@pytest.mark.parametrize("batch_size", [1, 7, 50])
@pytest.mark.parametrize("tasks", [[0], [1], [0, 1, 2]])
def test_a_number_of_batches_is_kept_to_with_full_batches_and_pass_after_pass(tasks, batch_size, n_batches):
    parts = [toy_tasks()[task] for task in tasks]
    loader = TensorLoader(parts, batch_size, CPU, generator(), n_batches)
    assert len(loader) == n_batches
    assert loader.n_images == sum(map(len, parts))
    for _ in range(2):
        batches = list(loader)
        assert [len(part) for batch in batches for part in batch] == [batch_size] * (3 * n_batches)
        times = Counter(dict.fromkeys(expected_rows(parts), 0))
        assert len(times) == loader.n_images
        for number, batch in enumerate(batches, start=1):
            times.update(rows([batch]))
            # Nothing is seen once more before everything was seen as often.
            whole_passes = number * batch_size // loader.n_images
            assert set(times.values()) <= {whole_passes, whole_passes + 1}
            assert len(times) == loader.n_images


def test_every_pass_within_a_number_of_batches_has_an_order_of_its_own():
    seen = rows(TensorLoader(toy_tasks()[:1], 25, CPU, generator(), n_batches=6))
    passes = [seen[start : start + 50] for start in (0, 50, 100)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert passes[0] != passes[1] != passes[2] != passes[0]


@pytest.mark.parametrize("tasks", [[0], [0, 1]])
def test_as_many_batches_as_a_pass_has_are_that_pass_to_the_bit(tasks):
    # 50 images, or 57.
    parts = [toy_tasks()[task] for task in tasks]
    n_images = sum(map(len, parts))
    size = {50: 10, 57: 19}[n_images]
    plain = TensorLoader(parts, size, CPU, generator())
    counted = TensorLoader(parts, size, CPU, generator(), n_images // size)
    assert len(plain) == len(counted)
    for _ in range(2):
        assert rows(plain) == rows(counted)


def test_without_a_generator_every_pass_keeps_the_order():
    parts = toy_tasks()[:1]
    assert rows(TensorLoader(parts, 25, CPU, n_batches=5)) == (3 * expected_rows(parts))[:125]


def test_batches_of_several_tasks_are_mixed():
    for batch in list(TensorLoader(toy_tasks(), 50, CPU, generator()))[:-1]:
        assert set(batch[2].tolist()) == {0, 1, 2}


def test_a_consumer_that_writes_into_a_batch_spoils_no_later_pass():
    parts = toy_tasks()[:1]
    loader = TensorLoader(parts, 10, CPU)
    for x, y, t in loader:
        x.zero_(), y.zero_()
        assert t.unique().tolist() == [0]
    assert rows(loader) == expected_rows(parts)


def test_an_interrupted_pass_does_not_shorten_the_next():
    loader = TensorLoader(toy_tasks(), 10, CPU, generator())
    next(iter(loader))
    assert len(rows(loader)) == loader.n_images


# Images that are not kept as floats


@pytest.fixture
def few_bytes(monkeypatch):
    """No task may be kept as floats."""
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 0)


def test_all_of_mnist_is_kept_as_floats():
    assert loading.RESIDENT_BYTES >= 4 * 60_000 * 28 * 28


@pytest.mark.parametrize("task", [0, 1, 2])
def test_batches_made_when_asked_for_are_those_of_images_kept_as_floats(task, request):
    parts = [toy_tasks()[task]]
    kept = TensorLoader(parts, 8, CPU, generator(), n_batches=9)
    assert kept.resident() is not None
    expected = [list(kept), list(kept)]
    request.getfixturevalue("few_bytes")
    made = TensorLoader(parts, 8, CPU, generator(), n_batches=9)
    for batches in expected:
        for seen, wanted in zip(made, batches, strict=True):
            assert all(map(torch.equal, seen, wanted))
            assert made.positions(seen[0]) is None
    assert made.resident() is None


def test_what_is_kept_as_floats_is_decided_by_the_bytes_that_they_take(monkeypatch):
    parts = [toy_samples(28, 1)]
    # 14 images of 4 pixels.
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 223)
    assert TensorLoader(parts, 8, CPU).resident() is None
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 224)
    assert TensorLoader(parts, 8, CPU).resident() is not None
    assert TensorLoader([*parts, *parts], 8, CPU).resident() is None


def test_samples_moved_to_a_device_keep_only_their_own_images_and_give_the_same_batches(monkeypatch):
    monkeypatch.setattr(streams, "_IMAGES_AT_A_TIME", 7)
    normalisation = Normalisation((0.25,), (0.5,))
    for part in toy_tasks():
        samples = replace(part, normalisation=normalisation)
        moved = samples.on(CPU)
        assert moved.images.dtype == torch.uint8
        assert len(moved.images) == len(samples) < len(samples.images)
        for ours, theirs in zip(moved.tensors(), samples.tensors(), strict=True):
            assert torch.equal(ours, theirs)


def test_where_images_are_not_on_the_device_of_the_batches_they_are_changed_there():
    # Stands for a GPU: nothing of the CPU can be mixed with it.
    elsewhere = torch.device("meta")
    for parts, augment in ((toy_tasks(), None), (toy_tasks()[:1], Augmentation(1, True)), (toy_tasks()[1:2], None)):
        augmented = augment and partial(augment, generator=generator())
        batches = list(TensorLoader(parts, 10, elsewhere, generator(), augment=augmented))
        assert {tensor.device for batch in batches for tensor in batch} == {elsewhere}
        assert [len(batch[0]) for batch in batches] == [len(batch[0]) for batch in TensorLoader(parts, 10, CPU)]


@pytest.mark.parametrize("scenario", ["permuted", "rotated"])
@pytest.mark.parametrize("name", ["naive", "clnp"])
def test_training_is_the_same_whether_images_are_kept_as_floats_or_not(
    name, scenario, plain, make_method, make_workplace, monkeypatch
):
    trained = []
    for bound in (loading.RESIDENT_BYTES, 0):
        monkeypatch.setattr(loading, "RESIDENT_BYTES", bound)
        suite = plain.model_copy(update={"scenario": scenario})
        workplace = make_workplace(suite, n_tasks=2, epochs=2, hidden_sizes=[16], normalise=True)
        method = make_method(name, workplace, **({"frozen_cache_mib": 0} if name == "clnp" else {}))
        for task in workplace.stream.tasks:
            method.learn(task)
        trained.append(method.model.state_dict())
    torch.testing.assert_close(*trained, atol=0 if scenario == "permuted" else 1e-5, rtol=0)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("bound", [0, 2**28])
def test_a_last_batch_of_one_image_joins_the_one_before_where_batches_need_two(several, bound, monkeypatch):
    monkeypatch.setattr(loading, "RESIDENT_BYTES", bound)
    parts = toy_tasks() if several else toy_tasks()[:1]
    n_images = sum(map(len, parts))
    for size, least, last in [
        (n_images - 1, 2, n_images),
        (n_images - 1, 1, 1),
        (n_images - 2, 2, 2),
        (n_images, 2, n_images),
    ]:
        loader = TensorLoader(parts, size, CPU, generator(), least=least)
        batches = list(loader)
        assert len(loader) == len(batches)
        assert {len(part) for part in batches[-1]} == {last}
        assert sorted(rows(loader)) == sorted(expected_rows(parts))


def test_a_batch_norm_trains_where_a_last_batch_would_have_one_image(
    make_workplace, make_method, split_digits, tmp_path
):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, image_shape, n_outputs):\n"
        "        layers = nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_outputs)\n"
        "        super().__init__(*layers)\n"
    )
    changes = {"network": f"{path}:Net", "n_tasks": 2, "epochs": 1}
    n_images = len(make_workplace(split_digits, **changes).stream.tasks[0].train)
    workplace = make_workplace(split_digits, **changes, batch_size=n_images - 1)
    method = make_method("naive", workplace)
    method.learn(workplace.stream.tasks[0])
    assert all(bool(value.isfinite().all()) for value in method.model.state_dict().values())


def test_clnp_keeps_no_answers_for_images_that_are_not_kept(make_method, make_workplace, few_bytes, monkeypatch):
    from clbench.strategies.clnp.reduced import Reduced

    kept, leave = [], Reduced.leave

    def leaving(engine):
        if engine.network is not None:
            kept.extend(layer.answers for layer in engine.network.layers.values())
        leave(engine)

    monkeypatch.setattr(Reduced, "leave", leaving)
    workplace = make_workplace(n_tasks=2, epochs=2, hidden_sizes=[16, 16])
    method = make_method("clnp", workplace, margin=0.0)
    for task in workplace.stream.tasks:
        method.learn(task)
    assert method.clnp.masks.keys() == {0, 1}
    assert kept == [None] * len(kept)
    assert len(kept) >= 6
