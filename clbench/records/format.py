"""The files of a run folder: which there are, what stands in them, and the checks of what is read.

A record says its format in config.json (`format`, absent in format 1). What changed from one to the next is in
`TABLES` and nowhere else.
"""

import hashlib
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import NewerRecordError, RecordError

if TYPE_CHECKING:
    import pandas as pd

    from clbench.metrics import Matrix

FORMAT = 3
"""The format that is written; those before it are read as well."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table: those that every record has, then those that it may have.

    Of all, some may hold nothing in any row, and some nothing in some rows.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    may_be_empty: tuple[str, ...] = ()
    may_have_gaps: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """In the order in which they stand in a file."""
        return (*self.required, *self.optional)


_TASKS = Columns(
    ("task", "train_seconds", "train_images_per_second", "eval_seconds", "peak_memory_bytes", "extra_state_bytes"),
    ("optimizer_state_bytes",),
    # Of a method that does not declare its state.
    may_be_empty=("extra_state_bytes", "optimizer_state_bytes"),
)
_COUNTED = ("task", "group", "unit", "units", "free", "new", "reused")
_CAPACITY = Columns((*_COUNTED, "used"), ("threshold", "margin_spent", "weights_used", "weights"))
_PRUNING = Columns(
    ("task", "group", "kept", "validation_accuracy", "validation_images", "changed", "chosen"),
    ("test_accuracy",),
    may_have_gaps=("test_accuracy",),
)
_MEASURES = Columns(("task", "name", "value"))
TABLES: Mapping[int, Mapping[str, Columns]] = {
    1: {
        "tasks.csv": _TASKS,
        "capacity.csv": Columns(("task", "layer", "neurons", "free", "new", "reused", "threshold", "margin_spent")),
    },
    2: {"tasks.csv": _TASKS, "capacity.csv": Columns(_COUNTED, ("threshold", "margin_spent"))},
    3: {"tasks.csv": _TASKS, "capacity.csv": _CAPACITY, "pruning.csv": _PRUNING, "measures.csv": _MEASURES},
}
"""By format, the columns of each table."""
TASK_COLUMNS = _TASKS.all
CAPACITY_COLUMNS = _CAPACITY.all
PRUNING_COLUMNS = _PRUNING.all
MEASURES_COLUMNS = _MEASURES.all
REPLAYED = "images_replayed"
"""In measures.csv, the images of a task's steps that came from a memory, each counted as often as it was used."""
ALL_GROUPS = "all"
"""In pruning.csv, the group of a look at the whole network."""
UNITS = ("neuron", "filter", "weight")
"""What a method may count."""
_WORDS = ("group", "unit", "name")
# They become parts of names in MLflow, which allows no more (but for +).
_GROUP = re.compile(r"\w[\w.+ -]{0,199}")

REQUIRED_FILES = ("config.json", "environment.txt", "accuracy_matrix.csv", "tasks.csv", "status.json")
OPTIONAL_FILES = ("capacity.csv", "pruning.csv", "measures.csv", "samples.png", "traceback.txt")
OWN_FILES = "files"
"""The folder of copies of the user's own files."""
STATUSES = ("running", "finished", "stopped", "failed")
_MOST_TASKS = 1000
STATUS_KEYS = ("status", "started", "ended", "reason")


