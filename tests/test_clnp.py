"""What CLNP claims, checked to the bit."""

import contextlib
from collections.abc import Sequence

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import MTSimpleMLP, SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

from clbench.errors import ClbenchError, DivergenceError, MethodError, MethodWarning, SettingError
from clbench.methods.method import answering
from clbench.methods.table import resolve_settings
from clbench.strategies import CLNPPlugin
from clbench.strategies.clnp import CLNP
from clbench.strategies.compact import CompactChain, Neurons
from clbench.strategies.thresholds import Validation, choose_thresholds, largest_threshold
from clbench.suites.files import SUITES

SMALL = {"n_tasks": 3, "hidden_sizes": [128, 128], "epochs": 6, "batch_size": 32, "learning_rate": 0.002}
CLAIMING_LITTLE = {"l1_weights": 1e-3, "l1_activities": 0.0, "margin": 2.0}


def logits(method, task):
    with torch.inference_mode(), method.network_for(task) as network:
        return network(task.test.tensors()[0]).clone()


OPTIMIZERS = {
    "adam": {"optimizer": "adam"},
    "output weights of its own": {"optimizer": "adam", "output_weights": "per-task"},
    "momentum sgd": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05},
    "adam with weight decay": {"optimizer": "adam", "weight_decay": 0.01},
    "momentum sgd with weight decay": {
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 0.05,
        "weight_decay": 0.01,
    },
}


