import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench import metrics

NAN = math.nan

# Three tasks, single head: the next task is tried before it is learned, later ones are not.
#                   task 1  task 2  task 3
SINGLE_HEAD = [
    [0.10, 0.20, 0.05],  # untrained
    [0.90, 0.30, NAN],
    [0.80, 0.95, 0.25],
    [0.60, 0.85, 0.70],
]
MULTI_HEAD = [
    [NAN, NAN],
    [0.75, NAN],
    [0.50, 1.00],
]


def array(rows):
    return np.array(rows, dtype=np.float64)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("average_accuracy", (0.60 + 0.85 + 0.70) / 3),
        ("backward_transfer", ((0.60 - 0.90) + (0.85 - 0.95)) / 2),
        ("forgetting", ((0.90 - 0.60) + (0.95 - 0.85)) / 2),
        ("forward_transfer", ((0.30 - 0.20) + (0.25 - 0.05)) / 2),
        ("average_incremental_accuracy", (0.90 + (0.80 + 0.95) / 2 + (0.60 + 0.85 + 0.70) / 3) / 3),
        ("learning_accuracy", (0.90 + 0.95 + 0.70) / 3),
    ],
)
def test_every_metric_of_three_tasks_is_the_number_on_paper(metric, expected):
    assert getattr(metrics, metric)(array(SINGLE_HEAD)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("average_accuracy", (0.80 + 0.95) / 2),
        ("backward_transfer", 0.80 - 0.90),
        ("forgetting", 0.90 - 0.80),
        ("forward_transfer", 0.30 - 0.20),
        ("average_incremental_accuracy", (0.90 + (0.80 + 0.95) / 2) / 2),
        ("learning_accuracy", (0.90 + 0.95) / 2),
    ],
)
def test_learned_looks_back_at_an_earlier_moment_of_the_run(metric, expected):
    assert getattr(metrics, metric)(array(SINGLE_HEAD), 2) == pytest.approx(expected, abs=1e-15)


def test_a_run_that_stopped_early_is_measured_after_the_last_task_it_learned():
    stopped = array(SINGLE_HEAD)
    stopped[3] = NAN
    assert metrics.tasks_learned(stopped) == 2
    assert metrics.summarise(stopped) == metrics.summarise(SINGLE_HEAD, 2)


def test_a_multi_head_network_has_no_forward_transfer_and_all_the_rest():
    assert metrics.forward_transfer(array(MULTI_HEAD)) is None
    assert metrics.summarise(MULTI_HEAD) == pytest.approx(
        {
            "average_accuracy": 0.75,
            "backward_transfer": -0.25,
            "forgetting": 0.25,
            "average_incremental_accuracy": 0.75,
            "learning_accuracy": 0.875,
        }
    )


def test_transfer_and_forgetting_of_a_single_task_are_undefined_and_not_zero():
    only = array([[0.1], [0.9]])
    assert metrics.backward_transfer(only) is None
    assert metrics.forgetting(only) is None
    assert metrics.forward_transfer(only) is None
    assert metrics.summarise(only) == {
        "average_accuracy": 0.9,
        "average_incremental_accuracy": 0.9,
        "learning_accuracy": 0.9,
    }


@pytest.mark.parametrize(("row", "column"), [(0, 1), (0, 2), (1, 1), (2, 2)])
def test_one_missing_value_that_forward_transfer_needs_makes_it_undefined(row, column):
    matrix = array(SINGLE_HEAD)
    matrix[row, column] = NAN
    assert metrics.forward_transfer(matrix) is None


def test_forward_transfer_does_not_need_the_untrained_accuracy_on_the_first_task():
    matrix = array(SINGLE_HEAD)
    matrix[0, 0] = NAN
    assert metrics.forward_transfer(matrix) == metrics.forward_transfer(array(SINGLE_HEAD))


def test_forgetting_counts_from_the_best_moment_and_not_from_the_moment_of_learning():
    matrix = array([[0.1, 0.1, 0.1], [0.5, 0.1, 0.1], [0.9, 0.6, 0.1], [0.7, 0.6, 0.8]])
    assert metrics.forgetting(matrix) == pytest.approx((0.2 + 0.0) / 2)
    assert metrics.backward_transfer(matrix) == pytest.approx((0.2 + 0.0) / 2)


def test_forgetting_takes_a_better_accuracy_from_before_learning_but_not_from_the_untrained_network():
    matrix = array([[1.0, 1.0, 1.0], [0.5, 0.8, 0.1], [0.5, 0.6, 0.1], [0.5, 0.6, 0.8]])
    assert metrics.forgetting(matrix) == pytest.approx((0.0 + 0.2) / 2)


def test_a_task_that_improves_later_has_negative_forgetting():
    assert metrics.forgetting(array([[0, 0], [0.5, 0], [0.75, 1]])) == pytest.approx(-0.25)


def test_unmeasured_values_above_the_diagonal_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.summarise(MULTI_HEAD)


@pytest.mark.parametrize(
    "shape",
    [(3, 4), (3, 3), (5, 3), (4,), (1, 0), (0, 0), (2, 4, 3)],
    ids=["transposed", "without-the-untrained-row", "a-row-too-many", "a-row", "no-task", "empty", "three-axes"],
)
def test_a_matrix_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected an accuracy matrix of shape \[T \+ 1, T\] with T >= 1, but got"):
        metrics.check_matrix(np.full(shape, 0.5))


