"""What a network per task is: each begins anew, and none sees another task."""

import torch

from clbench.methods.method import Method


def test_every_task_begins_with_weights_of_its_own(make_method, make_workplace, monkeypatch):
    monkeypatch.setattr(Method, "learn", lambda self, task: None)
    workplace = make_workplace(n_tasks=3, hidden_sizes=[16])
    method = make_method("single-task", workplace)
    for task in workplace.stream.tasks:
        method.learn(task)
    first, second, third = (next(method.networks[index].parameters()) for index in range(3))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_a_task_is_predicted_by_the_network_it_was_learned_with(make_method, make_workplace):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[16], epochs=2)
    method = make_method("single-task", workplace)
    first = workplace.stream.tasks[0]
    images = first.test.tensors()[0]
    method.learn(first)
    with method.network_for(first) as network:
        after = network(images)
    method.learn(workplace.stream.tasks[1])
    with method.network_for(first) as network:
        assert torch.equal(network(images), after)