@pytest.mark.parametrize("head", ["single", "multi"])
@pytest.mark.parametrize("options", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_logits_stay_bit_identical_through_all_later_tasks(options, head, make_method, make_workplace, split_digits):
    if head == "multi":
        workplace = make_workplace(split_digits, hidden_sizes=[128, 128], epochs=6, batch_size=32)
    else:
        workplace = make_workplace(**SMALL)
    method = make_method("clnp", workplace, **CLAIMING_LITTLE, **options)
    after_own_pruning = {}
    for task in workplace.stream.tasks:
        method.learn(task)
        after_own_pruning[task.index] = logits(method, task)
        for earlier in workplace.stream.tasks[: task.index + 1]:
            assert torch.equal(logits(method, earlier), after_own_pruning[earlier.index])
    # The claim would hold trivially if later tasks had changed nothing.
    assert all(report.new > 0 for reports in method.clnp.reports.values() for report in reports)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_training_forgets_as_little(precision, make_method, make_workplace):
    workplace = make_workplace(precision=precision, **SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    first, second = workplace.stream.tasks
    method.learn(first)
    before = logits(method, first)
    method.learn(second)
    assert torch.equal(logits(method, first), before)


def test_holding_active_neurons_constant_is_what_prevents_the_drift(make_method, make_workplace, monkeypatch):
    workplace = make_workplace(**SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    first, second = workplace.stream.tasks
    method.learn(first)
    before = logits(method, first)

    def all_trainable(constant, trainable):
        return Neurons(constant[:0], torch.cat([constant, trainable]))

    monkeypatch.setattr("clbench.strategies.clnp.Neurons", all_trainable)
    monkeypatch.setattr(CLNPPlugin, "_columns_of_earlier_tasks", lambda self: None)
    method.learn(second)
    assert not torch.equal(logits(method, first), before)


def test_interference_weights_are_exactly_zero(make_method, make_workplace):
    workplace = make_workplace(**SMALL)
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    for task in workplace.stream.tasks:
        method.learn(task)
        first, second = method.clnp.layers
        block = second.linear.weight[second.active][:, ~first.active]
        assert block.numel() > 0
        assert torch.count_nonzero(block) == 0
        assert torch.count_nonzero(method.model.head.weight[:, ~second.active]) == 0


def test_free_and_active_neurons_make_up_the_layer_and_claims_only_grow(make_method, make_workplace):
    workplace = make_workplace(**SMALL)
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    claimed = [0, 0]
    for task in workplace.stream.tasks:
        method.learn(task)
        rows = method.capacity()
        for number, (row, layer) in enumerate(zip(rows, method.clnp.layers, strict=True)):
            assert row["task"] == task.index + 1
            assert (row["group"], row["unit"]) == (f"layer_{number + 1}", "neuron")
            assert row["free"] + int(layer.active.sum()) == row["units"] == 128
            claimed[number] += row["new"]
            assert claimed[number] == int(layer.active.sum())
            assert 0 <= row["reused"] <= claimed[number] - row["new"]


def test_frozen_weights_do_not_change_and_free_ones_start_anew(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    first, second = workplace.stream.tasks
    method.learn(first)
    active = [layer.active.clone() for layer in method.clnp.layers]
    weights = [layer.linear.weight.detach().clone() for layer in method.clnp.layers]
    biases = [layer.linear.bias.detach().clone() for layer in method.clnp.layers]
    method.learn(second)
    for layer, was_active, weight, bias in zip(method.clnp.layers, active, weights, biases, strict=True):
        assert torch.equal(layer.linear.weight[was_active], weight[was_active])
        assert torch.equal(layer.linear.bias[was_active], bias[was_active])
        assert not torch.isclose(layer.linear.weight[~was_active], weight[~was_active]).any(1).all()


@pytest.mark.parametrize("scale", [1.0, 0.5, None])
def test_before_a_new_task_free_neurons_are_drawn_anew_with_biases_of_0_unless_they_stay(
    scale, make_method, make_workplace, monkeypatch
):
    workplace = make_workplace(**SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE, initial_scale=scale)
    seen = []

    def parameters():
        return [
            (layer.active.clone(), layer.linear.weight.detach().clone(), layer.linear.bias.detach().clone())
            for layer in method.clnp.layers
        ]

    enter = CLNPPlugin._enter

    def noting(self, strategy, kept):
        seen.append(parameters())
        enter(self, strategy, kept)

    first, second = workplace.stream.tasks
    method.learn(first)
    learned = parameters()
    monkeypatch.setattr(CLNPPlugin, "_enter", noting)
    method.learn(second)
    for (active, weight, bias), (_, old_weight, old_bias) in zip(seen[0], learned, strict=True):
        assert old_bias[~active].any()
        if scale is None:
            assert torch.equal(weight, old_weight)
            assert torch.equal(bias, old_bias)
            continue
        assert not bias[~active].any()
        anew, bound = weight[~active], scale * weight.shape[1] ** -0.5
        assert not torch.isclose(anew, old_weight[~active]).any(1).all()
        assert anew.abs().max() <= bound
        assert anew.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert torch.equal(weight[active], old_weight[active])


class NoteFirstStep(SupervisedPlugin):
    """The weights that train, before and after the first step."""

    def __init__(self, clnp):
        super().__init__()
        self.clnp, self.before, self.after = clnp, None, None

    def before_update(self, strategy, **kwargs):
        if self.before is None:
            self.before = [weight.detach().clone() for weight in self.clnp._trainable_weights()]

    def after_update(self, strategy, **kwargs):
        if self.after is None:
            self.after = [weight.detach().clone() for weight in self.clnp._trainable_weights()]


def test_the_norms_of_the_weights_move_them_as_they_say(make_workplace):
    experience = Experiences(make_workplace(n_tasks=1), True)[0]
    rate, strength = 0.5, 0.01

    def step(**norm):
        torch.manual_seed(0)
        model = networks()["sequential"]()
        clnp = CLNPPlugin(l1_activities=0.0, **{"l1_weights": 0.0, **norm})
        strategy = plain_strategy(model, clnp, torch.optim.SGD(model.parameters(), lr=rate), epochs=1)
        note = NoteFirstStep(clnp)
        strategy.plugins.append(note)
        torch.manual_seed(1)
        strategy.train(experience)
        return note

    plain, gradient, proximal = step(), step(l1_weights=strength), step(l1_proximal=strength)
    assert len(plain.after) == 3
    for start, without, along, thresholded in zip(
        plain.before, plain.after, gradient.after, proximal.after, strict=True
    ):
        # The gradient of alpha |w| is alpha sign(w); its proximal operator moves w towards 0 and no further.
        torch.testing.assert_close(along, without - rate * strength * start.sign())
        torch.testing.assert_close(thresholded, without - without.clamp(-rate * strength, rate * strength))
        assert (thresholded == 0).any()


def test_reused_are_neurons_of_earlier_tasks_that_are_awake_and_read(make_workplace):
    clnp = CLNPPlugin()
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    clnp._head = model[5]
    clnp._head_name = clnp.attach(model, torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        model[3].weight.fill_(0)
        model[5].weight.fill_(0)
        # Neurons 0, 1 and 2 of the first layer are of earlier tasks. A new neuron reads 0, 2 and 3 ...
        model[3].weight[2, [0, 2, 3]] = 1.0
        # ... and an old one, frozen with its task, reads 1.
        model[3].weight[0, 1] = 1.0
        # The head reads both old neurons of the second layer.
        model[5].weight[1, [0, 1]] = 0.5
    clnp.layers[0].active[:3] = True
    clnp.layers[1].active[:2] = True
    new = [torch.tensor([False, False, False, True]), torch.tensor([False, False, True])]
    # 2 sleeps on this task, as does the second layer's 1.
    activity = [torch.tensor([0.5, 0.5, 0.1, 0.5]), torch.tensor([0.5, 0.1, 0.5])]
    assert clnp._count_reused(activity, [0.2, 0.2], new) == [1, 1]
    assert clnp._count_reused(activity, [0.05, 0.05], new) == [2, 2]


class ByHand:
    """Stands for a validation in which every neuron that is pruned costs one point."""

    n_images = 1000

    def __init__(self):
        self.plugin = self

    def accuracy(self, masks):
        return 1.0 if masks is None else 1.0 - sum(int((~mask).sum()) for mask in masks) / 100

    def _reduced_to(self, masks):
        return contextlib.nullcontext()

    def holding(self, number):
        return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("shares", "global_threshold", "thresholds", "left"),
    # Half of the three points is for the first layer, which prunes one neuron; what is left of it goes to the second.
    # Two shares against one let the first layer spend two points, one against five none that would prune a neuron.
    # One threshold for both takes the three that are least active, wherever they are.
    [
        (None, False, [0.1, 0.02], [3, 2]),
        ([2.0, 1.0], False, [0.2, 0.01], [2, 3]),
        ([0.1, 0.5], False, [0.0, 0.03], [4, 1]),
        (None, True, [0.03, 0.03], [4, 1]),
    ],
    ids=["per layer", "two to one", "one to five", "global"],
)
def test_the_margin_is_shared_by_the_layers_or_spent_on_the_least_active_of_all(
    shares, global_threshold, thresholds, left
):
    activity = [torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.01, 0.02, 0.03, 0.04])]
    active = [torch.zeros(4, dtype=torch.bool)] * 2
    masks, found, spent = choose_thresholds(activity, active, ByHand(), 3.0, shares, global_threshold=global_threshold)
    assert found == pytest.approx(thresholds)
    assert [int(mask.sum()) for mask in masks] == left
    assert sum(spent) == pytest.approx(3.0)


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("thresholds", ["per-layer", "global"])
def test_pruning_costs_no_more_than_the_margin_on_the_validation_data(
    margin, thresholds, make_method, make_workplace, monkeypatch
):
    workplace = make_workplace(**SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, margin=margin, thresholds=thresholds, l1_weights=1e-3, l1_activities=0.0)
    unpruned = []
    original = CLNPPlugin._prune

    def remember(self, activity, validation):
        unpruned.append(validation.accuracy(None))
        return original(self, activity, validation)

    monkeypatch.setattr(CLNPPlugin, "_prune", remember)
    for task in workplace.stream.tasks:
        method.learn(task)
        x, y = task.validation.tensors()
        with torch.inference_mode(), method.network_for(task) as network:
            pruned = float((network(x).argmax(1) == y).float().mean())
        assert pruned >= unpruned[task.index] - margin / 100 - 1e-6
        spent = sum(row["margin_spent"] for row in method.capacity())
        assert spent <= margin + 1e-6


def test_where_the_silent_neurons_alone_cost_more_than_the_margin_nothing_is_pruned_and_that_is_said():
    # In the first layer one neuron is silent, and costs a point like any other here; in the second none is.
    activity = [torch.tensor([0.0, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.3])]
    active = [torch.zeros(3, dtype=torch.bool)] * 2
    with pytest.warns(MethodWarning, match="pruned nothing in hidden layer 1"):
        masks, thresholds, spent = choose_thresholds(activity, active, ByHand(), 0.5, global_threshold=False)
    assert [int(mask.sum()) for mask in masks] == [3, 3]
    assert (thresholds, spent) == ([0.0, 0.0], [0.0, 0.0])


def test_what_is_pruned_on_are_the_validation_images(make_workplace, make_method):
    workplace = make_workplace(**SMALL)
    batches = make_method("clnp", workplace).clnp.validation_stream
    assert len(batches) == 3
    for task in workplace.stream.tasks:
        x, y, labels = (torch.cat(parts) for parts in zip(*batches[task.index], strict=True))
        expected = task.validation.tensors()
        assert torch.equal(x, expected[0])
        assert torch.equal(y, expected[1])
        assert set(labels.tolist()) == {task.index}


def test_a_wider_margin_frees_more_neurons(make_method, make_workplace):
    free = []
    for margin in (0.0, 10.0):
        workplace = make_workplace(**SMALL | {"n_tasks": 1})
        method = make_method("clnp", workplace, margin=margin, l1_weights=1e-3, l1_activities=0.0, fine_tune_share=0.0)
        method.learn(workplace.stream.tasks[0])
        free.append([row["free"] for row in method.capacity()])
    assert all(narrow < wide for narrow, wide in zip(*free, strict=True))


def test_bisection_finds_the_largest_threshold_that_brute_force_finds():
    thresholds = [0.0, 0.1, 0.2, 0.5, 0.9]
    accuracies = dict(zip(thresholds, [0.99, 0.985, 0.98, 0.7, 0.1], strict=True))
    for allowed, best in [(0.99, 0.0), (0.985, 0.1), (0.98, 0.2), (0.71, 0.2), (0.7, 0.5), (0.0, 0.9)]:
        assert largest_threshold(thresholds, accuracies.__getitem__, allowed) == (best, accuracies[best])
    assert largest_threshold(thresholds, accuracies.__getitem__, 1.0) == (0.0, None)


def test_silent_neurons_are_pruned_whatever_the_margin(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1, "epochs": 1})
    method = make_method("clnp", workplace, margin=0.0, l1_weights=0.0, l1_activities=0.0)
    with torch.no_grad():
        linear = method.clnp.layers[0].linear
        linear.bias[:5] = -1e4  # these five can never fire, and no gradient reaches them
    method.learn(workplace.stream.tasks[0])
    assert not method.clnp.layers[0].active[:5].any()


def test_activity_is_the_mean_output_over_the_training_data(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1, "epochs": 1})
    method = make_method("clnp", workplace, l1_activities=0.0, fine_tune_share=0.0)
    measured = []
    original = method.clnp._prune
    method.clnp._prune = lambda activity, validation: (measured.extend(activity), original(activity, validation))[1]
    weights = []
    method.clnp._cut_interference = lambda masks, new: weights.extend(
        (layer.linear.weight.detach().clone(), layer.linear.bias.detach().clone()) for layer in method.clnp.layers
    )
    task = workplace.stream.tasks[0]
    method.learn(task)
    hidden = task.train.tensors()[0].flatten(1).double()
    for (weight, bias), activity in zip(weights, measured, strict=True):
        hidden = (hidden @ weight.double().T + bias.double()).relu()
        torch.testing.assert_close(activity, hidden.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("owner", "shortcut"), [(Validation, "holding"), (CLNPPlugin, "_reduced_to")])
