import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin

from clbench import metrics
from clbench.errors import DivergenceError, Interrupted, MethodWarning
from clbench.methods.method import images_to_train
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.runs.runner import measure, train

CPU = torch.device("cpu")
SMALL = {"n_tasks": 3, "epochs": 1, "hidden_sizes": [16]}
BATCH = 32
NAN = math.nan


@pytest.fixture
def run(make, digits):
    """(method, images, callbacks, as for make) -> the trained method, and copies of the matrix as they were."""

    def execute(name="naive", images=digits, on_progress=lambda progress: None, should_stop=lambda: False, **how):
        (spec,) = make([name], **SMALL | how)
        matrices = []
        method = train(
            spec, images, CPU, lambda result: matrices.append(result.matrix.copy()), on_progress, should_stop
        )
        return method, matrices

    return execute


def state(method):
    """Everything the method has learned, by name."""
    return {**method.state_dict()["model"], **{f"extra/{k}": v for k, v in method.extra_state().items()}}


def assert_equal_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# What is measured


@pytest.mark.parametrize("name", METHODS)
def test_the_matrix_has_every_task_untrained_and_then_those_learned_and_the_next(run, name):
    _, matrices = run(name)
    assert len(matrices) == 4
    next_one = name != "single-task"
    expected = np.array(
        [[True, True, True], [True, next_one, False], [True, True, next_one], [True, True, True]],
    )
    for learned, matrix in enumerate(matrices):
        assert (~np.isnan(matrix[: learned + 1]) == expected[: learned + 1]).all()
        assert np.isnan(matrix[learned + 1 :]).all()
        np.testing.assert_array_equal(matrix[:learned], matrices[-1][:learned])
    assert ("forward_transfer" in metrics.summarise(matrices[-1])) == next_one


def test_a_multi_head_network_is_tried_on_learned_tasks_only_and_has_no_forward_transfer(run, split_digits):
    _, matrices = run("naive", suite=split_digits, n_tasks=2)
    measured = ~np.isnan(matrices[-1])
    assert measured.tolist() == [[False, False], [True, False], [True, True]]
    assert "forward_transfer" not in metrics.summarise(matrices[-1])


def test_an_accuracy_is_the_share_of_test_images_whose_largest_output_is_their_label(run):
    method, matrices = run("naive")
    for task in method.workplace.stream.tasks:
        right = 0
        for position in range(len(task.test)):
            image, label = task.test[position]
            right += int(method.model(image[None]).argmax()) == label
        # One image may tip over: a batch of one is summed in another order than a large one.
        assert matrices[-1][3, task.index] == pytest.approx(right / len(task.test), abs=1.01 / len(task.test))


def test_what_is_handed_over_after_each_task_is_complete(make, digits):
    (spec,) = make(["clnp"], **SMALL)
    seen = []

    def on_task(result):
        seen.append((result.learned, [row["task"] for row in result.tasks], len(result.capacity)))
        values = result.metrics()
        assert (
            values[f"accuracy/task_{max(1, result.learned):02d}"]
            == result.matrix[result.learned, max(0, result.learned - 1)]
        )
        if result.learned:
            assert values["average_accuracy"] == result.matrix[result.learned, : result.learned].mean()
            assert values["peak_memory_bytes"] > 0
            assert values["free_neurons"] + sum(row["new"] for row in result.capacity) == 16

    train(spec, digits, CPU, on_task)
    assert seen == [(0, [], 0), (1, [1], 1), (2, [1, 2], 2), (3, [1, 2, 3], 3)]


# What must not change the numbers


@pytest.mark.parametrize("name", METHODS)
def test_measuring_more_often_changes_no_weight(run, name):
    expected, matrices = run(name)
    # The same, by hand, with every task tried before, between and after, whether it was learned or not.
    method = find_method(name)(expected.settings, expected.workplace)
    method.prepare()
    tasks = method.workplace.stream.tasks
    scratch = np.full((4, 3), NAN)
    for task in tasks:
        for _ in range(2):
            measure(method, tasks, 0, scratch)
            measure(method, tasks[::-1], 0, scratch)
        method.learn(task)
    assert_equal_bits(state(method), state(expected))
    measure(method, tasks, 3, scratch)
    np.testing.assert_array_equal(scratch[3], matrices[-1][3])


@pytest.mark.parametrize("name", METHODS)
def test_not_measuring_at_all_changes_no_weight(run, name):
    expected, _ = run(name)
    method = find_method(name)(expected.settings, expected.workplace)
    method.prepare()
    for task in method.workplace.stream.tasks:
        method.learn(task)
    assert_equal_bits(state(method), state(expected))


