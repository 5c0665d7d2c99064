"""`MemoryPeers`: replicas in one process, reached by calling their ASGI apps."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from cloche_shared.errors import Unavailable
from cloche_shared.ports.platform import PeerAnswer, PeerRequest

LEAVING_S = 1.0
"""Seconds that an app has to notice that the caller left."""


class MemoryPeers:
    """Apps by address; an address that has none is a replica that is down."""

    def __init__(self) -> None:
        self.apps: dict[str, ASGIApp] = {}

    @asynccontextmanager
    async def ask(self, address: str, request: PeerRequest) -> AsyncIterator[PeerAnswer]:
        app = self.apps.get(address)
        if app is None:
            raise _down()
        call = _Call(request, address)
        task = asyncio.create_task(call.run(app), name=f"peer {address}")
        try:
            status, fields = await call.head()
            yield PeerAnswer(status, fields, call.body())
        finally:
            call.left.set()
            await asyncio.wait([task], timeout=LEAVING_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _down() -> Unavailable:
    return Unavailable("peer_unreachable", "The replica that holds this does not answer.", todo="Try again.")


class _Call:
    """One request on its way through an app."""

    def __init__(self, request: PeerRequest, address: str) -> None:
        self._request = request
        self._host = address.partition("://")[2]
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._sent = False
        self.left = asyncio.Event()

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope(), self._receive, self._messages.put)
        finally:
            await self._messages.put(None)

    def _scope(self) -> MutableMapping[str, Any]:
        path, _, query = self._request.target.partition("?")
        host = [] if any(name == b"host" for name, _ in self._request.fields) else [(b"host", self._host.encode())]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [*host, *self._request.fields],
            "client": ("127.0.0.1", 0),
            "server": (self._host, 0),
        }

    async def _receive(self) -> Message:
        if self._sent:
            await self.left.wait()
            return {"type": "http.disconnect"}
        self._sent = True
        body = self._request.body
        whole = body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
        return {"type": "http.request", "body": whole, "more_body": False}

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        message = await self._messages.get()
        if message is None:
            raise _down()
        return message["status"], list(message.get("headers", ()))

    async def body(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return
        raise _down()
