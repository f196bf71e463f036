"""SI's path integral and importance against cases solved by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clbench.baselines.si import SIPlugin
from clbench.methods.optimizers import FusedRMSprop, PiecewiseAdam


class Line(nn.Module):
    """Two free numbers, so that every step can be followed by hand."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.double))


CURVATURE = torch.tensor([3.0, 0.5], dtype=torch.double)


def loss_of(theta, optimum=0.0):
    return (CURVATURE * (theta - optimum) ** 2).sum() / 2


def train(plugin, model, steps, rate, optimum=0.0, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=rate)
    strategy = SimpleNamespace(model=model, optimizer=optimizer)
    plugin.before_training_exp(strategy)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model.theta, optimum).backward()
        gradient, before = model.theta.grad.clone(), model.theta.detach().clone()
        plugin.before_update(strategy)
        total = model.theta.grad.clone()
        optimizer.step()
        plugin.after_update(strategy)
        seen.append((gradient, total, model.theta.detach() - before))
    plugin.after_training_exp(strategy)
    return seen


def test_on_a_quadratic_loss_small_steps_give_the_loss_decrease_per_parameter():
    plugin, model = SIPlugin(strength=0.0, damping=0.1), Line()
    start = model.theta.detach().clone()
    train(plugin, model, steps=20_000, rate=1e-4)
    end = model.theta.detach()
    decrease = CURVATURE / 2 * (start**2 - end**2)  # per parameter; the loss is separable
    expected = decrease / ((end - start) ** 2 + 0.1)
    torch.testing.assert_close(plugin.importance["theta"], expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(plugin.reference["theta"], end)


def test_the_path_integral_uses_the_gradient_of_the_task_alone():
    plugin, model = SIPlugin(strength=2.0, damping=0.1), Line()
    train(plugin, model, steps=50, rate=0.01)
    importance, reference = plugin.importance["theta"].clone(), plugin.reference["theta"].clone()
    seen = train(plugin, model, steps=50, rate=0.01, optimum=5.0)
    # The optimiser did see the penalty ...
    assert any(not torch.equal(gradient, total) for gradient, total, _ in seen)
    # ... and the path integral did not.
    path = sum(-gradient * change for gradient, _, change in seen)
    expected = (importance + path / ((model.theta.detach() - reference) ** 2 + 0.1)).clamp(min=0)
    torch.testing.assert_close(plugin.importance["theta"], expected)


def test_the_penalty_gradient_is_that_of_c_times_importance_times_squared_distance():
    plugin, model = SIPlugin(strength=0.7), Line()
    strategy = SimpleNamespace(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    plugin.importance["theta"] = torch.tensor([2.0, 4.0], dtype=torch.double)
    plugin.reference["theta"] = torch.tensor([0.5, 0.5], dtype=torch.double)
    plugin.before_training_exp(strategy)
    penalty = 0.7 * (plugin.importance["theta"] * (model.theta - plugin.reference["theta"]) ** 2).sum()
    (expected,) = torch.autograd.grad(penalty, model.theta)
    model.theta.grad = torch.zeros_like(model.theta)
    plugin.before_update(strategy)
    torch.testing.assert_close(model.theta.grad, expected)


def test_a_negative_path_integral_takes_from_the_importance_but_not_below_zero():
    plugin, model = SIPlugin(strength=0.0, damping=0.1), Line()
    train(plugin, model, steps=3, rate=0.1)
    before, reference = plugin.importance["theta"].clone(), plugin.reference["theta"].clone()
    # Upwards on the next task's loss, as a strong penalty may push.
    ascent = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    seen = train(plugin, model, steps=1, rate=0, optimum=-3.0, optimizer=ascent)
    path = sum(-gradient * change for gradient, _, change in seen)
    assert (path < 0).all()
    sums = before + path / ((model.theta.detach() - reference) ** 2 + 0.1)
    # The steep direction falls below 0, the flat one does not: both sides of the clip are tried.
    assert (sums < 0).tolist() == [True, False]
    torch.testing.assert_close(plugin.importance["theta"], sums.clamp(min=0))


def test_adams_own_steps_count_not_the_gradient_times_a_rate():
    plugin, model = SIPlugin(strength=0.0, damping=0.1), Line()
    start = model.theta.detach().clone()
    seen = train(plugin, model, 10, 0, optimizer=torch.optim.Adam(model.parameters(), lr=0.05))
    path = sum(-gradient * change for gradient, _, change in seen)
    expected = path / ((model.theta.detach() - start) ** 2 + 0.1)
    torch.testing.assert_close(plugin.importance["theta"], expected)


def test_piece_by_piece_is_the_same_as_all_at_once(make_method, make_workplace, monkeypatch):
    monkeypatch.setattr("clbench.methods.optimizers._PIECE", 128)
    workplace = make_workplace(n_tasks=3, hidden_sizes=[16], epochs=2)
    ours, plain = make_method("si", workplace), make_method("si", workplace)
    assert isinstance(ours.strategy.optimizer, PiecewiseAdam)
    plain.strategy.optimizer = torch.optim.Adam(plain.model.parameters(), lr=ours.settings.learning_rate, fused=True)
    for task in workplace.stream.tasks:
        ours.learn(task)
        plain.learn(task)
        for name, parameter in plain.model.named_parameters():
            assert torch.equal(dict(ours.model.named_parameters())[name], parameter)
            assert torch.equal(ours.si.importance[name], plain.si.importance[name])
            assert torch.count_nonzero(plain.si.importance[name]) > 0


class Shaped(nn.Module):
    """Parameters that are no flat rows of numbers: one laid out the other way round, one of no dimension."""

    def __init__(self):
        super().__init__()
        turned = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
        self.theta = nn.Parameter(turned)
        self.phi = nn.Parameter(torch.tensor(2.0))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, FusedRMSprop, PiecewiseAdam])
