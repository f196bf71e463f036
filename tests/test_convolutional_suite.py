"""The embedded suite of convolutions, as it comes: every method learns it, and what each claims holds."""

import functools
import json

import numpy as np
import pytest

import clbench
from clbench.export.exported import export
from clbench.methods.table import find_method
from clbench.records.audit import audit
from clbench.records.folder import RunFolder
from clbench.suites.files import find_suite

SUITE = "split-digits"
METHODS = list(find_suite(SUITE).methods)

pytestmark = pytest.mark.filterwarnings("ignore::clbench.errors.MethodWarning")


def learners(*names):
    """Parameters for the methods. Those that are like another one are slow."""
    alike = ("clnp", "online-ewc", "mas", "si", "joint")
    return [pytest.param(name, marks=pytest.mark.slow) if name in alike else name for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run_of(folder):
    """(method) -> a run of it, which is trained once."""

    @functools.cache
    def trained(method):
        keeps = find_method(method).has_networks
        (run,) = clbench.run(SUITE, [method], [0], threads=1, output=folder, keep_weights=keeps, quiet=True)
        return run

    return trained


def below(matrix):
    """[T, T] accuracies after each task was learned, of those learned."""
    return [matrix[task:, task - 1] for task in range(1, len(matrix))]


@pytest.mark.parametrize("learner", learners(*METHODS))
def test_a_method_learns_every_task_and_its_record_holds(learner, run_of, folder):
    run = run_of(learner)
    learned = np.array([column[0] for column in below(run.accuracy_matrix)])
    assert learned.mean() > 0.9
    assert learned.min() > 0.8
    # Always saying one class is right for half of the images.
    assert run.accuracy_matrix[-1].min() > 0.55
    assert audit(folder / run.run_id).holds
    assert run.config["suite_settings"]["network"] == "conv"


@pytest.mark.parametrize("learner", learners("clnp", "clnp:budget", "single-task"))
def test_what_is_isolated_is_not_forgotten(learner, run_of):
    for column in below(run_of(learner).accuracy_matrix):
        assert (column == column[0]).all()


def change(run):
    """What accuracy has gained since a task was learned: the mean over tasks, in [-1, 1]."""
    return float(np.mean([column[-1] - column[0] for column in below(run.accuracy_matrix)]))


def test_naive_forgets(run_of):
    assert change(run_of("naive")) < -0.02


@pytest.mark.parametrize("learner", learners("ewc", "online-ewc", "mas", "si", "psp"))
def test_what_protects_forgets_less_than_naive(learner, run_of):
    assert change(run_of(learner)) > change(run_of("naive")) / 2


def test_a_budget_leaves_filters_and_neurons_in_every_group(run_of):
    capacity = run_of("clnp:budget").capacity
    assert {*capacity["unit"]} == {"filter", "neuron"}
    last = capacity[capacity["task"] == 5]
    assert (last["free"] > 0).all()
    assert (last["used"] + last["free"] == last["units"]).all()
    share = dict(zip(("conv_1", "conv_2", "layer_1"), (0.5, 0.3, 0.3), strict=True))
    for (group, before), (_, after) in zip(
        capacity[capacity["task"] < 5].iterrows(), capacity[capacity["task"] > 1].iterrows(), strict=True
    ):
        assert after["group"] == before["group"], group
        assert after["new"] <= share[after["group"]] * before["free"] + 1


@pytest.mark.parametrize("learner", ["clnp:budget", "single-task"])
def test_the_network_of_a_task_is_taken_out(learner, run_of, folder, tmp_path):
    found = export(folder / run_of(learner).run_id, 2, tmp_path / "out")
    assert found.difference < 1e-5
    assert (found.own.parameters < found.whole.parameters) == (learner == "clnp:budget")


@pytest.mark.parametrize(
    "method",
    [name if name in ("clnp:budget", "ewc", "psp") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_a_method_goes_on_to_the_same_bits_after_an_interruption(method, tmp_path, outcome_of, monkeypatch):
    how = {"overrides": {"n_tasks": 3, "epochs": 2}, "threads": 1, "quiet": True}
    (whole,) = clbench.run(SUITE, [method], [0], output=tmp_path / "whole", **how)
    found = find_method(method)
    learn, begun = found.learn, []

    def interrupted(self, task):
        begun.append(task)
        if len(begun) == 3:
            raise KeyboardInterrupt
        learn(self, task)

    monkeypatch.setattr(found, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clbench.run(SUITE, [method], [0], output=tmp_path / "parts", **how)
    monkeypatch.setattr(found, "learn", learn)
    (parts,) = clbench.run(SUITE, [method], [0], output=tmp_path / "parts", **how)
    status = json.loads((tmp_path / "parts" / parts.run_id / "status.json").read_text())
    assert len(status["resumed"]) == 1
    assert outcome_of(RunFolder(tmp_path / "parts", parts.run_id)) == outcome_of(
        RunFolder(tmp_path / "whole", whole.run_id)
    )
