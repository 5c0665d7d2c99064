"""A run's log over HTTP: plain bytes, its last lines, or live as server-sent events."""

import codecs
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson

from cloche_runner.reading import Follower, Reading
from cloche_shared.errors import Invalid
from cloche_shared.http.sse import ServerEvent
from cloche_shared.journal.commit import StreamId

TAIL_BYTES = 1024 * 1024
_POSITION = re.compile(r"(\d{1,16})(?:@(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a run's log: the byte, and the attempt whose log was still being written there (0: none).

    As the id of an event it reads `1234` or `1234@2`.
    """

    offset: int
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.offset}@{self.attempt}" if self.attempt else str(self.offset)

    @classmethod
    def read(cls, text: str) -> "Position":
        """Read an event's id. Raises `Invalid` (`invalid_header`)."""
        found = _POSITION.fullmatch(text)
        if found is None:
            raise Invalid("invalid_header", "Last-Event-ID is not a place in this log.", todo="Start without it.")
        return cls(int(found[1]), int(found[2] or 0))


async def log_bytes(
    reading: Reading, stream: StreamId, offset: int, elsewhere: Follower | None = None
) -> AsyncIterator[bytes]:
    """Yield the log from `offset` as far as it is there."""
    async for chunk in reading.log(stream, offset, follow=False, elsewhere=elsewhere):
        yield chunk.data


async def followed_bytes(
    reading: Reading, stream: StreamId, offset: int, elsewhere: Follower | None, *, only_here: bool
) -> AsyncIterator[bytes]:
    """Yield the log from `offset` until the run has ended, or only the attempt that is here."""
    async for chunk in reading.log(stream, offset, follow=True, elsewhere=elsewhere, only_here=only_here):
        yield chunk.data


async def last_lines(reading: Reading, stream: StreamId, lines: int, elsewhere: Follower | None = None) -> bytes:
    """Return the last lines, of at most 1 MiB."""
    kept = b""
    async for data in log_bytes(reading, stream, 0, elsewhere):
        kept = (kept + data)[-TAIL_BYTES:]
    return b"".join(kept.splitlines(keepends=True)[-lines:]) if lines else b""


async def log_events(
    reading: Reading, stream: StreamId, start: Position, elsewhere: Follower | None = None
) -> AsyncIterator[ServerEvent]:
    """Follow the log until the run has ended.

    An event's id is the position behind its text; the last event is `end`, with the run's status, the log's
    length, and where the logs of lost attempts break off. A character is never cut in two.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset = start.offset
    async for piece in reading.log(stream, offset, follow=True, attempt=start.attempt, elsewhere=elsewhere):
        if piece.offset < offset:
            decoder.reset()  # what was begun belongs to a log that is lost
        text = decoder.decode(piece.data)
        offset = piece.end
        held = len(decoder.getstate()[0])
        if text:
            yield ServerEvent(text, id=str(Position(offset - held, piece.attempt)))
    rest = decoder.decode(b"", final=True)
    if rest:
        yield ServerEvent(rest, id=str(offset))
    run = (await reading.run(stream.project, stream.id)).state
    ended: dict[str, object] = {
        "status": run.status,
        "log_bytes": run.log_before,
        "exit_code": run.ended.code if run.ended is not None else None,
    }
    if run.log_missing:
        ended["missing"] = [cut.model_dump() for cut in run.log_missing]
    yield ServerEvent(orjson.dumps(ended).decode(), id=str(offset), event="end")
