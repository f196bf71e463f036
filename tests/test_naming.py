"""What runs are called where several stand together: by what differs, and the same everywhere."""

from collections.abc import Callable
from typing import Any

import pytest

from clbench.records.naming import has_settings, in_words, names, overridden
from clbench.records.reading import RecordedRun
from clbench.records.standing import standings
from clbench.reports.analysis.groups import select
from clbench.tracking.words import run_name

MakeRun = Callable[..., RecordedRun]
SUITE = "permuted-mnist"


@pytest.fixture
def swept(recorded_run: MakeRun) -> Callable[..., list[RecordedRun]]:
    """(strengths, changes) -> runs of ewc with each strength over two seeds; 100 is the suite's own."""

    def make(strengths: tuple[float, ...], **more: Any) -> list[RecordedRun]:
        return [
            recorded_run(
                "ewc",
                seed,
                run_id=f"{strength}-{seed}",
                method_settings={"strength": strength},
                **{
                    "modified": strength != 100.0,
                    "overrides": {"ewc.strength": strength} if strength != 100.0 else {},
                    **more,
                },
            )
            for strength in strengths
            for seed in (0, 1)
        ]

    return make


def labels(runs: list[RecordedRun]) -> list[str]:
    return list(dict.fromkeys(name.label for name in names([run.config for run in runs])))


def test_a_sweep_is_told_apart_by_its_values_and_the_suites_own_has_the_methods_name(
    swept: Callable[..., list[RecordedRun]],
) -> None:
    assert labels(swept((3000.0, 100.0, 1000.0))) == ["ewc strength=3000", "ewc", "ewc strength=1000"]


def test_where_every_run_overrides_something_what_all_override_is_in_no_name(
    swept: Callable[..., list[RecordedRun]], recorded_run: MakeRun
) -> None:
    all_of_them = {"modified": True, "overrides": {"n_tasks": 2}}
    runs = [*swept((100.0, 1000.0), **all_of_them), recorded_run("naive", **all_of_them)]
    found = [name.label for name in names([run.config for run in runs])]
    assert found == ["ewc strength=100"] * 2 + ["ewc strength=1000"] * 2 + ["naive"]
    assert overridden([run.config for run in runs], found) == "not the suite's own setting: n_tasks=2"


def test_a_modified_run_is_never_called_as_the_suites_own_are(recorded_run: MakeRun) -> None:
    runs = [recorded_run("naive"), recorded_run("ewc", modified=True, overrides={"epochs": 3})]
    assert labels(runs) == ["naive", "ewc epochs=3"]
    # Its settings are those of the suite: what was an override once may be the suite's own now.
    runs = [recorded_run("ewc"), recorded_run("ewc", modified=True, overrides={"epochs": 5})]
    assert labels(runs) == ["ewc", "ewc epochs=5"]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        (
            "suite_settings",
            ({"network": "mlp", "hidden_sizes": [9, 9]}, {"network": "conv", "channels": 4}),
            "network=conv",
        ),
        ("method_sha256", ("12345678" * 8, "abcdef01" * 8), "code=abcdef01"),
        ("precision", ("float32", "bfloat16"), "precision=bfloat16"),
        ("data", ({"sha256": "12" * 32}, {"sha256": "ab" * 32}), "data=abababab"),
    ],
)
def test_networks_versions_and_images_are_told_apart_in_a_word(
    recorded_run: MakeRun, key: str, values: tuple[Any, Any], expected: str
) -> None:
    runs = [recorded_run("ewc", numbers="0.1.0", method_numbers=0, **{key: value}) for value in values]
    assert labels(runs)[1] == f"ewc {expected}"


def test_what_is_too_long_for_a_name_gets_a_letter_and_is_listed(recorded_run: MakeRun) -> None:
    settings = [{name: value for name in ("momentum", "strength", "fisher_images", "rate")} for value in (1, 2)]
    found = names([recorded_run("ewc", method_settings=each).config for each in settings])
    assert [name.label for name in found] == ["ewc (a)", "ewc (b)"]
    assert found[1].differs == "fisher_images=2, momentum=2, rate=2, strength=2"


def test_where_only_some_are_too_long_for_a_name_no_group_stands_out_by_its_letter(recorded_run: MakeRun) -> None:
    settings = [{"method_settings": {"a_rather_long_setting": value}} for value in ("x", "quite-a-long-value-of-it")]
    own = [recorded_run("ewc", **each).config for each in settings]
    assert [name.label for name in names(own)] == ["ewc (a)", "ewc (b)"]
    # Against the suite's own each is named for itself.
    overrides = {f"setting_{number}": number for number in range(4)}
    short = recorded_run("ewc", modified=True, overrides={"epochs": 9}, method_settings={"epochs": 9})
    long = recorded_run("ewc", modified=True, overrides=overrides, method_settings=overrides)
    ours = recorded_run("ewc", method_settings=dict.fromkeys(["epochs", *overrides], -1))
    assert [name.label for name in names([ours.config, long.config])] == ["ewc", "ewc (modified)"]
    assert labels([ours, short, long])[0] == "ewc"
    assert len(set(labels([ours, short, long]))) == 3


def test_report_status_and_mlflow_use_the_same_words_and_count_numbers_as_numbers(
    swept: Callable[..., list[RecordedRun]], write_run: Callable, tmp_path: Any
) -> None:
    runs = swept((3000.0, 100.0, 20000.0, 1000.0))
    for run in runs:
        write_run(tmp_path, run)
    expected = ["ewc", "ewc strength=1000", "ewc strength=3000", "ewc strength=20000"]
    assert list(dict.fromkeys(item.name.label for item in standings(tmp_path))) == expected
    groups = select(runs, SUITE).groups
    assert [group.label for group in sorted(groups, key=lambda group: group.variant)] == expected
    assert [run_name(run.config) for run in runs[1:3]] == ["ewc strength=3000 · seed 1", "ewc · seed 0"]


def test_the_seed_stays_in_the_name_of_a_run_that_overrides_much(recorded_run: MakeRun) -> None:
    overrides = {f"a_setting_with_a_long_name_{number}": number for number in range(9)}
    name = run_name(recorded_run("ewc", 7, modified=True, overrides=overrides).config)
    assert name.endswith("… · seed 7")
    assert len(name) < 120


def test_a_group_is_found_by_any_of_its_settings(swept: Callable[..., list[RecordedRun]]) -> None:
    config = swept((1000.0,))[0].config
    assert has_settings(config, ["strength=1000", "epochs=5"])
    assert not has_settings(config, ["strength=100"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1000.0, "1000"),
        (1e-05, "1e-05"),
        (0.1 * 3, "0.3"),
        (True, "yes"),
        (None, "none"),
        ([784, 100], "784,100"),
        (["crop", "flip"], "crop,flip"),
        ([], "none"),
        ({"a": [1, 2]}, '{"a":[1,2]}'),
    ],
)
def test_a_value_is_one_word(value: Any, expected: str) -> None:
    assert in_words(value) == expected
