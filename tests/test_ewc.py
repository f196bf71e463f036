"""EWC's Fisher and penalty against brute force and closed form."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from clbench.baselines.ewc import EWCPlugin, fisher_diagonal
from clbench.data.loading import TensorLoader
from clbench.errors import MethodError, SettingError
from clbench.methods.table import resolve_settings
from clbench.networks.mlp import mlp


def brute_force(model, x, shares=None, task=None):
    """One backward pass per sample and label, weighted by `shares` [N, C]; None weighs a label by p(y|x)."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for position, sample in enumerate(x.split(1)):
        log_p = (model(sample) if task is None else model(sample, task)).log_softmax(1)[0]
        of_labels = log_p.detach().exp() if shares is None else shares[position]
        for label in range(len(log_p)):
            grads = torch.autograd.grad(log_p[label], list(model.parameters()), retain_graph=True, allow_unused=True)
            for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
                if grad is not None:
                    total[name] += of_labels[label] * grad**2
    return {name: tensor / len(x) for name, tensor in total.items()}


def relative_distance(found, expected):
    """Of two Fishers: the length of their difference over that of the second."""
    difference = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return (difference / sum(float(tensor.square().sum()) for tensor in expected.values())) ** 0.5


def test_the_fisher_equals_the_per_sample_one_by_brute_force(network, batches):
    model, x = network(), torch.randn(17, 6, dtype=torch.double)
    fast, slow = fisher_diagonal(model, batches(x, 5)), brute_force(model, x)
    assert fast.keys() == slow.keys()
    for name in slow:
        assert torch.count_nonzero(slow[name]) > 0
        torch.testing.assert_close(fast[name], slow[name], atol=1e-12, rtol=1e-9)


def test_the_fisher_of_a_head_counts_for_its_own_task_only(batches):
    torch.manual_seed(0)
    model, x = mlp(6, (5,), 3, 2).double(), torch.randn(9, 6, dtype=torch.double)
    marked = batches(x, 9, tasks=torch.ones(9, dtype=torch.long))
    fast, slow = fisher_diagonal(model, marked), brute_force(model, x, task=1)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-12, rtol=1e-9)
    assert torch.count_nonzero(fast["heads.0.weight"]) == 0
    assert torch.count_nonzero(fast["heads.1.weight"]) > 0


def test_the_fisher_does_not_depend_on_the_batch_size(network, batches):
    model, x = network(), torch.randn(24, 6, dtype=torch.double)
    reference = fisher_diagonal(model, batches(x, 24))
    for size in (1, 7):
        other = fisher_diagonal(model, batches(x, size))
        for name in reference:
            torch.testing.assert_close(other[name], reference[name], atol=1e-12, rtol=1e-9)


def test_the_fisher_of_some_images_is_that_of_the_first_ones(network, batches):
    model, x = network(), torch.randn(24, 6, dtype=torch.double)
    some, same = fisher_diagonal(model, batches(x, 7), n_images=10), fisher_diagonal(model, batches(x[:10], 10))
    for name in same:
        torch.testing.assert_close(some[name], same[name], atol=1e-12, rtol=1e-9)


def test_the_empirical_fisher_takes_the_true_labels(network, batches):
    model, x = network(), torch.randn(17, 6, dtype=torch.double)
    y = torch.arange(17) % 3
    fast = fisher_diagonal(model, batches(x, 5, y), labels="empirical")
    slow = brute_force(model, x, nn.functional.one_hot(y, 3))
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-12, rtol=1e-9)
    assert relative_distance(fast, brute_force(model, x)) > 0.1


def test_with_sampled_labels_the_fisher_of_many_draws_is_the_exact_one(network, batches):
    model, x = network(), torch.randn(5, 6, dtype=torch.double)
    torch.manual_seed(1)
    many = x.repeat(4000, 1)
    exact = brute_force(model, x)
    sampled = fisher_diagonal(model, batches(many, 1000), labels="sample")
    assert relative_distance(sampled, exact) < 0.03
    # Few draws are far from it, so the agreement is the law of large numbers and not the same computation.
    assert relative_distance(fisher_diagonal(model, batches(x, 5), labels="sample"), exact) > 0.1


