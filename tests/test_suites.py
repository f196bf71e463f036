import pytest
from pydantic import ValidationError

from clbench.baselines.psp import PSP
from clbench.data import SOURCES
from clbench.errors import SettingError
from clbench.methods.method import MethodSettings
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.runs.spec import make_specs
from clbench.suites.files import SUITES, find_suite
from clbench.suites.settings import base_name, parse_overrides
from clbench.suites.suite import OVERRIDABLE, Suite

NO_SUITE = f"expected one of {', '.join(sorted(SUITES))}"


def message_of(call, *args, **kwargs):
    with pytest.raises(SettingError) as error:
        call(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_found_under_its_own_name_and_passes_its_own_checks(name):
    suite = find_suite(name)
    assert suite.name == name
    # `model_copy` checks nothing; this does.
    assert Suite.model_validate(suite.model_dump()) == suite


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_says_where_it_comes_from_and_names_what_exists(name):
    suite = find_suite(name)
    assert set(suite.data.split("+")) <= set(SOURCES)
    assert set(map(base_name, suite.methods)) <= set(METHODS)
    assert set(map(base_name, suite.method_settings)) <= set(METHODS)
    assert "Our choice" in suite.source or "permuted-mnist with" in suite.source
    assert len(set(suite.seeds)) == len(suite.seeds) >= 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SUITES)
def test_the_settings_of_every_method_resolve_in_every_suite(name, method):
    suite = find_suite(name)
    settings = resolve_settings(suite, method, {})
    for key, value in suite.method_settings.get(method, {}).items():
        assert getattr(settings, key) == value
    assert None not in (
        getattr(settings, "optimizer", "its own"),
        settings.learning_rate,
        settings.learning_rate_schedule,
        settings.batch_size,
        settings.epochs,
    )


def test_a_setting_comes_from_the_override_then_the_suite_then_the_method_then_the_suites_common_value(plain):
    suite = plain.model_copy(update={"method_settings": {"psp": {"learning_rate": 0.5}}})
    assert resolve_settings(suite, "psp", {"learning_rate": 0.25}).learning_rate == 0.25
    assert resolve_settings(suite, "psp", {}).learning_rate == 0.5
    assert resolve_settings(plain, "psp", {}).learning_rate == 1e-4
    assert resolve_settings(plain, "naive", {}).learning_rate == 0.002


def test_a_variant_is_its_method_with_what_the_suite_sets_for_the_method_and_then_for_the_variant(
    digits_with_variants,
):
    found = {name: resolve_settings(digits_with_variants, name, {}) for name in ("psp", "psp:complex", "psp:rotation")}
    assert {name: settings.kind for name, settings in found.items()} == {
        "psp": "binary",
        "psp:complex": "complex",
        "psp:rotation": "rotation",
    }
    assert found["psp:complex"] == found["psp"].model_copy(update={"kind": "complex"})
    assert found["psp:rotation"] == found["psp"].model_copy(update={"kind": "rotation", "weight_decay": 0.25})
    assert {settings.learning_rate for settings in found.values()} == {0.5}
    again = resolve_settings(digits_with_variants, "psp:rotation", {"kind": "complex", "learning_rate": 0.125})
    assert (again.kind, again.learning_rate, again.weight_decay) == ("complex", 0.125, 0.25)


def test_a_variant_comes_before_its_method_where_both_set_something(digits_with_variants):
    settings = {"psp": {"kind": "complex", "weight_decay": 0.5}, "psp:rotation": {"kind": "rotation"}}
    suite = digits_with_variants.model_copy(update={"method_settings": settings})
    found = resolve_settings(suite, "psp:rotation", {})
    assert (found.kind, found.weight_decay) == ("rotation", 0.5)


@pytest.mark.parametrize("kind", ["complex", "rotation"])
def test_the_superposition_suites_variants_are_its_psp_with_other_contexts(kind):
    suite = find_suite("superposition-mnist-50")
    found = resolve_settings(suite, f"psp:{kind}", {})
    assert found == resolve_settings(suite, "psp", {}).model_copy(update={"kind": kind})
    assert (found.optimizer, found.learning_rate, found.batch_size, found.epochs) == ("rmsprop", 1e-4, 128, 1)
    assert f"psp:{kind}" in suite.methods


def test_a_variant_is_found_as_its_method():
    assert find_method("psp:rotation") is find_method("psp") is PSP
    assert base_name("psp:rotation") == "psp"
    assert base_name("psp") == "psp"


