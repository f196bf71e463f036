"""Properties over generated input: no traceback, no setting that silently becomes another, no number that moves.

Each property is tried on the same cases every time, and in the slow tests on many more that differ from time to time.
"""

import json
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.cli.options import as_option
from clbench.errors import ClbenchError, SettingError
from clbench.methods.settings import TrainingSettings
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.runs.spec import make_specs
from clbench.suites.files import SUITES, find_suite
from clbench.suites.settings import parse_overrides
from clbench.suites.suite import OVERRIDABLE, Suite

DRAWN_VALUES = runpy.run_path(str(Path(__file__).with_name("drawn_values.py")))
SUITE = DRAWN_VALUES["SUITE"]
more = DRAWN_VALUES["more"]
texts = DRAWN_VALUES["texts"]
numbers = DRAWN_VALUES["numbers"]
values = DRAWN_VALUES["values"]
LIKE = DRAWN_VALUES["LIKE"]
fitting = DRAWN_VALUES["fitting"]
attempt = DRAWN_VALUES["attempt"]
means = DRAWN_VALUES["means"]

METHOD_NAMES = sorted(METHODS)


def settings_of(name):
    return list(find_method(name).Settings.model_fields)


def as_argument(value):
    """The value as somebody would write it behind `--set name=`."""
    return value if isinstance(value, str) else json.dumps(value)


# --set


@st.composite
def assignments(draw):
    """A method, and names with values that may fit."""
    method = draw(st.sampled_from(METHOD_NAMES))
    names = st.sampled_from([*OVERRIDABLE, *(f"{method}.{name}" for name in settings_of(method))])
    odd = st.one_of(texts, st.sampled_from(["title", "seeds", "head", "data", f"{method}.", ".epochs", "psp.x"]))
    picked = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    if draw(st.integers(0, 7)) == 0:
        picked.append(draw(odd))
    suite = find_suite(SUITE)
    own = resolve_settings(suite, method, {}).model_dump()
    likely = {**{name: getattr(suite, name) for name in OVERRIDABLE}, **{f"{method}.{k}": v for k, v in own.items()}}
    drawn = {}
    for name in picked:
        like = LIKE[type(likely.get(name))]
        drawn[name] = draw(like if draw(st.integers(0, 3)) else st.one_of(fitting, numbers, values))
    return method, drawn


@more
def test_what_set_gives_is_recorded_as_given_or_refused(times, digits, cases):
    suite = find_suite(SUITE)
    accepted = 0

    @cases(400, times)
    @given(assignments())
    def holds(drawn):
        nonlocal accepted
        method, given_values = drawn
        words = [f"{name}={as_argument(value)}" for name, value in given_values.items()]
        overrides, said = attempt(lambda: parse_overrides(words))
        specs, said = (
            (None, said)
            if overrides is None
            else attempt(lambda: make_specs(suite, [method], [0], overrides, digits, "float32", "cpu"))
        )
        if specs is None:
            assert said.count("\n") <= sum(word.count("\n") for word in words)
            return
        accepted += 1
        (spec,) = specs
        (canonical,) = make_specs(suite, [method], [0], {}, digits, "float32", "cpu")
        recorded, before = spec.identity, canonical.identity
        # The names as the command line reads them, without blanks around.
        wanted = {
            name.strip(): overrides[name.strip()] if isinstance(value, str) else value
            for name, value in given_values.items()
        }
        assert overrides.keys() == wanted.keys()
        of_suite = {name: value for name, value in wanted.items() if "." not in name}
        for name, value in recorded["suite_settings"].items():
            if name in wanted:
                assert means(value, wanted[name], before["suite_settings"].get(name))
            else:
                assert value == before["suite_settings"][name]
        for name, value in recorded["method_settings"].items():
            if f"{method}.{name}" in wanted:
                # Where nothing is given, the method's own default counts, then the suite's.
                default = find_method(method).Settings.model_fields[name].default
                otherwise = recorded["suite_settings"].get(name) if default is None else default
                assert means(value, wanted[f"{method}.{name}"], otherwise)
            else:
                # What the suite's override reaches, unless the suite sets it for this method.
                own = before["method_settings"][name]
                assert value == own or (name in of_suite and value == recorded["suite_settings"][name])
        assert bool(spec.overrides) == (recorded != before)
        assert (spec.run_id == canonical.run_id) == (recorded == before)
        assert set(spec.overrides) <= set(wanted)

    holds()
    assert accepted >= 50 * times


