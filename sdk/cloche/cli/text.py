"""How things are written for people: tables, ages, sizes, events. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

Item = Mapping[str, object]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_AGES = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
DASH = "-"
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def moment(text: object) -> datetime | None:
    """Read an RFC 3339 time; None for what is not one."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def seconds_between(start: object, end: object) -> float | None:
    """Return the seconds from one RFC 3339 time to another; None where one is missing."""
    begin, finish = moment(start), moment(end)
    return (finish - begin).total_seconds() if begin is not None and finish is not None else None


def age(text: object, now: datetime) -> str:
    """Return how long ago a time was, in its largest unit: `3m`."""
    found = moment(text)
    if found is None:
        return DASH
    seconds = max(0, int((now - found).total_seconds()))
    return next((f"{seconds // size}{unit}" for size, unit in _AGES if seconds >= size), "0s")


def duration(seconds: float | None) -> str:
    """Return a duration: `0.42 s`, `12.3 s`, `3m 05s`, `2h 05m`."""
    if seconds is None:
        return DASH
    if seconds < 60:  # noqa: PLR2004 - below a minute
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"  # noqa: PLR2004 - hundredths only while few
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def size(value: object) -> str:
    """Return a number of bytes with a unit: `1.5 GiB`."""
    if not isinstance(value, int | float):
        return DASH
    number, unit = float(value), 0
    while number >= _STEP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{int(number)} {_UNITS[0]}" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"


def counted(number: int, what: str) -> str:
    """Return a number of things: `1 run`, `2 runs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def cell(value: object) -> str:
    """Return a value as it stands in a table: nothing is a dash, lists and tables are joined."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or DASH
    return str(value)


def visible(text: str) -> str:
    """Return a text that moves nothing on a terminal: control and direction characters are shown as escapes."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def named(value: object) -> str:
    """Return `name:version` of something that is used."""
    if isinstance(value, Mapping) and "name" in value:
        return f"{value['name']}:{value.get('version', '')}".rstrip(":")
    return DASH


def one_line(text: str, width: int) -> str:
    """Return a text on one line, cut with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Return the table aligned by spaces, without anything that a program would have to take off."""
        whole = [list(self.columns), *[[text.replace("\n", " ") for text in row] for row in self.rows]]
        widths = [max(len(row[index]) for row in whole) for index in range(len(self.columns))]
        return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in whole]


def fields(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return names and values, one a line, aligned; further lines of a value are indented."""
    width = max((len(name) for name, _ in pairs), default=0)
    lines = []
    for name, value in pairs:
        first, *rest = value.splitlines() or [""]
        lines.append(f"{name.ljust(width)}  {first}".rstrip())
        lines.extend(f"{' ' * width}  {more}".rstrip() for more in rest)
    return lines


def event_line(event: Item) -> str:
    """Return an event on one line: time, type, subject, and the fact's most telling members."""
    when = str(event.get("time", ""))[11:23] or DASH
    parts = str(event.get("type", "")).split(".")
    name = parts[1] if len(parts) > 2 else str(event.get("type", ""))  # noqa: PLR2004 - cloche.<Name>.v1
    data = event.get("data")
    told = [f"{key}={value}" for key, value in data.items() if _tells(key, value)] if isinstance(data, Mapping) else []
    return f"{when}  {name:<22}  {event.get('subject', '')}  {one_line(' '.join(told), 100)}".rstrip()


_TELLING = {
    "version",
    "name",
    "attempt",
    "node",
    "label",
    "revision",
    "status",
    "code",
    "scoring_url",
    "reused",
    "image",
}


def _tells(key: object, value: object) -> bool:
    return key in _TELLING and isinstance(value, str | int | float) and value not in {"", 0}
