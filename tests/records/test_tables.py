"""Tables of a record: the old read as before, the new hold groups of units, looks of searches and further numbers."""

import math
import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

from clbench.errors import RecordError
from clbench.records.audit import audit
from clbench.records.format import ALL_GROUPS, CAPACITY_COLUMNS, PRUNING_COLUMNS, TABLES
from clbench.records.reading import read_run, read_runs
from clbench.records.result import RunResult, result_of

SMALL_RECORD = runpy.run_path(str(Path(__file__).with_name("small_record.py")))
CONFIG = SMALL_RECORD["CONFIG"]
MATRIX = SMALL_RECORD["MATRIX"]
row = SMALL_RECORD["row"]
two_tasks = SMALL_RECORD["two_tasks"]
CAPACITY = SMALL_RECORD["CAPACITY"]

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
UNKNOWN = pytest.approx(math.nan, nan_ok=True)
OPTIONAL = ["threshold", "margin_spent", "weights_used", "weights"]


def look(task, group, kept, accuracy, changed=0, chosen=0, images=100):
    return {
        "task": task,
        "group": group,
        "kept": kept,
        "validation_accuracy": accuracy,
        "validation_images": images,
        "changed": changed,
        "chosen": chosen,
    }


def two_searches():
    """Looks of the searches that end at the units that `two_tasks` of one group uses."""
    found = []
    for task, used in ((1, 2), (2, 5)):
        found += [
            look(task, ALL_GROUPS, 10, 0.9) | {"test_accuracy": 0.8},
            look(task, "conv", 7, 0.9, 2),
            look(task, "conv", used, 0.88, 4, 1),
            look(task, ALL_GROUPS, used, 0.88, 4, 1) | {"test_accuracy": 0.79},
        ]
    return found


# Capacity


def test_a_table_of_format_1_reads_as_groups_of_neurons_with_the_same_numbers():
    counted = 0
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        for run in read_runs(folder):
            assert list(run.capacity.columns) == list(CAPACITY_COLUMNS)
            if run.config.get("format", 1) > 1:
                continue
            path = next(RESULTS.glob(f"*/{run.run_id}/capacity.csv"), None)
            if path is None:
                assert run.capacity.empty
                continue
            counted += 1
            written = pd.read_csv(path)
            assert list(run.capacity["group"]) == [f"layer_{layer}" for layer in written["layer"]]
            assert set(run.capacity["unit"]) == {"neuron"}
            assert list(run.capacity["units"]) == list(written["neurons"])
            same = ["task", "free", "new", "reused", "threshold", "margin_spent"]
            pd.testing.assert_frame_equal(run.capacity[same], written[same])
            assert list(run.capacity["used"]) == list(written["neurons"] - written["free"])
    assert counted > 10


def test_groups_of_any_unit_come_back_in_their_order_without_what_the_method_does_not_have(record):
    folder = record(CAPACITY)
    header, *lines = (folder.path / "capacity.csv").read_text().splitlines()
    assert header == "task,group,unit,units,free,new,reused,used"
    assert len(lines) == 6
    found = read_run(folder.path).capacity
    assert list(found.columns) == list(CAPACITY_COLUMNS)
    assert found[list(CAPACITY[0])].to_dict("records") == CAPACITY
    assert found[OPTIONAL].isna().to_numpy().all()


