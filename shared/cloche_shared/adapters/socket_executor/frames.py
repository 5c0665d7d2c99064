"""Frames on the socket, and how what they hold is read.

A frame is its length (four bytes, network order) and a body: a JSON object, or for a piece of a log a
zero byte, the request's number, the offset (eight bytes each) and the bytes themselves. Requests have
`n` (a number that the client chooses) and `do`; each is answered once by `{"n", "ok": {…}}`,
`{"n", "error": {…}}` or a piece of a log, in whatever order they are done:

    hello {version, owner}            first of all, answered by {version}
    start {spec} · attach {id}        → {process}
    adopt {after}                     → {processes: [process …], more}; by id, a page at a time
    watch {id, began}                 → {process} as soon as it began, could not begin, or ended
    read {id, offset, follow}         → a piece of the log; {} at its end, with `follow` that of the group
    cancel {id, grace} · grant {id, seconds} · ping      → {}
    forget {id}                       → {process}, null where there was none
    drop {request}                    gives up a request; it is not answered

Logs are asked for piece by piece, so a slow reader holds nothing back but itself.
"""

import asyncio
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

VERSION = 1
REQUEST_BYTES = 4 * 1024 * 1024
"""The largest request: a spec's arguments and environment, as much as Linux takes."""
ANSWER_BYTES = 512 * 1024
"""The largest answer: a piece of a log, or a page of processes."""
PIECE_BYTES = 256 * 1024
LARGEST = 2**53
GREETING_S = 5.0
"""Seconds in which a connection must say who it is, or be answered."""

_LENGTH = struct.Struct("!I")
_PIECE = struct.Struct("!BQQ")
_MARK = 0

T = TypeVar("T")


class FrameError(Exception):
    """The other side sent something that is no frame of ours."""


class Document:
    """A JSON object from the other side; each reading says what it must be. Raises `FrameError`."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise FrameError("an object was expected")
        self._value = cast("dict[str, object]", value)

    def text(self, name: str, longest: int) -> str:
        """Return a string of `longest` characters at most."""
        return _text(self._value.get(name), name, longest)

    def whole(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        """Return an integer within bounds."""
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise FrameError(f"{name} is no whole number from {least} to {most}")
        return value

    def number(self, name: str, most: float = LARGEST) -> float:
        """Return a finite number from 0 on."""
        value = self._value.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
            raise FrameError(f"{name} is no number from 0 to {most}")
        return float(value)

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise FrameError(f"{name} is neither true nor false")
        return value

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """Return what `read` reads, None for null and for what is missing."""
        return None if self._value.get(name) is None else read(name)

    def inner(self, name: str) -> "Document":
        """Return an object."""
        return Document(self._value.get(name))

    def objects(self, name: str, most: int) -> list["Document"]:
        """Return a list of objects, `most` at most."""
        return [Document(one) for one in self._list(name, most)]

    def texts(self, name: str, most: int, longest: int) -> list[str]:
        """Return a list of strings, `most` at most."""
        return [_text(one, name, longest) for one in self._list(name, most)]

    def mapping(self, name: str, most: int, longest: int) -> dict[str, str]:
        """Return an object whose values are strings."""
        value = self.inner(name)._value  # noqa: SLF001 - another one of the same class
        if len(value) > most:
            raise FrameError(f"{name} has more than {most} members")
        return {_text(key, name, longest): _text(one, name, longest) for key, one in value.items()}

    def has(self, name: str) -> bool:
        """Tell whether there is such a member."""
        return name in self._value

    def _list(self, name: str, most: int) -> Sequence[object]:
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise FrameError(f"{name} is no list of {most} at most")
        return cast("list[object]", value)


class Piece:
    """Bytes of a log that answer a request."""

    __slots__ = ("data", "number", "offset")

    def __init__(self, number: int, offset: int, data: bytes) -> None:
        self.number = number
        self.offset = offset
        self.data = data


def _text(value: object, name: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise FrameError(f"{name} is no text of {longest} characters at most")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FrameError(f"{name} is no text") from None
    return value


def packed(message: Mapping[str, object]) -> bytes:
    """Return a message as a frame."""
    text = json.dumps(message, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    body = text.encode("utf-8", "replace")
    return _LENGTH.pack(len(body)) + body


def packed_piece(number: int, offset: int, data: bytes) -> bytes:
    """Return a piece of a log as a frame."""
    return _LENGTH.pack(_PIECE.size + len(data)) + _PIECE.pack(_MARK, number, offset) + data


async def read_frame(reader: asyncio.StreamReader, longest: int) -> Document | Piece | None:
    """Return the next frame, None at the end of the stream. Raises `FrameError`, `OSError`."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if not 1 < length <= longest:
            raise FrameError(f"a frame of {length} bytes is not allowed")
        body = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise FrameError("the stream ended within a frame") from None
        return None
    return _piece(body) if body[0] == _MARK else Document(_parsed(body))


def _piece(body: bytes) -> Piece:
    if not _PIECE.size < len(body) <= _PIECE.size + PIECE_BYTES:
        raise FrameError("a piece of a log has a wrong size")
    _, number, offset = _PIECE.unpack_from(body)
    return Piece(number, offset, body[_PIECE.size :])


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise FrameError("a frame holds no JSON") from None


def _no_constant(_name: str) -> float:
    """Refuse NaN and the infinities, which JSON does not know."""
    raise ValueError(math.nan)