def test_a_sampled_label_is_one_of_the_labels_as_often_as_its_probability_says(network, batches):
    model, x = network(), torch.randn(1, 6, dtype=torch.double)
    with torch.no_grad():
        model.head.bias += torch.tensor([1.5, 0.0, -1.0])
    probabilities = model(x).softmax(1)[0].tolist()
    of_label = [brute_force(model, x, nn.functional.one_hot(torch.tensor([label]), 3)) for label in range(3)]
    torch.manual_seed(2)
    drawn = [0, 0, 0]
    for _ in range(400):
        found = fisher_diagonal(model, batches(x, 1), labels="sample")
        distances = [relative_distance(found, expected) for expected in of_label]
        assert min(distances) < 1e-9
        drawn[distances.index(min(distances))] += 1
    for count, probability in zip(drawn, probabilities, strict=True):
        assert abs(count / 400 - probability) < 4 * (probability * (1 - probability) / 400) ** 0.5
    assert max(probabilities) > 2 * min(probabilities)


@pytest.mark.parametrize("labels", ["exact", "sample"])
def test_the_true_labels_have_no_part_in_the_fisher_of_the_models_own_predictions(network, batches, labels):
    model, x = network(), torch.randn(12, 6, dtype=torch.double)
    found = []
    for y in (torch.zeros(12, dtype=torch.long), torch.arange(12) % 3):
        torch.manual_seed(3)
        found.append(fisher_diagonal(model, batches(x, 5, y), labels=labels))
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name])


def test_the_labels_that_training_samples_come_from_the_runs_seed(make_method, make_workplace):
    def fisher(seed):
        method = make_method("ewc", make_workplace(seed=seed, n_tasks=1, hidden_sizes=[8], epochs=1), fisher="sample")
        method.learn(method.workplace.stream.tasks[0])
        return method.ewc.fisher["head.weight"]

    torch.manual_seed(0)
    first = fisher(0)
    torch.manual_seed(1)
    assert torch.equal(fisher(0), first)
    assert not torch.equal(fisher(1), first)


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_the_methods_fisher_is_that_of_the_training_images_with_the_labels_asked_for(
    make_method, make_workplace, labels
):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[8], epochs=1)
    method = make_method("ewc", workplace, fisher=labels)
    task = workplace.stream.tasks[0]
    method.learn(task)
    x, y = task.train.tensors()
    expected = brute_force(method.model, x, None if labels == "exact" else nn.functional.one_hot(y, 10))
    for name in expected:
        torch.testing.assert_close(method.ewc.fisher[name], expected[name], atol=1e-7, rtol=1e-3)


def test_the_images_of_the_methods_fisher_are_as_many_as_asked_for(make_method, make_workplace):
    workplace = make_workplace(n_tasks=1, hidden_sizes=[8], epochs=2)
    method = make_method("ewc", workplace, fisher_images=70)
    task = workplace.stream.tasks[0]
    method.learn(task)
    loader = TensorLoader(
        [task.train], workplace.suite.batch_size, torch.device("cpu"), workplace.seeds.generator("batches", 0)
    )
    # Two passes were trained on; the third is measured.
    for _ in range(2):
        list(loader)
    expected = fisher_diagonal(method.model, list(loader), n_images=70)
    for name in expected:
        assert torch.equal(method.ewc.fisher[name], expected[name])


