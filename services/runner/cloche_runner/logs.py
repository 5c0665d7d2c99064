"""A run's log over HTTP: plain bytes, its last lines, or live as server-sent events."""

import codecs
from collections.abc import AsyncIterator

import orjson

from cloche_runner.reading import Follower, Reading
from cloche_shared.http.sse import ServerEvent
from cloche_shared.journal.commit import StreamId

TAIL_BYTES = 1024 * 1024


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
    reading: Reading, stream: StreamId, offset: int, elsewhere: Follower | None = None
) -> AsyncIterator[ServerEvent]:
    """Follow the log until the run has ended.

    An event's id is the offset behind its text; the last event is `end`, with the run's status and
    the log's length. A character is never cut in two.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async for chunk in reading.log(stream, offset, follow=True, elsewhere=elsewhere):
        text = decoder.decode(chunk.data)
        offset = chunk.offset + len(chunk.data)
        held = len(decoder.getstate()[0])
        if text:
            yield ServerEvent(text, id=str(offset - held))
    rest = decoder.decode(b"", final=True)
    if rest:
        yield ServerEvent(rest, id=str(offset))
    run = (await reading.run(stream.project, stream.id)).state
    ended = {
        "status": run.status,
        "log_bytes": run.log_before,
        "exit_code": run.ended.code if run.ended is not None else None,
    }
    yield ServerEvent(orjson.dumps(ended).decode(), id=str(offset), event="end")