def test_the_shortcuts_of_the_search_change_no_threshold(owner, shortcut, make_method, make_workplace, monkeypatch):
    results = []
    for taken in (True, False):
        if not taken:
            monkeypatch.setattr(owner, shortcut, lambda self, which: contextlib.nullcontext())
        workplace = make_workplace(**SMALL | {"n_tasks": 2})
        method = make_method("clnp", workplace, fine_tune_share=0.0, **CLAIMING_LITTLE)
        for task in workplace.stream.tasks:
            method.learn(task)
        results.append([logits(method, task) for task in workplace.stream.tasks])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_task_may_read_neurons_of_an_earlier_one(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    method.learn(workplace.stream.tasks[0])
    old = method.clnp.layers[0].active.clone()
    method.learn(workplace.stream.tasks[1])
    new = method.clnp.layers[1].active & ~method.clnp.masks[0][1]
    assert torch.count_nonzero(method.clnp.layers[1].linear.weight[new][:, old]) > 0
    assert method.capacity()[0]["reused"] > 0


# -- In a plain Avalanche strategy ------------------------------------------------------------------------------------


class Experiences(Sequence):
    def __init__(self, workplace, task_labels):
        def datasets(split):
            out = []
            for task in workplace.stream.tasks:
                x, y = getattr(task, split).tensors()
                from avalanche.benchmarks.utils.classification_dataset import (
                    _make_taskaware_tensor_classification_dataset as make,
                )

                out.append(make(x, y, task_labels=task.index if task_labels else 0))
            return out

        self.benchmark = dataset_benchmark(datasets("train"), datasets("test"))

    def __getitem__(self, index):
        return self.benchmark.train_stream[index]

    def __len__(self):
        return len(self.benchmark.train_stream)


def plain_strategy(model, plugin, optimizer=None, epochs=8):
    return Naive(
        model=model,
        optimizer=optimizer or torch.optim.Adam(model.parameters(), lr=0.003, weight_decay=1e-4),
        plugins=[plugin],
        train_mb_size=32,
        train_epochs=epochs,
        eval_mb_size=128,
        evaluator=EvaluationPlugin(),
    )


def collected_logits(strategy, experience):
    from avalanche.core import SupervisedPlugin

    class Collect(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.logits = []

        def after_eval_iteration(self, strategy, **kwargs):
            self.logits.append(strategy.mb_output.clone())

    collect = Collect()
    strategy.plugins.append(collect)
    strategy.eval([experience])
    strategy.plugins.remove(collect)
    return torch.cat(collect.logits)


def networks():
    return {
        "sequential": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
        ),
        "SimpleMLP with dropout": lambda: SimpleMLP(
            num_classes=10, input_size=64, hidden_size=96, hidden_layers=2, drop_rate=0.1
        ),
        "without biases": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96, bias=False), nn.ReLU(), nn.Linear(96, 10, bias=False)
        ),
    }