def test_a_logistic_regressions_pull_is_that_of_the_gaussians_around_each_tasks_weights(batches):
    torch.manual_seed(4)
    model, plugin = nn.Linear(3, 2).double(), EWCPlugin(strength=5.0)
    log_posteriors = []
    for _ in range(2):
        x = torch.randn(9, 3, dtype=torch.double)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
        plugin.after_training_exp(SimpleNamespace(model=model, dataloader=batches(x, 4)))
        # By hand: with p = p(y = 1 | x) both rows of the weight have the Fisher p (1 - p) x^2, both biases p (1 - p).
        variance = model(x).softmax(1).prod(1).detach()
        fisher = {
            "weight": (variance[:, None] * x**2).mean(0).expand(2, 3),
            "bias": variance.mean().expand(2),
        }
        log_posteriors += [
            Normal(parameter.detach().clone(), (5.0 * fisher[name]) ** -0.5).log_prob
            for name, parameter in model.named_parameters()
        ]
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
        parameter.grad = torch.full_like(parameter, 0.25)
    plugin.before_update(SimpleNamespace(model=model))
    for number, parameter in enumerate(model.parameters()):
        energy = -(log_posteriors[number](parameter).sum() + log_posteriors[number + 2](parameter).sum())
        (expected,) = torch.autograd.grad(energy, parameter)
        assert (expected.abs() > 1e-3).all()
        torch.testing.assert_close(parameter.grad, 0.25 + expected)


@pytest.mark.parametrize(("decay", "n_tasks"), [(None, 2), (1.0, 4)], ids=["ewc", "online-ewc"])
def test_where_the_posterior_is_a_diagonal_gaussian_tasks_in_turn_teach_what_all_at_once_would(decay, n_tasks):
    # Linear regression with unit noise: the log posterior is quadratic, its Fisher X^T X, diagonal where columns are
    # orthogonal, so that the penalty is exact. From the third task on only for one anchor: per-task anchors count the
    # first tasks twice (Huszar 2018, arXiv 1712.03847).
    torch.manual_seed(6)
    model, plugin = nn.Linear(3, 1, bias=False).double(), EWCPlugin(strength=1.0, decay=decay)
    inputs, targets = [], []
    for _ in range(n_tasks):
        orthonormal, _ = torch.linalg.qr(torch.randn(8, 3, dtype=torch.double))
        x, y = orthonormal * (1 + torch.rand(3, dtype=torch.double)), torch.randn(8, 1, dtype=torch.double)
        inputs.append(x)
        targets.append(y)
        for _ in range(400):
            model.weight.grad = (x @ model.weight.T - y).T @ x
            plugin.before_update(SimpleNamespace(model=model))
            model.weight.data.sub_(0.05 * model.weight.grad)
        together = torch.linalg.lstsq(torch.cat(inputs), torch.cat(targets)).solution
        torch.testing.assert_close(model.weight.detach(), together.T)
        plugin.merge({"weight": (x.T @ x).diagonal()[None]}, model)


def test_the_first_task_is_not_held_back():
    model, plugin = nn.Linear(3, 2), EWCPlugin(strength=1e6)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    plugin.before_update(SimpleNamespace(model=model))
    assert all(bool((parameter.grad == 0.25).all()) for parameter in model.parameters())


def test_logistic_regression_has_the_fisher_of_the_textbook(batches):
    torch.manual_seed(1)
    model, x = nn.Linear(4, 2).double(), torch.randn(11, 4, dtype=torch.double)
    p = model(x).softmax(1)[:, 1]
    # With two classes d log p(y|x) / d w_1 = (y - p) x, whose variance is p (1 - p) x^2.
    expected = ((p * (1 - p))[:, None] * x**2).mean(0)
    torch.testing.assert_close(fisher_diagonal(model, batches(x, 4))["weight"][1], expected.detach())