@pytest.mark.parametrize("optional", OPTIONAL)
def test_each_optional_column_may_be_there_alone(record, optional):
    folder = record([{**item, optional: 0.25} for item in CAPACITY])
    found = read_run(folder.path).capacity
    assert (found[optional] == 0.25).all()
    assert found[[name for name in OPTIONAL if name != optional]].isna().to_numpy().all()
    header = (folder.path / "capacity.csv").read_text().splitlines()[0]
    assert header == f"task,group,unit,units,free,new,reused,used,{optional}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("used\n", "used,new\n", "expected the columns task, group, unit, units, free, new, reused, used, but got"),
        ("group,unit,", "unit,group,", "expected the columns task, group, unit"),
        ("units,free", "free,units", "expected the columns task, group, unit"),
        (",used\n", "\n", "expected the columns task, group, unit"),
        ("filter", "neurons", "a unit among neuron, filter, weight, but got 'neurons'"),
        ("conv1+conv2", "", "expected a group of letters"),
        ("conv1+conv2", "../conv", "expected a group of letters"),
        ("conv1+conv2", "conv\x1b1", "expected a group of letters"),
        (",10,", ",0,", "expected at least one unit in every group"),
        (",10,", ",,", "the column units holds something that is no number"),
    ],
)
def test_a_table_that_the_format_does_not_know_is_refused(record, old, new, said):
    folder = record(CAPACITY)
    path = folder.path / "capacity.csv"
    path.write_text(path.read_text().replace(old, new))
    folder.set_status("finished")
    with pytest.raises(RecordError, match=re.escape(f"{path} is not as clbench recorded it")) as error:
        read_run(folder.path)
    assert said in str(error.value)


def test_a_table_of_format_1_in_a_record_of_format_3_is_refused_and_the_other_way_round(record, tmp_path):
    folder = record(CAPACITY, {key: value for key, value in CONFIG.items() if key != "format"})
    with pytest.raises(RecordError, match="expected the columns task, layer, neurons"):
        read_run(folder.path)
    (folder.path / "capacity.csv").write_text(f"{','.join(TABLES[1]['capacity.csv'].all)}\n1,1,10,8,2,0,0.5,0.25\n")
    folder.set_status("finished")
    assert read_run(folder.path).capacity.to_dict("records") == [
        row(1, "layer_1", "neuron", threshold=0.5, margin_spent=0.25, weights_used=UNKNOWN, weights=UNKNOWN)
    ]


def test_a_table_of_format_2_reads_with_the_units_used_counted(record):
    folder = record(CAPACITY, {**CONFIG, "format": 2})
    path = folder.path / "capacity.csv"
    with pytest.raises(RecordError, match=r"new, reused, but got .*, used"):
        read_run(folder.path)
    pd.read_csv(path).drop(columns="used").to_csv(path, index=False)
    folder.set_status("finished")
    assert read_run(folder.path).capacity[list(CAPACITY[0])].to_dict("records") == CAPACITY


@pytest.mark.parametrize(
    "wrong",
    [
        {"group": "a/b"},
        {"unit": "synapse"},
        {"layer": 1},
        {"units": 0},
    ],
)
def test_rows_of_a_method_that_cannot_be_recorded_are_refused_in_one_sentence(record, wrong):
    with pytest.raises(RecordError, match=r"a method's capacity\(\) gives rows that cannot be recorded: expected"):
        record([{**row(1, "a", "neuron"), **wrong}])
    with pytest.raises(RecordError, match="cannot be recorded: expected task, group"):
        record([{"task": 1, "group": "a", "unit": "neuron"}])


def test_metrics_are_by_unit_and_group_and_never_add_units_of_two_kinds(record):
    values = result_of(read_run(record(CAPACITY).path)).metrics()
    counted = {name: value for name, value in values.items() if name.startswith(("used", "free", "new", "reused"))}
    assert counted == {
        f"{kind}_{unit}s{group}": float(value)
        for unit, name in (("filter", "/conv1+conv2"), ("neuron", "/2"), ("weight", "/head"))
        for kind, value in (("used", 5), ("free", 5), ("new", 3), ("reused", 2))
        for group in ("", name)
    }
    neurons = [row(1, "layer_1", "neuron"), row(1, "layer_2", "neuron", units=20, free=18)]
    result = RunResult(MATRIX, [{"task": 1}], neurons)
    found = {name: value for name, value in result.metrics().items() if name.startswith("free")}
    assert found == {"free_neurons": 26.0, "free_neurons/layer_1": 8.0, "free_neurons/layer_2": 18.0}