@pytest.mark.parametrize("build", networks().values(), ids=networks())
@pytest.mark.parametrize("task_labels", [True, False])
def test_in_plain_avalanche_with_its_defaults_nothing_is_forgotten(build, task_labels, make_workplace):
    torch.manual_seed(0)
    workplace = make_workplace(n_tasks=3)
    experiences = Experiences(workplace, task_labels)
    plugin = CLNPPlugin()
    strategy = plain_strategy(build(), plugin)
    before = {}
    for index, experience in enumerate(experiences):
        strategy.train(experience)
        before[index] = collected_logits(strategy, experiences.benchmark.test_stream[index])
    for index in range(len(experiences)):
        after = collected_logits(strategy, experiences.benchmark.test_stream[index])
        assert torch.equal(after, before[index])
        with plugin.task(index), torch.no_grad():
            x = workplace.stream.tasks[index].test.tensors()[0]
            strategy.model.eval()
            assert torch.allclose(strategy.model(x), after, atol=1e-5)


def test_in_plain_avalanche_its_defaults_leave_room_for_four_tasks(make_workplace):
    torch.manual_seed(0)
    workplace = make_workplace(n_tasks=4)
    experiences = Experiences(workplace, True)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 10)
    )
    strategy = plain_strategy(model, CLNPPlugin(), torch.optim.Adam(model.parameters(), lr=0.002))
    for experience in experiences:
        strategy.train(experience)
    for task in workplace.stream.tasks:
        predicted = collected_logits(strategy, experiences.benchmark.test_stream[task.index]).argmax(1)
        assert float((predicted == task.test.labels).float().mean()) > 0.9
        assert all(report.new > 0 for report in strategy.plugins[0].reports[task.index])


@pytest.mark.parametrize("norm", ["l1_weights", "l1_proximal", "l1_activities"])
def test_while_fine_tuning_there_is_no_norm(norm, make_method, make_workplace):
    learned = []
    for strength in (0.0, 10.0):
        workplace = make_workplace(**SMALL | {"n_tasks": 1})
        method = make_method("clnp", workplace, **CLAIMING_LITTLE | {"l1_activities": 0.0}, fine_tune_share=0.5)
        original = method.clnp._fine_tune

        def fine_tune(*given, plugin=method.clnp, original=original, strength=strength):
            # Up to here both are the same.
            setattr(plugin, norm, strength)
            original(*given)

        method.clnp._fine_tune = fine_tune
        method.learn(workplace.stream.tasks[0])
        learned.append([parameter.detach().clone() for parameter in method.model.parameters()])
    for without, with_norm in zip(*learned, strict=True):
        assert torch.equal(without, with_norm)


