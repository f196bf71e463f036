"""The looks of the search for thresholds, as a method hands them to the record."""

import math

import pytest
import torch

from clbench.records.format import ALL_GROUPS
from clbench.strategies.clnp.plugin import CLNPPlugin


def shares_right(network, samples):
    x, y = samples.tensors()
    with torch.inference_mode():
        right = network(x).argmax(1) == y
    return int(right.sum()) / len(y), right


@pytest.mark.parametrize("settings", [{}, {"thresholds": "global"}, {"budget": 0.3, "margin": 1.0}])
def test_the_first_look_is_at_the_whole_network_and_the_last_at_what_was_claimed(settings, small_clnp, monkeypatch):
    method = small_clnp({"fine_tune_share": 0.0, **settings}, n_tasks=2)
    unpruned = []
    prune = CLNPPlugin._prune

    def remember(plugin, scores, validation, strategy):
        task = method.workplace.stream.tasks[len(plugin.tasks)]
        network = plugin.claims.network.eval()
        unpruned.append([shares_right(network, samples) for samples in (task.validation, task.test)])
        network.train()
        return prune(plugin, scores, validation, strategy)

    monkeypatch.setattr(CLNPPlugin, "_prune", remember)
    for task in method.workplace.stream.tasks:
        method.learn(task)
        rows = method.pruning()
        first, last = rows[0], rows[-1]
        assert {row["task"] for row in rows} == {task.index + 1}
        assert {row["validation_images"] for row in rows} == {len(task.validation)}
        assert (first["group"], first["kept"], first["changed"], first["chosen"]) == (ALL_GROUPS, 256, 0, 0)
        (on_validation, answers), (on_test, _) = unpruned[task.index]
        assert (first["validation_accuracy"], first["test_accuracy"]) == (on_validation, on_test)
        with method.network_for(task) as network:
            found, right = shares_right(network, task.validation)
            assert (last["validation_accuracy"], last["changed"]) == (found, int((right != answers).sum()))
            assert last["test_accuracy"] == shares_right(network, task.test)[0]
        assert all(math.isnan(row["test_accuracy"]) for row in rows[1:-1])
        used = {row["group"]: row["units"] - row["free"] for row in method.capacity()}
        chosen = [(row["group"], row["kept"]) for row in rows if row["chosen"]]
        by_group = [] if "thresholds" in settings else [*used.items()]
        assert chosen == [*by_group, (ALL_GROUPS, sum(used.values()))]
        cost = 100 * (first["validation_accuracy"] - last["validation_accuracy"])
        spent = sum(row["margin_spent"] for row in method.capacity())
        assert cost == pytest.approx(spent + method.clnp.pruned.cut)


def test_nothing_of_what_is_learned_depends_on_the_test_images(small_clnp, monkeypatch):
    found = []
    for measures in (True, False):
        method = small_clnp(n_tasks=2)
        if not measures:
            method.clnp.when_pruned = lambda mask: None
        for task in method.workplace.stream.tasks:
            method.learn(task)
        found.append(method.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
