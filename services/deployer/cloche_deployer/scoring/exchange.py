"""One HTTP exchange on the raw ASGI interface: its fields, its ids, and how it is answered."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from cloche_deployer.scoring.http import (
    JSON,
    PROBLEM,
    SERVER,
    WATCHED,
    Pairs,
    RequestIds,
    allowed_origin,
    message_body,
    problem,
)
from cloche_shared.errors import ClocheError, Invalid, TooLarge
from cloche_shared.http.problems import retry_after

# The types of the ASGI interface, as its specification gives them.
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FAILED = (b"x-ms-run-function-failed", b"True")
NOT_FAILED = (b"x-ms-run-function-failed", b"False")
_IDLE = 30.0
_DISCARD = 8 * 1024 * 1024
_DISCARD_SECONDS = 2.0
_TICK = 5.0


class BodyTimeout(Invalid):
    """The client stopped sending in the middle of its body."""


class Reads:
    """Cancels the reading of bodies that stopped arriving, by one coarse timer for all of them."""

    def __init__(self, idle: float = _IDLE) -> None:
        self._idle = idle
        self._since: dict[asyncio.Task[Any], float] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def next(self, receive: Receive) -> Message:
        """Return the next message of the client. Raises `BodyTimeout`."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("bodies are read in tasks")
        self._since[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(min(_TICK, self._idle), self._tick)
        try:
            return await receive()
        except asyncio.CancelledError:
            if task not in self._expired:
                raise
            task.uncancel()
            raise BodyTimeout("slow_body", f"No byte of the body arrived for {self._idle:g} seconds.") from None
        finally:
            del self._since[task]
            self._expired.discard(task)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() - self._idle
        for task, since in self._since.items():
            if since < limit:
                self._expired.add(task)
                task.cancel()
        self._timer = loop.call_later(min(_TICK, self._idle), self._tick) if self._since else None


class Exchange:
    """The request's watched fields, and the ways to answer it."""

    __slots__ = ("_body", "fields", "ids", "origins", "receive", "scope", "send", "whole")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.fields: dict[bytes, bytes] = {k: v for k, v in scope["headers"] if k in WATCHED}
        self.ids: RequestIds | None = None
        self.origins: tuple[str, ...] = ()
        self.whole = False
        self._body = b""

    async def gone(self) -> None:
        """Wait until the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def read(self, limit: int, reads: Reads) -> bytes:
        """Return the whole body, also again. Raises `TooLarge` for what is over `limit`, `BodyTimeout`."""
        if self.whole:
            return self._body
        fields = self.fields
        length = fields.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await reads.next(self.receive)
            if message["type"] == "http.disconnect":
                raise ConnectionError
            chunk = message.get("body", b"")
            self.whole = not message.get("more_body", False)
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            if self.whole:
                self._body = chunk if len(chunks) == 1 else b"".join(chunks)
                return self._body

    async def discard(self) -> None:
        """Read some of a refused body, so that an ordinary client sees our answer and not a reset."""
        left = 0 if self.whole else _DISCARD
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    def own(self) -> Pairs:
        """Return the fields that every answer carries."""
        pairs = [SERVER]
        if self.ids is not None:
            pairs += self.ids.pairs()
        trace = self.fields.get(b"traceid")
        if trace is not None:
            pairs.append((b"TraceId", trace))
        if self.origins:
            pairs += allowed_origin(self.fields.get(b"origin", b""), self.origins)
        return pairs

    async def answer(self, status: int, body: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the whole response."""
        headers = [*pairs, *self.own()]
        if status not in {204, 304}:
            headers.append((b"content-length", b"%d" % len(body)))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if self.scope["method"] == "HEAD" or status in {204, 304} else body
        await self.send({"type": "http.response.body", "body": body})

    async def message(self, status: int, text: str, *pairs: tuple[bytes, bytes]) -> None:
        """Answer with an error in the words of Azure's server."""
        await self.answer(status, message_body(text), (JSON, NOT_FAILED, *pairs))

    async def problem(self, error: ClocheError, *pairs: tuple[bytes, bytes], status: int = 0) -> None:
        """Answer with an error of ours."""
        extra = list(pairs)
        if isinstance(error, TooLarge):
            await self.discard()
        status, body = problem(error, self.ids, self.scope["path"], status)
        if status in {400, 401, 408, 413}:
            extra.append((b"connection", b"close"))
        if status == 401:  # noqa: PLR2004  Unauthorized
            extra.append((b"www-authenticate", b"Bearer"))
        if status in {429, 503}:
            extra.append((b"retry-after", str(retry_after(error) or 1).encode()))
        await self.answer(status, body, [PROBLEM, *extra])


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        "too_large",
        f"The body is over the limit of {limit} bytes.",
        todo="Send less at once, or raise the service's body limit.",
    )
