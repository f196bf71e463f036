"""Which task an experience is, and what CLNP says of tasks that it cannot do well by."""

import warnings

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, dataset_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from clbench.data import load_images
from clbench.errors import MethodError, MethodWarning, SettingError
from clbench.strategies import CLNPPlugin
from clbench.strategies.clnp.validation import hold_out

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified", "ignore:CLNP has only")


def data_set(x, y, label=0):
    return _make_taskaware_tensor_classification_dataset(x, y, task_labels=label)


def digits(task, part="train"):
    found = load_images("digits")
    x = getattr(found, f"{part}_images").flatten(1) / 255
    order = torch.arange(64) if task == 0 else torch.randperm(64, generator=torch.Generator().manual_seed(task))
    return x[:, order], getattr(found, f"{part}_labels")


def benchmark(*tasks):
    return dataset_benchmark([data_set(*digits(task)) for task in tasks], [data_set(*digits(t, "test")) for t in tasks])


def network(act=nn.ReLU, width=128):
    return nn.Sequential(nn.Linear(64, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 10))


def strategy_of(plugin, model=None, *, epochs=2, rate=0.003):
    torch.manual_seed(0)
    model = model or network()
    return Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=rate),
        plugins=[plugin],
        train_mb_size=32,
        train_epochs=epochs,
        eval_mb_size=256,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), strict_checks=False),
    )


def accuracies(strategy, stream):
    found = sorted(strategy.eval(stream).items())
    return [value for name, value in found if name.startswith("Top1_Acc_Exp/eval")]


# -- Which task it is --------------------------------------------------------------------------------------------------


def one_test_for_three():
    x = torch.cat([digits(task, "test")[0] for task in range(3)])
    test = [data_set(x, digits(0, "test")[1].repeat(3))]
    return dataset_benchmark([data_set(*digits(task)) for task in range(3)], test)


def test_one_test_experience_for_three_tasks_is_warned_of_once():
    b, strategy = one_test_for_three(), strategy_of(CLNPPlugin(budget="even"))
    strategy.train(b.train_stream[0])
    with pytest.warns(MethodWarning, match="the stream 'test' has 1 experience and the training stream 3"):
        first = accuracies(strategy, b.test_stream)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MethodWarning)
        assert accuracies(strategy, b.test_stream) == first


def test_a_user_may_say_which_task_an_experience_is():
    b = one_test_for_three()
    learned = []
    plugin = CLNPPlugin(budget="even", task_of=lambda experience: len(learned) - 1)
    strategy = strategy_of(plugin)
    x = digits(2, "test")[0]
    for experience in b.train_stream:
        strategy.train(experience)
        learned.append(experience)
    with torch.no_grad(), plugin.task(2):
        right = (strategy.model.eval()(x).argmax(1) == digits(2, "test")[1]).float().mean()
    with warnings.catch_warnings():
        warnings.simplefilter("error", MethodWarning)
        (found,) = accuracies(strategy, b.test_stream)
    # A third of the images are of the last task's permutation, through whose mask all are seen.
    assert found > float(right) / 3


def test_a_second_benchmark_is_numbered_from_0_as_well_and_its_tasks_are_others():
    first, second, plugin = benchmark(0), benchmark(1), CLNPPlugin(budget=0.4)
    strategy = strategy_of(plugin)
    strategy.train(first.train_stream[0])
    before = accuracies(strategy, first.test_stream)
    strategy.train(second.train_stream[0])
    assert [*plugin.masks] == [0, 1]
    assert accuracies(strategy, first.test_stream) == before
    assert accuracies(strategy, second.test_stream)[0] > 0.5


def test_an_experience_that_is_learned_once_more_is_a_task_of_its_own():
    b, plugin = benchmark(0), CLNPPlugin(budget=0.4)
    strategy = strategy_of(plugin)
    for _ in range(2):
        strategy.train(b.train_stream[0])
    assert [*plugin.masks] == [0, 1]
    assert accuracies(strategy, b.test_stream)[0] > 0.5


def split(label_of):
    x, y = digits(0)
    xt, yt = digits(0, "test")
    parts = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    return dataset_benchmark(
        [data_set(x[torch.isin(y, part)], y[torch.isin(y, part)], label_of(n)) for n, part in enumerate(parts)],
        [data_set(xt[torch.isin(yt, part)], yt[torch.isin(yt, part)], label_of(n)) for n, part in enumerate(parts)],
    )


def test_tasks_with_classes_of_their_own_and_one_label_are_said_to_be_told_apart():
    b, strategy = split(lambda n: 0), strategy_of(CLNPPlugin(budget=0.4))
    strategy.train(b.train_stream[0])
    with pytest.warns(MethodWarning, match="the accuracy that Avalanche prints for an experience is told which it is"):
        strategy.train(b.train_stream[1])


def test_an_experience_of_other_classes_than_the_one_of_its_number_is_warned_of():
    b, strategy = split(lambda n: 0), strategy_of(CLNPPlugin(budget=0.4))
    strategy.train(b.train_stream[0])
    other = dataset_benchmark([b.train_stream[0].dataset, b.train_stream[1].dataset], [b.test_stream[1].dataset] * 2)
    with pytest.warns(MethodWarning, match="has none of the classes of the training experience of that number"):
        strategy.eval(other.test_stream[:1])


