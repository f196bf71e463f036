"""Fixtures for CLNP: small tasks on a suite and in plain Avalanche, and what its networks answer."""

import contextlib

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from clbench.methods.table import resolve_settings
from clbench.strategies.clnp.method import CLNP
from clbench.strategies.clnp.pruning import choose


@pytest.fixture
def small_clnp(make_workplace):
    """(settings, changes of the suite) -> CLNP, prepared for three tasks that each claim a part of 2 x 128 neurons."""

    def make(settings=None, *, plain=False, observers=(), **changes) -> CLNP:
        """`plain` leaves the settings as they are by default."""
        small = {"n_tasks": 3, "hidden_sizes": [128, 128], "epochs": 6, "batch_size": 32, "learning_rate": 0.002}
        workplace = make_workplace(**small | changes)
        little = {} if plain else {"l1_weights": 1e-3, "l1_activities": 0.0, "margin": 2.0}
        method = CLNP(resolve_settings(workplace.suite, "clnp", little | (settings or {})), workplace)
        method.prepare(observers=observers)
        return method

    return make


@pytest.fixture(scope="session")
def logits_of():
    """(method, task) -> what the method answers to the task's test images."""

    def answer(method, task):
        with torch.inference_mode(), method.network_for(task) as network:
            return network(task.test.tensors()[0]).clone()

    return answer


@pytest.fixture(scope="session")
def by_group():
    """(plugin, numbers of units) -> for each group, a view of those of its own."""

    def parts(plugin, numbers):
        return [numbers[group.start : group.start + group.size] for group in plugin.claims.units.groups]

    return parts


class InTheMidst(SupervisedPlugin):
    def __init__(self, action):
        super().__init__()
        self.action = action

    def after_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1 and strategy.clock.train_exp_iterations == 3:
            self.action(strategy)


@pytest.fixture(scope="session")
def in_the_midst():
    """(action) -> a plugin that calls it with the strategy, once, in the midst of training on the second task."""
    return InTheMidst


class ACostPerUnit:
    """Stands for a validation in which every unit that is pruned costs one point."""

    def right(self, mask):
        gone = 0 if mask is None else int((~mask).sum())
        return torch.arange(1000) >= 10 * gone

    def searching(self, group, mask):
        return contextlib.nullcontext()


@pytest.fixture(scope="session")
def chosen():
    """(margin, scores, options) -> what is pruned of two equal groups, where every unit that goes costs one point.

    Without scores they are 0.1 to 0.4 for the first group, and 0.01 to 0.04 for the second.
    """

    def prune(margin, scores=(0.1, 0.2, 0.3, 0.4, 0.01, 0.02, 0.03, 0.04), active=None, **options):
        found, half = torch.tensor(scores), len(scores) // 2
        active = torch.zeros(len(found), dtype=torch.bool) if active is None else active
        groups = [slice(0, half), slice(half, 2 * half)]
        return choose(found, active, groups, ACostPerUnit(), margin, **options)

    return prune


@pytest.fixture
def in_avalanche(make_workplace):
    """(number of tasks, suite) -> the tasks of a suite as a benchmark of Avalanche's, and their test images."""

    def make(n_tasks, *, labels=True, dtype=torch.float32, **changes):
        tasks = make_workplace(n_tasks=n_tasks, **changes).stream.tasks

        def data_sets(split):
            found = [(task.index if labels else 0, *getattr(task, split).tensors()) for task in tasks]
            return [
                _make_taskaware_tensor_classification_dataset(x.to(dtype), y, task_labels=label)
                for label, x, y in found
            ]

        benchmark = dataset_benchmark(data_sets("train"), data_sets("test"))
        return benchmark, [task.test.tensors()[0].to(dtype) for task in tasks]

    return make


@pytest.fixture(scope="session")
def naive_strategy():
    """(model, plugins) -> Avalanche's Naive strategy."""

    def make(model, *plugins, optimizer=None, epochs=8, **settings):
        return Naive(
            model=model,
            optimizer=optimizer or torch.optim.Adam(model.parameters(), lr=0.003, weight_decay=1e-4),
            plugins=list(plugins),
            train_mb_size=32,
            train_epochs=epochs,
            eval_mb_size=128,
            evaluator=EvaluationPlugin(),
            **settings,
        )

    return make


@pytest.fixture(scope="session")
def evaluated():
    """(strategy, experience) -> the logits that Avalanche's evaluation sees."""

    class Collects(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.logits = []

        def after_eval_iteration(self, strategy, **kwargs):
            self.logits.append(strategy.mb_output.clone())

    def evaluate(strategy, experience):
        collects = Collects()
        strategy.plugins.append(collects)
        strategy.eval([experience])
        strategy.plugins.remove(collects)
        return torch.cat(collects.logits)

    return evaluate
