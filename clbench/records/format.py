"""The files of a run folder: which there are, what stands in them, and the checks of what is read."""

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from clbench.metrics import Matrix

FORMAT = 2
CAPACITY_COLUMNS = ("task", "layer", "neurons", "free", "new", "reused", "threshold", "margin_spent")
TASK_COLUMNS = (
    "task",
    "train_seconds",
    "train_images_per_second",
    "eval_seconds",
    "peak_memory_bytes",
    "extra_state_bytes",
)
REQUIRED_FILES = ("config.json", "environment.txt", "accuracy_matrix.csv", "tasks.csv", "status.json")
OPTIONAL_FILES = ("capacity.csv", "traceback.txt")
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
    settings = [name for key in ("suite_settings", "method_settings", "overrides") for name in config.get(key) or {}]
    for key, text in (
        *((key, config[key]) for key in ("suite", "method", "run_id")),
        *(("settings", s) for s in settings),
    ):
        # They are shown in terminals, which obey control characters, and in drawings, which may not hold any.
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Cn") for letter in text):
            raise ValueError(f"expected {key} without control characters, but got {text!r}")
    if not 1 <= found["n_tasks"] <= _MOST_TASKS:
        raise ValueError(f"expected n_tasks from 1 to {_MOST_TASKS}, but got {found['n_tasks']}")
    # JSON can spell half a character, which no text file can.
    json.dumps(config, ensure_ascii=False).encode()


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


def _frame(content: bytes) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(io.StringIO(_text(content)))


def parse_table(content: bytes, columns: tuple[str, ...]) -> "pd.DataFrame":
    """A table of numbers with exactly these columns."""
    import numpy as np

    frame = _frame(content)
    if tuple(frame.columns) != columns:
        raise ValueError(f"expected the columns {', '.join(columns)}, but got {', '.join(frame.columns)}")
    kinds = [dtype.kind for dtype in frame.dtypes]
    # All at once, because column by column takes longer than reading the file.
    if len(frame) and (set(kinds) - set("iuf") or not np.isfinite(frame.to_numpy(dtype=float)).all()):
        for column, kind in zip(columns, kinds, strict=True):
            if kind not in "iuf" or not np.isfinite(frame[column]).all():
                raise ValueError(f"the column {column} holds something that is no number")
    return frame
