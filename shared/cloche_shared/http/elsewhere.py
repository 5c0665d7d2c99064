"""Any replica answers any request: what another one holds is asked there, with the caller's own credential.

The replica that holds something (a node's log, a scoring worker) is found by the address in its lease. A
request travels one hop at most: one that was forwarded is answered from what is here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from cloche_shared.errors import Unavailable
from cloche_shared.http.exchange import KEY, Exchange, exchange_of
from cloche_shared.http.proxies import FORWARDED_FOR
from cloche_shared.ports.journal import Leases, OutcomeUnknownError
from cloche_shared.ports.platform import Clock, Fields, PeerAnswer, PeerRequest, Peers

FORWARDED: Final = b"cloche-forwarded"
KNOWN_S: Final = 2.0
"""For so long the address in a lease is taken as it was read."""
STREAM_READ_S: Final = 60.0
"""Streams send a sign of life every 15 s."""
_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer", b"upgrade")
) | {b"transfer-encoding", b"host", b"expect"}
_OURS: Final = frozenset((b"x-content-type-options", b"referrer-policy", b"x-request-id", b"traceparent", b"date"))
_CALLERS: Final = frozenset(
    (b"authorization", b"cloche-project", b"x-request-id", b"traceparent", FORWARDED, FORWARDED_FOR)
)
_OF_HOP: Final = frozenset((FORWARDED, FORWARDED_FOR))
BYTES: Final = b"application/octet-stream"
OK: Final = 200
_REPLACED: Final = frozenset((b"x-request-id", b"traceparent"))


class Elsewhere:
    """The way from this replica to the holders of what it does not have.

    `replica` names it to them; `address` is where it answers itself.
    """

    def __init__(self, peers: Peers, leases: Leases, clock: Clock, replica: str, address: str = "") -> None:
        self._peers = peers
        self._address = address
        self._leases = leases
        self._monotonic = clock.monotonic
        self._replica = replica.encode()
        self._known: dict[str, tuple[str, float]] = {}

    async def address_of(self, holder: str) -> str:
        """Return where a holder answers; empty when it has no lease, gave no address, or is this replica."""
        if not holder:
            return ""
        address, until = self._known.get(holder, ("", 0.0))
        if self._monotonic() >= until:
            try:
                lease = await self._leases.get(holder)
            except (Unavailable, OutcomeUnknownError, TimeoutError):
                return address
            address = lease.address if lease is not None and lease.address != self._address else ""
            self._known[holder] = (address, self._monotonic() + KNOWN_S)
        return address

    def asked(self, scope: Scope, body: bytes = b"", *, timeout: float = STREAM_READ_S) -> PeerRequest:
        """Return the request of an ASGI scope as it is sent on."""
        query = scope.get("query_string", b"")
        path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        target = path + (b"?" + query if query else b"")
        return PeerRequest(scope["method"], target.decode("latin-1"), self._fields(scope), body, timeout)

    def _fields(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        exchange: Exchange | None = scope.get(KEY)
        ours = _OF_HOP | _REPLACED if exchange is not None else _OF_HOP
        fields = [(name, value) for name, value in scope["headers"] if name not in _HOP and name not in ours]
        fields.append((FORWARDED, self._replica))
        if scope.get("client") is not None:
            # the caller as this replica knows him: what he says of himself in this field is not passed on
            fields.append((FORWARDED_FOR, scope["client"][0].encode()))
        if exchange is not None:
            fields += [
                (b"x-request-id", exchange.request_id.encode()),
                (b"traceparent", exchange.traceparent.encode()),
            ]
        return fields

    async def answer(self, request: Request, holder: str) -> Response | None:
        """Return what answers from the holder; None when this replica must answer with what it has."""
        address = await self.address_of(holder) if may_go_on(request.scope) else ""
        return Forwarded(self._peers, address, self.asked(request.scope)) if address else None

    def ask(self, address: str, request: PeerRequest) -> AbstractAsyncContextManager[PeerAnswer]:
        """Ask a holder (see `Peers.ask`)."""
        return self._peers.ask(address, request)

    async def chunks(self, scope: Scope, holder: str, target: str, *, accept: bytes = BYTES) -> AsyncIterator[bytes]:
        """Yield the bytes of another route of the holder, asked as the caller of `scope`.

        Nothing comes where there is no holder to ask. Raises `Unavailable` (`peer_unreachable`,
        `peer_refused`) when it does not answer with 200, or breaks off.
        """
        address = await self.address_of(holder) if may_go_on(scope) else ""
        if not address:
            return
        fields = [(name, value) for name, value in self._fields(scope) if name in _CALLERS]
        asked = PeerRequest("GET", target, [*fields, (b"accept", accept)], timeout=STREAM_READ_S)
        async with self._peers.ask(address, asked) as answer:
            if answer.status != OK:
                raise Unavailable("peer_refused", f"The replica that holds this answered {answer.status}.")
            async for chunk in answer.body:
                yield chunk


def may_go_on(scope: Scope) -> bool:
    """Whether a request may be sent on: it came from a client, not from a replica."""
    return all(name != FORWARDED for name, _ in scope["headers"])


class Forwarded(Response):
    """An answer that another replica gives, passed on as it comes."""

    def __init__(self, peers: Peers, address: str, request: PeerRequest) -> None:
        super().__init__()
        self._peers = peers
        self._address = address
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask and pass on; ends when the client leaves or the server drains."""
        drain = exchange_of(scope).drain
        passing = asyncio.create_task(self._pass_on(send), name="forwarded")
        ends = [passing, asyncio.create_task(_gone(receive), name="forwarded-client")]
        if drain is not None:
            ends.append(asyncio.create_task(_set(drain), name="forwarded-drain"))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                if not task.done():
                    task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        if not passing.cancelled():
            passing.result()

    async def _pass_on(self, send: Send) -> None:
        async with self._peers.ask(self._address, self._request) as answer:
            await send({"type": "http.response.start", "status": answer.status, "headers": passed(answer.fields)})
            async for chunk in answer.body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def primed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the same bytes once the first are there, so that what keeps them away can still be answered."""
    first = await anext(chunks, None)

    async def whole() -> AsyncIterator[bytes]:
        if first is not None:
            yield first
            async for chunk in chunks:
                yield chunk

    return whole()


def passed(fields: Fields) -> list[tuple[bytes, bytes]]:
    """Return the fields of a replica's answer that travel on; the front adds its own again."""
    return [(name, value) for name, value in fields if name not in _HOP and name not in _OURS]


def whole(fields: Fields) -> list[tuple[bytes, bytes]]:
    """Return all fields of a replica's answer that travel on, for a front that adds none of its own."""
    return [(name, value) for name, value in fields if name not in _HOP and name != b"date"]


async def _gone(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


async def _set(event: asyncio.Event) -> None:
    await event.wait()
