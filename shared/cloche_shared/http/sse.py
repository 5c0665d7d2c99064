"""Server-Sent Events: resumable, with heartbeats, ending when the client leaves or the server drains."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final

import orjson
from fastapi import Depends, Header
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cloche_shared.errors import ClocheError
from cloche_shared.http.exchange import exchange_of
from cloche_shared.http.problems import problem_of

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_S: Final = 15.0
RETRY_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: `data` may have several lines, `id` is what a client sends to resume behind it."""

    data: str
    id: str = ""
    event: str = ""

    def encode(self) -> bytes:
        """Return the event's bytes; line breaks inside id and event are dropped, so that nothing can be forged."""
        lines = [f"{name}: {_line(value)}" for name, value in (("id", self.id), ("event", self.event)) if value]
        text = self.data.replace("\r\n", "\n").replace("\r", "\n")
        lines.extend(f"data: {line}" for line in text.split("\n"))
        return ("\n".join(lines) + "\n\n").encode()


def _line(value: str) -> str:
    return value.replace("\r", "").replace("\n", "").replace("\0", "")


class EventStream(Response):
    """Sends the events of `source` until it ends, the client leaves, or the server drains.

    A heartbeat (a comment) goes out whenever nothing else did for `heartbeat_s`. An error in the
    middle becomes a last event `error` with the problem as data. `source` is always closed.
    """

    media_type = MEDIA_TYPE

    def __init__(self, source: AsyncIterator[ServerEvent], *, heartbeat_s: float = HEARTBEAT_S) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": f"retry: {RETRY_MS}\n\n".encode(), "more_body": True})
        drain = exchange_of(scope).drain
        ends = [asyncio.create_task(_gone(receive), name="sse-client")]
        if drain is not None:
            ends.append(asyncio.create_task(_drained(drain), name="sse-drain"))
        try:
            await self._pump(scope, send, ends)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        if not ends[0].done() or ends[0].cancelled():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, scope: Scope, send: Send, ends: list[asyncio.Task[None]]) -> None:
        upcoming: asyncio.Task[ServerEvent] | None = None
        try:
            while True:
                if upcoming is None:
                    upcoming = asyncio.create_task(_next(self._source), name="sse-source")
                done, _ = await asyncio.wait(
                    [upcoming, *ends], timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
                if any(task in done for task in ends):
                    return
                if upcoming in done:
                    event, upcoming = upcoming.result(), None
                    await _body(send, event.encode())
                else:
                    await _body(send, b":\n\n")
        except _EndedError:
            return
        except ClocheError as error:
            exchange = exchange_of(scope)
            problem = problem_of(error, request_id=exchange.request_id, instance=exchange.path)
            await _body(send, ServerEvent(orjson.dumps(problem, default=str).decode(), event="error").encode())
        finally:
            await self._close(upcoming)

    async def _close(self, upcoming: asyncio.Task[ServerEvent] | None) -> None:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()


class _EndedError(Exception):
    """The source has no more events (a task may not raise StopAsyncIteration)."""


async def _next(source: AsyncIterator[ServerEvent]) -> ServerEvent:
    try:
        return await anext(source)
    except StopAsyncIteration:
        raise _EndedError from None


async def _body(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _drained(drain: asyncio.Event) -> None:
    await drain.wait()


async def _last_event_id(last_event_id: Annotated[str | None, Header(max_length=256)] = None) -> str:
    return last_event_id or ""


LastEventId = Annotated[str, Depends(_last_event_id)]
"""`resume: LastEventId` in a stream's route: the id behind which the client wants to go on, or empty."""