@pytest.mark.parametrize("name", ["naive", "clnp", "ewc"])
def test_another_number_of_test_images_changes_no_weight(run, digits, name):
    fewer = replace(digits, test_images=digits.test_images[:7], test_labels=digits.test_labels[:7])
    assert_equal_bits(state(run(name, images=fewer)[0]), state(run(name)[0]))


@pytest.mark.parametrize("name", ["naive", "clnp", "ewc"])
def test_neither_an_earlier_run_nor_the_global_seed_changes_a_number(run, name):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is the point
    first, first_matrices = run(name)
    run("joint", seeds=[5])
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again, matrices = run(name)
    assert_equal_bits(state(again), state(first))
    np.testing.assert_array_equal(matrices[-1], first_matrices[-1])


def test_a_run_leaves_the_global_generator_as_it_was(run):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run("clnp")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_method_draws_globally_while_it_learns_comes_from_seed_and_task(plain, make_workplace):
    class Dice(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            thrown.append(float(torch.rand(())))

    def throw(seed, tasks):
        thrown.clear()
        workplace = make_workplace(plain, seed=seed, **SMALL)
        method = find_method("naive")(resolve_settings(workplace.suite, "naive", {}), workplace)
        method.prepare(observers=[Dice()])
        for index in tasks:
            method.learn(workplace.stream.tasks[index])
        return list(thrown)

    thrown = []
    torch.manual_seed(0)
    expected = throw(0, [0, 1, 2])
    assert len(set(expected)) == 3
    torch.manual_seed(1)
    assert throw(0, [0, 1, 2]) == expected
    assert throw(0, [2]) == expected[2:]
    assert throw(1, [0])[0] not in expected


def test_another_seed_gives_other_numbers(run):
    assert not np.array_equal(run(seeds=[0])[1][-1], run(seeds=[1])[1][-1], equal_nan=True)


def test_a_longer_sequence_begins_like_a_shorter_one(run):
    short, long = run(n_tasks=2)[1][-1], run(n_tasks=4)[1][-1]
    np.testing.assert_array_equal(long[:3, :2], short)


def test_a_joint_run_does_not_depend_on_what_it_learned_before(run):
    expected, _ = run("joint")
    method = find_method("joint")(expected.settings, expected.workplace)
    method.prepare()
    method.learn(method.workplace.stream.tasks[2])
    assert_equal_bits(state(method), state(expected))


# Progress


@pytest.mark.parametrize("name", ["naive", "clnp", "ewc", "joint", "single-task"])
def test_progress_counts_every_image_once_and_ends_where_it_was_expected_to(run, name):
    seen = []

    def note(progress):
        seen.append((progress.task, progress.images, progress.images_per_task, progress.images_trained))
        assert progress.n_tasks == 3
        totals.add(progress.images_total)

    totals = set()
    method, _ = run(name, on_progress=note, epochs=4)
    one_task = len(method.workplace.stream.tasks[0].train)
    assert one_task == 1222
    per_task = [4 * one_task * (task if name == "joint" else 1) for task in (1, 2, 3)]
    assert totals == {sum(per_task)}
    for task, expected in enumerate(per_task, start=1):
        images = [row[1] for row in seen if row[0] == task]
        assert images[-1] == expected
        assert {row[2] for row in seen if row[0] == task} == {expected}
        sizes = np.diff([0, *images])
        one_pass = expected // 4
        assert sizes.tolist() == ([BATCH] * (one_pass // BATCH) + [one_pass % BATCH]) * 4
    trained = [row[3] for row in seen]
    assert np.diff([0, *trained]).min() > 0
    assert trained[-1] == sum(per_task)


@pytest.mark.parametrize("steps", [5, 45])
@pytest.mark.parametrize("name", ["naive", "clnp", "ewc", "joint", "single-task"])
def test_where_an_epoch_has_a_number_of_steps_progress_expects_what_is_trained(run, name, steps):
    seen = []
    # A pass over the 1222 training images has 39 batches.
    method, _ = run(
        name,
        on_progress=lambda p: seen.append((p.task, p.images, p.images_per_task, p.images_trained, p.images_total)),
        epochs=4,
        steps_per_epoch=steps,
    )
    per_task = [4 * steps * BATCH * (task if name == "joint" else 1) for task in (1, 2, 3)]
    for task, expected in enumerate(per_task, start=1):
        images = [row[1] for row in seen if row[0] == task]
        assert np.diff([0, *images]).tolist() == [BATCH] * (expected // BATCH)
        assert {row[2] for row in seen if row[0] == task} == {expected}
        assert images_to_train(method, [method.workplace.stream.tasks[task - 1]]) == expected
    assert {row[4] for row in seen} == {seen[-1][3]} == {sum(per_task)}


def test_the_time_spent_only_grows_and_lies_within_that_of_the_run(make, digits):
    (spec,) = make(**SMALL)
    seconds, rows = [], []
    train(spec, digits, CPU, lambda result: rows.extend(result.tasks[-1:]), lambda p: seconds.append(p.seconds))
    assert (np.diff(seconds) >= 0).all()
    assert 0 < seconds[-1] <= sum(row["train_seconds"] for row in rows)


def test_a_tasks_speed_is_its_images_over_its_seconds(make, digits):
    (spec,) = make(["joint"], **SMALL)
    rows = []
    train(spec, digits, CPU, lambda result: rows.extend(result.tasks[-1:]))
    for task, row in enumerate(rows, start=1):
        assert row["train_images_per_second"] * row["train_seconds"] == pytest.approx(1222 * task)


def test_joint_training_mixes_all_tasks_so_far(plain, make_method, make_workplace):
    workplace = make_workplace(plain, **SMALL)
    method = make_method("joint", workplace)
    for task in workplace.stream.tasks:
        (phase,) = method.phases(task)
        samples = phase.samples
        assert [part.task_label for part in samples] == list(range(task.index + 1))
        assert sum(map(len, samples)) == 1222 * (task.index + 1)


# Stopping


@pytest.mark.parametrize("batches", [1, 39, 44])
def test_a_request_to_stop_is_obeyed_after_the_batch_and_whole_tasks_are_handed_over(make, digits, batches):
    # 1222 images in batches of 32 are 39 batches per task.
    (spec,) = make(**SMALL)
    asked, handed_over, seen = [], [], []

    def should_stop():
        asked.append(True)
        return len(asked) == batches

    with pytest.raises(Interrupted):
        train(spec, digits, CPU, lambda r: handed_over.append(r.learned), lambda p: seen.append(p.images), should_stop)
    assert len(asked) == len(seen) == batches
    assert handed_over == list(range(1 + (batches - 1) // 39))
    assert seen[-1] == (1222 if batches == 39 else batches % 39 * BATCH)


@pytest.mark.parametrize("name", ["naive", "clnp"])
def test_a_task_that_is_hardly_learned_is_warned_of_once_and_another_is_not(run, name):
    with pytest.warns(MethodWarning) as said:
        run(name, n_tasks=1, learning_rate=1e-9)
    (warned,) = [str(each.message) for each in said if "hardly learned" in str(each.message)]
    who, images = ("CLNP", "its validation images") if name == "clnp" else ("the network", "the images that it is")
    assert re.match(rf"{who} has hardly learned task 1: \d+\.\d % of {images}", warned)

    with warnings.catch_warnings():
        warnings.simplefilter("error", MethodWarning)
        run(name, n_tasks=1, epochs=2, hidden_sizes=[64])


DIVERGING = {"optimizer": "sgd", "learning_rate": 10, "learning_rate_schedule": "constant"}


@pytest.mark.parametrize(("epochs", "steps"), [(1, 39), (2, 78), (3, 100), (100, 100)])
def test_a_diverging_run_stops_and_names_task_step_and_remedy(run, epochs, steps):
    # Weight decay 1 at rate 10 multiplies every weight by -9 in each step.
    with pytest.raises(DivergenceError) as error:
        run(epochs=epochs, naive__weight_decay=1, **DIVERGING)
    assert str(error.value) == (
        f"the loss of task 1 is no longer finite after {steps} steps (learning rate now 10); "
        "try a lower learning rate, or a weaker penalty if the method has one"
    )


def test_a_run_that_diverges_later_names_the_task_and_has_handed_over_the_earlier_ones(make, digits):
    # Weight decay 1 at rate 2.1 multiplies every weight by -1.1 in each step, too little for the first task.
    (spec,) = make(**SMALL | DIVERGING | {"learning_rate": 2.1, "naive__weight_decay": 1})
    handed_over = []
    with pytest.raises(DivergenceError, match="the loss of task 2 is no longer finite after 39 steps"):
        train(spec, digits, CPU, lambda result: handed_over.append(result.learned))
    assert handed_over == [0, 1]
