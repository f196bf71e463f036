"""Properties over generated input: no traceback, no setting that silently becomes another, no number that moves.

Each property is tried on the same cases every time, and in the slow tests on many more that differ from time to time.
"""

import json
import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clbench import metrics
from clbench.cli.options import as_option, chosen_seeds, listed
from clbench.data.streams import make_stream
from clbench.errors import ClbenchError, SettingError
from clbench.execution.plan import chosen_methods
from clbench.methods.settings import TrainingSettings
from clbench.methods.table import METHODS, find_method, resolve_settings
from clbench.records.audit import audit
from clbench.records.folder import RunFolder
from clbench.records.identity import recorded_identity, run_id_of
from clbench.records.reading import read_run
from clbench.records.result import RunResult
from clbench.reports.analysis.groups import select
from clbench.reports.formats.terminal import summary_table
from clbench.reports.sections.provenance import left_out_table, provenance
from clbench.runs.config import config_of
from clbench.runs.spec import make_specs
from clbench.search.trials import load_grid
from clbench.seeding import RandomStreams
from clbench.suites.files import SUITES, find_suite
from clbench.suites.settings import parse_overrides
from clbench.suites.suite import OVERRIDABLE, Suite

SUITE = "permuted-digits"
GRID = Path(__file__).resolve().parents[1] / "baselines" / "tuning" / "permuted-mnist-clnp.toml"
METHOD_NAMES = sorted(METHODS)

more = pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])


# Characters that can stand in an argument of a command: all but NUL.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([0, 1, -0.0, 10**30, 10**400, 2**53 + 1, 5e-324, 1e308]),
)
scalars = st.one_of(numbers, st.booleans(), st.none(), texts, st.sampled_from(["adam", "sgd", "linear", "random"]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2), max_leaves=5
)


WORDS = ["adam", "sgd", "rmsprop", "linear", "constant", "sorted", "random", "exact", "sample", "global", "complex"]
# What a setting with such a value may take as well.
LIKE = {
    bool: st.booleans(),
    int: st.integers(1, 50) | st.sampled_from(["3", "2.0"]),
    float: st.floats(1e-6, 0.9) | st.sampled_from([0.5, 1, ".5", "1."]),
    str: st.sampled_from(WORDS),
    list: st.sampled_from([[0.5], [0.001, 0.002], 0.5, "0.5,1"]),
    tuple: st.sampled_from([[16, 16], 16, [7], "16,16"]),
    type(None): st.integers(1, 50) | st.none(),
}
fitting = st.one_of(*LIKE.values())


def attempt(call):
    """What the call gave and nothing, or None and how it was refused; anything else fails the test."""
    try:
        return call(), ""
    except ClbenchError as error:
        return None, str(error)


def settings_of(name):
    return list(find_method(name).Settings.model_fields)


def as_argument(value):
    """The value as somebody would write it behind `--set name=`."""
    return value if isinstance(value, str) else json.dumps(value)


def means(recorded, given, otherwise):
    """Whether what is recorded is what was given; None stands for what holds otherwise."""
    if given is None:
        return recorded == otherwise or recorded is None
    if isinstance(recorded, bool) or isinstance(given, bool):
        return recorded is given
    if isinstance(recorded, int | float) and isinstance(given, int | float):
        # A whole number that is too long for a float is rounded as any other number is.
        return recorded == given or recorded == float(given)
    if isinstance(recorded, list | tuple):
        # One number stands for a list of one.
        listed = given if isinstance(given, list | tuple) else [given]
        return len(recorded) == len(listed) and all(means(r, g, None) for r, g in zip(recorded, listed, strict=True))
    return type(recorded) is type(given) and recorded == given


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


# Grids of the search


def as_toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if value is None:
        return '""'
    return json.dumps(value, ensure_ascii=True) if isinstance(value, str) else repr(value)


def with_null_as_none(written):
    """What a grid's file says, "null" in a trial read as the None that it stands for."""
    trials = {
        name: [{key: None if value == "null" else value for key, value in trial.items()} for trial in listed]
        for name, listed in written["trials"].items()
    }
    return {**written, "trials": trials}


