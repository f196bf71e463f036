"""Avalanche's plugins as they come: what they really do here, and that they are said to."""

import pytest
import torch
from avalanche.training.plugins import EWCPlugin, SynapticIntelligencePlugin

from clbench.errors import MethodWarning

SMALL = {"n_tasks": 2, "hidden_sizes": [32], "epochs": 1}


def test_the_plugins_are_avalanches_own(make_method, make_workplace):
    assert type(make_method("avalanche-ewc", make_workplace(**SMALL)).ewc) is EWCPlugin
    assert type(make_method("avalanche-si", make_workplace(**SMALL)).si) is SynapticIntelligencePlugin


def test_avalanches_ewc_measures_a_fisher_that_shrinks_with_the_batch_size(make_method, make_workplace):
    means = []
    for batch_size in (8, 128):
        workplace = make_workplace(**SMALL, batch_size=batch_size)
        method = make_method("avalanche-ewc", workplace)
        plugin, task = method.ewc, workplace.stream.tasks[0]
        importances = plugin.compute_importances(
            method.model,
            torch.nn.CrossEntropyLoss(),
            method.strategy.optimizer,
            workplace.stream.benchmark.train_stream[task.index].dataset,
            "cpu",
            batch_size,
        )
        means.append(float(importances["trunk.0.weight"].data.mean()))
    assert means[1] < means[0]


def test_on_a_cpu_avalanches_si_protects_nothing_and_the_run_says_so(make_method, make_workplace):
    ours, naive = (make_method(name, make_workplace(**SMALL)) for name in ("avalanche-si", "naive"))
    for task in ours.workplace.stream.tasks:
        with pytest.warns(MethodWarning, match="protects nothing on this device"):
            ours.learn(task)
        naive.learn(task)
    for a, b in zip(ours.model.parameters(), naive.model.parameters(), strict=True):
        assert torch.equal(a, b)
