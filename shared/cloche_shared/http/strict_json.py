"""Strict JSON: what parsers disagree about is refused before anything acts on it.

Depth, number of values, duplicate names, integers that a double cannot hold, NaN, Infinity, lone
surrogates, text that is not in Unicode's form C (security rule 38). Duplicate names are found by
counting: a text has at least one colon per member, so only a text with more colons than its parsed
form has members needs a second look.
"""

import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar, cast
from unicodedata import is_normalized

import orjson
from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from cloche_shared.errors import Invalid
from cloche_shared.http.problems import invalid_from

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
MAX_INT: Final = 2**53
MAX_STRING: Final = 256 * 1024
"""Characters of one string; what is longer goes to `/files` as bytes."""

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONG_INT: Final = re.compile(rb"(?<![\d.eE+])\d{17,}(?![\d.eE])")


def _malformed(why: str) -> Invalid:
    return Invalid("malformed_json", "The body is not acceptable JSON.", why=why, todo="Send one JSON value in UTF-8.")


def _beyond(why: str) -> Invalid:
    return Invalid("invalid_field", "The body is over a limit of JSON.", why=why)


def _two_spellings() -> Invalid:
    return Invalid(
        "invalid_field",
        "A text in the body is not in Unicode's normal form C.",
        why="Some letter in it has a second spelling, so that two texts that look the same would be two.",
        todo="Normalise it to NFC.",
    )


def parse(raw: bytes) -> object:
    """Return the value of a JSON text.

    Raises `Invalid`: `malformed_json` for what is not JSON or ambiguous, `invalid_field` for what is
    over a limit.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _malformed(f"It cannot be parsed at line {error.lineno}, column {error.colno}.") from None
    members, large = _measure(value)
    if large and _LONG_INT.search(_STRING.sub(b"", raw)):
        raise _beyond("An integer is beyond 2^53.")
    if len(raw) > MAX_STRING or b"\\u" in raw or not raw.isascii():
        _check_strings(value)
    if raw.count(b":") > members and _STRING.sub(b"", raw).count(b":") > members:
        raise _malformed("An object has the same name twice.")
    return value


def _measure(value: object) -> tuple[int, bool]:
    """Return how many members all objects have, and whether a float may be an integer that was too long.

    Raises `Invalid` where a limit is crossed.
    """
    level: list[Any] = [value]
    depth, values, members, large = 0, 1, 0, False
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _beyond(f"It is nested more than {MAX_DEPTH} deep.")
        inner: list[Any] = []
        for item in level:
            kind = type(item)  # orjson makes no subclasses
            if kind is str:
                continue
            if kind is dict:
                members += len(item)
                inner += item.values()
            elif kind is list:
                inner += item
            elif (kind is int or kind is float) and not -MAX_INT <= item <= MAX_INT:
                if kind is int:
                    raise _beyond("An integer is beyond 2^53.")
                large = True
        values += len(inner)
        if values > MAX_VALUES:
            raise _beyond(f"It has more than {MAX_VALUES} values.")
        level = inner
    return members, large


def _check_strings(value: object) -> None:
    """Raise `Invalid` for a string that is too long or not in form C; two spellings of one text would be two texts."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            rest.extend(item)
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
        elif isinstance(item, str):
            if len(item) > MAX_STRING:
                raise _beyond(f"A string has more than {MAX_STRING} characters.")
            if not is_normalized("NFC", item):
                raise _two_spellings()


class RawJson:
    """A body that passed `parse` and is validated from its bytes."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


@lru_cache(maxsize=512)
def _adapter(source: Hashable) -> TypeAdapter[object]:
    return TypeAdapter(cast("type[object]", source))


class _FromRaw:
    """Validates a `RawJson` in pydantic's JSON mode, where strict models take JSON's own types."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: object, inner: core_schema.ValidatorFunctionWrapHandler) -> object:
            return read_body(source, value.raw) if isinstance(value, RawJson) else inner(value)

        return core_schema.no_info_wrap_validator_function(validate, handler(source))


def read_body(kind: Hashable, raw: bytes) -> object:
    """Return the bytes as a `kind`; raises `Invalid` with a pointer to each violation."""
    try:
        return _adapter(kind).validate_json(raw)
    except ValidationError as error:
        value = orjson.loads(raw)
        found = error.errors(include_input=False, include_context=False, include_url=False)
        raise invalid_from([{**one, "loc": _place(one["loc"], value)} for one in found], ("body",)) from None


def _place(location: tuple[int | str, ...], value: object) -> tuple[int | str, ...]:
    """Return a location without what pydantic adds to it: the names of the alternatives of a union."""
    place: list[int | str] = []
    for number, part in enumerate(location):
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = cast("dict[int | str, object]", value)[part]
        elif not isinstance(value, dict) or number < len(location) - 1:
            continue
        place.append(part)
    return tuple(place)


T = TypeVar("T")

Json = Annotated[T, _FromRaw()]
"""`body: Json[Model]` in a route: the model, read strictly from the body's own bytes."""