@st.composite
def grids(draw):
    """The text of a grid: whole, with a strange part, damaged, or none at all."""
    kind = draw(st.sampled_from(["fields", "fields", "damaged", "text"]))
    if kind == "text":
        return draw(st.text(max_size=60))
    if kind == "damaged":
        text = GRID.read_text()
        place = draw(st.integers(0, len(text) - 1))
        return text[:place] + draw(st.text(max_size=3)) + text[place + draw(st.integers(0, 3)) :]
    methods = draw(st.lists(st.sampled_from(["naive", "clnp", "psp", "nayve"]), max_size=2, unique=True))
    count = draw(st.integers(0, 2))
    fields = {"suite": "permuted-mnist", "n_tasks": 3, "seed": 1000}
    fields["trials"] = {
        name: [
            draw(
                st.dictionaries(
                    st.sampled_from(["epochs", "learning_rate", "margin", "kind"]), fitting | values, max_size=2
                )
            )
            for _ in range(count)
        ]
        for name in methods
    }
    for name in draw(st.lists(st.sampled_from([*fields, "extra"]), max_size=1)):
        fields[name] = draw(values)
    return "\n".join(f"{name} = {as_toml(value)}" for name, value in fields.items())


@more
def test_a_grid_is_what_its_file_says_or_refused_by_its_name(times, tmp_path, digits, cases):
    path = tmp_path / "grid.toml"
    suite = find_suite("permuted-mnist")
    accepted = 0

    @cases(100, times)
    @given(grids())
    def holds(text):
        nonlocal accepted
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        grid, said = attempt(lambda: load_grid(suite, path))
        if grid is None:
            assert str(path) in said
            return
        written = with_null_as_none(tomllib.loads(path.read_bytes().decode()))
        assert grid.model_dump() == written
        assert type(grid.n_tasks) is type(grid.seed) is int
        for name, trials in grid.trials.items():
            for trial in trials:
                overrides = {"n_tasks": grid.n_tasks, **{f"{name}.{key}": value for key, value in trial.items()}}
                specs, _ = attempt(lambda: make_specs(suite, [name], [grid.seed], overrides, digits, "float32", "cpu"))  # noqa: B023
                if specs is None:
                    continue
                accepted += 1
                (spec,) = specs
                assert spec.seed == written["seed"]
                assert spec.suite.n_tasks == written["n_tasks"]
                assert all(means(getattr(spec.settings, key), value, None) for key, value in trial.items())

    holds()
    assert accepted >= 5 * times


# The command line


def words(*known):
    return st.one_of(st.sampled_from(known), st.sampled_from(known), texts)


OPTIONS = {
    "--suite": words(SUITE, SUITE, SUITE, "permuted-mnist", ""),
    "--methods": words("naive", "clnp,naive", "naive,naive", ",", "psp:x"),
    "--seeds": st.one_of(
        words("0", "0-2", "1,3", "2-0", "0-", "-1"), st.from_regex(r"[0-9]{1,2}[,-][0-9]", fullmatch=True)
    ),
    "--set": st.one_of(words("epochs=2", "n_tasks=2", "epochs=true", "naive.epochs=1", "=", "epochs"), texts),
    "--precision": words("float32", "bfloat16", "auto", "float16"),
    "--device": words("cpu", "auto", "cuda:99", "meta", "cpu:0", "cpu:-1"),
    "--threads": words("1", "0", "-1", "1.5", "x"),
    "--data-root": words("nowhere", "."),
    "--tracking-uri": words("sqlite:///x/y.db", "nonsense://x"),
    "--output": words("runs"),
    "--offline": st.none(),
    "--quiet": st.none(),
}


