"""Numbers and settings as a reader writes them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

NOT_RECORDED = "not recorded"


def percent(fraction: float, decimals: int = 2) -> str:
    """A fraction in per cent, without the sign for it: 0.98423 is `98.42`; never `-0.00`."""
    text = f"{100 * fraction:.{decimals}f}"
    return (text.removeprefix("-") if float(text) == 0 else text).replace("-", "−")


def signed_percent(fraction: float) -> str:
    """As `percent`, with a plus where it is positive."""
    text = percent(fraction)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def byte_unit(count: float) -> tuple[str, float]:
    """The unit in which a number of bytes has one to three digits before the point, and its size."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while abs(count) / 1024**power >= 999.5 and power < len(units) - 1:
        power += 1
    return units[power], float(1024**power)


def readable_bytes(count: float) -> str:
    """A number of bytes to three digits: `39.1 KiB`, `1.21 GiB`."""
    unit, size = byte_unit(count)
    value = count / size
    decimals = 0 if unit == "B" or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def thousands(value: float) -> str:
    """A whole number in groups of three digits, narrow spaces between them."""
    return f"{value:,.0f}".replace(",", "\u202f")


def tenths(value: float) -> str:
    """A number with one decimal."""
    return f"{value:.1f}"


def seconds(value: float) -> str:
    """Seconds with one decimal, below one second with two."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def layer_number(group: str) -> int:
    """Which layer a group of units is, from 1, if its name says so, as `layer_1` does; else 0."""
    found = re.fullmatch(r"layer_(\d+)", group)
    return int(found[1]) if found else 0


def group_words(group: str) -> str:
    """A group of units as one says it: `layer 1` of `layer_1`, any other name as it is."""
    return f"layer {number}" if (number := layer_number(group)) else group


def units_words(units: Iterable[str]) -> str:
    """What is counted, in the plural: `neurons`; `units` where they are of several kinds."""
    found = set(units)
    return f"{found.pop()}s" if len(found) == 1 else "units"


def setting(value: object) -> str:
    """`plain`, of a setting that is recorded: where it is None it is off, or does not apply."""
    return "none" if value is None else plain(value)


def plain(value: object) -> str:
    """A setting's value: no quotes around words, no brackets around sizes."""
    if value is None or value == "":
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        # Layer sizes are written 784-2000-10; other lists would read like a range.
        between = "-" if all(isinstance(item, int) for item in value) else ", "
        return between.join(plain(item) for item in value) if value else "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={setting(item)}" for key, item in sorted(value.items())) or "none"
    return str(value)


def differing(ours: Mapping[str, object], theirs: Mapping[str, object]) -> Iterator[str]:
    """`epochs 10 (there 20)` for each of their settings that is another one in ours."""
    for name, value in theirs.items():
        if name in ours and plain(ours[name]) != plain(value):
            yield f"{name.replace('_', ' ')} {setting(ours[name])} (there {setting(value)})"


def instant(text: str) -> datetime | None:
    """A recorded time in UTC; None where it is no time."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def minute(text: str) -> str:
    """A recorded time to the minute, or the text itself where it is no time."""
    time = instant(text)
    return f"{time:%Y-%m-%d %H:%M}" if time else text or NOT_RECORDED


def duration(seconds: float) -> str:
    """Seconds as one reads them: `42.0 s`, `12.5 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