def test_the_audit_finds_groups_that_do_not_add_up_and_passes_those_that_do(record):
    def faults(rows):
        folder = record(rows)
        return [fault for fault in audit(folder.path).faults if "capacity" in fault]

    assert faults(CAPACITY) == []
    assert faults([row(1, "a", "filter"), row(2, "a", "filter", free=6)]) == []
    assert faults([row(1, "a", "filter"), row(2, "a", "filter", free=7)]) == [
        "capacity.csv: free and claimed units of a do not add up to its units"
    ]
    assert faults([row(1, "a", "filter"), row(1, "a", "filter", free=6)]) == [
        "capacity.csv does not have one row of a for each task"
    ]
    assert faults([row(1, "a", "filter"), row(2, "a", "neuron", free=6)]) == [
        "capacity.csv does not have the same units of a in every task"
    ]
    assert faults([row(1, "a", "filter", threshold=-1.0), row(2, "a", "filter", free=6, threshold=0.0)]) == [
        "capacity.csv has a negative number in a"
    ]


# Pruning


def test_the_looks_of_a_search_come_back_with_test_accuracy_where_it_was_measured(record):
    run = read_run(record(two_tasks("conv", "filter"), pruning=two_searches()).path)
    assert list(run.pruning.columns) == list(PRUNING_COLUMNS)
    written = pd.DataFrame(two_searches(), columns=list(PRUNING_COLUMNS))
    pd.testing.assert_frame_equal(run.pruning, written)
    assert list(written["test_accuracy"].dropna()) == [0.8, 0.79] * 2
    pd.testing.assert_frame_equal(pd.DataFrame(result_of(run).pruning), written)


def test_a_method_that_does_not_search_has_no_file_of_looks(record):
    folder = record(CAPACITY)
    assert not (folder.path / "pruning.csv").exists()
    assert read_run(folder.path).pruning.empty


@pytest.mark.parametrize("wrong", [{"group": "a/b"}, {"kept": None, "layer": 1}])
def test_looks_of_a_method_that_cannot_be_recorded_are_refused_in_one_sentence(record, wrong):
    with pytest.raises(RecordError, match=r"a method's pruning\(\) gives rows that cannot be recorded: expected"):
        record(pruning=[look(1, "conv", 7, 0.9) | wrong])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((2, "kept", 3), "task 1 keeps other units of conv than capacity.csv counts as used"),
        ((7, "kept", 4), "task 2 keeps other units of all than capacity.csv counts as used"),
        ((7, "chosen", 0), "does not say of each task where its search ended"),
        ((1, "validation_accuracy", 1.5), "has an accuracy that is no share"),
        ((0, "test_accuracy", -0.5), "has an accuracy that is no share"),
        ((1, "changed", 101), "counts what cannot be"),
    ],
)
def test_the_audit_finds_searches_that_do_not_fit_what_was_claimed(record, change, said):
    def faults(looks):
        found = audit(record(two_tasks("conv", "filter"), pruning=looks).path).faults
        return [fault for fault in found if fault.startswith("pruning.csv")]

    looks = two_searches()
    assert faults(looks) == []
    place, column, value = change
    looks[place][column] = value
    (fault,) = faults(looks)
    assert said in fault


# Further numbers


def test_further_numbers_are_read_as_they_were_written_and_are_metrics_of_their_task(record):
    rows = [{"task": task, "name": name, "value": task / 3} for task in (1, 2) for name in ("spikes", "Energy_2")]
    run = read_run(record(measures=rows).path)
    assert run.measures.to_dict("records") == rows
    values = result_of(run).metrics()
    assert (values["spikes"], values["Energy_2"]) == (2 / 3, 2 / 3)
    assert read_run(record().path).measures.empty


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("spikes per image", 1.0, "letters, digits and _"),
        ("", 1.0, "letters, digits and _"),
        ("spikes", math.inf, "a finite number for spikes"),
        ("average_accuracy", 1.0, "every run has"),
        ("train_seconds", 1.0, "every run has"),
    ],
)
def test_further_numbers_that_cannot_be_recorded_are_refused(record, name, value, said):
    with pytest.raises(RecordError, match=said):
        record(measures=[{"task": 1, "name": name, "value": value}])


def test_further_numbers_in_an_older_record_are_refused(record):
    rows = [{"task": 1, "name": "spikes", "value": 1.0}]
    folder = record(config={**CONFIG, "format": 2}, measures=rows)
    with pytest.raises(RecordError, match="a record of format 2 has no such file"):
        read_run(folder.path)