def test_fine_tuning_that_costs_accuracy_is_undone(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    # A rate at which no network survives; the setting itself stops at 1.
    method.clnp.fine_tune_rate = 1e4
    method.clnp._check_arguments = lambda: None
    before = []
    original = method.clnp._fine_tune

    def remember(strategy, validation, masks):
        before.append([p.detach().clone() for p in method.model.parameters()])
        original(strategy, validation, masks)

    method.clnp._fine_tune = remember
    method.learn(workplace.stream.tasks[0])
    for parameter, unharmed in zip(method.model.parameters(), before[0], strict=True):
        assert torch.equal(parameter, unharmed)


def test_inputs_are_dropped_while_fine_tuning_and_at_no_other_time(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE, fine_tune_dropout=0.5)
    seen = {"train": [], "fine-tune": [], "idle": []}
    first = next(module for module in method.model.modules() if isinstance(module, nn.Linear))
    first.register_forward_pre_hook(lambda _, args: seen[method.clnp._phase].append(args[0].clone()))
    task = workplace.stream.tasks[0]
    method.learn(task)
    # Rows as they come, however they were shuffled.
    images = {tuple(row) for row in task.train.tensors()[0].flatten(1).tolist()}
    assert all(tuple(row) in images for batch in seen["train"] for row in batch.tolist())
    assert seen["idle"]
    dropped = torch.cat(seen["fine-tune"])
    assert not images & {tuple(row) for row in dropped.tolist()}
    pixels = torch.cat(seen["train"])
    share_kept = (dropped != 0).float().mean() / (pixels != 0).float().mean()
    assert share_kept == pytest.approx(0.5, abs=0.02)
    # What is left is scaled up, so that the mean of an input stays as it was.
    assert dropped.mean() == pytest.approx(float(pixels.mean()), rel=0.05)


def test_a_layer_that_is_nearly_full_is_announced(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 2, "hidden_sizes": [16, 16], "epochs": 1})
    method = make_method("clnp", workplace, l1_weights=0.0, l1_activities=0.0, margin=0.0)
    method.learn(workplace.stream.tasks[0])
    for layer in method.clnp.layers:
        layer.active[:] = True
    with pytest.warns(MethodWarning, match="only 0 of 16 neurons of hidden layer 1 left"):
        method.learn(workplace.stream.tasks[1])


@pytest.mark.parametrize("full", [[True, True], [True, False], [False, True]], ids=["both", "first", "second"])
def test_full_layers_stop_neither_learning_nor_remembering(full, make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 2, "hidden_sizes": [16, 16], "epochs": 2})
    method = make_method("clnp", workplace, l1_weights=1e-3, l1_activities=0.1, margin=0.0)
    first, second = workplace.stream.tasks
    method.learn(first)
    for layer, mask, is_full in zip(method.clnp.layers, method.clnp.masks[0], full, strict=True):
        if is_full:
            layer.active[:] = True
            mask[:] = True
    method.clnp._cut_interference(method.clnp.masks[0], [layer.active for layer in method.clnp.layers])
    before = logits(method, first)
    with pytest.warns(MethodWarning, match="only 0 of 16 neurons"):
        method.learn(second)
    assert torch.equal(logits(method, first), before)
    assert all(row["new"] == 0 for row, is_full in zip(method.capacity(), full, strict=True) if is_full)
    assert torch.count_nonzero(method.clnp.output_bias[second.index]) > 0


def test_a_task_that_is_left_no_neuron_is_announced_and_the_next_one_learned(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 2, "epochs": 2})
    method = make_method("clnp", workplace, margin=100.0)
    first, second = workplace.stream.tasks
    with pytest.warns(MethodWarning, match="left no neuron of hidden layer 2: the task now gets the same answer"):
        method.learn(first)
    method.clnp.margin = 1.0
    method.learn(second)
    assert all(layer.new > 0 for layer in method.clnp.reports[1])


def test_a_margin_finer_than_one_image_is_announced(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1, "epochs": 1})
    method = make_method("clnp", workplace, margin=0.1)
    with pytest.warns(MethodWarning, match="less than one of its 216 validation images"):
        method.learn(workplace.stream.tasks[0])


def test_in_plain_avalanche_each_task_may_have_a_head_of_avalanches_own(make_workplace, split_digits):
    torch.manual_seed(0)
    workplace = make_workplace(split_digits)
    experiences = Experiences(workplace, True)
    strategy = plain_strategy(MTSimpleMLP(input_size=64, hidden_size=96), CLNPPlugin())
    before = {}
    for index, experience in enumerate(experiences):
        strategy.train(experience)
        before[index] = collected_logits(strategy, experiences.benchmark.test_stream[index])
    assert torch.equal(collected_logits(strategy, experiences.benchmark.test_stream[0]), before[0])