def test_with_any_optimiser_it_is_what_the_definition_says(kind, monkeypatch):
    monkeypatch.setattr("clbench.methods.optimizers._PIECE", 8)
    torch.manual_seed(0)
    model, strength = Shaped(), 0.3
    theta, phi = ({"importance": 0.0, "reference": p.detach().clone(), "p": p} for p in model.parameters())
    beyond = nn.Parameter(torch.ones(3))  # the optimiser's alone
    optimizer = kind([*model.parameters(), beyond], lr=0.01)
    plugin, strategy = SIPlugin(strength), SimpleNamespace(model=model, optimizer=optimizer)
    for task in range(3):
        plugin.before_training_exp(strategy)
        for entry in (theta, phi):
            entry["path"] = torch.zeros_like(entry["p"])
        for _ in range(5):
            optimizer.zero_grad()
            ((model.theta - task).square().sum() + (model.phi - task) ** 4 + beyond.sum()).backward()
            before = [entry["p"].detach().clone() for entry in (theta, phi)]
            gradients = [entry["p"].grad.clone() for entry in (theta, phi)]
            model2, beyond2 = copy.deepcopy((model, beyond))
            optimizer2 = kind([*model2.parameters(), beyond2], lr=0.01)
            optimizer2.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            plugin.before_update(strategy)
            optimizer.step()
            plugin.after_update(strategy)
            # The same step, its gradient as the definition of the loss has it.
            for entry, parameter, gradient in zip((theta, phi), model2.parameters(), gradients, strict=True):
                pull = entry["importance"] * (parameter.detach() - entry["reference"])
                parameter.grad = gradient + 2 * strength * pull
            beyond2.grad = beyond.grad.clone()
            optimizer2.step()
            for a, b in zip([*model.parameters(), beyond], [*model2.parameters(), beyond2], strict=True):
                torch.testing.assert_close(a, b)
            for entry, old, gradient in zip((theta, phi), before, gradients, strict=True):
                entry["path"] += gradient * (old - entry["p"].detach())
        plugin.after_training_exp(strategy)
        for name, entry in (("theta", theta), ("phi", phi)):
            drift = (entry["p"].detach() - entry["reference"]) ** 2 + 0.1
            entry["importance"] = (entry["importance"] + entry["path"] / drift).clamp(min=0)
            entry["reference"] = entry["p"].detach().clone()
            torch.testing.assert_close(plugin.importance[name], entry["importance"])
            assert plugin.importance[name].any()


