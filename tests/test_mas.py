"""MAS's importance and penalty against brute force and closed form."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clbench.baselines.mas import MASPlugin, importance_of
from clbench.data.loading import TensorLoader
from clbench.errors import MethodError, SettingError
from clbench.methods.table import resolve_settings
from clbench.networks.mlp import mlp


def brute_force(model, x, tasks=None):
    """One backward pass per sample: the mean size of the gradient of the squared length of the logits."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for position, sample in enumerate(x.split(1)):
        logits = model(sample) if tasks is None else model(sample, int(tasks[position]))
        grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
            if grad is not None:
                total[name] += grad.abs()
    return {name: tensor / len(x) for name, tensor in total.items()}


def assert_close(found, expected, atol=1e-12, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=rtol)


def test_the_importance_equals_the_per_sample_one_by_brute_force(network, batches):
    model, x = network(), torch.randn(17, 6, dtype=torch.double)
    expected = brute_force(model, x)
    assert {name for name in expected if name.endswith("bias")} == {"trunk.0.bias", "trunk.2.bias", "head.bias"}
    assert all(torch.count_nonzero(tensor) > 0 for tensor in expected.values())
    assert_close(importance_of(model, batches(x, 5)), expected)


@pytest.mark.parametrize("tasks", [[1] * 9, [0, 1, 1, 0, 1, 0, 0, 0, 1]], ids=["one task", "mixed tasks"])
def test_the_importance_of_a_head_counts_its_own_tasks_images_only(batches, tasks):
    torch.manual_seed(0)
    model, x = mlp(6, (5,), 3, 3).double(), torch.randn(9, 6, dtype=torch.double)
    found = importance_of(model, batches(x, 4, tasks=torch.tensor(tasks)))
    assert_close(found, brute_force(model, x, tasks))
    assert torch.count_nonzero(found["heads.1.weight"]) > 0
    assert torch.count_nonzero(found["heads.2.weight"]) == 0


def test_the_importance_does_not_depend_on_the_batch_size(network, batches):
    model, x = network(), torch.randn(24, 6, dtype=torch.double)
    reference = importance_of(model, batches(x, 24))
    for size in (1, 7):
        assert_close(importance_of(model, batches(x, size)), reference)


@pytest.mark.parametrize("n_images", [1, 7, 10, 24, 100])
def test_the_importance_of_some_images_is_that_of_the_first_ones(network, batches, n_images):
    model, x = network(), torch.randn(24, 6, dtype=torch.double)
    assert_close(importance_of(model, batches(x, 7), n_images), brute_force(model, x[:n_images]))


def test_the_labels_have_no_part_in_the_importance(network, batches):
    model, x = network(), torch.randn(12, 6, dtype=torch.double)
    found = [importance_of(model, batches(x, 5, y)) for y in (None, torch.arange(12) % 3)]
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name])


def test_a_linear_map_has_the_importance_of_the_textbook(batches):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        model.bias.copy_(torch.tensor([0.5, 1.0]))
    # F = (1.5, 1) at x = (1, 0) and (-3.5, 3) at x = (0, -2); d|F|^2 / dW_ij = 2 F_i x_j and d|F|^2 / db_i = 2 F_i.
    found = importance_of(model, batches(torch.tensor([[1.0, 0.0], [0.0, -2.0]]), 2))
    assert found["weight"].tolist() == [[1.5, 7.0], [1.0, 6.0]]
    assert found["bias"].tolist() == [5.0, 4.0]


def test_gradients_of_opposite_signs_do_not_cancel(batches):
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    # F = x, and d|F|^2 / db = 2 x.
    assert float(importance_of(model, batches(torch.tensor([[1.0], [-1.0]]), 2))["bias"]) == 2.0


