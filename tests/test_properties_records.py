"""Properties over generated accuracy matrices and generated records."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clbench import metrics
from clbench.data.streams import make_stream
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
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite

DRAWN_VALUES = runpy.run_path(str(Path(__file__).with_name("drawn_values.py")))
SUITE, more, values = (DRAWN_VALUES[name] for name in ("SUITE", "more", "values"))


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
