"""What damage does: in every file of a record 200 flipped bits and 50 truncations, each refused by the file's name."""

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench.errors import ClbenchError, RecordError
from clbench.records.audit import audit
from clbench.records.folder import RunFolder
from clbench.records.format import ALL_GROUPS, CAPACITY_COLUMNS, OPTIONAL_FILES, PRUNING_COLUMNS, REQUIRED_FILES
from clbench.records.reading import RecordedRun, read_run
from clbench.records.result import RunResult
from clbench.records.samples import sample_strip
from clbench.search.trials import LOG_COLUMNS, _append, logged

FLIPS, TRUNCATIONS = 200, 50
RECORDED_BEFORE = Path(__file__).resolve().parents[1] / "docs" / "results" / "earlier"


def damages(content: bytes, seed: object) -> Iterator[tuple[str, bytes]]:
    """What was done, and the content after it."""
    chosen = random.Random(f"{seed}")
    for place in chosen.sample(range(8 * len(content)), min(FLIPS, 8 * len(content))):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(flipped)
    for length in chosen.sample(range(len(content)), min(TRUNCATIONS, len(content))):
        yield f"cut to {length} bytes", content[:length]


def attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """What was read and nothing, or None and how it was refused; anything else fails the test."""
    try:
        return read(), ""
    except ClbenchError as error:
        return None, str(error)


def same(one: RecordedRun, other: RecordedRun) -> bool:
    return (
        (one.run_id, one.status, one.config, one.environment, one.started, one.ended, one.reason, one.seal)
        == (
            other.run_id,
            other.status,
            other.config,
            other.environment,
            other.started,
            other.ended,
            other.reason,
            other.seal,
        )
        and np.array_equal(one.accuracy_matrix, other.accuracy_matrix, equal_nan=True)
        and one.tasks.equals(other.tasks)
        and one.capacity.equals(other.capacity)
        and one.pruning.equals(other.pruning)
    )


@pytest.fixture
def folder(recorded_run: Callable[..., RecordedRun], tmp_path: Path) -> Path:
    """A failed run with every file that a run can have."""
    run = recorded_run("clnp")
    made = RunFolder(tmp_path, run.run_id)
    made.begin(run.config, "python: 3.11\nnumpy==2.0\n" * 20, {"net.py": b"class Net: ...\n"})
    made.write_bytes("samples.png", sample_strip(torch.arange(128, dtype=torch.uint8).view(2, 1, 1, 8, 8)))
    words = {"group": "layer_1", "unit": "neuron"}
    counts = {"units": 3, "free": 3, "new": 0, "reused": 0}
    capacity = [dict.fromkeys(CAPACITY_COLUMNS, 1 / 3) | words | counts | {"task": task} for task in (1, 2)]
    whole = {"validation_images": 1, "changed": 0, "chosen": 0, "kept": 3}
    pruning = [dict.fromkeys(PRUNING_COLUMNS, 1 / 3) | whole | {"group": ALL_GROUPS, "task": task} for task in (1, 2)]
    measures = [{"task": task, "name": "spikes", "value": 1 / 3} for task in (1, 2)]
    made.write_tables(RunResult(run.accuracy_matrix / 3, run.tasks.to_dict("records"), capacity, pruning, measures))
    made.write("traceback.txt", "Traceback (most recent call last):\n  ...\nZeroDivisionError: division by zero\n")
    made.set_status("failed", "ZeroDivisionError: division by zero")
    return made.path


@pytest.mark.parametrize("name", [*REQUIRED_FILES, *OPTIONAL_FILES, "files/net.py"])
def test_every_damage_to_a_file_of_a_record_is_refused_by_its_name(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    read_run(folder)
    count = 0
    for what, damaged in damages(content, name):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=re.escape(str(path))) as error:
            pytest.fail(f"{what}: {read_run(folder)}")
        assert "\n" not in str(error.value)
        count += 1
    assert count >= min(FLIPS, 8 * len(content)) + min(TRUNCATIONS, len(content))


