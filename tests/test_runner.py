import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin

from clbench import metrics
from clbench.errors import DivergenceError, Interrupted, MethodWarning, SettingError
from clbench.methods.method import images_to_train
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.records.identity import run_id_of
from clbench.runs.runner import measure, train
from clbench.runs.spec import make_specs

CPU = torch.device("cpu")
SMALL = {"n_tasks": 3, "epochs": 1, "hidden_sizes": [16]}
BATCH = 32
NAN = math.nan


@pytest.fixture
def make(plain, digits):
    """(methods, seeds, suite, images, precision, device, overrides) -> list of RunSpec."""

    def specs(
        methods=("naive",), seeds=(0,), suite=None, images=digits, precision="float32", device="cpu", **overrides
    ):
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        suite = suite or plain
        return make_specs(suite, list(methods), list(seeds), named, images, precision, device)

    return specs


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


@pytest.fixture
def message_of(make):
    def message(*args, **overrides):
        with pytest.raises(SettingError) as error:
            make(*args, **overrides)
        return str(error.value)

    return message


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
    who, images = ("CLNP", "validation") if name == "clnp" else ("the network", "test")
    assert re.match(rf"{who} has hardly learned task 1: \d+\.\d % of its {images} images are right", warned)

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


# Run ids


def run_id(make, *args, **how):
    (spec,) = make(*args, **how)
    return spec.run_id


def test_everything_that_changes_a_number_changes_the_run_id(plain, make, digits, split_digits):
    ids = [
        run_id(make),
        run_id(make, seeds=[1]),
        run_id(make, ["ewc"]),
        run_id(make, precision="bfloat16"),
        run_id(make, device="cuda"),
        run_id(make, images=replace(digits, sha256="0" * 64)),
        run_id(make, suite=split_digits),
        run_id(make, naive__weight_decay=0.5),
        run_id(make, ["ewc"], ewc__strength=1),
        run_id(make, suite=plain.model_copy(update={"scenario": "rotated"})),
    ]
    changes = {
        "n_tasks": 3,
        "data": "mnist",
        "image_size": 9,
        "normalise": True,
        "augmentation": "flip",
        "network": "conv",
        "head": "multi",
        "hidden_sizes": [256],
        "dropout_share": 0.5,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "learning_rate_schedule": "constant",
        "batch_size": 64,
        "epochs": 1,
        "steps_per_epoch": 39,
        "validation_share": 0.2,
    }
    of_others = {"classes_per_task", "class_order", "crop_padding"}
    assert set(changes) == set(plain.overridable) - of_others
    ids += [run_id(make, **{key: value}) for key, value in changes.items()]
    ids += [
        run_id(make, suite=split_digits, classes_per_task=4),
        run_id(make, suite=split_digits, class_order="random"),
        run_id(make, suite=split_digits, augmentation="crop"),
        run_id(make, suite=split_digits, augmentation="crop", crop_padding=3),
    ]
    assert len(set(ids)) == len(ids)


def test_steps_per_epoch_is_part_of_a_run_id_only_where_it_is_a_number(make):
    # Runs recorded before it existed keep their ids.
    (spec,) = make()
    assert "steps_per_epoch" not in spec.identity["suite_settings"]
    # What was there from the beginning stays, None or not.
    assert spec.identity["suite_settings"]["classes_per_task"] is None
    (counted,) = make(steps_per_epoch=39)
    assert counted.identity["suite_settings"]["steps_per_epoch"] == 39
    without = {key: value for key, value in counted.identity["suite_settings"].items() if key != "steps_per_epoch"}
    assert counted.identity | {"suite_settings": without} == spec.identity
    assert counted.run_id != spec.run_id == run_id_of(spec.identity)
    assert make(steps_per_epoch=40)[0].run_id != counted.run_id


def test_a_suites_steps_per_epoch_can_be_taken_back(make, plain):
    (spec,) = make(suite=plain.model_copy(update={"steps_per_epoch": 39}), steps_per_epoch=None)
    assert spec.overrides == {"steps_per_epoch": None}
    assert spec.run_id == run_id(make)


@pytest.mark.parametrize(
    "update",
    [
        {"title": "another"},
        {"source": "another"},
        {"seeds": (7, 8, 9)},
        {"methods": ("naive",)},
        {"method_settings": {"ewc": {"strength": 7.0}}},
    ],
    ids=lambda update: next(iter(update)),
)
def test_what_changes_no_number_of_a_run_leaves_its_id_alone(plain, make, update):
    assert run_id(make, suite=plain.model_copy(update=update)) == run_id(make)


def test_a_suites_setting_for_a_method_changes_that_methods_run_id(plain, make):
    suite = plain.model_copy(update={"method_settings": {"ewc": {"strength": 7.0}}})
    assert run_id(make, ["ewc"], suite=suite) != run_id(make, ["ewc"])


def test_an_override_that_says_what_holds_anyway_changes_no_run_id(make):
    expected = run_id(make)
    assert run_id(make, epochs=10) == expected
    assert run_id(make, hidden_sizes=[256, 256]) == expected
    assert run_id(make, naive__learning_rate=0.002, naive__reset_optimizer=True) == expected


def test_a_variant_has_a_run_id_of_its_own_even_where_it_computes_what_its_method_would(make, digits_with_variants):
    as_variant = run_id(make, ["psp:complex"], suite=digits_with_variants)
    (overridden,) = make(["psp"], suite=digits_with_variants, psp__kind="complex")
    (plain_psp,) = make(["psp"], suite=digits_with_variants)
    assert len({as_variant, overridden.run_id, plain_psp.run_id}) == 3