def test_what_show_prints_for_a_setting_can_be_given_to_set(digits):
    for suite in SUITES.values():
        for method in METHODS:
            for name, value in resolve_settings(suite, method, {}).model_dump().items():
                overrides = parse_overrides([f"{method}.{name}={as_option(value)}"])
                same = resolve_settings(suite, method, {name: overrides[f"{method}.{name}"]})
                assert same == resolve_settings(suite, method, {})


@pytest.mark.parametrize(
    "assignment",
    [
        "learning_rate=true",
        'learning_rate="0.1"',
        "naive.weight_decay=true",
        "naive.weight_decay=false",
        "naive.reset_optimizer=1",
        'naive.reset_optimizer="no"',
        "clnp.l1_activities=true",
        "clnp.l1_activities=[true]",
        "ewc.fisher_images=true",
        "ewc.fisher_images=3.0",
        "epochs=2.0",
    ],
)
def test_a_value_of_another_kind_is_refused_and_never_turned_into_a_number(digits, assignment):
    method = assignment.partition(".")[0] if "." in assignment.partition("=")[0] else "naive"
    with pytest.raises(SettingError, match=re.escape(assignment.partition("=")[0])):
        make_specs(find_suite(SUITE), [method], [0], parse_overrides([assignment]), digits, "float32", "cpu")


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("5.", 5.0), ("+1e-3", 0.001), ("-.5e1", -5.0)])
def test_numbers_that_json_cannot_spell_are_numbers(text, value):
    assert parse_overrides([f"learning_rate={text}"]) == {"learning_rate": value}


# Suites


@st.composite
def suite_fields(draw):
    """The fields of a suite, some of them replaced or left out, perhaps one too many."""
    fields = find_suite(draw(st.sampled_from(sorted(SUITES)))).flat()
    # What has a structure of its own.
    for name in ("published", "goals", "search"):
        del fields[name]
    for name in draw(st.lists(st.sampled_from([*fields, "extra"]), max_size=3, unique=True)):
        if name in fields and draw(st.integers(0, 9)) == 0:
            del fields[name]
        else:
            fields[name] = draw(values)
    return fields


@more
def test_a_suite_is_what_was_given_or_refused(times, cases):
    @cases(250, times)
    @given(suite_fields())
    def holds(fields):
        try:
            made = Suite.of(fields)
        except SettingError:
            return
        for name, value in fields.items():
            got = made.flat()[name]
            # Seeds and methods count once each, and augmentations have no order.
            assert means(got, value, None) or got == value or set(got) == set(value or ())
        # And back again.
        assert Suite.of(made.flat()) == made

    holds()


@more
def test_the_overrides_of_a_suite_are_taken_as_given_or_refused_in_one_sentence(times, cases):
    suite = find_suite(SUITE)

    @cases(200, times)
    @given(st.dictionaries(st.sampled_from(OVERRIDABLE), fitting | values, min_size=1, max_size=2))
    def holds(overrides):
        try:
            changed = suite.with_overrides(overrides)
        except SettingError:
            return
        for name in OVERRIDABLE:
            got = getattr(changed, name)
            if name not in overrides:
                assert got == getattr(suite, name)
            elif name == "augmentation":
                given_names = overrides[name].split(",") if isinstance(overrides[name], str) else overrides[name] or ()
                assert set(got) == {part.strip() for part in given_names} - {""}
            elif name not in ("data", "network") or "/" not in got:
                assert means(got, overrides[name], None)

    holds()


def test_settings_of_every_method_are_strict():
    # A new method that loosens it would let `--set` record something else than was given.
    for name in METHODS:
        schema = find_method(name).Settings
        assert issubclass(schema, TrainingSettings)
        assert schema.model_config.get("strict") is True
    assert issubclass(SettingError, ClbenchError)