@st.composite
def commands(draw):
    command = draw(st.sampled_from(["run"] * 6 + ["show", "report", "verify", "verify-run", "tune", "list", ""]))
    if command in ("show", "list", ""):
        return [command, *draw(st.lists(words(*SUITES), max_size=2))]
    if command == "verify-run":
        return [command, *draw(st.lists(words(".", "runs"), max_size=2))]
    given = ["--suite", draw(OPTIONS["--suite"])]
    if command in ("report", "verify"):
        # Never MLflow's default store, which takes seconds to create.
        return [command, *given, "--runs", draw(words("nowhere", "."))]
    if command == "tune":
        return [command, *given, "--grid", draw(words("nowhere.toml", "."))]
    # Small, because a plan times some steps of each method.
    given += ["--set", "hidden_sizes=8", "--methods", draw(st.just("naive") | OPTIONS["--methods"])]
    for name in draw(st.lists(st.sampled_from([*OPTIONS, "--epochs"]), max_size=3)):
        if name not in ("--suite", "--methods"):
            value = draw(OPTIONS.get(name, st.none()))
            given += [name] if value is None else [name, value]
    return [command, "--dry-run", *given]


@more
def test_no_command_ends_in_a_traceback_and_a_dry_run_plans_what_was_given(
    times, tmp_path, clbench, own_environment, digits, monkeypatch, cases
):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    accepted = 0

    @cases(200, times)
    @given(commands())
    def holds(arguments):
        nonlocal accepted
        outcome = clbench(tmp_path, *arguments)
        assert outcome.code in (0, 2)
        assert "Traceback" not in outcome.out + outcome.err
        if outcome.code:
            assert outcome.out == ""
            assert re.search("(?i)error|Usage", outcome.err)
        elif arguments[0] == "run" and "--quiet" not in arguments:
            accepted += 1
            options = dict(pairwise(arguments))
            planned = {line.split()[0] for line in outcome.out.splitlines() if re.match("[0-9a-f]{16} ", line)}
            if "without images the plan has no run ids" in outcome.err:
                assert planned == set()
                return
            overrides = parse_overrides([value for name, value in pairwise(arguments) if name == "--set"])
            suite = find_suite(options["--suite"])
            precision = "bfloat16" if options.get("--precision") == "bfloat16" else "float32"
            names = chosen_methods(listed([options["--methods"]]) if "--methods" in options else None, suite)
            seeds = chosen_seeds([options["--seeds"]] if "--seeds" in options else None) or list(suite.seeds)
            specs = make_specs(suite, names, seeds, overrides, digits, precision, "cpu")
            assert planned == {spec.run_id for spec in specs}
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    holds()
    assert accepted >= 5 * times


# Accuracy matrices


@st.composite
def matrices(draw):
    """Accuracy matrices, whole or begun, and things that are none."""
    if draw(st.integers(0, 3)) == 0:
        return draw(arrays.arrays(np.float64, arrays.array_shapes(min_dims=0, max_dims=3, max_side=5)))
    n = draw(st.integers(1, 6))
    shape = (n + 1, n)
    matrix = draw(arrays.arrays(np.float64, shape, elements=st.floats(0, 1), fill=st.floats(0, 1)))
    learned = draw(st.integers(0, n))
    matrix[learned + 1 :] = np.nan
    for row in range(1, n + 1):
        matrix[row, row + draw(st.integers(0, 1)) :] = np.nan
    for _ in range(draw(st.integers(0, 1))):
        place = draw(st.integers(0, n)), draw(st.integers(0, n - 1))
        matrix[place] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 1.0000001, -1e-300, 5e-324, 0.5]))
    return matrix


def brute_force(m):
    """The metrics once more, written as in the papers' sums, from nested lists."""
    t = max(i for i in range(1, len(m)) if any(v == v for v in m[i]))
    found = {
        "average_accuracy": sum(m[t][:t]) / t,
        "learning_accuracy": sum(m[j + 1][j] for j in range(t)) / t,
        "average_incremental_accuracy": sum(sum(m[i][:i]) / i for i in range(1, t + 1)) / t,
    }
    if t > 1:
        found["backward_transfer"] = sum(m[t][j] - m[j + 1][j] for j in range(t - 1)) / (t - 1)
        best = [max(m[i][j] for i in range(1, t) if m[i][j] == m[i][j]) for j in range(t - 1)]
        found["forgetting"] = sum(best[j] - m[t][j] for j in range(t - 1)) / (t - 1)
        forward = sum(m[j][j] - m[0][j] for j in range(1, t)) / (t - 1)
        if forward == forward:
            found["forward_transfer"] = forward
    return found


