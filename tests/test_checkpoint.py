"""A run that was cut off goes on as if nothing had happened, to the bit."""

import json
import os
import pickle
import random
import warnings
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType

import pytest
import torch

from clbench.errors import Interrupted, MethodWarning, RecordError
from clbench.methods.table import METHODS
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run, run_paths
from clbench.runs.checkpoint import FORMAT, load_checkpoint, save_checkpoint, weights_digest
from clbench.runs.config import config_of
from clbench.runs.runner import execute
from clbench.runs.spec import make_specs

CPU = torch.device("cpu")
SMALL = {"n_tasks": 3, "epochs": 2, "hidden_sizes": [24, 24]}
STATE = {"weights": torch.arange(6.0).reshape(2, 3), "step": 3, "rates": [0.1, (0.9, 0.999)], "name": "x", "none": None}


# The file


def test_what_is_saved_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "c.pt", STATE)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded.pop("weights"), STATE["weights"])
    assert loaded == {key: value for key, value in STATE.items() if key != "weights"}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save_checkpoint(tmp_path / "c.pt", STATE)
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(RecordError, match=r"state\.inner is a <class 'object'>"):
        save_checkpoint(tmp_path / "c.pt", {"inner": object()})
    assert (tmp_path / "c.pt").read_bytes() == before
    with pytest.raises(RecordError, match="cannot be written"):
        save_checkpoint(tmp_path / "absent" / "c.pt", STATE)


def test_any_flipped_bit_and_any_cut_is_refused_by_name(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    draw = random.Random(1)
    damaged = [whole[: draw.randrange(len(whole))] for _ in range(50)]
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(RecordError, match=r"the checkpoint .*c\.pt "):
            load_checkpoint(path)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_reading_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "c.pt", STATE)
    for content in (pickle.dumps(Hostile()), pickle.dumps({"method": Hostile()})):
        # Whoever can write the file can write its digest.
        (tmp_path / "c.pt").write_bytes(f"{FORMAT} {sha256(content).hexdigest()}\n".encode() + content)
        with pytest.raises(RecordError, match="not one that clbench wrote"):
            load_checkpoint(tmp_path / "c.pt")
    torch.save({"method": Hostile()}, tmp_path / "hostile.pt")
    content = (tmp_path / "hostile.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(f"{FORMAT} {sha256(content).hexdigest()}\n".encode() + content)
    with pytest.raises(RecordError, match="not one that clbench wrote"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "executed").exists()


def test_another_format_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "c.pt")
    with pytest.raises(RecordError, match="does not begin with 'clbench checkpoint 1'"):
        load_checkpoint(tmp_path / "c.pt")


def test_the_digest_of_weights_sees_every_bit_name_shape_and_type():
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(3)}
    digests = {
        weights_digest(weights),
        weights_digest({"a": torch.zeros(2, 3), "c": torch.zeros(3)}),
        weights_digest({"a": torch.zeros(3, 2), "b": torch.zeros(3)}),
        weights_digest({"a": torch.zeros(2, 3), "b": torch.zeros(3, dtype=torch.int32)}),
        weights_digest({"a": torch.zeros(2, 3), "b": torch.tensor([0.0, 0.0, -0.0])}),
        weights_digest({"a": torch.zeros(2, 3), "b": torch.tensor([0.0, 0.0, 1e-45])}),
    }
    assert len(digests) == 6
    assert weights_digest(dict(reversed(weights.items()))) == weights_digest(weights)


# The run


@pytest.fixture
def attempt(digits, plain):
    """(root, method, stop after so many tasks, what else the run is made of, overrides, changes to the config) -> the
    run's folder after one attempt at it."""

    def make(root, name="clnp", stop_after=None, given=MappingProxyType({}), overrides=SMALL, **changes):
        (spec,) = make_specs(plain, [name], [0], overrides, digits, "float32", CPU.type)
        spec = replace(spec, **given)
        folder = RunFolder(root, spec.run_id)

        def on_task(result):
            if result.learned == stop_after:
                raise Interrupted

        stream = spec.stream(digits)
        config = config_of(spec, CPU, stream) | changes
        try:
            execute(spec, stream, CPU, folder, config, "", on_task, lambda progress: None, lambda: False)
        except Interrupted:
            assert stop_after is not None
        return folder

    return make


@pytest.mark.parametrize("name", METHODS)
def test_a_run_stopped_after_any_task_ends_like_an_uninterrupted_one(name, attempt, outcome_of, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MethodWarning)
        expected = outcome_of(attempt(tmp_path / "whole", name))
        for stop_after in (1, 2, 3):
            folder = attempt(tmp_path / "parts", name, stop_after)
            assert folder.status == "stopped"
        folder = attempt(tmp_path / "parts", name)
    assert outcome_of(folder) == expected
    status = json.loads((folder.path / "status.json").read_text())
    assert len(status["resumed"]) == 3


