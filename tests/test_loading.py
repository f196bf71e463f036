from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader, TaskBalancedDataLoader
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from torch.optim.optimizer import register_optimizer_step_post_hook

from clbench.data import loading, streams
from clbench.data.augmentation import Augmentation
from clbench.data.loading import TensorLoader
from clbench.data.normalisation import Normalisation
from clbench.data.streams import Permutation, Samples, Unchanged
from clbench.methods.strategy import TensorStrategy
from clbench.methods.table import find_method, resolve_settings
from clbench.networks.initial import initialise
from clbench.networks.mlp import mlp

CPU = torch.device("cpu")
ORDERS = ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2])


def toy_samples(n, task):
    """Images [n, 1, 2, 2] that are all different, whose pixels are moved in the task's own way."""
    number = torch.arange(n)
    images = torch.stack([number, 255 - number, number // 2, torch.full((n,), task)], 1).to(torch.uint8)
    change = Permutation(torch.tensor(ORDERS[task])) if task else Unchanged()
    # Every second image, backwards: positions and image numbers must not be confused.
    indices = torch.arange(n - 1, -1, -2)
    return Samples(images.view(n, 1, 2, 2), indices, indices % 10, change, task)


def toy_tasks():
    return [toy_samples(100, 0), toy_samples(14, 1), toy_samples(61, 2)]


def rows(batches):
    """Every image of these batches as (task label, label, pixels), in their order."""
    return [
        (t, y, *x)
        for batch in batches
        for x, y, t in zip(batch[0].flatten(1).tolist(), batch[1].tolist(), batch[2].tolist(), strict=True)
    ]


def expected_rows(parts):
    """The same from the definition of each task, one image after another."""
    found = []
    for part in parts:
        for index, label in zip(part.indices.tolist(), part.labels.tolist(), strict=True):
            pixels = (part.images[index].flatten().to(torch.float32) / 255)[ORDERS[part.task_label]]
            found.append((part.task_label, label, *pixels.tolist()))
    return found


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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


class Recorder(SupervisedPlugin):
    """Notes what every training step saw; added last, so that it sees what the others left."""

    def __init__(self):
        super().__init__()
        self.loaders, self.rates, self.batches = [], [], []

    def before_training_epoch(self, strategy, **kwargs):
        self.loaders.append(strategy.dataloader)

    def after_training_iteration(self, strategy, **kwargs):
        self.rates.append([group["lr"] for group in strategy.optimizer.param_groups])
        self.batches.append([part.clone() for part in strategy.mbatch])


@pytest.fixture
def make_strategy(make_workplace):
    """(plugins, overrides) -> TensorStrategy and its Recorder, on two small tasks."""

    def make(plugins=(), precision="float32", **overrides):
        workplace = make_workplace(precision=precision, **{"n_tasks": 2, "hidden_sizes": [8]} | overrides)
        model = initialise(mlp, 64, [8], 10, seed=0)
        recorder = Recorder()
        strategy = TensorStrategy(
            stream=workplace.stream,
            seeds=workplace.seeds,
            training_samples=lambda task: [task.train],
            steps_per_epoch=None,
            precision=workplace.precision,
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            train_mb_size=32,
            train_epochs=1,
            eval_mb_size=100,
            device=CPU,
            plugins=[*plugins, recorder],
        )
        return strategy, recorder

    return make


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_the_learning_rate_falls_linearly_over_each_task_and_is_whole_again_afterwards(
    make_method, make_workplace, optimizer
):
    workplace = make_workplace(
        n_tasks=2,
        epochs=2,
        hidden_sizes=[8],
        optimizer=optimizer,
        learning_rate=0.25,
        learning_rate_schedule="linear",
        batch_size=32,
    )
    method = make_method("naive", workplace)
    recorder = Recorder()
    method.strategy.plugins.append(recorder)
    steps = 2 * -(-len(workplace.stream.tasks[0].train) // 32)
    for task in workplace.stream.tasks:
        recorder.rates.clear()
        method.learn(task)
        assert [rate for (rate,) in recorder.rates] == pytest.approx(
            [0.25 * (steps - step) / steps for step in range(steps)]
        )
        assert recorder.rates[0] == [0.25]
        assert recorder.rates[-1][0] > 0
        assert method.strategy.optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("steps", [5, 45])
@pytest.mark.parametrize("name", ["naive", "joint", "single-task", "clnp", "ewc", "psp"])
def test_steps_per_epoch_is_the_number_of_the_optimisers_steps(name, steps, make_method, make_workplace):
    # A pass over the 1222 training images has 39 batches.
    workplace = make_workplace(n_tasks=2, hidden_sizes=[32], epochs=4, batch_size=32, steps_per_epoch=steps)
    method = make_method(name, workplace)
    taken = []
    counter = register_optimizer_step_post_hook(lambda *args: taken.append(1))
    try:
        for task in workplace.stream.tasks:
            taken.clear()
            method.learn(task)
            assert len(taken) == 4 * steps * (task.index + 1 if name == "joint" else 1)
    finally:
        counter.remove()


def test_a_learning_rate_that_falls_does_so_over_the_steps_asked_for(make_method, make_workplace):
    workplace = make_workplace(
        n_tasks=1,
        epochs=2,
        steps_per_epoch=5,
        hidden_sizes=[8],
        learning_rate=0.25,
        learning_rate_schedule="linear",
    )
    method = make_method("naive", workplace)
    recorder = Recorder()
    method.strategy.plugins.append(recorder)
    method.learn(workplace.stream.tasks[0])
    assert [rate for (rate,) in recorder.rates] == pytest.approx([0.25 * (10 - step) / 10 for step in range(10)])


def test_a_constant_learning_rate_stays(make_method, make_workplace):
    workplace = make_workplace(
        n_tasks=1, epochs=1, hidden_sizes=[8], learning_rate=0.002, learning_rate_schedule="constant"
    )
    method = make_method("naive", workplace)
    recorder = Recorder()
    method.strategy.plugins.append(recorder)
    method.learn(workplace.stream.tasks[0])
    assert {rate for (rate,) in recorder.rates} == {0.002}


def test_the_strategy_trains_on_our_batches_in_the_order_of_seed_and_task(make_strategy):
    strategy, recorder = make_strategy()
    for task in strategy.stream.tasks:
        recorder.batches.clear()
        strategy.train(strategy.stream.benchmark.train_stream[task.index])
        expected = TensorLoader([task.train], 32, CPU, strategy.seeds.generator("batches", task.index))
        for seen, wanted in zip(recorder.batches, expected, strict=True):
            assert all(map(torch.equal, seen, wanted))
    assert all(isinstance(loader, TensorLoader) for loader in recorder.loaders)


def test_avalanches_evaluation_sees_each_experience_of_every_stream(make_strategy):
    seen = []

    class Spy(SupervisedPlugin):
        def after_eval_iteration(self, strategy, **kwargs):
            seen.append([part.clone() for part in strategy.mbatch])

    strategy, _ = make_strategy([Spy()])
    for split in ("train", "validation", "test"):
        for task in strategy.stream.tasks:
            seen.clear()
            strategy.eval(strategy.stream.benchmark.streams[split][task.index])
            x, y = getattr(task, split).tensors()
            assert torch.equal(torch.cat([batch[0] for batch in seen]), x)
            assert torch.equal(torch.cat([batch[1] for batch in seen]), y)
            assert {int(label) for batch in seen for label in batch[2]} == {task.index}


def test_avalanches_replay_plugin_runs_and_mixes_old_images_into_the_second_task(make_strategy):
    strategy, recorder = make_strategy([ReplayPlugin(mem_size=64)])
    first, second = strategy.stream.tasks
    strategy.train(strategy.stream.benchmark.train_stream[0])
    assert isinstance(recorder.loaders[0], TensorLoader)
    assert set(rows(recorder.batches)) == set(rows(TensorLoader([first.train], 32, CPU)))
    recorder.batches.clear()
    strategy.train(strategy.stream.benchmark.train_stream[1])
    assert isinstance(recorder.loaders[1], ReplayDataLoader)
    seen = rows(recorder.batches)
    new, old = ({row for row in seen if row[0] == label} for label in (1, 0))
    assert new == set(rows(TensorLoader([second.train], 32, CPU)))
    assert 0 < len(old) <= 64
    assert old <= set(rows(TensorLoader([first.train], 32, CPU)))


def test_a_plugin_that_replaces_the_training_data_is_obeyed_through_avalanches_loader(make_strategy):
    class Subset(SupervisedPlugin):
        def after_train_dataset_adaptation(self, strategy, **kwargs):
            strategy.adapted_dataset = strategy.adapted_dataset.subset(list(range(50)))

    strategy, recorder = make_strategy([Subset()])
    task = strategy.stream.tasks[1]
    strategy.train(strategy.stream.benchmark.train_stream[1])
    assert isinstance(recorder.loaders[0], TaskBalancedDataLoader)
    assert sorted(rows(recorder.batches)) == sorted(rows([next(iter(TensorLoader([task.train], 50, CPU)))]))


def test_bfloat16_is_for_training_and_never_for_evaluation(make_strategy):
    strategy, _ = make_strategy(precision="bfloat16", n_tasks=1)
    computed = []
    strategy.model.head.register_forward_hook(lambda m, x, out: computed.append((strategy.is_training, out.dtype)))
    experience = strategy.stream.benchmark.train_stream[0]
    strategy.train(experience)
    assert set(computed) == {(True, torch.bfloat16)}
    computed.clear()
    strategy.eval(experience)
    assert set(computed) == {(False, torch.float32)}
    assert all(parameter.dtype == torch.float32 for parameter in strategy.model.parameters())


def test_the_loss_is_taken_in_float32_whatever_the_precision(make_strategy):
    outputs = []

    class Spy(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            outputs.append((strategy.mb_output.dtype, torch.is_autocast_enabled("cpu")))

    strategy, _ = make_strategy([Spy()], precision="bfloat16", n_tasks=1)
    strategy.train(strategy.stream.benchmark.train_stream[0])
    assert set(outputs) == {(torch.float32, False)}


def test_float32_trains_in_float32(make_strategy):
    strategy, _ = make_strategy(n_tasks=1)
    computed = set()
    strategy.model.head.register_forward_hook(lambda m, x, out: computed.add(out.dtype))
    strategy.train(strategy.stream.benchmark.train_stream[0])
    assert computed == {torch.float32}


def test_a_methods_predictions_are_float32_after_bfloat16_training(make_method, make_workplace):
    workplace = make_workplace(precision="bfloat16", n_tasks=1, epochs=1, hidden_sizes=[8])
    method = make_method("naive", workplace)
    task = workplace.stream.tasks[0]
    method.learn(task)
    computed = set()
    method.model.head.register_forward_hook(lambda m, x, out: computed.add(out.dtype))
    with method.network_for(task) as network:
        network(task.test.tensors()[0])
    assert computed == {torch.float32}


# Events of a step


class Joins(SupervisedPlugin):
    """Brings another plugin in after the third step, and takes it out after the fifth."""

    def __init__(self):
        super().__init__()
        self.other, self.steps = Counts(), 0

    def after_update(self, strategy, **kwargs):
        self.steps += 1
        if self.steps == 3:
            strategy.plugins.append(self.other)
        if self.steps == 5:
            strategy.plugins.remove(self.other)


class Counts(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.heard = []

    def before_forward(self, strategy, **kwargs):
        self.heard.append(strategy.clock.train_iterations)


def test_a_plugin_that_joins_or_leaves_between_steps_is_heard_from_the_next_on(make_workplace, make_method):
    workplace = make_workplace(n_tasks=1, epochs=1, hidden_sizes=[8])
    joins = Joins()
    method = find_method("naive")(resolve_settings(workplace.suite, "naive", {}), workplace)
    method.prepare([joins])
    method.learn(workplace.stream.tasks[0])
    assert joins.steps > 5
    assert joins.other.heard == [3, 4]


def test_events_that_a_strategy_handles_itself_and_methods_of_single_plugins_are_heard(make_workplace):
    workplace = make_workplace(n_tasks=1, epochs=1, hidden_sizes=[8])
    method = find_method("naive")(resolve_settings(workplace.suite, "naive", {}), workplace)
    single, heard = SupervisedPlugin(), []
    single.after_backward = lambda strategy, **kwargs: heard.append("single")
    method.prepare([single])

    class Own(type(method.strategy)):
        def _before_update(self, **kwargs):
            heard.append("own")
            super()._before_update(**kwargs)

    method.strategy.__class__ = Own
    method.learn(workplace.stream.tasks[0])
    steps = method.strategy.clock.train_iterations
    assert heard == ["single", "own"] * steps
