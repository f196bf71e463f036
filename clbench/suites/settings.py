"""Settings: how they are read from words, and what is said of one that does not fit."""

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import ValidationError

from clbench.errors import MissingSettingError, SettingError

Schedule = Literal["constant", "linear", "plateau"]


def base_name(method: str) -> str:
    """The method of a suite's variant: `psp` of `psp:rotation`."""
    return method.partition(":")[0]


def without_sign_of_zero(value: Any) -> Any:
    """A setting with 0.0 for -0.0, which are the same setting but would not be the same run id."""
    if isinstance(value, list | tuple):
        return type(value)(map(without_sign_of_zero, value))
    if isinstance(value, dict):
        return {key: without_sign_of_zero(item) for key, item in value.items()}
    return 0.0 if isinstance(value, float) and value == 0 else value


# What pydantic says in Python's words, or with less than it knows.
_SAID = {
    "extra_forbidden": "there is no setting of that name here",
    "finite_number": "expected a finite number",
    "float_type": "expected a finite number",
    "tuple_type": "expected a list of values with commas between them, such as 100,100",
    "int_type": "expected a whole number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
}


def setting_error(error: ValidationError, prefix: str = "") -> SettingError:
    """Says the first thing that a pydantic validation found wrong, in one sentence; what is missing comes last."""
    first = min(error.errors(), key=lambda found: found["type"] == "missing")
    *path, last = first["loc"] or ("",)
    within = isinstance(last, int)
    where = prefix + ".".join(map(str, path if within else first["loc"]))
    if first["type"] == "missing":
        return MissingSettingError(f"the setting {where} is missing")
    what = _SAID.get(first["type"]) or _in_our_words(first["msg"], first["type"])
    if not first["loc"]:
        # A check of the whole says itself what it is about.
        return SettingError(what)
    value = first["input"]
    # Text that looks like a number would not seem to be wrong.
    shown = repr(value) if isinstance(value, str) and not isinstance(_parse_value(value), str) else shortened(value)
    given = f"{where} with {shown} in it" if within else f"{where}={shown}"
    return SettingError(f"the setting {given} does not fit: {what}")


def _in_our_words(said: str, kind: str) -> str:
    """What pydantic says of a value, as the lines of `_SAID` would."""
    wanted = "expected a value " if kind.startswith(("greater_than", "less_than")) else "expected "
    said = re.sub("^Input should be ", wanted, said)
    return (said[:1].lower() + said[1:]).removeprefix("value error, ")


def shortened(value: Any) -> str:
    """A value in at most 60 letters."""
    text = str(value) if isinstance(value, str | Decimal) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turns `["epochs=2", "hidden_sizes=100,100", "clnp.margin=0.5"]` into names and values.

    Values are read as JSON: numbers, true, false, null, lists. `none` is null, and `True` is true. `1,2` is a list of
    numbers. `.5` and `5.` are numbers too. Anything else is a string.

    Raises:
        SettingError: for an item without `=`, or a name given twice.
    """
    overrides: dict[str, Any] = {}
    for item in assignments:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name:
            raise SettingError(f"--set expects NAME=VALUE, such as --set epochs=2, but got '{shortened(item)}'")
        if name in overrides:
            raise SettingError(f"--set gives '{name}' twice; give it once")
        overrides[name] = _parse_value(text.strip())
    return overrides


def parse_sweeps(assignments: Sequence[str]) -> dict[str, list[Any]]:
    """Turns `["ewc.strength=100,1000", "hidden_sizes=[64,64],[128,128]"]` into names and the values of each.

    Raises:
        SettingError: for an item without `=` or a value, a range, a name given twice, or a value given twice.
    """
    sweeps: dict[str, list[Any]] = {}
    for item in assignments:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name or not text.strip():
            raise SettingError(
                f"--sweep expects NAME=VALUE,VALUE, such as --sweep ewc.strength=100,1000, but got '{shortened(item)}'"
            )
        if name in sweeps:
            raise SettingError(f"--sweep gives '{name}' twice; give it once, with all its values")
        try:
            values = json.loads(f"[{text}]")
        except (ValueError, RecursionError):
            values = [_parse_value(part.strip()) for part in text.split(",")]
        for value in values:
            if isinstance(value, str) and re.fullmatch(r"[\d.]+-[\d.]+", value):
                raise SettingError(f"--sweep {name} takes each value, separated by commas, but got the range '{value}'")
        if any(values.count(value) > 1 for value in values):
            raise SettingError(f"--sweep {name} has a value twice; give each once")
        sweeps[name] = values
    return sweeps


def _parse_value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    listed = f"[{text}]" if "," in text and not text.startswith("[") else text
    try:
        return json.loads(listed)
    except (ValueError, RecursionError):
        return float(text) if _NUMBER.fullmatch(text) else text


# What people write and JSON does not.
_WORDS = {"none": None, "True": True, "False": False}

# What people write for a number and JSON does not: .5, 5., +1e-3
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