def test_evaluating_all_tasks_in_the_midst_of_training_forgets_nothing(make_workplace):
    torch.manual_seed(0)
    experiences = Experiences(make_workplace(n_tasks=2), True)
    test_stream = experiences.benchmark.test_stream
    plugin, model = CLNPPlugin(), networks()["sequential"]()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        plugins=[plugin],
        train_mb_size=32,
        train_epochs=4,
        eval_mb_size=128,
        evaluator=EvaluationPlugin(),
        eval_every=1,
    )
    strategy.train(experiences[0], eval_streams=[test_stream])
    before = collected_logits(strategy, test_stream[0])
    strategy.train(experiences[1], eval_streams=[test_stream])
    assert torch.equal(collected_logits(strategy, test_stream[0]), before)
    assert plugin.reports[1][0].new > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"margin": -1.0}, r"CLNPPlugin\.margin.*greater than or equal to 0"),
        ({"thresholds": "each"}, r"CLNPPlugin\.thresholds.*'per-layer' or 'global'"),
        ({"output_weights": "own"}, r"CLNPPlugin\.output_weights.*'shared' or 'per-task'"),
        ({"l1_weights": 2}, r"CLNPPlugin\.l1_weights.*less than or equal to 1"),
        ({"initial_scale": 0.0}, r"CLNPPlugin\.initial_scale.*greater than 0"),
        ({"fine_tune_dropout": 1.0}, r"CLNPPlugin\.fine_tune_dropout.*less than 1"),
        ({"margin_shares": (0.0, 1.0)}, r"CLNPPlugin\.margin_shares.*greater than 0"),
        ({"validation_share": 0.0}, "0 < validation_share < 1, but got 3 and 0.0"),
        ({"validation_share": 1.0}, "0 < validation_share < 1, but got 3 and 1.0"),
        ({"fine_tune_epochs": -1}, "fine_tune_epochs >= 0"),
        ({"frozen_cache_bytes": -1}, "frozen_cache_bytes >= 0"),
    ],
)
def test_the_plugin_refuses_an_argument_out_of_its_range_at_once(arguments, said):
    with pytest.raises(ClbenchError, match=said):
        CLNPPlugin(**arguments)


def test_a_single_share_of_the_margin_is_refused_where_the_network_has_two_layers(make_workplace):
    strategy = plain_strategy(networks()["sequential"](), CLNPPlugin(margin_shares=0.5), epochs=1)
    with pytest.raises(MethodError, match="margin_shares has 1 values for 2 hidden layers"):
        strategy.train(Experiences(make_workplace(n_tasks=1), True)[0])


def test_validation_data_held_out_by_the_plugin_are_not_trained_on(make_workplace):
    workplace = make_workplace(n_tasks=1)
    experiences = Experiences(workplace, True)
    plugin = CLNPPlugin(validation_share=0.25)
    sizes = []

    from avalanche.core import SupervisedPlugin

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            sizes.append((len(strategy.adapted_dataset), len(plugin._validation_data)))

    strategy = plain_strategy(networks()["sequential"](), plugin, epochs=1)
    strategy.plugins.append(Look())
    strategy.train(experiences[0])
    total = len(workplace.stream.tasks[0].train)
    assert sizes == [(total - round(total / 4), round(total / 4))]
    assert isinstance(plugin._validation_data, AvalancheDataset)


def test_a_network_that_cannot_be_pruned_is_refused_with_a_reason(make_workplace):
    experiences = Experiences(make_workplace(n_tasks=1), True)
    refused = {
        "'1.weight' belongs to another kind of layer": nn.Sequential(
            nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)
        ),
        "at least one hidden linear layer": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    }
    for reason, model in refused.items():
        with pytest.raises(MethodError, match=reason):
            plain_strategy(model, CLNPPlugin(), epochs=1).train(experiences[0])


def test_weights_that_are_not_finite_are_said_to_be_and_claim_nothing(make_workplace):
    experiences = Experiences(make_workplace(n_tasks=1), True)
    plugin, model = CLNPPlugin(), SimpleMLP(num_classes=10, input_size=64, hidden_size=64, hidden_layers=2, drop_rate=0)
    strategy = plain_strategy(model, plugin, torch.optim.SGD(model.parameters(), lr=1e6), epochs=1)
    with pytest.raises(DivergenceError, match=r"weights of hidden layer 1, .* that are not finite .* learning rate"):
        strategy.train(experiences[0])
    assert plugin.masks == {}
    assert not any(layer.active.any() for layer in plugin.layers)


