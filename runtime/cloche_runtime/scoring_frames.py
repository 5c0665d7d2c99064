"""The frames that a scoring front and a scoring worker exchange over a Unix socket.

A frame is a head of nine bytes (length of the payload, kind, number) and a payload. Numbers are
chosen by the front, once per connection; an answer carries the number of its request. Many requests
may be under way. Both ends use this module, so they cannot disagree about a byte.
"""

from __future__ import annotations

import struct

VERSION = 1
"""Both ends must speak the same version; the worker names its own in `READY` and `FAILED`."""

MAX_PAYLOAD = 1 << 30
"""Bytes; a longer frame is a defect or an attack, and ends the connection."""

REQUEST, CANCEL, PING = 1, 2, 3
"""What the front sends. `CANCEL` and `PING` have no payload; `CANCEL` carries its request's number."""

READY, FAILED, RESPONSE, PONG = 16, 17, 18, 19
"""What the worker sends. `READY` and `FAILED` carry JSON and open every connection."""

RUN_FAILED, TIMED, NOT_STARTED, OWN_HEADERS = 1, 2, 4, 8
"""Flags of a response: the script's function failed; `milliseconds` is valid; the request was
dropped before it began; the script made the whole response, with headers of its own."""

_HEAD = struct.Struct("!IBI")
_REQUEST = struct.Struct("!dBI")
_RESPONSE = struct.Struct("!HBdI")
HEAD_BYTES = _HEAD.size


class FrameError(ValueError):
    """The other end sent something that is not a frame."""


def pack(kind: int, number: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEAD.pack(len(payload), kind, number) + payload


def pack_request(number: int, deadline: float, request_id: bytes, meta: bytes, body: bytes) -> bytes:
    """Return a request's frame.

    `deadline` is a moment of this machine's monotonic clock after which the request must not start
    (0 for none); `meta` is JSON about the HTTP request, empty for a JSON POST.
    """
    head = _REQUEST.pack(deadline, len(request_id), len(meta))
    size = len(head) + len(request_id) + len(meta) + len(body)
    return b"".join((_HEAD.pack(size, REQUEST, number), head, request_id, meta, body))


def unpack_request(payload: bytes) -> tuple[float, bytes, bytes, bytes]:
    """Return deadline, request id, meta and body. Raises `FrameError`."""
    start = _REQUEST.size
    if len(payload) < start:
        raise FrameError("a request is too short")
    deadline, id_size, meta_size = _REQUEST.unpack_from(payload)
    middle = start + id_size
    end = middle + meta_size
    if end > len(payload):
        raise FrameError("a request is shorter than it says")
    return deadline, payload[start:middle], payload[middle:end], payload[end:]


def pack_response(
    number: int, status: int, flags: int = 0, milliseconds: float = 0.0, headers: bytes = b"", body: bytes = b""
) -> bytes:
    """Return a response's frame; `headers` is a JSON list of pairs, empty for a plain JSON result."""
    head = _RESPONSE.pack(status, flags, milliseconds, len(headers))
    size = len(head) + len(headers) + len(body)
    return b"".join((_HEAD.pack(size, RESPONSE, number), head, headers, body))


def unpack_response(payload: bytes) -> tuple[int, int, float, bytes, bytes]:
    """Return status, flags, milliseconds, headers and body. Raises `FrameError`."""
    start = _RESPONSE.size
    if len(payload) < start:
        raise FrameError("a response is too short")
    status, flags, milliseconds, size = _RESPONSE.unpack_from(payload)
    if start + size > len(payload):
        raise FrameError("a response is shorter than it says")
    return status, flags, milliseconds, payload[start : start + size], payload[start + size :]


class FrameReader:
    """Cuts a stream of bytes into frames, however the stream was chopped."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the frames (kind, number, payload) that `data` completes. Raises `FrameError`."""
        buffer = self._buffer
        source: bytes | bytearray = data
        if buffer:
            buffer += data
            source = buffer
        frames = []
        offset, size = 0, len(source)
        while size - offset >= HEAD_BYTES:
            length, kind, number = _HEAD.unpack_from(source, offset)
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes is over the limit of {self._limit}")
            end = offset + HEAD_BYTES + length
            if end > size:
                break
            frames.append((kind, number, bytes(source[offset + HEAD_BYTES : end])))
            offset = end
        if source is buffer:
            del buffer[:offset]
        elif offset < size:
            buffer += source[offset:]
        return frames