def test_a_damaged_status_is_refused_where_it_decides_whether_to_run_again(folder: Path) -> None:
    path = folder / "status.json"
    for what, damaged in damages(path.read_bytes(), "decides"):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=re.escape(str(path))):
            pytest.fail(f"{what}: {RunFolder(folder.parent, folder.name).status}")


@pytest.mark.long
@pytest.mark.parametrize("name", [*REQUIRED_FILES, "capacity.csv"])
def test_without_digests_damage_is_refused_by_name_or_leaves_a_readable_run(tmp_path: Path, name: str) -> None:
    # Nothing can tell one digit from another there; what can be promised is that nothing ends in a traceback, and that
    # such a run says that it has no digests.
    source = next(path for path in sorted(RECORDED_BEFORE.iterdir()) if (path / "capacity.csv").is_file())
    folder = shutil.copytree(source, tmp_path / source.name)
    status = json.loads((folder / "status.json").read_text())
    before_digests = json.loads((RECORDED_BEFORE / "7151ffde6ca45097" / "status.json").read_text())
    assert before_digests.keys() < status.keys()
    (folder / "status.json").write_text(json.dumps({key: status[key] for key in before_digests}))
    assert getattr(audit(folder).run, "seal", None) == ""
    content = (folder / name).read_bytes()
    for _, damaged in damages(content, f"without {name}"):
        (folder / name).write_bytes(damaged)
        finding = audit(folder)
        assert str(folder / name) in finding.line if finding.run is None else finding.run.seal == ""
        assert "\n" not in finding.line


def test_without_digests_a_damaged_accuracy_or_setting_is_found_by_the_audit(tmp_path: Path) -> None:
    source = RECORDED_BEFORE / "7151ffde6ca45097"
    folder = shutil.copytree(source, tmp_path / source.name)
    original = read_run(folder)
    for name in ("accuracy_matrix.csv", "config.json"):
        content = (folder / name).read_bytes()
        for what, damaged in damages(content, f"audit {name}"):
            (folder / name).write_bytes(damaged)
            finding = audit(folder)
            if finding.run is not None and finding.holds:
                # Left are digits that give another whole number of images, and what decides no number.
                matrix = finding.run.accuracy_matrix
                assert same(finding.run, original) or len(damaged) == len(content), what
                assert np.allclose(matrix * 10_000, np.rint(matrix * 10_000), equal_nan=True), what
                assert {
                    k: v for k, v in finding.run.config["suite_settings"].items() if k not in ("title", "source")
                } == {k: v for k, v in original.config["suite_settings"].items() if k not in ("title", "source")}, what
                assert finding.run.config["method_settings"] == original.config["method_settings"], what
        (folder / name).write_bytes(content)


def test_damage_to_a_log_of_the_search_is_refused_by_name_or_repeats_a_trial(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    ids = {f"{number:016x}" for number in range(3)}
    for run_id in sorted(ids):
        _append(log, dict.fromkeys(LOG_COLUMNS, "0.5") | {"run_id": run_id, "settings": json.dumps({"strength": 1.0})})
    assert logged(log) == ids
    content = log.read_bytes()
    for what, damaged in damages(content, "log"):
        log.write_bytes(damaged)
        held, said = attempt(lambda: logged(log))
        # A trial whose id is damaged runs again.
        assert str(log) in said if held is None else len(held & ids) >= 2 or content.startswith(damaged + b"0"), what
    for length in range(len(content)):
        log.write_bytes(content[:length])
        if content[:length].endswith(b"\n") and content[:length].count(b"\n") > 0:
            continue
        with pytest.raises(RecordError, match=re.escape(str(log))):
            pytest.fail(f"cut to {length} bytes: {logged(log)}")


def test_a_number_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    # Before version 3, pandas read some numbers one bit off.
    chosen = np.random.default_rng(0)
    folder = RunFolder(tmp_path, "run")
    config = {"run_id": "run", "suite": "s", "method": "m", "seed": 0, "modified": False}
    for _ in range(5):
        matrix = chosen.random((31, 30))
        folder.begin({**config, "suite_settings": {"n_tasks": 30}}, "")
        folder.write_tables(RunResult(matrix))
        np.testing.assert_array_equal(read_run(folder.path).accuracy_matrix, matrix)