@more
def test_a_matrix_is_refused_or_recorded_to_the_last_bit_and_measured_as_by_hand(times, tmp_path, cases):
    folder = RunFolder(tmp_path, "run")
    known = {"run_id": "run", "suite": "s", "method": "m", "seed": 0, "modified": False}
    folder.begin({**known, "suite_settings": {"n_tasks": 1}}, "")
    accepted = 0

    @cases(250, times)
    @given(matrices())
    def holds(matrix):
        nonlocal accepted
        try:
            checked = metrics.check_matrix(matrix)
        except ValueError:
            learned = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] + 1 and matrix.size
            values = matrix[~np.isnan(matrix)]
            inside = ((values >= 0) & (values <= 1)).all()
            # Refused is only what has another shape, another range, or a gap.
            assert not (learned and inside and not np.isnan(np.tril(matrix[1:])).any())
            return
        accepted += 1
        if metrics.tasks_learned(checked):
            wanted = brute_force(matrix.tolist())
            got = metrics.summarise(matrix)
            assert got.keys() == wanted.keys()
            assert all(got[name] == pytest.approx(wanted[name], abs=1e-12) for name in wanted)
        (folder.path / "config.json").write_text(json.dumps({**known, "suite_settings": {"n_tasks": matrix.shape[1]}}))
        folder.write_tables(RunResult(matrix))
        np.testing.assert_array_equal(read_run(folder.path).accuracy_matrix, matrix)

    holds()
    assert accepted >= 100 * times


# Records


@st.composite
def changes(draw):
    """Where to put what in a configuration."""
    return draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=4)), draw(values), draw(st.booleans())


def changed(tree, path, value):
    """The tree with the value in place of a part of it that `path` leads to."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    key = (sorted(tree) if isinstance(tree, dict) else range(len(tree)))[path[0] % len(tree)]
    copy = tree.copy()
    copy[key] = changed(tree[key], path[1:], value)
    return copy


@more
def test_a_record_with_any_configuration_is_read_and_reported_or_refused_by_name(
    times, tmp_path, digits, recorded_run, cases
):
    import torch

    (spec,) = make_specs(find_suite(SUITE), ["clnp"], [0], {"n_tasks": 2}, digits, "float32", "cpu")
    stream = make_stream(spec.suite, digits, RandomStreams(spec.seed))
    config = json.loads(json.dumps(config_of(spec, torch.device("cpu"), stream)))
    assert run_id_of(recorded_identity(config)) == spec.run_id
    run = recorded_run("clnp")
    folder = RunFolder(tmp_path, "run")
    folder.begin(config, "")
    folder.write_tables(RunResult(run.accuracy_matrix, run.tasks.to_dict("records")))
    status = {"status": "finished", "started": "2026-01-01T00:00:00+00:00", "ended": "", "reason": ""}
    accepted = 0

    @cases(100, times)
    @given(changes())
    def holds(drawn):
        nonlocal accepted
        path, value, of_status = drawn
        contents = {
            "config.json": config if of_status else changed(config, path, value),
            "status.json": changed(status, path, value) if of_status else status,
        }
        for name, content in contents.items():
            (folder.path / name).write_text(json.dumps(content))
        finding = audit(folder.path)
        assert "\n" not in finding.line
        if finding.run is None:
            assert str(folder.path) in finding.line
            return
        accepted += 1
        found = finding.run
        selection = select([found], found.suite)
        left_out_table(selection.left_out)
        if selection.groups:
            provenance(selection.groups)
        summary_table([found], found.suite)

    holds()
    assert accepted >= 10 * times


def test_settings_of_every_method_are_strict():
    # A new method that loosens it would let `--set` record something else than was given.
    for name in METHODS:
        schema = find_method(name).Settings
        assert issubclass(schema, TrainingSettings)
        assert schema.model_config.get("strict") is True
    assert issubclass(SettingError, ClbenchError)
