import runpy
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader, TaskBalancedDataLoader
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from torch.optim.optimizer import register_optimizer_step_post_hook

from clbench.data.loading import TensorLoader
from clbench.methods.strategy import TensorStrategy
from clbench.methods.table import find_method, resolve_settings
from clbench.networks.initial import initialise
from clbench.networks.mlp import mlp

rows = runpy.run_path(str(Path(__file__).with_name("toy_batches.py")))["rows"]

CPU = torch.device("cpu")


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
