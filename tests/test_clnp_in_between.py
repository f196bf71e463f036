"""What happens between two tasks, or in the midst of one, changes nothing of what CLNP has claimed."""

import copy
import warnings

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import IncrementalClassifier
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, MASPlugin
from torch import nn

from clbench.data import load_images
from clbench.errors import DivergenceError, MethodError
from clbench.networks.several_heads import SlicedHeads
from clbench.strategies import CLNPPlugin

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified", "ignore:CLNP has only")


def digits(task, part="train"):
    """Images [N, 1, 8, 8] of a permutation, and their labels."""
    found = load_images("digits")
    x = getattr(found, f"{part}_images").flatten(1) / 255
    order = torch.randperm(64, generator=torch.Generator().manual_seed(task))
    return x[:, order].view(-1, 1, 8, 8), getattr(found, f"{part}_labels")


def benchmark(n_tasks=2, of=digits):
    sets = [
        [_make_taskaware_tensor_classification_dataset(*of(task, part), task_labels=0) for task in range(n_tasks)]
        for part in ("train", "test")
    ]
    return dataset_benchmark(*sets)


def normed(**settings):
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(64, **settings) for _ in range(2)]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), norms[0], nn.ReLU(), nn.Linear(64, 64), norms[1], nn.ReLU(), nn.Linear(64, 10)
    )


def strategy_of(model, plugins, epochs=2):
    return Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        plugins=list(plugins),
        train_mb_size=32,
        train_epochs=epochs,
        eval_mb_size=256,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), strict_checks=False),
    )


def accuracies(strategy, stream):
    found = strategy.eval(stream)
    return [value for name, value in sorted(found.items()) if name.startswith("Top1_Acc_Exp/eval")]


def logits(model, clnp, task):
    model.eval()
    with torch.no_grad(), clnp.task(task):
        return model(digits(task, "test")[0])


class RunsTheNetwork(SupervisedPlugin):
    """Runs the network in training mode once a task is learned, as whoever measures importances does."""

    def after_training_exp(self, strategy, **kwargs):
        strategy.model.train()
        strategy.model(digits(5)[0])


