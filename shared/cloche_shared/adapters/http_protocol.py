"""What one connection may cost before the app sees a request: time, bytes and how many there are.

uvicorn bounds neither the time nor the size of a request's head. Here the server looks at all
connections once a second, so a request itself pays for no timer: a connection on which no request is
being answered, and which is not resting between two requests, is reading a head. What a read
brings without a byte of a body is counted, so heads, chunk extensions and trailers have a limit too
(security rule 41).
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from cloche_shared.errors import ClocheError, Invalid, Throttled
from cloche_shared.http.problems import rendered
from cloche_shared.http.proxies import Proxies

LINGER_S: Final = 1.0
MAX_THROWN_AWAY: Final = 1024 * 1024
"""Bytes that are read of a request that was refused."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes that may come without any of a body. A read brings up to 256 KiB, so that much more may come at once."""


@dataclass(slots=True)
class Connections:
    """The connections of one server: how many each address has, and those that read a head and since when."""

    head_s: float
    per_address: int
    proxies: Proxies = field(default_factory=Proxies)
    held: Counter[str] = field(default_factory=Counter)
    heads: "dict[GuardedProtocol, tuple[object, float]]" = field(default_factory=dict)

    def enters(self, address: str) -> bool:
        """Count a connection; whether the address may have it."""
        self.held[address] += 1
        return self.held[address] <= self.per_address or self.proxies.knows(address)

    def leaves(self, address: str) -> None:
        """Forget a connection."""
        self.held[address] -= 1
        if self.held[address] <= 0:
            del self.held[address]

    def look(self, protocols: Iterable[object], now: float) -> None:
        """End each connection whose head has been coming for too long; `now` is the loop's time."""
        heads = {}
        for protocol in protocols:
            if not isinstance(protocol, GuardedProtocol) or (head := protocol.head()) is None:
                continue
            seen = self.heads.get(protocol)
            since = seen[1] if seen is not None and seen[0] is head else now
            if now - since < self.head_s:
                heads[protocol] = (head, since)
            else:
                protocol.refuse(_slow_head(self.head_s))
        self.heads = heads


def protocol_class(connections: Connections) -> type[asyncio.Protocol]:
    """Return the protocol of a server's connections, for `uvicorn.Config(http=…)`."""
    return type("Guarded", (GuardedProtocol,), {"shared": connections})


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's connection with limits on the number per address and on the bytes of a head."""

    shared: Connections
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # it is None until the first request

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._address: str | None = None
        self._refused = False
        self._bodiless = 0
        self._got_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless its address has too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        if self.client is None:  # a Unix socket, which only its owner opens
            return
        self._address = self.client[0]
        if not self.shared.enters(self._address):
            self.refuse(_too_many(self.shared.per_address), linger_s=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._address is not None:
            self.shared.leaves(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; stop when too much came that is no body."""
        if self._refused:
            self._bodiless += len(data)
            if self._bodiless > MAX_THROWN_AWAY:
                self.transport.abort()
            return
        super().data_received(data)
        cycle = self.cycle
        if self._got_body or (cycle is not None and not cycle.more_body and cycle.scope is self.scope):
            self._got_body = False
            self._bodiless = 0
            return
        self._bodiless += len(data)
        if self._bodiless > MAX_HEAD_BYTES:
            self.refuse(_large_head())

    def on_body(self, body: bytes) -> None:
        """Note that a body goes on."""
        self._got_body = True
        super().on_body(body)

    def head(self) -> object | None:
        """Return what stands for the head that is being read; None when none is."""
        cycle = self.cycle
        if self.timeout_keep_alive_task is not None or (cycle is not None and not cycle.response_complete):
            return None
        return self.scope or self

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence is not for people
        """Answer what is no HTTP as every other mistake is answered."""
        self.refuse(Invalid("bad_request", "The request is not HTTP/1.1 as it is written."))

    def refuse(self, error: ClocheError, *, linger_s: float = LINGER_S) -> None:
        """Answer, where no answer has begun, and close; what still comes for `linger_s` is thrown away.

        A connection that is closed over unread bytes is reset, and the answer is lost with it.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self._unanswered():
            self.transport.write(_whole(error))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if linger_s and self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(linger_s, self.transport.close)
        else:
            self.transport.close()

    def _unanswered(self) -> bool:
        """Whether the request that is being read has got no part of an answer, and none before it is being answered."""
        cycle = self.cycle
        if cycle is None:
            return True
        return not cycle.response_started if cycle.scope is self.scope else cycle.response_complete


def _whole(error: ClocheError) -> bytes:
    status, headers, body = rendered(error)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in (*headers, (b"connection", b"close"))]
    return b"\r\n".join([*lines, b"", body])


def _slow_head(seconds: float) -> Invalid:
    return Invalid("slow_head", f"The head of a request did not come whole within {seconds:g} s.")


def _large_head() -> Invalid:
    return Invalid("large_head", f"The head of the request is larger than {MAX_HEAD_BYTES // 1024} KiB.")


def _too_many(most: int) -> Throttled:
    return Throttled(
        "too_many_connections",
        f"This address has {most} connections already.",
        todo="Use connections again, or raise http.connections_per_address.",
    )