def test_the_other_methods_of_a_comparison_do_not_change_a_run_id(make):
    together = {spec.method: spec.run_id for spec in make(["naive", "ewc", "clnp"], ewc__strength=3)}
    assert together["naive"] == run_id(make)
    assert together["clnp"] == run_id(make, ["clnp"])
    assert together["ewc"] != run_id(make, ["ewc"])


# The grid


def test_the_grid_goes_seed_by_seed(make):
    grid = [(spec.seed, spec.method) for spec in make(["clnp", "naive"], [0, 4])]
    assert grid == [(0, "clnp"), (0, "naive"), (4, "clnp"), (4, "naive")]


def test_a_suites_override_marks_every_run_and_reaches_every_method(make):
    for spec in make(["clnp", "naive"], epochs=2, hidden_sizes=[16, 16]):
        assert spec.overrides == {"epochs": 2, "hidden_sizes": (16, 16)}
        assert (spec.suite.epochs, spec.settings.epochs) == (2, 2)


def test_a_methods_override_marks_the_runs_of_that_method_alone(make):
    specs = {spec.method: spec for spec in make(["clnp", "ewc", "naive"], clnp__margin=0.5, ewc__epochs=3)}
    assert specs["clnp"].overrides == {"clnp.margin": 0.5}
    assert specs["ewc"].overrides == {"ewc.epochs": 3}
    assert specs["naive"].overrides == {}
    assert specs["clnp"].settings.margin == 0.5
    assert (specs["ewc"].settings.epochs, specs["naive"].settings.epochs, specs["ewc"].suite.epochs) == (3, 10, 10)


def test_a_methods_override_beside_one_of_the_suite_marks_that_method_alone(make):
    ewc, naive = make(["ewc", "naive"], epochs=2, ewc__epochs=3)
    assert ewc.overrides == {"epochs": 2, "ewc.epochs": 3}
    assert naive.overrides == {"epochs": 2}


def test_an_override_of_a_variant_is_that_variants_alone(make, digits_with_variants):
    names = ["psp", "psp:complex", "psp:rotation"]
    change = {"psp:complex.learning_rate": 0.125, "psp.weight_decay": 0.5}
    specs = {spec.method: spec for spec in make(names, suite=digits_with_variants, **change)}
    assert specs["psp:complex"].overrides == {"psp:complex.learning_rate": 0.125}
    assert specs["psp"].overrides == {"psp.weight_decay": 0.5}
    assert specs["psp:rotation"].overrides == {}
    assert [specs[name].settings.learning_rate for name in names] == [0.5, 0.125, 0.5]
    assert [specs[name].settings.weight_decay for name in names] == [0.5, 0.0, 0.25]
    assert [specs[name].settings.kind for name in names] == ["binary", "complex", "rotation"]


def test_an_override_of_a_variant_that_says_what_holds_anyway_marks_nothing(make, digits_with_variants):
    change = {"psp:rotation.kind": "rotation", "psp:rotation.learning_rate": 0.5, "psp:rotation.weight_decay": 0.25}
    (spec,) = make(["psp:rotation"], suite=digits_with_variants, **change)
    assert spec.overrides == {}


def test_overrides_that_say_what_holds_anyway_mark_nothing(make):
    margin = find_method("clnp").Settings().margin
    for spec in make(["clnp", "psp"], epochs=10, hidden_sizes=[256, 256], clnp__margin=margin, psp__learning_rate=1e-4):
        assert spec.overrides == {}


def test_a_methods_override_against_the_suites_override_is_recorded(make):
    # The suite has 10 epochs: for naive the override of the suite is taken back, and the record must say so.
    naive, ewc = make(["naive", "ewc"], epochs=2, naive__epochs=10)
    assert (naive.settings.epochs, ewc.settings.epochs) == (10, 2)
    assert ewc.overrides == {"epochs": 2}
    assert naive.overrides == {"epochs": 2, "naive.epochs": 10}


def test_an_unknown_setting_is_refused_with_the_nearest_and_the_form_for_methods(message_of, plain):
    assert message_of(["naive", "ewc"], epoch=2) == (
        "unknown setting 'epoch': did you mean 'epochs'? expected one of "
        + ", ".join(sorted([*plain.overridable, "ewc.SETTING", "naive.SETTING"]))
    )


def test_an_unknown_setting_of_a_method_is_refused_with_that_methods_settings(message_of):
    said = message_of(["naive"], naive__momentun=0.5)
    assert said == (
        "unknown setting of naive 'momentun': did you mean 'momentum'? expected one of batch_size, epochs, "
        "initial_weights, learning_rate, learning_rate_schedule, momentum, optimizer, power_alpha, reset_optimizer, "
        "weight_decay"
    )


def test_a_setting_of_an_unknown_method_is_refused_with_all_methods(message_of):
    said = message_of(["naive"], naiv__momentum=0.5)
    assert said.startswith("unknown method 'naiv': did you mean 'naive'? expected one of ")
    assert all(name in said for name in METHODS)


def test_a_setting_of_a_method_that_does_not_run_is_refused(message_of):
    assert message_of(["naive", "clnp"], ewc__strength=1) == (
        "--set ewc.strength: 'ewc' is not among the methods of this run (naive, clnp); add it to --methods, or leave "
        "the setting out"
    )


def test_an_unknown_method_is_refused_with_the_nearest(message_of):
    assert message_of(["naiv"]).startswith("unknown method 'naiv': did you mean 'naive'? expected one of ")


def test_a_value_that_does_not_fit_is_refused_under_its_full_name(message_of):
    assert message_of(["naive"], epochs=0).startswith("the setting epochs=0 does not fit: ")
    assert message_of(["naive"], naive__momentum=2).startswith("the setting naive.momentum=2 does not fit: ")