class Raises(SupervisedPlugin):
    """Is interrupted in the second task, before its first step."""

    def before_backward(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("other", [RunsTheNetwork, lambda: MASPlugin(verbose=False)])
@pytest.mark.parametrize("first", [True, False])
def test_statistics_of_claimed_channels_outlast_who_runs_the_network_after_a_task(other, first):
    model, clnp, b = normed(), CLNPPlugin(budget="even"), benchmark()
    strategy = strategy_of(model, [clnp, other()] if first else [other(), clnp])
    strategy.train(b.train_stream[0])
    before = logits(model, clnp, 0)
    strategy.train(b.train_stream[1])
    assert torch.equal(logits(model, clnp, 0), before)


def test_after_an_interruption_before_the_step_a_learned_task_answers_as_before_at_once():
    model, clnp, b = normed(), CLNPPlugin(budget="even"), benchmark()
    strategy = strategy_of(model, [clnp, Raises()])
    strategy.train(b.train_stream[0])
    before, kept = logits(model, clnp, 0), accuracies(strategy, b.test_stream[:1])
    statistics = model[2].running_mean.clone()
    with pytest.raises(KeyboardInterrupt):
        strategy.train(b.train_stream[1])
    # The pass has moved them.
    assert not torch.equal(model[2].running_mean, statistics)
    assert torch.equal(logits(model, clnp, 0), before)
    assert accuracies(strategy, b.test_stream[:1]) == kept


def test_outputs_that_a_head_masked_stay_masked_for_the_task():
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.head = IncrementalClassifier(64, initial_out_features=10, masking=True)

        def forward(self, x):
            return self.head(torch.relu(self.hidden(x.flatten(1))))

    def two_classes(task, part):
        x, y = digits(0, part)
        mine = y // 2 == task
        return x[mine], y[mine]

    torch.manual_seed(0)
    model, clnp, b = Grows(), CLNPPlugin(budget="even"), benchmark(of=two_classes)
    strategy = strategy_of(model, [clnp])
    strategy.train(b.train_stream[0])
    x = digits(0, "test")[0]
    before, alone = logits(model, clnp, 0), clnp.network_of(0)(x)
    strategy.train(b.train_stream[1])
    assert (before[:, 2:] == -1000).all()
    assert torch.equal(logits(model, clnp, 0), before)
    assert torch.equal(clnp.network_of(0)(x), alone)


def test_statistics_that_leave_the_finite_numbers_are_not_claimed():
    class Breaks(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            strategy.model[2].running_mean[0] = float("nan")

    clnp, b = CLNPPlugin(budget="even"), benchmark()
    with pytest.raises(DivergenceError, match="left weights of 2 that are not finite"):
        strategy_of(normed(), [clnp, Breaks()], epochs=1).train(b.train_stream[0])
    assert clnp.masks == {}


def test_a_mean_over_all_batches_begins_anew_with_the_channels_of_a_task():
    # As many images in a batch each time, so that the mean over batches is that over images.
    def some(task, part):
        return tuple(each[:320] for each in digits(task, part))

    model, b = normed(momentum=None), benchmark(of=some)
    clnp = CLNPPlugin(budget="even", validation_stream=[b.test_stream[0], b.test_stream[1]], fine_tune_epochs=0)
    means = []

    class Notes(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            means.clear()

        def after_forward(self, strategy, **kwargs):
            means.append(strategy.model[1](strategy.mb_x.flatten(1)).mean(0).detach())

    strategy = strategy_of(model, [clnp, Notes()], epochs=1)
    for experience in b.train_stream:
        strategy.train(experience)
    new = (clnp.masks[1] & ~clnp.masks[0])[:64]
    assert new.any()
    torch.testing.assert_close(model[2].running_mean[new], torch.stack(means).mean(0)[new], atol=1e-5, rtol=1e-4)


def test_an_optimizer_that_comes_after_the_task_was_prepared_is_refused_and_one_before_it_is_taken():
    class Replaces(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            strategy.optimizer = torch.optim.Adam(strategy.model.parameters(), lr=0.003)

    b = benchmark()
    with pytest.raises(MethodError, match="list the plugin that does so before CLNPPlugin"):
        strategy_of(normed(), [CLNPPlugin(), Replaces()], epochs=1).train(b.train_stream[0])
    model, clnp = normed(), CLNPPlugin(budget="even")
    strategy = strategy_of(model, [Replaces(), clnp], epochs=1)
    strategy.train(b.train_stream[0])
    before = logits(model, clnp, 0)
    strategy.train(b.train_stream[1])
    assert torch.equal(logits(model, clnp, 0), before)


def test_what_others_run_through_the_network_has_no_part_in_the_norm_of_activities():
    class Rehearses(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            with torch.no_grad():
                strategy.model(torch.ones_like(strategy.mb_x))

    found = []
    for others in ([], [Rehearses()]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        clnp = CLNPPlugin(l1_activities=0.01, budget=0.5)
        strategy_of(model, [*others, clnp], epochs=1).train(benchmark().train_stream[0])
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_tasks_learned_in_another_order_are_told_apart_after_loading_without_a_warning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    b, clnp = benchmark(3), CLNPPlugin(budget="even")
    strategy = strategy_of(model, [clnp], epochs=3)
    for number in (2, 0, 1):
        strategy.train(b.train_stream[number])
    before = accuracies(strategy, b.test_stream)
    assert min(before) > 0.8
    again, twin = CLNPPlugin(budget="even"), copy.deepcopy(model)
    again.load_state_dict(clnp.state_dict())
    # What was loaded is there to be saved, also before the model is known.
    assert again.state_dict().keys() == clnp.state_dict().keys()
    again.attach(twin, digits(0)[0][:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        warnings.filterwarnings("ignore", "No loggers specified")
        assert accuracies(strategy_of(twin, [again]), b.test_stream) == before


def test_a_state_that_was_loaded_is_evaluated_through_its_masks_without_more_ado():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    b, clnp = benchmark(), CLNPPlugin(budget="even")
    strategy = strategy_of(model, [clnp], epochs=3)
    for experience in b.train_stream:
        strategy.train(experience)
    again = CLNPPlugin(budget="even")
    again.load_state_dict(clnp.state_dict())
    assert accuracies(strategy_of(model, [again]), b.test_stream) == accuracies(strategy, b.test_stream)
    with pytest.raises(MethodError, match="is no part of a state of CLNP"):
        again.load_state_dict(model.state_dict())


def test_outputs_of_one_layer_that_are_sliced_by_task_are_those_of_the_task():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 20))
    model, clnp = SlicedHeads(whole, n_tasks=2, n_outputs=10), CLNPPlugin(budget="even")
    sets = [
        [_make_taskaware_tensor_classification_dataset(*digits(task, part), task_labels=task) for task in range(2)]
        for part in ("train", "test")
    ]
    b, x = dataset_benchmark(*sets), digits(0, "test")[0]
    strategy = strategy_of(model, [clnp], epochs=3)
    strategy.train(b.train_stream[0])
    before = clnp.network_of(0)(x)
    strategy.train(b.train_stream[1])
    assert torch.equal(clnp.network_of(0)(x), before)
    model.eval()
    with torch.no_grad(), clnp.task(0):
        torch.testing.assert_close(clnp.network_of(0)(x), model(x, 0))
    with torch.no_grad(), clnp.task(1):
        torch.testing.assert_close(clnp.network_of(1)(x), model(x, 1))
    again = CLNPPlugin(budget="even")
    again.load_state_dict(clnp.state_dict())
    for label in (0, 1):
        again.attach(model, x[:1], label)
    assert torch.equal(again.network_of(0)(x), before)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "x"}, "engine must be dense or reduced, but got 'x'"),
        ({"n_tasks": 0}, "n_tasks must be None, 1, 2"),
        ({"fine_tune_epochs": 2.5}, "fine_tune_epochs must be 0, 1, 2"),
        ({"options": {"margin": 1.0}}, "options must be a CLNPOptions"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_at_once(given, said):
    with pytest.raises(MethodError, match=said):
        CLNPPlugin(**given)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (lambda: [], r"has images for 0 tasks, and this is task 1"),
        (lambda: [iter([[*digits(0, "test"), torch.zeros(359)]])], ""),
    ],
    ids=["too short", "to be gone through once"],
)
def test_a_validation_stream_is_one_entry_a_task_and_each_may_be_gone_through_but_once(stream, said):
    clnp, b = CLNPPlugin(validation_stream=stream(), budget=0.5), benchmark()
    strategy = strategy_of(normed(), [clnp], epochs=1)
    if said:
        with pytest.raises(MethodError, match=said):
            strategy.train(b.train_stream[0])
    else:
        strategy.train(b.train_stream[0])
        assert clnp.pruned.n_images == 359
