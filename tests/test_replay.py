"""ER and DER++: what is remembered, and what it adds to the loss."""

import pytest
import torch
from torch.nn import functional as F

from clbench.methods.method import share_right
from clbench.methods.table import reason_against, resolve_settings


@pytest.fixture
def small(make_workplace):
    return make_workplace(n_tasks=3, hidden_sizes=[32], epochs=2, batch_size=16)


def test_all_tasks_so_far_have_equal_shares_of_the_memory_and_keep_what_they_had(small, make_method):
    method = make_method("er", small, memory=90)
    kept = {}
    for task, share in zip(small.stream.tasks, (90, 45, 30), strict=True):
        method.learn(task)
        positions = method.memory.positions
        assert {len(found) for found in positions.values()} == {share}
        for number, found in positions.items():
            assert len(found.unique()) == share
            assert int(found.max()) < len(small.stream.tasks[number].train)
            if number in kept:
                assert torch.equal(found, kept[number][:share])
        kept = {number: found.clone() for number, found in positions.items()}


def test_a_memory_with_less_than_an_image_of_each_task_is_refused(small):
    settings = resolve_settings(small.suite, "er", {"memory": 2})
    assert "less than one of each of 3 tasks" in reason_against("er", small.suite, settings)


def test_a_batch_is_of_the_remembered_images_with_their_labels_and_tasks(small, make_method):
    method = make_method("der++", small, memory=60)
    for task in small.stream.tasks[:2]:
        method.learn(task)
    x, y, labels, logits = method.memory.batch(1000)
    assert len(x) == len(y) == len(labels) == len(logits) == 60
    wanted = [
        torch.cat([task.train.batch(method.memory.positions[task.index])[part] for task in small.stream.tasks[:2]])
        for part in (0, 1)
    ]
    order = [image.flatten().tolist() for image in wanted[0]]
    for image, label in zip(x, y, strict=True):
        assert int(wanted[1][order.index(image.flatten().tolist())]) == label
    assert len(method.memory.batch(7)[0]) == 7


def test_ers_loss_is_the_mean_over_both_batches(small, make_method):
    method = make_method("er", small, memory=12, memory_batch=12)
    method.learn(small.stream.tasks[0])
    x, y = small.stream.tasks[1].train.batch(torch.arange(16))
    method.model.eval()
    own = F.cross_entropy(method.model(x), y)
    torch.manual_seed(0)
    found = method.replayed(own, 16, None)
    torch.manual_seed(0)
    old_x, old_y, *_ = method.memory.batch(12)
    whole = F.cross_entropy(method.model(torch.cat([x, old_x])), torch.cat([y, old_y]))
    torch.testing.assert_close(found, whole)


def test_ders_loss_holds_on_to_the_logits_after_the_task_and_to_the_labels(small, make_method):
    method = make_method("der++", small, memory=12, memory_batch=12, alpha=0.3, beta=0.7)
    first, second = small.stream.tasks[:2]
    method.learn(first)
    method.model.eval()
    zero = torch.zeros(())
    x, y, _, logits = method.memory.batch(12)
    torch.testing.assert_close(method.model(x), logits)
    expected = 0.7 * F.cross_entropy(logits, y)
    torch.testing.assert_close(method.replayed(zero, 16, None), expected)
    with torch.no_grad():
        method.model.head.bias.add_(1.0)
    moved = 0.7 * F.cross_entropy(logits + 1, y) + 0.3 * 1.0
    torch.testing.assert_close(method.replayed(zero, 16, None), moved)
    method.learn(second)
    assert {len(found) for found in method.memory.logits.values()} == {6}


def test_less_is_forgotten_than_by_fine_tuning(make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[64], epochs=10, batch_size=16)
    first, second = workplace.stream.tasks

    def kept(name, **settings):
        method = make_method(name, workplace, **settings)
        method.learn(first)
        method.learn(second)
        with method.network_for(first) as network, torch.inference_mode():
            return share_right(network, first.test, torch.device("cpu"))

    by_fine_tuning = kept("naive")
    assert kept("er") > by_fine_tuning + 0.02
    assert kept("der++") > by_fine_tuning + 0.02
    assert kept("lwf") > by_fine_tuning + 0.02
    assert kept("gpm", learning_rate=0.1, optimizer="sgd") > by_fine_tuning + 0.02


@pytest.mark.parametrize(("name", "draws"), [("er", 1), ("der++", 2)])
def test_images_from_the_memory_are_counted_as_often_as_they_are_used(name, draws, make_workplace, make_method):
    workplace = make_workplace(n_tasks=2, hidden_sizes=[8], epochs=2, batch_size=32)
    method = make_method(name, workplace, memory=40, memory_batch=16)
    counted = []
    for task in workplace.stream.tasks:
        method.learn(task)
        counted.append(method.measures()["images_replayed"])
    steps = 2 * -(-len(workplace.stream.tasks[1].train) // 32)
    assert counted == [0, draws * 16 * steps]
