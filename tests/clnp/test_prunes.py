"""Which units CLNP prunes, and what is left of the network: checked by hand and by brute force."""

import contextlib

import pytest
import torch
from torch import nn

from clbench.errors import MethodWarning
from clbench.networks.reduced import ReducedNetwork, seen_only
from clbench.networks.units import find_units
from clbench.strategies import CLNPPlugin
from clbench.strategies.clnp.claims import Claims
from clbench.strategies.clnp.measuring import Activity, contribution, measure
from clbench.strategies.clnp.pruning import Pruned, largest_threshold
from clbench.strategies.clnp.reporting import reports_of
from clbench.strategies.clnp.validation import Accuracy


def test_interference_weights_are_exactly_zero(small_clnp, by_group):
    method = small_clnp()
    for task in method.workplace.stream.tasks:
        method.learn(task)
        first, second = by_group(method.clnp, method.clnp.claims.active)
        block = method.model.trunk[2].weight[second][:, ~first]
        assert block.numel() > 0
        assert torch.count_nonzero(block) == 0
        assert torch.count_nonzero(method.model.head.weight[:, ~second]) == 0


def test_free_and_active_neurons_make_up_the_group_and_claims_only_grow(small_clnp, by_group):
    method = small_clnp()
    claimed = [0, 0]
    for task in method.workplace.stream.tasks:
        method.learn(task)
        rows = method.capacity()
        for number, (row, active) in enumerate(
            zip(rows, by_group(method.clnp, method.clnp.claims.active), strict=True)
        ):
            assert row["task"] == task.index + 1
            assert (row["group"], row["unit"]) == (f"layer_{number + 1}", "neuron")
            assert row["free"] + int(active.sum()) == row["units"] == 128
            claimed[number] += row["new"]
            assert claimed[number] == int(active.sum())
            assert 0 <= row["reused"] <= claimed[number] - row["new"]
        assert [report.used for report in method.clnp.reports[task.index]] == claimed


def test_a_task_may_read_neurons_of_an_earlier_one(small_clnp, by_group):
    method = small_clnp(n_tasks=2)
    first, second = method.workplace.stream.tasks
    method.learn(first)
    old, old_second = by_group(method.clnp, method.clnp.masks[0])
    method.learn(second)
    new = by_group(method.clnp, method.clnp.masks[1])[1] & ~old_second
    assert torch.count_nonzero(method.model.trunk[2].weight[new][:, old]) > 0
    assert method.capacity()[0]["reused"] > 0


@pytest.fixture
def by_hand():
    """A network of 4 and 3 neurons, the claims on it, and its layers."""
    layers = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 2)
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    units = find_units(model, torch.zeros(1, 4))
    return Claims(model, units, torch.zeros(7, dtype=torch.bool)), layers


def test_reused_are_neurons_of_earlier_tasks_that_are_awake_and_read(by_hand):
    claims, (_, second, head) = by_hand
    with torch.no_grad():
        second.weight.fill_(0)
        head.weight.fill_(0)
        # Neurons 0, 1 and 2 of the first layer are of earlier tasks. A new neuron reads 0, 2 and 3 ...
        second.weight[2, [0, 2, 3]] = 1.0
        # ... and an old one, frozen with its task, reads 1.
        second.weight[0, 1] = 1.0
        # The head reads both old neurons of the second layer.
        head.weight[1, [0, 1]] = 0.5
    claims.active[[0, 1, 2, 4, 5]] = True
    new = ~claims.active
    # 2 sleeps on this task, as does the second layer's 1.
    size = torch.tensor([0.5, 0.5, 0.1, 0.5, 0.5, 0.1, 0.5])
    for threshold, reused in ((0.2, [1, 1]), (0.05, [2, 2])):
        pruned = Pruned(torch.ones(7, dtype=torch.bool), [threshold] * 2, [0.0, 0.5], n_images=100)
        reports = reports_of(claims, pruned, Activity(size, size), new, "4")
        assert [report.reused for report in reports] == reused
        assert [(report.units, report.free, report.new) for report in reports] == [(4, 0, 1), (3, 0, 1)]
        assert [report.margin_spent for report in reports] == [0.0, 0.5]


def test_the_weights_used_lie_between_claimed_units_and_the_masks_count_a_bit_a_unit(by_hand):
    claims, _ = by_hand
    pruned = Pruned(torch.ones(7, dtype=torch.bool), [0.0] * 2, [0.0] * 2, n_images=100)
    claims.active[[0, 4]] = True
    claims.masks[0] = claims.active.clone()
    new = torch.zeros(7, dtype=torch.bool).index_fill(0, torch.tensor([1, 5]), True)
    first, second = reports_of(claims, pruned, Activity(torch.ones(7), torch.ones(7)), new, "4")
    # Two of four neurons, each with all four inputs; masks of two tasks.
    assert first.weights_used == (2 * 4 + 2 * 4 / 32) / 16
    assert (first.weights, second.weights) == (16, 12)
    # Two of three neurons, each with the two inputs that are claimed.
    assert second.weights_used == (2 * 2 + 2 * 3 / 32) / 12