def test_fine_tuning_that_leaves_the_finite_numbers_is_undone(make_method, make_workplace, monkeypatch):
    workplace = make_workplace(**SMALL | {"n_tasks": 2, "epochs": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE, fine_tune_rate=1.0)
    training_epoch = type(method.strategy).training_epoch

    def diverge(strategy, **kwargs):
        training_epoch(strategy, **kwargs)
        if method.clnp._phase == "fine-tune":
            for parameter in method.model.parameters():
                parameter.detach().fill_(torch.nan)

    fine_tune, tuned = CLNPPlugin._fine_tune, []

    def from_chance(plugin, *arguments):
        # Numbers that are none answer as well as before.
        with monkeypatch.context() as patch:
            patch.setattr(Validation, "accuracy", lambda *_: 0.1)
            fine_tune(plugin, *arguments)
        tuned.append(plugin)

    monkeypatch.setattr(type(method.strategy), "training_epoch", diverge)
    monkeypatch.setattr(CLNPPlugin, "_fine_tune", from_chance)
    method.learn(workplace.stream.tasks[0])
    assert tuned == [method.clnp]
    assert all(bool(parameter.isfinite().all()) for parameter in method.model.parameters())


@pytest.mark.parametrize("part", ["training", "validation"])
def test_images_that_are_no_tensors_are_refused_before_anything_is_trained(part):
    images = [(Image.new("L", (8, 8)), label % 2) for label in range(40)]

    class Pictures(torch.utils.data.Dataset):
        targets = [label for _, label in images]

        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return images[index]

    # What the evaluation of a data set sees of its images is another matter than what its training does.
    both = (to_tensor, None) if part == "validation" else (None, None)
    data = as_classification_dataset(Pictures(), transform_groups={"train": both, "eval": (None, None)})
    bench = dataset_benchmark([data], [data])
    model = SimpleMLP(num_classes=2, input_size=64, hidden_size=16, hidden_layers=1, drop_rate=0)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(MethodError, match=r"images as tensors, but the experience gives PIL\.Image\.Image; .*ToTensor"):
        plain_strategy(model, CLNPPlugin(), epochs=1).train(bench.train_stream[0])
    assert all(map(torch.equal, before, model.parameters()))


def test_an_activity_norm_per_layer_shifts_the_claims(make_method, make_workplace):
    claims = []
    for strengths in ([0.001, 0.03], [0.03, 0.001]):
        workplace = make_workplace(**SMALL | {"n_tasks": 1})
        method = make_method("clnp", workplace, margin=2.0, l1_weights=0.0, l1_activities=strengths)
        method.learn(workplace.stream.tasks[0])
        claims.append([row["new"] for row in method.capacity()])
    assert claims[0][0] > claims[1][0]
    assert claims[0][1] < claims[1][1]


def test_one_activity_norm_for_all_layers_equals_the_same_for_each(make_method, make_workplace):
    outcomes = []
    for strengths in (0.01, [0.01, 0.01]):
        workplace = make_workplace(**SMALL | {"n_tasks": 1, "epochs": 2})
        method = make_method("clnp", workplace, margin=1.0, l1_activities=strengths)
        method.learn(workplace.stream.tasks[0])
        outcomes.append(logits(method, workplace.stream.tasks[0]))
    assert torch.equal(*outcomes)


def test_shares_of_the_margin_for_another_number_of_layers_are_refused(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1})
    method = make_method("clnp", workplace, margin_shares=[0.3, 0.3, 0.4])
    with pytest.raises(MethodError, match="margin_shares has 3 values for 2 hidden layers"):
        method.learn(workplace.stream.tasks[0])


def test_shares_of_the_margin_with_one_threshold_for_all_layers_are_refused_before_anything_is_trained():
    with pytest.raises(SettingError, match=r"margin_shares need thresholds per-layer.*margin_shares=none"):
        resolve_settings(SUITES["permuted-mnist"], "clnp", {"thresholds": "global"})
    resolve_settings(SUITES["permuted-mnist"], "clnp", {"thresholds": "global", "margin_shares": None})


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_under_its_own_name_it_has_nothing_beyond_its_paper(suite):
    settings = resolve_settings(SUITES[suite], "clnp", {})
    assert (settings.l1_activities, settings.fine_tune_dropout) == ([0.0], 0.0)
    assert settings.l1_weights or settings.l1_proximal
    assert (CLNPPlugin().l1_activities, CLNPPlugin().fine_tune_dropout) == (0.0, 0.0)


def test_activity_norms_for_another_number_of_layers_are_refused(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 1})
    method = make_method("clnp", workplace, l1_activities=[0.1, 0.1, 0.1])
    with pytest.raises(MethodError, match="3 values for 2 hidden layers"):
        method.learn(workplace.stream.tasks[0])


