import pytest
import torch
from avalanche.models.utils import avalanche_forward

from clbench.methods.method import answering
from clbench.networks.initial import initialise
from clbench.networks.mlp import mlp


def named(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def multi_head():
    return initialise(mlp, 12, (7, 5), 3, 4, seed=0)


@pytest.mark.parametrize(("build", "sizes"), [(mlp, (6, (5,), 3)), (mlp, (6, (5,), 3, 2))])
def test_initial_weights_depend_on_the_seed_and_on_nothing_else(build, sizes):
    torch.manual_seed(1)
    first = named(initialise(build, *sizes, seed=7))
    torch.manual_seed(2)
    torch.rand(11)
    assert equal(named(initialise(build, *sizes, seed=7)), first)
    assert not equal(named(initialise(build, *sizes, seed=8)), first)


def test_initialising_leaves_the_global_generator_as_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    initialise(mlp, 6, (5,), 3, seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_initialising_takes_the_largest_derived_seed():
    initialise(mlp, 2, (2,), 2, seed=2**63 - 1)


def test_the_network_is_linear_layers_with_a_relu_after_each_hidden_one():
    model = initialise(mlp, 12, (7, 5), 3, seed=0)
    weights = list(model.parameters())
    assert [tuple(weight.shape) for weight in weights] == [(7, 12), (7,), (5, 7), (5,), (3, 5), (3,)]
    x = torch.rand(4, 3, 2, 2)
    hidden = x.reshape(4, 12)
    for weight, bias in ((weights[0], weights[1]), (weights[2], weights[3])):
        hidden = (hidden @ weight.T + bias).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ weights[4].T + weights[5])


def test_a_batch_of_several_tasks_gives_what_each_task_gives_alone(multi_head):
    x = torch.rand(9, 3, 2, 2)
    labels = torch.tensor([2, 0, 0, 3, 2, 2, 0, 3, 0])
    mixed = multi_head(x, labels)
    for task in (0, 2, 3):
        alone = multi_head(x[labels == task], task)
        torch.testing.assert_close(mixed[labels == task], alone)
        torch.testing.assert_close(multi_head(x[labels == task], torch.full((len(alone),), task)), alone)


def test_every_task_has_a_head_of_its_own(multi_head):
    x = torch.rand(2, 12)
    outputs = [multi_head(x, task) for task in range(4)]
    for first in range(4):
        for second in range(first):
            assert not torch.equal(outputs[first], outputs[second])


def test_only_the_heads_in_the_batch_receive_a_gradient(multi_head):
    multi_head(torch.rand(6, 12), torch.tensor([1, 1, 3, 3, 3, 1])).sum().backward()
    assert [head.weight.grad is not None for head in multi_head.heads] == [False, True, False, True]


def test_a_mixed_batch_passes_the_gradient_that_its_tasks_pass_alone(multi_head):
    x, labels = torch.rand(5, 12), torch.tensor([0, 1, 0, 1, 1])
    (multi_head(x, labels) ** 2).sum().backward()
    mixed = [p.grad.clone() for p in multi_head.trunk.parameters()]
    multi_head.zero_grad()
    for task in (0, 1):
        (multi_head(x[labels == task], task) ** 2).sum().backward()
    for found, expected in zip(mixed, multi_head.trunk.parameters(), strict=True):
        torch.testing.assert_close(found, expected.grad)


def test_a_mixed_batch_under_autocast_works_and_keeps_its_type(multi_head):
    with torch.autocast("cpu", torch.bfloat16):
        logits = multi_head(torch.rand(4, 12), torch.tensor([0, 1, 1, 0]))
    assert logits.shape == (4, 3)
    assert logits.isfinite().all()


def test_avalanche_hands_the_task_labels_to_the_heads(multi_head):
    x, labels = torch.rand(4, 12), torch.tensor([3, 1, 1, 0])
    assert torch.equal(avalanche_forward(multi_head, x, labels), multi_head(x, labels))


def test_evaluating_a_task_that_was_not_learned_changes_no_weight_and_adds_none(
    make_method, make_workplace, split_digits
):
    workplace = make_workplace(split_digits, hidden_sizes=[8], epochs=1)
    method = make_method("naive", workplace)
    before, parameters = named(method.model), len(method.strategy.optimizer.param_groups[0]["params"])
    method.strategy.eval(workplace.stream.benchmark.test_stream[1])
    with answering(method.model, workplace.stream.tasks[1]) as network:
        network(workplace.stream.tasks[1].test.tensors()[0])
    assert equal(named(method.model), before)
    assert len(method.strategy.optimizer.param_groups[0]["params"]) == parameters
    assert len(method.model.heads) == 2


def test_training_a_task_leaves_the_other_heads_alone(make_method, make_workplace, split_digits):
    workplace = make_workplace(split_digits, hidden_sizes=[8], epochs=1)
    method = make_method("naive", workplace)
    before = named(method.model.heads[1])
    method.learn(workplace.stream.tasks[0])
    assert equal(named(method.model.heads[1]), before)