# -- Activity ----------------------------------------------------------------------------------------------------------


def test_activity_is_the_mean_output_over_the_training_data(small_clnp, by_group, monkeypatch):
    method = small_clnp({"fine_tune_share": 0.0}, n_tasks=1, epochs=1)
    seen = []
    prune = CLNPPlugin._prune

    def noting(plugin, scores, validation, strategy):
        seen.extend([scores, {name: value.clone() for name, value in plugin.claims.tensors().items()}])
        return prune(plugin, scores, validation, strategy)

    monkeypatch.setattr(CLNPPlugin, "_prune", noting)
    task = method.workplace.stream.tasks[0]
    method.learn(task)
    measured, weights = seen
    hidden = task.train.tensors()[0].flatten(1).double()
    for name, activity in zip(("trunk.0", "trunk.2"), by_group(method.clnp, measured), strict=True):
        hidden = (hidden @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double()).relu()
        torch.testing.assert_close(activity, hidden.mean(0), atol=1e-5, rtol=1e-4)


def test_a_filters_activity_is_the_mean_size_over_images_and_positions_of_what_is_read():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(1, 3, 3), nn.Linear(3 * 9, 5)
    model = nn.Sequential(conv, nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), linear, nn.ReLU(), nn.Linear(5, 4)).double()
    x = torch.randn(11, 1, 8, 8, dtype=torch.double)
    network = ReducedNetwork(model, find_units(model, x), seen_only(torch.ones(8, dtype=torch.bool)))
    told = []
    found = measure(network, lambda batch: told.append(len(batch)), x.split(4), contextlib.nullcontext, spread=True)
    assert told == [4, 4, 3]
    assert measure(network, told.append, x.split(4), contextlib.nullcontext, spread=False).spread is None
    with torch.no_grad():
        filters = model[:3](x).transpose(0, 1).flatten(1)
        neurons = model[:6](x).T
    for units, values in ((slice(0, 3), filters), (slice(3, 8), neurons)):
        torch.testing.assert_close(found.size[units], values.abs().mean(1), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.spread[units], values.std(1, correction=0), atol=1e-4, rtol=1e-4)


def test_the_contribution_of_a_unit_is_its_spread_times_the_norm_of_its_outgoing_weights(by_hand):
    claims, (_, second, head) = by_hand
    size, spread = torch.rand(7, dtype=torch.double) + 0.1, torch.rand(7, dtype=torch.double)
    # Silent: what it would add is no contribution.
    size[2] = 0.0
    outgoing = torch.cat([second.weight.norm(dim=0), head.weight.norm(dim=0)]).detach().double()
    expected = spread * outgoing
    expected[2] = 0.0
    torch.testing.assert_close(contribution(Activity(size, spread), claims), expected, atol=1e-6, rtol=1e-5)


def test_a_filter_leads_out_through_all_of_its_positions():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 5))
    claims = Claims(model, find_units(model, torch.zeros(1, 1, 8, 8)), torch.zeros(3, dtype=torch.bool))
    one = torch.ones(3, dtype=torch.double)
    expected = model[3].weight.detach().double().view(5, 3, 36).pow(2).sum((0, 2)).sqrt()
    torch.testing.assert_close(contribution(Activity(one, one), claims), expected)


def test_ranked_by_contribution_those_that_contribute_least_are_pruned(small_clnp, by_group, monkeypatch):
    method = small_clnp({"rank": "contribution", "fine_tune_share": 0.0}, n_tasks=1, epochs=3)
    seen = []
    monkeypatch.setattr(
        "clbench.strategies.clnp.plugin.contribution",
        lambda activity, claims: seen.append((activity, contribution(activity, claims))) or seen[0][1],
    )
    method.learn(method.workplace.stream.tasks[0])
    activity, scores = seen[0]
    by_size = False
    for mask, score, size, threshold in zip(
        *(by_group(method.clnp, numbers) for numbers in (method.clnp.masks[0], scores, activity.size)),
        method.clnp.pruned.thresholds,
        strict=True,
    ):
        assert torch.equal(mask, score > threshold)
        assert 0 < mask.sum() < len(mask)
        by_size |= bool(size[mask].min() > size[~mask].max())
    assert not by_size


# -- Thresholds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "global_threshold", "thresholds", "kept"),
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
    shares, global_threshold, thresholds, kept, chosen
):
    found = chosen(3.0, shares=shares, global_threshold=global_threshold)
    assert found.thresholds == pytest.approx(thresholds)
    assert [int(half.sum()) for half in found.mask.split(4)] == kept
    assert sum(found.spent) == pytest.approx(3.0)


def test_units_of_earlier_tasks_stay_however_silent_they_are(chosen):
    active = torch.zeros(8, dtype=torch.bool)
    active[[0, 4, 5]] = True
    found = chosen(100.0, active=active, limits=[0, 0])
    assert torch.equal(found.mask, active)