@pytest.mark.parametrize("batch_norm", ["frozen", "per-task"])
@pytest.mark.long
def test_filters_and_batch_norms_of_clnp_go_on_as_they_were(batch_norm, attempt, outcome_of, tmp_path):
    small = {"network": "resnet18", "width": 2, "head": "multi", "n_tasks": 2, "epochs": 2, "steps_per_epoch": 3}
    overrides = small | {"clnp.budget": "even", "clnp.batch_norm": batch_norm}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MethodWarning)
        whole = attempt(tmp_path / "whole", overrides=overrides)
        attempt(tmp_path / "parts", stop_after=1, overrides=overrides)
        folder = attempt(tmp_path / "parts", overrides=overrides)
    assert outcome_of(folder) == outcome_of(whole)
    matrix = read_run(folder.path).accuracy_matrix
    assert all(len(set(matrix[task + 1 :, task])) == 1 for task in range(2))
    assert not folder.checkpoint.exists()
    # One folder, and nothing set aside.
    assert [path.name for path in (tmp_path / "parts").iterdir() if path.name != ".leases"] == [folder.path.name]


def test_what_was_learned_is_not_trained_again(attempt, tmp_path):
    folder = attempt(tmp_path, "naive", 2)
    before = (folder.path / "tasks.csv").read_text()
    folder = attempt(tmp_path, "naive")
    assert (folder.path / "tasks.csv").read_text().startswith(before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("git_commit", "another"),
        ("git_changes", "another"),
        ("versions", {"torch": "1.0"}),
        ("threads", 77),
        ("device", "cuda:7"),
    ],
)
def test_what_was_begun_under_other_conditions_begins_anew_and_is_kept(key, value, attempt, tmp_path):
    folder = attempt(tmp_path, "naive", 1, **{key: value})
    said = "the code of clbench was edited since" if key == "git_changes" else f"its {key} was .* now"
    with pytest.warns(MethodWarning, match=f"begins anew.*{said}"):
        folder = attempt(tmp_path, "naive")
    assert "resumed" not in json.loads((folder.path / "status.json").read_text())
    (aside,) = tmp_path.glob("*.unfinished-*")
    assert json.loads((aside / "config.json").read_text())[key] == value
    assert read_run(aside).status == "stopped"


def test_a_run_keeps_the_files_that_it_was_begun_with_and_begins_anew_with_others(attempt, tmp_path):
    given = {"files": {"net.py": b"one"}}
    attempt(tmp_path, "naive", 1, given=given)
    folder = attempt(tmp_path, "naive", 2, given=given)
    assert "resumed" in json.loads((folder.path / "status.json").read_text())
    assert read_run(folder.path).files == {"net.py": b"one"}
    with pytest.warns(MethodWarning, match=r"begins anew.*the files of yours that it used are others now"):
        folder = attempt(tmp_path, "naive", given={"files": {"net.py": b"other"}})
    assert read_run(folder.path).files == {"net.py": b"other"}
    (aside,) = tmp_path.glob("*.unfinished-*")
    assert read_run(aside).files == {"net.py": b"one"}
    assert read_run(aside).samples == read_run(folder.path).samples != b""


def test_a_damaged_checkpoint_is_named_and_the_run_begins_anew(attempt, outcome_of, tmp_path):
    folder = attempt(tmp_path, "naive", 1)
    content = bytearray(folder.checkpoint.read_bytes())
    content[-100] ^= 4
    folder.checkpoint.write_bytes(content)
    with pytest.warns(MethodWarning, match=r"begins anew.*checkpoint\.pt is damaged"):
        folder = attempt(tmp_path, "naive")
    assert outcome_of(folder) == outcome_of(attempt(tmp_path / "whole", "naive"))


def test_another_runs_checkpoint_is_not_gone_on_with(attempt, outcome_of, tmp_path):
    other = attempt(tmp_path, "si", 1)
    folder = attempt(tmp_path, "naive", 1)
    folder.checkpoint.write_bytes(other.checkpoint.read_bytes())
    with pytest.warns(MethodWarning, match=r"begins anew.*checkpoint\.pt is another run's"):
        folder = attempt(tmp_path, "naive")
    assert outcome_of(folder) == outcome_of(attempt(tmp_path / "whole", "naive"))


def test_files_cut_off_while_being_written_are_cleared_away(attempt, tmp_path):
    folder = attempt(tmp_path, "naive", 1)
    (folder.path / ".checkpoint.pt.abcd").write_bytes(b"half")
    folder = attempt(tmp_path, "naive")
    assert not list(folder.path.glob(".*"))


def test_asking_for_deterministic_algorithms_is_obeyed_and_recorded(run, place):
    try:
        assert run(place, "--no-report", "--deterministic").code == 0
        assert torch.are_deterministic_algorithms_enabled()
        (path,) = run_paths(place / "clbench-runs")
        assert read_run(path).config["deterministic"] is True
        # Asked for by one command, not by the next.
        assert run(place, "--no-report", seeds="1").code == 0
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