def test_importance_adds_up_over_tasks_and_the_anchor_is_the_latest_weights(make_method, make_workplace):
    workplace = make_workplace(n_tasks=3, hidden_sizes=[8], epochs=1)
    method = make_method("mas", workplace)
    total = None
    for task in workplace.stream.tasks:
        method.learn(task)
        own = brute_force(method.model, task.train.tensors()[0])
        total = own if total is None else {name: total[name] + own[name] for name in own}
        assert_close(method.mas.importance, total, atol=1e-5, rtol=1e-3)
        for name, parameter in method.model.named_parameters():
            assert torch.equal(method.mas.reference[name], parameter)
            assert method.mas.reference[name].data_ptr() != parameter.data_ptr()


def test_the_images_of_the_methods_importance_are_as_many_as_asked_for(make_method, make_workplace):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[8], epochs=2)
    method = make_method("mas", workplace, importance_images=70)
    task = workplace.stream.tasks[0]
    method.learn(task)
    loader = TensorLoader(
        [task.train], workplace.suite.batch_size, torch.device("cpu"), workplace.seeds.generator("batches", 0)
    )
    # Two passes were trained on; the third is measured.
    for _ in range(2):
        list(loader)
    expected = importance_of(method.model, list(loader), 70)
    for name in expected:
        assert torch.equal(method.mas.importance[name], expected[name])


def test_the_penalty_gradient_is_that_of_lambda_times_importance_times_squared_distance(network, batches):
    model, plugin = network(), MASPlugin(strength=0.7)
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        data = batches(torch.randn(8, 6, dtype=torch.double), 8)
        plugin.after_training_exp(SimpleNamespace(model=model, dataloader=data))
    anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
    omega = {name: tensor.clone() for name, tensor in plugin.importance.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    penalty = 0.7 * sum((omega[name] * (p - anchor[name]) ** 2).sum() for name, p in model.named_parameters())
    expected = torch.autograd.grad(penalty, list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    plugin.before_update(SimpleNamespace(model=model))
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert torch.count_nonzero(grad) > 0
        torch.testing.assert_close(parameter.grad, 0.25 + grad)


def test_the_first_task_is_not_held_back(network):
    model, plugin = network(), MASPlugin(strength=1e6)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    plugin.before_update(SimpleNamespace(model=model))
    assert all(bool((parameter.grad == 0.25).all()) for parameter in model.parameters())


def test_a_head_that_does_not_train_is_left_alone(batches):
    torch.manual_seed(0)
    model, plugin = mlp(6, (5,), 3, 2), MASPlugin()
    plugin.after_training_exp(SimpleNamespace(model=model, dataloader=batches(torch.randn(9, 6), 9)))
    model(torch.randn(9, 6), 1).sum().backward()
    plugin.before_update(SimpleNamespace(model=model))
    assert model.heads[0].weight.grad is None
    assert model.heads[1].weight.grad is not None


def test_a_strong_penalty_holds_the_weights_where_they_were(make_method, make_workplace):
    moved = []
    for strength in (0.0, 100.0):
        workplace = make_workplace(n_tasks=2, hidden_sizes=[32], epochs=2)
        method = make_method("mas", workplace, strength=strength)
        method.learn(workplace.stream.tasks[0])
        omega = method.mas.importance["trunk.0.weight"]
        important = omega > omega.quantile(0.9)
        before = method.model.trunk[0].weight.detach().clone()
        method.learn(workplace.stream.tasks[1])
        moved.append(float((method.model.trunk[0].weight.detach() - before)[important].abs().mean()))
    assert moved[1] < moved[0] / 3


def test_other_kinds_of_layers_are_refused_by_name(batches):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(MethodError, match=r"running statistics, but 1\.weight belongs to another kind"):
        importance_of(model, batches(torch.randn(3, 4), 3))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"strength": -1}, "mas.strength=-1 does not fit: expected a value greater than or equal to 0"),
        ({"importance_images": 0}, "mas.importance_images=0 does not fit: expected a value greater than or equal to 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(plain, setting, said):
    with pytest.raises(SettingError) as error:
        resolve_settings(plain, "mas", setting)
    assert said in str(error.value)
