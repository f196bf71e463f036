from dataclasses import replace

import pytest

from clbench.errors import SettingError
from clbench.methods.table import METHODS, find_method
from clbench.records.identity import run_id_of


@pytest.fixture
def message_of(make):
    def message(*args, **overrides):
        with pytest.raises(SettingError) as error:
            make(*args, **overrides)
        return str(error.value)

    return message


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
