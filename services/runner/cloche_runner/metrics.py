"""Metrics as users read them, from the lines that a script logged."""

import math
from collections.abc import Iterable, Mapping

from cloche_runtime import records

_SHAPES: Mapping[str, tuple[type, ...]] = {
    "log": (bool, int, float, str),
    "log_list": (list,),
    "log_row": (dict,),
    "log_table": (dict,),
}


def summarise(lines: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return what was logged, by name. Lines of another shape are passed over: any process may write them."""
    good = (dict(line) for line in lines if _is_metric(line))
    return {name: _json(value) for name, value in records.metrics(good).items()}


def _is_metric(line: Mapping[str, object]) -> bool:
    shape = _SHAPES.get(str(line.get("op")))
    value = line.get("value")
    if shape is None or not isinstance(line.get("name"), str) or not isinstance(value, shape):
        return False
    if line["op"] == "log_table" and isinstance(value, dict):
        return all(isinstance(column, list) and all(_is_scalar(one) for one in column) for column in value.values())
    parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return all(_is_scalar(one) for one in parts)


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _json(value: object) -> object:
    """Write the numbers that JSON does not know as the strings that they were logged as."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_json(one) for one in value]
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    return value