def test_the_transpose_of_a_good_matrix_is_refused_by_every_summary():
    metrics.summarise(SINGLE_HEAD)
    with pytest.raises(ValueError, match=r"but got \(3, 4\)"):
        metrics.summarise(array(SINGLE_HEAD).T)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (85.0, "expected accuracies in [0, 1], but got values from 0.05 to 85.0"),
        (-0.1, "expected accuracies in [0, 1], but got values from -0.1 to 0.95"),
        (math.inf, "expected accuracies in [0, 1], but got values from 0.05 to inf"),
        (-math.inf, "expected accuracies in [0, 1], but got values from -inf to 0.95"),
    ],
)
def test_a_value_that_is_no_accuracy_is_refused(value, said):
    matrix = array(SINGLE_HEAD)
    matrix[2, 0] = value
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        metrics.check_matrix(matrix)
    assert str(error.value) == said


@pytest.mark.parametrize(("row", "column"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_a_hole_on_or_below_the_diagonal_is_refused(row, column):
    matrix = array(SINGLE_HEAD)
    matrix[row, column] = NAN
    with pytest.raises(ValueError, match=f"row {row} of the accuracy matrix lacks a value for one of its first {row}"):
        metrics.check_matrix(matrix)


def test_a_skipped_row_is_refused():
    matrix = array(SINGLE_HEAD)
    matrix[2] = NAN
    assert metrics.tasks_learned(matrix) == 3
    with pytest.raises(ValueError, match="row 2 of the accuracy matrix lacks a value"):
        metrics.summarise(matrix)


@pytest.mark.parametrize("learned", [0, -1, 4])
@pytest.mark.parametrize("metric", metrics.SUMMARY)
def test_an_impossible_number_of_learned_tasks_is_refused(metric, learned):
    with pytest.raises(ValueError, match=f"expected 1 to 3 learned tasks, but got {learned}"):
        metrics.SUMMARY[metric](array(SINGLE_HEAD), learned)


def test_an_untrained_run_has_no_summary():
    matrix = np.full((4, 3), NAN)
    matrix[0] = 0.1
    assert metrics.tasks_learned(metrics.check_matrix(matrix)) == 0
    with pytest.raises(ValueError, match="at least one learned task"):
        metrics.summarise(matrix)


def test_checking_copies_nothing_into_the_callers_matrix():
    given_rows = array(SINGLE_HEAD)
    before = given_rows.copy()
    metrics.summarise(given_rows)
    np.testing.assert_array_equal(given_rows, before)


def test_columns_are_numbered_from_one_and_sort_as_text():
    assert metrics.task_columns(3) == ["task_01", "task_02", "task_03"]
    names = metrics.task_columns(99)
    assert sorted(names) == list(names)


@st.composite
def matrices(draw, *, may_rise=True):
    """Accuracy matrices of 2 to 6 tasks; above the diagonal measured or not."""
    n_tasks = draw(st.integers(2, 6))
    # Multiples of 1/64 are exact in binary, so that sums carry no rounding.
    accuracy = st.integers(0, 64).map(lambda n: n / 64)
    matrix = np.full((n_tasks + 1, n_tasks), NAN)
    for j in range(n_tasks):
        for i in range(n_tasks + 1):
            if i > j or draw(st.booleans()):
                matrix[i, j] = draw(accuracy)
        if not may_rise:
            matrix[j + 1 :, j] = np.sort(matrix[j + 1 :, j])[::-1]
            matrix[: j + 1, j] = np.minimum(matrix[: j + 1, j], matrix[j + 1, j])
    return matrix


def forgetting_by_loops(matrix):
    n_tasks = matrix.shape[1]
    drops = []
    for task in range(1, n_tasks):
        best = -1.0
        for moment in range(1, n_tasks):
            value = matrix[moment][task - 1]
            if value == value and value > best:
                best = value
        drops.append(best - matrix[n_tasks][task - 1])
    return sum(drops) / len(drops)


@given(matrices())
def test_forgetting_is_what_plain_loops_over_the_definition_give(matrix):
    assert metrics.forgetting(matrix) == pytest.approx(forgetting_by_loops(matrix), abs=1e-12)


@given(matrices(may_rise=False))
def test_forgetting_is_minus_backward_transfer_when_no_accuracy_ever_rises_after_learning(matrix):
    assert metrics.forgetting(matrix) == pytest.approx(-metrics.backward_transfer(matrix), abs=1e-12)


@given(matrices())
def test_forgetting_is_never_less_than_minus_backward_transfer(matrix):
    assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12


@given(matrices())
def test_accuracy_at_the_end_is_that_at_learning_plus_what_backward_transfer_says_was_lost(matrix):
    n_tasks = matrix.shape[1]
    expected = metrics.learning_accuracy(matrix) + metrics.backward_transfer(matrix) * (n_tasks - 1) / n_tasks
    assert metrics.average_accuracy(matrix) == pytest.approx(expected, abs=1e-12)


@given(matrices())
def test_every_summary_is_a_finite_number_in_its_range(matrix):
    for name, value in metrics.summarise(matrix).items():
        low = 0 if name.endswith("accuracy") else -1
        assert isinstance(value, float)
        assert low <= value <= 1


# Capacity


def counted(task, unit="weight", **of):
    return {"task": task, "group": "layer_1", "unit": unit, "weights_used": np.nan, "weights": np.nan, **of}


def test_capacity_weighs_each_group_by_its_weights_after_the_last_task():
    rows = [
        counted(1, "neuron", units=10, free=9, weights_used=0.1, weights=1000),
        counted(2, "neuron", units=10, free=5, weights_used=0.5, weights=1000),
        counted(2, "filter", units=4, free=0, weights_used=1.0, weights=3000),
    ]
    assert metrics.capacity_used(rows) == pytest.approx(3500 / 4000)


def test_there_is_no_capacity_where_the_weights_were_not_counted():
    assert metrics.capacity_used([]) is None
    assert metrics.capacity_used([counted(1, "neuron", units=10, free=5)]) is None