def test_where_the_silent_neurons_alone_cost_more_than_the_margin_nothing_is_pruned_and_that_is_said(chosen):
    # In the first layer one neuron is silent, and costs a point like any other here; in the second none is.
    with pytest.warns(MethodWarning, match="pruned nothing in the_first"):
        found = chosen(0.5, (0.0, 0.2, 0.3, 0.1, 0.2, 0.3), names=["the_first", "the_second"])
    assert found.mask.all()
    assert (found.thresholds, found.spent) == ([0.0, 0.0], [0.0, 0.0])


def test_bisection_finds_the_largest_threshold_that_brute_force_finds():
    thresholds = [0.0, 0.1, 0.2, 0.5, 0.9]
    accuracies = dict(zip(thresholds, [0.99, 0.985, 0.98, 0.7, 0.1], strict=True))
    for allowed, best in [(0.99, 0.0), (0.985, 0.1), (0.98, 0.2), (0.71, 0.2), (0.7, 0.5), (0.0, 0.9)]:
        assert largest_threshold(thresholds, accuracies.__getitem__, allowed) == (best, accuracies[best])
    assert largest_threshold(thresholds, accuracies.__getitem__, 1.0) == (0.0, None)


@pytest.mark.parametrize("shortcut", [(Accuracy, "searching"), (ReducedNetwork, "hold")], ids=["both", "held"])
def test_the_shortcuts_of_the_search_change_no_threshold(shortcut, small_clnp, logits_of, monkeypatch):
    results = []
    for taken in (True, False):
        if not taken:
            monkeypatch.setattr(*shortcut, lambda *_: contextlib.nullcontext())
        method = small_clnp({"fine_tune_share": 0.0}, n_tasks=2)
        for task in method.workplace.stream.tasks:
            method.learn(task)
        results.append([logits_of(method, task) for task in method.workplace.stream.tasks])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# -- The margin --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("thresholds", ["per-layer", "global"])
def test_pruning_costs_no_more_than_the_margin_on_the_validation_data(margin, thresholds, small_clnp, monkeypatch):
    method = small_clnp({"margin": margin, "thresholds": thresholds}, n_tasks=2)
    unpruned = []
    prune = CLNPPlugin._prune

    def remember(plugin, scores, validation, strategy):
        unpruned.append(validation.accuracy(None))
        return prune(plugin, scores, validation, strategy)

    monkeypatch.setattr(CLNPPlugin, "_prune", remember)
    for task in method.workplace.stream.tasks:
        method.learn(task)
        x, y = task.validation.tensors()
        with torch.inference_mode(), method.network_for(task) as network:
            pruned = float((network(x).argmax(1) == y).float().mean())
        assert pruned >= unpruned[task.index] - margin / 100 - 1e-6
        assert sum(row["margin_spent"] for row in method.capacity()) <= margin + 1e-6


def test_what_is_pruned_on_are_the_validation_images(small_clnp):
    method = small_clnp()
    batches = method.clnp.validation_stream
    assert len(batches) == 3
    for task in method.workplace.stream.tasks:
        x, y, labels = (torch.cat(parts) for parts in zip(*batches[task.index], strict=True))
        expected = task.validation.tensors()
        assert torch.equal(x, expected[0])
        assert torch.equal(y, expected[1])
        assert set(labels.tolist()) == {task.index}


def test_a_wider_margin_frees_more_neurons(small_clnp):
    free = []
    for margin in (0.0, 10.0):
        method = small_clnp({"margin": margin, "fine_tune_share": 0.0}, n_tasks=1)
        method.learn(method.workplace.stream.tasks[0])
        free.append([row["free"] for row in method.capacity()])
    assert all(narrow < wide for narrow, wide in zip(*free, strict=True))


def test_silent_neurons_are_pruned_whatever_the_margin(small_clnp):
    method = small_clnp({"margin": 0.0, "l1_weights": 0.0}, n_tasks=1, epochs=1)
    with torch.no_grad():
        method.model.trunk[0].bias[:5] = -1e4  # these five can never fire, and no gradient reaches them
    method.learn(method.workplace.stream.tasks[0])
    assert not method.clnp.masks[0][:5].any()
    assert method.clnp.masks[0][5:].any()


def test_a_task_that_is_left_no_neuron_is_announced_and_the_next_one_learned(small_clnp):
    method = small_clnp({"margin": 100.0}, n_tasks=2, epochs=2)
    first, second = method.workplace.stream.tasks
    with pytest.warns(MethodWarning, match="left no neuron of layer_2: the task now gets the same answer"):
        method.learn(first)
    method.clnp.options = method.clnp.options.model_copy(update={"margin": 1.0})
    method.learn(second)
    assert all(report.new > 0 for report in method.clnp.reports[1])


def test_a_margin_finer_than_one_image_is_announced(small_clnp):
    method = small_clnp({"margin": 0.1}, n_tasks=1, epochs=1)
    with pytest.warns(MethodWarning, match="less than one of its 216 validation images"):
        method.learn(method.workplace.stream.tasks[0])