@pytest.mark.parametrize("name", ["psp:rotatoin", "psp:", "naive:rotation"])
def test_a_variant_that_the_suite_lacks_is_refused_with_those_it_has(digits_with_variants, name):
    said = message_of(resolve_settings, digits_with_variants, name, {})
    assert said.startswith(f"unknown variant in the suite variant-digits '{name}': ")
    assert said.endswith("expected one of psp:complex, psp:rotation")


def test_a_variant_of_an_unknown_method_is_refused_with_all_methods():
    assert message_of(find_method, "pps:rotation").startswith("unknown method 'pps': did you mean 'psp'? expected one")


def test_a_variants_unknown_setting_is_refused_under_its_full_name(digits_with_variants):
    said = message_of(resolve_settings, digits_with_variants, "psp:rotation", {"knid": "complex"})
    assert said.startswith("unknown setting of psp:rotation 'knid': did you mean 'kind'?")
    assert "the setting psp:rotation.kind=bent does not fit" in message_of(
        resolve_settings, digits_with_variants, "psp:rotation", {"kind": "bent"}
    )


@pytest.mark.parametrize("name", SUITES)
def test_every_variant_in_a_suite_is_named_after_a_method_and_is_among_those_it_runs(name):
    suite = find_suite(name)
    assert suite.variants == [key for key in suite.method_settings if ":" in key]
    for method in (*suite.methods, *suite.variants):
        reason = find_method(method).refuses(suite, resolve_settings(suite, method, {}))
        # The suite waits for a CLNP that can train its network.
        assert reason == "" or (base_name(method) == "clnp" and "plateau" in reason)
    assert set(suite.variants) <= set(suite.methods)


def test_a_suite_cannot_be_changed_in_place(plain):
    with pytest.raises(ValidationError, match="frozen"):
        plain.epochs = 1


def test_overrides_give_a_new_suite_and_leave_the_old_one(plain):
    changed = plain.with_overrides({"epochs": 2, "hidden_sizes": [100, 50]})
    assert (changed.epochs, changed.network_settings) == (2, {"hidden_sizes": (100, 50), "dropout_share": 0.0})
    assert changed.with_overrides({"epochs": 10, "hidden_sizes": [256, 256]}) == plain
    assert plain.epochs == 10


def test_no_overrides_give_an_equal_suite():
    split_mnist = find_suite("split-mnist")
    assert split_mnist.with_overrides({}) == split_mnist


@pytest.mark.parametrize("key", OVERRIDABLE)
def test_every_setting_that_may_be_changed_takes_its_own_value(plain, key):
    assert plain.with_overrides({key: getattr(plain, key)}) == plain


def test_a_setting_of_the_network_stands_beside_the_suites_own(plain):
    assert plain.overridable == (*OVERRIDABLE, "hidden_sizes", "dropout_share")
    assert plain.flat()["hidden_sizes"] == (256, 256)
    assert Suite.of(plain.flat()) == plain


def test_another_network_starts_from_its_own_defaults(plain):
    changed = plain.with_overrides({"network": "resnet18"})
    assert changed.network_settings == {"width": 20}
    assert changed.with_overrides({"width": 8}).network_settings == {"width": 8}
    assert message_of(plain.with_overrides, {"network": "resnet18", "hidden_sizes": [9]}).startswith(
        "the network resnet18 has no setting hidden_sizes, as mlp and conv have"
    )


@pytest.mark.parametrize("key", sorted(set(Suite.model_fields) - set(OVERRIDABLE)))
def test_what_makes_the_suite_what_it_is_cannot_be_overridden(plain, key):
    said = message_of(plain.with_overrides, {key: getattr(plain, key)})
    expected = {
        "methods": "--set cannot change methods; use --methods",
        "seeds": "--set cannot change seeds; use --seeds",
        "network_settings": "unknown setting 'network_settings': ",
    }
    assert said.startswith(expected.get(key, f"--set cannot change {key}; set it in a file, as clbench show"))


def test_an_unknown_suite_is_refused_with_the_nearest_and_all_names():
    assert message_of(find_suite, "permuted-minst") == (
        f"unknown suite 'permuted-minst': did you mean 'permuted-mnist'? {NO_SUITE}"
    )


def test_a_suite_like_no_other_is_refused_without_a_guess():
    assert message_of(find_suite, "42") == f"unknown suite '42': {NO_SUITE}"