def test_the_merged_penalty_is_the_sum_of_the_per_task_ones(network, batches):
    model, plugin = network(), EWCPlugin(strength=3.0)
    fishers, anchors = [], []
    for task in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        fishers.append(fisher_diagonal(model, batches(torch.randn(8, 6, dtype=torch.double), 8)))
        anchors.append({name: p.detach().clone() for name, p in model.named_parameters()})
        plugin.merge(fishers[task], model)

    def separate():
        return sum(
            3.0 / 2 * (fisher[name] * (p - anchor[name]) ** 2).sum()
            for fisher, anchor in zip(fishers, anchors, strict=True)
            for name, p in model.named_parameters()
        )

    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    # What training uses is the gradient.
    expected = torch.autograd.grad(separate(), list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    plugin.before_update(type("Strategy", (), {"model": model}))
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_online_ewc_keeps_one_decayed_fisher_around_the_latest_weights(network, batches):
    model, plugin = network(), EWCPlugin(strength=1.0, decay=0.5)
    running = None
    for _ in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        fisher = fisher_diagonal(model, batches(torch.randn(8, 6, dtype=torch.double), 8))
        running = fisher if running is None else {name: 0.5 * running[name] + fisher[name] for name in fisher}
        plugin.merge(fisher, model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(plugin.fisher[name], running[name])
        torch.testing.assert_close(plugin.fisher_anchor[name], running[name] * p)


def test_the_decay_of_online_ewc_is_what_it_keeps_of_the_first_tasks_fisher(make_method, make_workplace):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[8], epochs=1)
    method = make_method("online-ewc", workplace, decay=0.25)
    first, second = workplace.stream.tasks
    method.learn(first)
    kept = {name: tensor.clone() for name, tensor in method.ewc.fisher.items()}
    method.learn(second)
    added = brute_force(method.model, second.train.tensors()[0])
    for name, parameter in method.model.named_parameters():
        expected = 0.25 * kept[name] + added[name]
        torch.testing.assert_close(method.ewc.fisher[name], expected, atol=1e-7, rtol=1e-3)
        torch.testing.assert_close(method.ewc.fisher_anchor[name], method.ewc.fisher[name] * parameter)
    assert make_method("ewc", workplace).ewc.decay is None


def test_memory_does_not_grow_with_the_tasks(make_method, make_workplace):
    workplace = make_workplace(n_tasks=3, hidden_sizes=[16], epochs=1)
    method = make_method("ewc", workplace)
    sizes = []
    for task in workplace.stream.tasks:
        method.learn(task)
        sizes.append(method.extra_state_bytes())
    assert sizes[0] == sizes[1] == sizes[2] == 2 * sum(4 * p.numel() for p in method.model.parameters())


def test_a_strong_penalty_holds_the_weights_where_they_were(make_method, make_workplace):
    moved = []
    for strength in (0.0, 1000.0):
        workplace = make_workplace(n_tasks=2, hidden_sizes=[32], epochs=2)
        method = make_method("ewc", workplace, strength=strength)
        method.learn(workplace.stream.tasks[0])
        important = method.ewc.fisher["trunk.0.weight"] > method.ewc.fisher["trunk.0.weight"].quantile(0.9)
        before = method.model.trunk[0].weight.detach().clone()
        method.learn(workplace.stream.tasks[1])
        moved.append(float((method.model.trunk[0].weight.detach() - before)[important].abs().mean()))
    assert moved[1] < moved[0] / 3


def test_layers_without_an_exact_fisher_are_refused_by_name(batches):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(MethodError, match=r"running statistics, but 1\.weight"):
        fisher_diagonal(model, batches(torch.randn(3, 4), 3))


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("ewc", {"fisher": "true"}, "ewc.fisher='true' does not fit: expected 'exact', 'sample' or 'empirical'"),
        ("online-ewc", {"fisher": None}, "online-ewc.fisher=None does not fit: expected 'exact', 'sample' or"),
        ("online-ewc", {"decay": 1.5}, "online-ewc.decay=1.5 does not fit: expected a value less than or equal to 1"),
        ("ewc", {"decay": 0.5}, "unknown setting of ewc 'decay'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(plain, name, setting, said):
    with pytest.raises(SettingError) as error:
        resolve_settings(plain, name, setting)
    assert said in str(error.value)
