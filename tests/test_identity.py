"""The ids of recorded runs: what is recorded keeps its id, whatever becomes of settings, versions and suites."""

from pathlib import Path

import pytest

from clbench.baselines.ewc import EWC
from clbench.baselines.naive import Naive
from clbench.methods.table import AVALANCHE, METHODS, find_method, resolve_settings
from clbench.records.identity import added_later, recorded_identity, recorded_settings, run_id_of, settings_of
from clbench.records.reading import read_runs
from clbench.runs.spec import make_specs
from clbench.strategies.clnp.method import CLNP
from clbench.suites.files import SUITES
from clbench.suites.suite import Suite

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"

OF_ALL = {"initial_weights": "pytorch", "power_alpha": 1.0}
# Trained without overrides, in a setting that the suite had once.
NOT_OF_TODAYS_SUITES = {
    *("060f18fa3229ee52", "1179c750299883e0", "1191e072e2f601bf", "13e689aaec9a1da1", "1b31148f10709004"),
    *("1fa849cbae85a951", "2686611b05e84ecd", "367912bb82fb46fa", "4e033de2330864d6", "5746b47033058e73"),
    *("5998629efc1737ce", "5c37bf2b04e4df3c", "60d41afdfe342ffe", "6431e47b8bb26e2b", "66753b87fed43d58"),
    *("675d3851e2bfac0a", "6bcd702d7c760a47", "6d1cacb3044dbb6f", "75ce6c3e91b671bf", "787463dbf2f8d39d"),
    *("83e0f6299a568e16", "85b1f0c9820bf976", "85da77adaa6d0f5a", "8ebf739fd5d81788", "8f902992e2384880"),
    *("9982dfbeb9df1eb5", "9f330ce16fc2b1ec", "9ff59aea66ac21a3", "a92099d516ca2505", "b1195aea577b721e"),
    *("b852de4d744bd9ff", "c19caed1cbdbf468", "c4b851c50223d084", "ca04b44c65d8c7ca", "ca42f247457446bb"),
    *("d58a7179483fb499", "dcb9d8e49d1c2084", "dd3626db47b43bab", "ddc85240b7903dac", "ef4b3a8658003efb"),
    *("f41088044c6e56e0", "fc03e5e94a4cbf4c", "fd7acd73587817d0", "fdf686a899ede99b", "6d914d0beb9abf26"),
    "086af1acf9006dee",
    # permuted-mnist-small before its search.
    *(
        "0754851238a4a34d",
        "3dedd6212375fa94",
        "6318739c07c90f05",
        "6814aca034dcaabd",
        "718e025db1131647",
        "84356ec0b9fc9c12",
        "9c6171d50225d9be",
        "a7f1ea9bb07d7add",
        "b7ea26637a2a3c67",
        "d9ab107153e05354",
    ),
}


@pytest.fixture(scope="module")
def recorded():
    """By run id, every run in docs/results."""
    runs = [run for folder in sorted(RESULTS.iterdir()) if folder.is_dir() for run in read_runs(folder)]
    return {run.run_id: run for run in runs}


def test_the_ids_of_all_recorded_runs_follow_from_their_own_configurations(recorded):
    assert len(recorded) >= 80
    assert {run_id_of(recorded_identity(run.config)) for run in recorded.values()} == set(recorded)


def test_the_ids_of_the_runs_that_match_todays_suites_follow_from_the_suites(recorded):
    same = set()
    for run in recorded.values():
        suite = SUITES[run.suite]
        if run.method not in (*METHODS, *AVALANCHE, *suite.variants):
            continue
        identity = {
            **recorded_identity(run.config),
            **settings_of(suite, resolve_settings(suite, run.method, {})),
        }
        same |= {run.run_id} & {run_id_of(identity)}
    assert len(same) >= 53
    assert {run.run_id for run in recorded.values() if not run.is_modified} - same == NOT_OF_TODAYS_SUITES


def test_a_method_whose_numbers_change_moves_its_own_ids_and_no_others(monkeypatch, digits):
    def ids():
        methods = ["naive", "ewc", "online-ewc"]
        specs = make_specs(SUITES["permuted-digits"], methods, [0], {}, digits, "float32", "cpu")
        assert all(run_id_of(recorded_identity(spec.recorded)) == spec.run_id for spec in specs)
        return [spec.run_id for spec in specs]

    before = ids()
    monkeypatch.setattr(Naive, "numbers", 0)
    assert ids() == before
    monkeypatch.setattr(EWC, "numbers", 1)
    naive, ewc, online = ids()
    assert naive == before[0]
    assert len({ewc, online, *before}) == 5


def test_the_version_of_clbench_is_no_part_of_an_id(monkeypatch, digits):
    (before,) = make_specs(SUITES["permuted-digits"], ["naive"], [0], {}, digits, "float32", "cpu")
    monkeypatch.setattr("clbench.__version__", "9.9.9")
    (after,) = make_specs(SUITES["permuted-digits"], ["naive"], [0], {}, digits, "float32", "cpu")
    assert before.run_id == after.run_id
    monkeypatch.setattr("clbench.runs.spec.NUMBERS", "0.2.0")
    (moved,) = make_specs(SUITES["permuted-digits"], ["naive"], [0], {}, digits, "float32", "cpu")
    assert moved.run_id != before.run_id


def test_a_setting_that_came_later_is_left_out_at_its_first_value_by_the_method_that_has_it():
    assert added_later(CLNP.Settings) == {
        "margin_shares": None,
        "initial_scale": 1.0,
        "frozen_cache_mib": 1024,
        "budget": None,
        "rank": "activity",
        "activity_norm": "l1",
        "batch_norm": "frozen",
        "fine_tune_dropout_kept": 1.0,
        **OF_ALL,
    }
    assert added_later(EWC.Settings) == OF_ALL
    recorded = recorded_settings({"method": "ewc", "suite_settings": {}, "method_settings": {"strength": 1.0}})
    assert recorded["method_settings"] == {"strength": 1.0, **OF_ALL}
    assert recorded["suite_settings"] == added_later(Suite)
    assert added_later(find_method("joint").Settings) == {"only_last": False, **OF_ALL}


@pytest.mark.parametrize("value", ["glorot", "pytorch"])
def test_si_records_its_initial_weights_whatever_they_are_as_it_always_did(digits, value):
    (spec,) = make_specs(
        SUITES["permuted-digits"], ["si"], [0], {"si.initial_weights": value}, digits, "float32", "cpu"
    )
    assert settings_of(spec.suite, spec.settings)["method_settings"]["initial_weights"] == value