@pytest.mark.parametrize("options", [{}, {"fine_tune_dropout": 0.2}], ids=["all inputs", "inputs dropped"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_answers_of_frozen_neurons_kept_for_the_task_train_the_same_as_answers_computed_anew(
    precision, options, make_method, make_workplace, monkeypatch
):
    said, kept = [], []

    class Watched(CompactChain):
        def at(self, positions):
            said.append(positions)
            super().at(positions)

        def leave(self):
            kept.append([layer.answers is not None for layer in self.layers])
            super().leave()

    monkeypatch.setattr("clbench.strategies.clnp.CompactChain", Watched)
    trained = {}
    for mib in (0, 1024):
        workplace = make_workplace(precision=precision, **SMALL | {"n_tasks": 2, "epochs": 2})
        method = make_method("clnp", workplace, **CLAIMING_LITTLE, **options, frozen_cache_mib=mib)
        first, second = workplace.stream.tasks
        method.learn(first)
        assert kept == [[False] * 3] * 2
        said.clear()
        kept.clear()
        method.learn(second)
        # In the main phase, and in fine-tuning if it sees whole inputs.
        in_fine_tuning = mib > 0 and not options
        assert kept == [[mib > 0, mib > 0, False], [in_fine_tuning, in_fine_tuning, False]]
        # The main epoch, the measurement of the activity, and fine-tuning.
        n_batches = -(-len(second.train) // 32)
        assert sum(positions is not None for positions in said) == n_batches * (0 if not mib else 2 if options else 3)
        assert method.clnp._answers == []
        kept.clear()
        trained[mib] = [p.detach().clone() for p in method.model.parameters()], method.clnp.masks[1]
    (computed, masks), (looked_up, same_masks) = trained[0], trained[1024]
    if precision == "float32":
        for ours, theirs in zip(looked_up, computed, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        assert all(map(torch.equal, masks, same_masks))
    # Rounded to three digits, batches of another size may move a neuron across the threshold.
    assert all((a != b).sum() <= 3 for a, b in zip(masks, same_masks, strict=True))


class Noise(SupervisedPlugin):
    """Changes the images of every batch, in one of two ways."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.generator = torch.Generator().manual_seed(0)

    def before_training_iteration(self, strategy, **kwargs):
        noise = torch.randn(strategy.mb_x.shape, generator=self.generator) / 2
        if self.in_place:
            strategy.mb_x.add_(noise)
        else:
            strategy.mbatch[0] = strategy.mb_x + noise


@pytest.mark.parametrize("in_place", [True, False])
def test_images_that_another_plugin_changes_are_not_answered_for(in_place, make_workplace):
    trained = []
    for mib in (0, 1024):
        workplace = make_workplace(**SMALL | {"n_tasks": 2, "epochs": 2})
        settings = resolve_settings(workplace.suite, "clnp", {**CLAIMING_LITTLE, "frozen_cache_mib": mib})
        method = CLNP(settings, workplace)
        method.prepare(observers=[Noise(in_place)])
        for task in workplace.stream.tasks:
            method.learn(task)
        trained.append(method.model.state_dict())
    torch.testing.assert_close(trained[0], trained[1], atol=1e-5, rtol=0)


def test_a_number_of_steps_below_a_pass_asks_for_no_answers(make_method, make_workplace):
    for steps, expected in ((3, False), (100, True)):
        workplace = make_workplace(**SMALL | {"n_tasks": 2, "epochs": 1}, steps_per_epoch=steps)
        method = make_method("clnp", workplace, **CLAIMING_LITTLE)
        method.learn(workplace.stream.tasks[0])
        found = []
        method.clnp._leave = lambda plugin=method.clnp, leave=method.clnp._leave, found=found: (
            found.append(bool(plugin._answers)),
            leave(),
        )
        method.learn(workplace.stream.tasks[1])
        assert found[0] == expected


class Looks(SupervisedPlugin):
    """Asks for the first task's logits in the midst of training on the second."""

    def after_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1 and strategy.clock.train_exp_iterations == 3:
            self.seen = logits(self.method, self.method.workplace.stream.tasks[0])


def test_a_look_back_in_the_midst_of_training_disturbs_it_in_nothing(make_workplace):
    trained = []
    for observers in ([], [Looks()]):
        workplace = make_workplace(**SMALL | {"n_tasks": 2, "epochs": 2})
        method = CLNP(resolve_settings(workplace.suite, "clnp", CLAIMING_LITTLE), workplace)
        for observer in observers:
            observer.method = method
        method.prepare(observers=observers)
        first, second = workplace.stream.tasks
        method.learn(first)
        after_first = logits(method, first)
        method.learn(second)
        trained.append(method.model.state_dict())
    assert torch.equal(observers[0].seen, after_first)
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.fixture
def two_tasks_learned(make_method, make_workplace):
    workplace = make_workplace(**SMALL | {"n_tasks": 2})
    method = make_method("clnp", workplace, **CLAIMING_LITTLE)
    for task in workplace.stream.tasks:
        method.learn(task)
    return method


def test_looks_back_may_be_nested(two_tasks_learned):
    method = two_tasks_learned
    first = method.workplace.stream.tasks[0]
    x, plugin = first.test.tensors()[0], method.clnp
    with torch.no_grad():
        with plugin.task(0):
            expected = method.model(x)
        with plugin.task(0), contextlib.suppress(KeyError), plugin.task(1):
            other = method.model(x)
            raise KeyError
        with plugin.task(0):
            with plugin.task(1):
                pass
            assert torch.equal(method.model(x), expected)
    assert not torch.allclose(other, expected)


def test_a_task_that_is_looked_back_at_has_gradients_where_they_are_asked_for(two_tasks_learned):
    method = two_tasks_learned
    first = method.workplace.stream.tasks[0]
    x = first.test.tensors()[0].requires_grad_()
    with torch.no_grad(), method.clnp.task(0):
        expected = method.model(x)
    with method.clnp.task(0):
        output = method.model(x)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
        output.sum().backward()
    assert torch.count_nonzero(x.grad) > 0
    second_layer = method.clnp.layers[1].linear.weight
    assert torch.count_nonzero(second_layer.grad[method.clnp.masks[0][1]]) > 0
    assert torch.count_nonzero(second_layer.grad[~method.clnp.masks[0][1]]) == 0


def test_a_task_with_a_head_of_its_own_can_be_seen_before_it_is_learned(make_workplace, make_method, split_digits):
    workplace = make_workplace(split_digits, hidden_sizes=[32, 32], epochs=1, batch_size=32)
    method = make_method("clnp", workplace)
    first, second = workplace.stream.tasks[:2]
    method.learn(first)
    with method.clnp.task(second.index), answering(method.model, second) as network:
        assert network(second.test.tensors()[0]).shape == (len(second.test), workplace.stream.n_outputs)


def test_a_task_is_looked_back_at_with_its_own_neurons_alone_and_answers_as_the_masked_network(two_tasks_learned):
    method = two_tasks_learned
    first = method.workplace.stream.tasks[0]
    x = first.test.tensors()[0]
    whole = [layer.linear for layer in method.clnp.layers]
    with torch.inference_mode():
        hidden = x.flatten(1)
        for linear, mask in zip(whole, method.clnp.masks[0], strict=True):
            hidden = torch.relu(linear(hidden)) * mask
        expected = hidden @ method.model.head.weight.T + method.clnp.output_bias[0]
    widths = []
    for linear in whole:
        linear.register_forward_hook(lambda _, __, output: widths.append(output.shape[1]))
    torch.testing.assert_close(logits(method, first), expected, atol=1e-4, rtol=1e-4)
    assert widths == [int(mask.sum()) for mask in method.clnp.masks[0]]
    assert all("forward" not in vars(linear) for linear in [*whole, method.model.head])