def status_text(content: Mapping[str, Any]) -> str:
    """status.json: the content with its seal, in the one form that such a content has."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    seal = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**content, "seal": seal}, indent=2) + "\n"


def parse_status(text: str) -> dict[str, Any]:
    """The content of status.json, checked against its seal where it has one."""
    content = json.loads(text)
    standing = {key: content[key] for key in STATUS_KEYS}
    if not all(isinstance(value, str) for value in standing.values()):
        raise ValueError(f"expected text for {', '.join(STATUS_KEYS)}")
    if standing["status"] not in STATUSES:
        raise ValueError(f"expected a status among {', '.join(STATUSES)}, but got {standing['status']!r}")
    if content.keys() == set(STATUS_KEYS):
        return standing
    # Comparing the whole text finds a changed blank as well.
    if text != status_text({key: value for key, value in content.items() if key != "seal"}):
        raise ValueError("its seal does not fit: it was changed after it was recorded")
    if not isinstance(content["sha256"], dict):
        raise ValueError("expected a SHA-256 for each file")
    return dict(content)


def check_digest(content: bytes | None, recorded: object) -> None:
    """Checks a file against the SHA-256 that status.json has of it."""
    if content is None:
        raise ValueError("the file is missing, or unknown to this version, but status.json has its SHA-256")
    got = hashlib.sha256(content).hexdigest()
    if got != recorded:
        raise ValueError(f"its SHA-256 is {got}, but status.json has {recorded or 'none'}: it was changed")


def format_of(config: Any, path: Path) -> int:
    """The format of a record.

    Args:
        config: what its config.json says.
        path: of that file.

    Raises:
        NewerRecordError: if a newer clbench wrote it.
        ValueError: if it is no format at all.
    """
    if not isinstance(config, dict):
        raise ValueError("expected an object")
    found = config.get("format", 1)
    if type(found) is not int or found < 1:
        raise ValueError(f"expected a format from 1 to {FORMAT}, but got {found!r}")
    if found > FORMAT:
        raise NewerRecordError(
            f"{path} is of format {found}, which a newer clbench wrote, and this one reads formats up to {FORMAT}; "
            "upgrade clbench to read it"
        )
    return found


def measured_on(config: Mapping[str, Any]) -> str:
    """The images that a recorded run was measured on; one that does not say it was measured on test images."""
    return str(config.get("measured_on", "test"))


def check_config(config: Any) -> None:
    """Checks what config.json holds, as far as readers rely on it."""
    types = {"suite": str, "method": str, "seed": int, "modified": bool, "run_id": str, "suite_settings": dict}
    found = {key: config[key] for key in types} | {"n_tasks": config["suite_settings"]["n_tasks"]}
    for key, kind in (types | {"n_tasks": int}).items():
        if type(found[key]) is not kind:
            raise ValueError(f"expected {key} to be of type {kind.__name__}, but got {found[key]!r}")
    for key in ("versions", "data", "overrides", "method_settings"):
        if not isinstance(config.get(key) or {}, dict):
            raise ValueError(f"expected {key} to be an object, but got {config[key]!r}")
    if measured_on(config) not in ("test", "validation"):
        raise ValueError(f"expected measured_on to be test or validation, but got {config['measured_on']!r}")
    _check_shown(config)
    settings = [name for key in ("suite_settings", "method_settings", "overrides") for name in config.get(key) or {}]
    for key, text in (
        *((key, config[key]) for key in ("suite", "method", "run_id")),
        *(("settings", s) for s in settings),
    ):
        _check_text(key, text)
    if not 1 <= found["n_tasks"] <= _MOST_TASKS:
        raise ValueError(f"expected n_tasks from 1 to {_MOST_TASKS}, but got {found['n_tasks']}")
    # JSON can spell half a character, which no text file can.
    json.dumps(config, ensure_ascii=False).encode()


def _check_text(what: str, text: Any) -> None:
    """Names are shown in terminals, which obey control characters, and in drawings, which may not hold any."""
    if not isinstance(text, str):
        raise ValueError(f"expected {what} to be text, but got {text!r}")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Cn") for letter in text):
        raise ValueError(f"expected {what} without control characters, but got {text!r}")


def _check_shown(config: Mapping[str, Any]) -> None:
    """Checks what reports show of the network, the stream and the sample images, where it is recorded."""
    network, samples = (config.get(key) or {} for key in ("network", "samples"))
    for key, found in (("network", network), ("samples", samples)):
        if not isinstance(found, dict):
            raise ValueError(f"expected {key} to be an object, but got {found!r}")
    for what, text in (
        ("the stream's digest", config.get("stream_sha256")),
        ("the network's name", network.get("name")),
        ("the network's layers", network.get("layers")),
    ):
        if text is not None:
            _check_text(what, text)
    shape = network.get("image_shape", [])
    for what, numbers in (
        ("parameters", [network.get("parameters", 0)]),
        ("image_shape", shape if isinstance(shape, list) else [shape]),
        ("samples", [samples.get("per_task", 0), samples.get("side", 0)]),
    ):
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"expected {what} to be whole numbers, but got {numbers!r}")
    names = samples.get("tasks", [])
    if not isinstance(names, list):
        raise ValueError(f"expected the tasks of the sample images to be a list, but got {names!r}")
    for name in names:
        _check_text("the tasks of the sample images", name)


def check_file_name(name: str) -> None:
    """Checks the name of a copy of a user's file: a path below the folder `files`, such as `helpers/blocks.py`.

    Raises:
        RecordError: if it leads elsewhere, or has a control character or a backslash in it.
    """
    parts = name.split("/")
    strange = any(unicodedata.category(letter) in ("Cc", "Cs", "Cn") or letter == "\\" for letter in name)
    if strange or not all(parts) or {".", ".."} & {*parts}:
        raise RecordError(
            f"the file {name!r} cannot be kept with a run, whose copies need paths below one folder, such as "
            "helpers/blocks.py; put it beside the file that uses it"
        )


def parse_matrix(content: bytes, columns: list[str]) -> "Matrix":
    """The accuracies of a table whose first column counts its rows; float() reads back what was written to the bit."""
    import numpy as np

    header, *lines = _text(content).splitlines()
    rows = [line.split(",") for line in lines]
    # float() would take 1_0, spaces and some words as well.
    strange = re.search(r"[^,]*[^0-9.,e+-][^,]*", ",".join(lines))
    if strange:
        raise ValueError(f"expected accuracies in [0, 1], but got '{strange.group()}'")
    expected = [str(number) for number in range(len(columns))]
    if header.split(",") != columns or [row[0] for row in rows] != expected or {*map(len, rows)} != {len(columns)}:
        raise ValueError(f"expected the columns {', '.join(columns)} and {len(columns)} rows")
    return np.array([[float(entry or "nan") for entry in row[1:]] for row in rows])


def _text(content: bytes) -> str:
    text = content.decode()
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")
    return text


def parse_table(content: bytes, columns: Columns) -> "pd.DataFrame":
    """A table with these columns, numbers but for the names of groups and units; NaN where an optional one is not."""
    import numpy as np
    import pandas as pd

    words = {name: str for name in columns.all if name in _WORDS}
    # A group may be called NA.
    gaps = {name: [""] for name in columns.may_have_gaps}
    frame = pd.read_csv(io.StringIO(_text(content)), dtype=words, keep_default_na=not words, na_values=gaps)
    there = tuple(name for name in columns.all if name in columns.required or name in frame.columns)
    if tuple(frame.columns) != there:
        raise ValueError(f"expected the columns {', '.join(there)}, but got {', '.join(frame.columns)}")
    empty = [name for name in columns.may_be_empty if name in there and frame[name].isna().all()]
    numbers = frame[[name for name in there if name not in words and name not in empty]]
    kinds = [dtype.kind for dtype in numbers.dtypes]
    # All at once, because column by column takes longer than reading the file.
    without_gaps = numbers.drop(columns=[name for name in columns.may_have_gaps if name in numbers])
    if len(frame) and (set(kinds) - set("iuf") or not np.isfinite(without_gaps.to_numpy(dtype=float)).all()):
        for column, kind in zip(numbers, kinds, strict=True):
            if kind not in "iuf" or (column in without_gaps and not np.isfinite(numbers[column]).all()):
                raise ValueError(f"the column {column} holds something that is no number")
    for name in frame["name"].unique() if "name" in words else ():
        _check_measure(name)
    if "group" in words:
        for group in frame["group"].unique():
            _check_group(group)
        for unit in frame["unit"].unique() if "unit" in words else ():
            _check_unit(unit)
    return frame.reindex(columns=list(columns.all))


def _check_group(group: Any) -> None:
    if not isinstance(group, str) or not _GROUP.fullmatch(group):
        raise ValueError(f"expected a group of letters, digits, ., +, - and blanks, but got {group!r}")


def _check_measure(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,99}", name, re.ASCII):
        raise ValueError(f"expected a name of letters, digits and _, but got {name!r}")


def _check_unit(unit: Any) -> None:
    if unit not in UNITS:
        raise ValueError(f"expected a unit among {', '.join(UNITS)}, but got {unit!r}")


def parse_capacity(content: bytes, record_format: int) -> "pd.DataFrame":
    """capacity.csv of any format with the columns `CAPACITY_COLUMNS`; NaN in those that it does not have.

    Layer 1 of format 1 is the group `layer_1`, whose units are neurons.
    """
    frame = parse_table(content, TABLES[record_format]["capacity.csv"])
    if record_format == 1:
        names = [f"layer_{number:g}" for number in frame["layer"]]
        frame = frame.rename(columns={"neurons": "units"}).assign(group=names, unit="neuron")
    if record_format < 3:
        frame = frame.assign(used=frame["units"] - frame["free"])
    if (frame["units"] < 1).any():
        raise ValueError("expected at least one unit in every group")
    return frame.reindex(columns=list(CAPACITY_COLUMNS))


def capacity_table(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """capacity.csv as it is written: what methods count, without the optional columns that hold nothing.

    Raises:
        RecordError: if a row lacks a column or has one of another name, or its group or unit does not fit.
    """
    counted = [{**row, "used": row["units"] - row["free"]} if {"units", "free"} <= row.keys() else row for row in rows]
    with _of_a_method("capacity"):
        for row in counted:
            _check_names(row, _CAPACITY)
            _check_group(row["group"])
            _check_unit(row["unit"])
            if row["units"] < 1:
                raise ValueError(f"expected at least one unit in the group {row['group']}, but got {row['units']}")
        return _table_of(counted, _CAPACITY)


def pruning_table(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """pruning.csv as it is written.

    Raises:
        RecordError: if a row lacks a column or has one of another name, or its group does not fit.
    """
    with _of_a_method("pruning"):
        for row in rows:
            _check_names(row, _PRUNING)
            _check_group(row["group"])
        return _table_of(rows, _PRUNING)


def measures_table(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """measures.csv as it is written.

    Raises:
        RecordError: if a name does not fit or a value is not finite.
    """
    from clbench.metrics import SUMMARY

    with _of_a_method("measures"):
        for row in rows:
            _check_measure(row["name"])
            if row["name"] in (*SUMMARY, *TASK_COLUMNS, "capacity_used"):
                raise ValueError(f"{row['name']} is a number that every run has; give it another name")
            if not math.isfinite(row["value"]):
                raise ValueError(f"expected a finite number for {row['name']}, but got {row['value']}")
        return _table_of(rows, _MEASURES)


@contextmanager
def _of_a_method(name: str) -> Iterator[None]:
    """Within, what is wrong was given by a method."""
    try:
        yield
    except ValueError as error:
        raise RecordError(f"a method's {name}() gives rows that cannot be recorded: {error}") from None


def _check_names(row: Mapping[str, Any], columns: Columns) -> None:
    if not {*columns.required} <= row.keys() <= {*columns.all}:
        needed, may = (", ".join(names) for names in (columns.required, columns.optional))
        raise ValueError(f"expected {needed} and perhaps {may}, but got {', '.join(row)}")


def _table_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns.all))
    return frame.drop(columns=[name for name in columns.optional if frame[name].isna().all()])
