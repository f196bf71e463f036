"""The ids of recorded runs: what is recorded keeps its id, whatever becomes of settings, versions and suites."""

from pathlib import Path

import pytest

from clbench.methods.table import resolve_settings
from clbench.records.identity import recorded_identity, run_id_of, settings_of
from clbench.records.reading import read_runs
from clbench.suites.files import SUITES

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"

# Trained with overrides, or in a setting that the suite had once.
NOT_OF_TODAYS_SUITES = {
    *("060f18fa3229ee52", "1b31148f10709004", "1fa849cbae85a951", "5746b47033058e73", "5998629efc1737ce"),
    *("7151ffde6ca45097", "755c2d82d7330f75", "787463dbf2f8d39d", "8ebf739fd5d81788", "8f902992e2384880"),
    *("b1195aea577b721e", "fc03e5e94a4cbf4c", "6685fbebe9ad1412", "982287729b32bcc4", "abc700b3431e6f27"),
    *("00e1981e46e79a5c", "14c5ed19751daa9c", "3bcf98611aa45d5f", "48677afbf27042a4", "6800a76f4f223530"),
    *("8354cab3a0fce744", "936de8270ee4e5a4", "9dc89853504326b4", "c4b851c50223d084", "c890b8664443722a"),
    *("d58a7179483fb499", "ed0714021b3d482b"),
}


@pytest.fixture(scope="module")
def recorded():
    """By run id, every run in docs/results."""
    runs = [run for folder in sorted(RESULTS.iterdir()) if folder.is_dir() for run in read_runs(folder)]
    return {run.run_id: run for run in runs}


def test_the_ids_of_all_recorded_runs_follow_from_their_own_configurations(recorded):
    assert len(recorded) == 80
    assert {run_id_of(recorded_identity(run.config)) for run in recorded.values()} == set(recorded)


def test_the_ids_of_the_runs_that_match_todays_suites_follow_from_the_suites(recorded):
    same = set()
    for run in recorded.values():
        suite = SUITES[run.suite]
        if run.method not in (*suite.methods, *suite.variants, "joint"):
            continue
        identity = {
            **recorded_identity(run.config),
            **settings_of(suite, resolve_settings(suite, run.method, {})),
        }
        same |= {run.run_id} & {run_id_of(identity)}
    assert len(same) == 53
    assert recorded.keys() - same == NOT_OF_TODAYS_SUITES