def test_a_task_that_was_interrupted_leaves_nothing_in_the_optimiser(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    model = Line()
    optimizer = PiecewiseAdam(model.parameters(), lr=0.01)
    plugin, strategy = SIPlugin(strength=1e6), SimpleNamespace(model=model, optimizer=optimizer)
    train(plugin, model, 5, 0, optimizer=optimizer)
    plugin.before_training_exp(strategy)
    loss_of(model.theta, optimum=-5.0).backward()
    plugin.before_update(strategy)
    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    alone = copy.deepcopy(model)
    plain = torch.optim.Adam(alone.parameters(), lr=0.01, fused=True)
    optimizer.state.clear()
    alone.theta.grad = model.theta.grad.clone()
    optimizer.step()
    plain.step()
    assert torch.equal(model.theta, alone.theta)


def test_every_parameter_is_protected_biases_and_output_layer_included(make_method, make_workplace):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=1)
    method = make_method("si", workplace)
    method.learn(workplace.stream.tasks[0])
    for name, parameter in method.model.named_parameters():
        assert method.si.importance[name].shape == parameter.shape
        assert torch.count_nonzero(method.si.importance[name]) > 0


def test_the_optimisers_state_is_kept_between_tasks_as_the_authors_do(make_method, make_workplace):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[16], epochs=1)
    method = make_method("si", workplace)
    steps = []
    for task in workplace.stream.tasks:
        method.learn(task)
        steps.append(int(next(iter(method.strategy.optimizer.state.values()))["step"]))
    assert steps[1] == 2 * steps[0]


def test_the_weights_start_as_in_the_authors_code(make_method, make_workplace):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[300], epochs=1)
    method = make_method("si", workplace)
    hidden, head = method.model.trunk[0], method.model.head
    for layer in (hidden, head):
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        torch.testing.assert_close(layer.weight.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
        assert not layer.bias.any()
    again = make_method("si", workplace)
    assert torch.equal(again.model.trunk[0].weight, hidden.weight)
    own = make_method("si", workplace, initial_weights="pytorch")
    assert torch.equal(own.model.trunk[0].weight, make_method("naive", workplace).model.trunk[0].weight)


def test_as_its_authors_it_can_train_on_every_image_of_a_task_and_on_no_test_image(make_method, make_workplace, digits):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[16], epochs=1)
    task = workplace.stream.tasks[1]
    assert not make_method("si", workplace).settings.train_on_validation
    (phase,) = make_method("si", workplace).phases(task)
    assert phase.samples == [task.train]
    (phase,) = make_method("si", workplace, train_on_validation=True).phases(task)
    (samples,) = phase.samples
    assert sorted(samples.indices.tolist()) == list(range(len(digits.train_labels)))
    assert torch.equal(samples.labels, digits.train_labels[samples.indices])
    ours, theirs = samples.batch(torch.tensor([0, len(samples) - 1])), [task.train.batch(torch.tensor([0]))]
    theirs.append(task.validation.batch(torch.tensor([len(task.validation) - 1])))
    for got, wanted in zip(ours, zip(*theirs, strict=True), strict=True):
        assert torch.equal(got, torch.cat(wanted))


def test_every_image_is_what_an_epoch_consists_of(make_method, make_workplace, digits):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[16], epochs=1)
    method = make_method("si", workplace, train_on_validation=True)
    method.learn(workplace.stream.tasks[0])
    steps = int(next(iter(method.strategy.optimizer.state.values()))["step"])
    assert steps == -(-len(digits.train_labels) // method.settings.batch_size)