# -- What is held out --------------------------------------------------------------------------------------------------


def test_held_out_images_are_drawn_class_by_class():
    labels = torch.tensor([0] * 148 + [1] * 8 + [2] * 2 + [3])
    found = data_set(torch.rand(len(labels), 4), labels)
    for seed in range(5):
        kept, held = hold_out(found, 0.1, torch.Generator().manual_seed(seed))
        counts = torch.tensor([int(label) for label in held.targets]).bincount(minlength=4).tolist()
        assert counts == [15, 1, 1, 0]
        assert len(kept) + len(held) == len(labels)


def test_a_rare_class_is_recalled_also_after_pruning():
    x, y = digits(0)
    chosen = torch.cat([(y == 3).nonzero()[:, 0], (y == 8).nonzero()[:8, 0]])
    b = dataset_benchmark([data_set(x[chosen], (y[chosen] == 8).long())], [data_set(x[:10], y[:10])])
    xt, yt = digits(0, "test")
    recalled = []
    for seed in range(3):
        plugin = CLNPPlugin(seed=seed)
        strategy = strategy_of(plugin, epochs=20)
        strategy.train(b.train_stream[0])
        with torch.no_grad(), plugin.task(0):
            recalled.append(float(strategy.model.eval()(xt[yt == 8]).argmax(1).float().mean()))
    assert min(recalled) > 0.1


# -- Norms -------------------------------------------------------------------------------------------------------------


def sizes_of(model, x):
    """Mean sizes of what the units of the two hidden layers give, [2, 128]."""
    with torch.no_grad():
        first = model[1](model[0](x))
        return torch.stack([first.abs().mean(0), model[3](model[2](first)).abs().mean(0)])


ACTIVATIONS = {"ReLU": nn.ReLU, "LeakyReLU": lambda: nn.LeakyReLU(0.3), "Tanh": nn.Tanh}


def with_and_without(norm, strength, act):
    found = []
    for given in (strength, 0.0):
        options = {"l1_activities": given, "activity_norm": norm, "l1_weights": 0.0}
        strategy = strategy_of(CLNPPlugin(fine_tune_epochs=0, margin=0.0, **options), network(act=act), epochs=4)
        strategy.train(benchmark(0).train_stream[0])
        found.append(sizes_of(strategy.model, digits(0)[0]))
    return found


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_l1_norm_of_activities_is_of_their_sizes(act):
    with_norm, without = with_and_without("l1", 0.003, act)
    assert (with_norm.mean(1) < without.mean(1)).all()


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_effective_norm_lets_fewer_units_carry_the_activity(act):
    def carried(sizes):
        return sizes.sum(1) ** 2 / (sizes**2).sum(1)

    with_norm, without = with_and_without("effective", 0.5, act)
    assert (carried(with_norm) < carried(without)).all()


# -- What is refused ---------------------------------------------------------------------------------------------------


def test_several_labels_an_image_are_refused_before_the_first_step():
    x, y = digits(0)
    several = nn.functional.one_hot(y, 10).float()
    b = benchmark_from_datasets(train=[data_set(x, several)], test=[data_set(*digits(0, "test"))])
    strategy = strategy_of(CLNPPlugin())
    with pytest.raises(MethodError, match="needs one label an image"):
        strategy.train(b.train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": {"conv_9": 0.3}}, "CLNP's budget has the group 'conv_9', but the network's are layer_1, layer_2"),
        ({"margin_shares": {"first": 1.0}}, "CLNP's margin_shares has the group 'first'"),
        ({"l1_activities": [0.1, 0.1, 0.1]}, r"l1_activities has 3 values for 2 groups of units \(layer_1, layer_2\)"),
    ],
)
def test_settings_of_groups_that_are_not_there_are_refused_before_the_first_step(options, said):
    strategy = strategy_of(CLNPPlugin(**options))
    with pytest.raises(MethodError, match=said):
        strategy.train(benchmark(0).train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 1.5}, "budget=1.5 does not fit: expected even, none, or shares of more than 0 and at most 1"),
        ({"budget": "odd"}, "budget=odd does not fit: expected even, none, or shares"),
        ({"l1_activities": -0.1}, "expected numbers of at least 0 and at most 1"),
        ({"rank": "size"}, "rank=size does not fit: expected 'activity' or 'contribution'"),
        ({"magrin": 1.0}, "the setting CLNPPlugin.magrin=1.0 does not fit: there is no setting of that name here"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_at_once(options, said):
    with pytest.raises(SettingError, match=said):
        CLNPPlugin(**options)


def test_a_budget_of_even_shares_asks_for_the_number_of_tasks_where_no_benchmark_says_it():
    b, strategy = benchmark(0), strategy_of(CLNPPlugin(budget="even", n_tasks=4))
    strategy.train(b.train_stream[0])
    assert all(report.new <= 32 for report in strategy.plugins[0].reports[0])