def test_an_unknown_setting_is_refused_with_the_nearest_and_all_names(plain):
    assert message_of(plain.with_overrides, {"epoch": 2}) == (
        f"unknown setting 'epoch': did you mean 'epochs'? expected one of {', '.join(sorted(plain.overridable))}"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"epochs": 0}, "the setting epochs=0 does not fit: expected a value greater than or equal to 1"),
        (
            {"epochs": "many"},
            "the setting epochs=many does not fit: expected a whole number",
        ),
        (
            {"hidden_sizes": [100, 0]},
            "the setting hidden_sizes with 0 in it does not fit: expected a value greater than or equal to 1",
        ),
        (
            {"learning_rate": float("nan")},
            "the setting learning_rate=nan does not fit: expected a finite number",
        ),
        ({"validation_share": 1}, "the setting validation_share=1 does not fit: expected a value less than 1"),
        (
            {"optimizer": "adagrad"},
            "the setting optimizer=adagrad does not fit: expected one of adam, adamw, sgd, rmsprop",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_sentence(plain, override, said):
    assert message_of(plain.with_overrides, override) == said


def test_a_long_value_is_cut_in_the_message(plain):
    said = message_of(plain.with_overrides, {"optimizer": "x" * 1000})
    assert f"optimizer={'x' * 57}... does not fit" in said


def test_a_methods_unknown_setting_is_refused_with_the_nearest_and_all_names(plain):
    said = message_of(resolve_settings, plain, "ewc", {"strenght": 1})
    names = ", ".join(sorted(["strength", "fisher", "fisher_images", *MethodSettings.model_fields]))
    assert said == f"unknown setting of ewc 'strenght': did you mean 'strength'? expected one of {names}"


def test_a_methods_value_that_does_not_fit_is_refused_under_its_full_name(plain):
    assert message_of(resolve_settings, plain, "ewc", {"strength": -1}) == (
        "the setting ewc.strength=-1 does not fit: expected a value greater than or equal to 0"
    )


@pytest.mark.parametrize("field", ["momentum", "weight_decay"])
def test_a_method_refuses_settings_that_are_not_a_number(plain, field):
    assert f"naive.{field}=nan" in message_of(resolve_settings, plain, "naive", {field: float("nan")})


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ("epochs=2", "epochs", 2),
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        ("clnp.margin=0.5", "clnp.margin", 0.5),
        ("naive.reset_optimizer=false", "naive.reset_optimizer", False),
        ("hidden_sizes=100,50", "hidden_sizes", [100, 50]),
        ("hidden_sizes=[100, 50]", "hidden_sizes", [100, 50]),
        ("hidden_sizes=[100]", "hidden_sizes", [100]),
        ("optimizer=sgd", "optimizer", "sgd"),
        ('optimizer="sgd"', "optimizer", "sgd"),
        (" epochs = 2 ", "epochs", 2),
        ("ewc.fisher_images=null", "ewc.fisher_images", None),
        ("ewc.fisher_images=none", "ewc.fisher_images", None),
        ("optimizer=", "optimizer", ""),
        ("optimizer=a=b", "optimizer", "a=b"),
        ("optimizer=sgd,adam", "optimizer", "sgd,adam"),
    ],
)
def test_an_override_is_read_as_json_or_as_text(item, name, value):
    parsed = parse_overrides([item])
    assert parsed == {name: value}
    assert type(parsed[name]) is type(value)


def test_several_overrides_keep_their_order():
    assert list(parse_overrides(["epochs=2", "batch_size=16", "clnp.margin=1"])) == [
        "epochs",
        "batch_size",
        "clnp.margin",
    ]


@pytest.mark.parametrize("item", ["epochs", "=2", " =2", ""])
def test_an_override_without_a_name_or_a_value_is_refused(item):
    assert message_of(parse_overrides, [item]) == (
        f"--set expects NAME=VALUE, such as --set epochs=2, but got '{item}'"
    )


def test_a_name_given_twice_is_refused():
    assert message_of(parse_overrides, ["epochs=2", "epochs=3"]) == "--set gives 'epochs' twice; give it once"


def test_brackets_nested_without_end_are_text_and_do_not_crash():
    assert isinstance(parse_overrides(["hidden_sizes=" + "[" * 100_000])["hidden_sizes"], str)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"classes_per_task": 2}, "classes_per_task=2 is for tasks of different classes"),
        ({"class_order": "random"}, "class_order=random is for tasks of different classes"),
        ({"head": "classes"}, "head=classes is for tasks of different classes"),
        ({"crop_padding": 8}, "crop_padding=8 changes nothing without augmentation=crop"),
    ],
)
def test_a_setting_that_would_change_nothing_but_the_run_id_is_refused(plain, override, said):
    assert said in message_of(plain.with_overrides, override)


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.network == "mlp"])
def test_every_method_that_a_suite_of_linear_layers_lists_can_run_on_it(name, digits):
    suite = find_suite(name).with_overrides({"n_tasks": 2, "hidden_sizes": [8, 8]})
    specs = make_specs(suite, list(suite.methods), [0], {}, digits, "float32", "cpu")
    assert [spec.method for spec in specs] == list(suite.methods)
