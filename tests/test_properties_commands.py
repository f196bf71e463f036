"""Properties over generated grids of a search and generated commands."""

import json
import math
import re
import runpy
import tomllib
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from clbench.cli.options import chosen_seeds, listed
from clbench.execution.plan import chosen_methods
from clbench.runs.spec import make_specs
from clbench.search.trials import load_grid
from clbench.suites.files import SUITES, find_suite
from clbench.suites.settings import parse_overrides

DRAWN_VALUES = runpy.run_path(str(Path(__file__).with_name("drawn_values.py")))
SUITE = DRAWN_VALUES["SUITE"]
more = DRAWN_VALUES["more"]
texts = DRAWN_VALUES["texts"]
values = DRAWN_VALUES["values"]
fitting = DRAWN_VALUES["fitting"]
attempt = DRAWN_VALUES["attempt"]
means = DRAWN_VALUES["means"]

GRID = Path(__file__).resolve().parents[1] / "baselines" / "tuning" / "permuted-mnist-clnp.toml"


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
