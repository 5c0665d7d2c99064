"""The run's journal: one JSON object per line, appended with one write each.

The file is named by `CLOCHE_RUN_JOURNAL`. Several processes and threads of a run write to it at the
same time: each line is one `write` to a descriptor opened with O_APPEND, which Linux does not mix on
local file systems. A reader takes whole lines only; a last line without its newline is still being
written. Each line has `v` (format, 1), `t` (seconds since 1970, as a float) and `op`:

    {"op": "log", "name", "value", "step"?, "description"?}       a number, string or boolean
    {"op": "log_list", "name", "value": [...], "step"?, "description"?}
    {"op": "log_row", "name", "value": {column: value}, "description"?}
    {"op": "log_table", "name", "value": {column: [...]}, "description"?}
    {"op": "tag", "name", "value"}                                value: string or null
    {"op": "property", "name", "value"}                           value: string; never changes
    {"op": "upload", "name", "size"}                              bytes lie at CLOCHE_RUN_UPLOADS/<name>
    {"op": "end", "status": "Completed" | "Failed", "details"?, "code"?}

Numbers that JSON does not know are the strings "NaN", "Infinity" and "-Infinity".
"""

import json
import math
import os
import threading
import time
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Union

Value = Union[int, float, str, bool]

FORMAT = 1
LONGEST_NAME = 255
LONGEST_LINE = 1024 * 1024


def scalar(value: object) -> Value:
    """Return a number, string or boolean as JSON can hold it; numpy's and torch's scalars through `item()`.

    An integer of more than 64 bits becomes a float; ValueError for one that no float can hold.
    """
    item = getattr(value, "item", None)
    if item is not None and not isinstance(value, (bool, int, float, str)):
        value = item()
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError("A metric's value must fit a float; this integer is too large.") from None
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError("A metric's value is a number, a string or a boolean, not %s." % type(value).__name__)


def sequence(value: object) -> List[Value]:
    """Return a list's values, each as `scalar` does; numpy arrays and other iterables of scalars too."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError("A list of values is needed, not %s. Use run.log for one value." % type(value).__name__)
    return [scalar(one) for one in value]


def name(value: object) -> str:
    """Return a name of a metric, tag or property that can be kept."""
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME:
        raise ValueError("A name is a string of 1 to %d characters, not %r." % (LONGEST_NAME, value))
    return value


class Journal:
    """The journal of this run, or of an off-line run, which keeps its lines in memory."""

    def __init__(self, path: Optional[str]) -> None:
        self._path = path
        self._lines: List[Dict[str, Any]] = []
        self._fd = -1
        self._owner = 0
        self._lock = threading.Lock()

    def add(self, op: str, **members: object) -> None:
        """Append a line; members that are None are left out, a tag's value excepted."""
        line: Dict[str, Any] = {"v": FORMAT, "t": time.time(), "op": op}
        line.update((key, value) for key, value in members.items() if value is not None or op == "tag")
        if self._path is None:
            with self._lock:
                self._lines.append(line)
            return
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if len(data) > LONGEST_LINE:
            raise ValueError("A logged value may take %d bytes; this one takes %d." % (LONGEST_LINE, len(data)))
        with self._lock:
            self._write(data)

    def _write(self, data: bytes) -> None:
        """Write the line at once; a forked process opens the file anew."""
        if self._owner != os.getpid():
            self._fd = os.open(str(self._path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._owner = os.getpid()
        if os.write(self._fd, data) != len(data):
            raise OSError("The run's journal took a part of a line only: the disk is full.")

    def flush(self) -> None:
        """Make what was appended durable."""
        with self._lock:
            if self._owner == os.getpid():
                os.fsync(self._fd)

    def lines(self) -> Iterator[Dict[str, Any]]:
        """Yield the lines of all processes of the run, as they came."""
        if self._path is None:
            yield from list(self._lines)
            return
        try:
            with open(self._path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line)
        except FileNotFoundError:
            return


def _number(value: object) -> object:
    """Return a value as it was logged: the three strings become numbers again."""
    return float(str(value).replace("Infinity", "inf")) if value in ("NaN", "Infinity", "-Infinity") else value


class _Metric:
    """What was logged under one name: scalars gather to a list, rows to columns."""

    def __init__(self) -> None:
        self._values: List[object] = []
        self._rows: List[Dict[str, object]] = []
        self._is_list = False

    def take(self, op: str, value: Any) -> None:  # noqa: ANN401 - what JSON held
        if op == "log":
            self._values.append(_number(value))
        elif op == "log_list":
            self._values.extend(_number(one) for one in value)
            self._is_list = True
        elif op == "log_row":
            self._rows.append({key: _number(one) for key, one in value.items()})
        else:
            longest = max([len(column) for column in value.values()] or [0])
            for at in range(longest):
                self._rows.append({key: _number(one[at]) for key, one in value.items() if at < len(one)})

    def value(self) -> object:
        if not self._rows:
            return self._values[0] if len(self._values) == 1 and not self._is_list else self._values
        if len(self._rows) == 1:
            return self._rows[0]
        columns = {key: None for row in self._rows for key in row}
        return {key: [row.get(key) for row in self._rows] for key in columns}


def metrics(lines: Iterator[Dict[str, Any]]) -> Dict[str, object]:
    """Return what was logged, by name.

    One scalar stands as itself, more as a list; one row as columns of scalars, more as columns of
    lists in which None stands for what a row lacks.
    """
    found: Dict[str, _Metric] = {}
    for line in lines:
        if line["op"].startswith("log"):
            found.setdefault(line["name"], _Metric()).take(line["op"], line["value"])
    return {key: metric.value() for key, metric in found.items()}
