"""`PeerClient`: the port Peers over httpx2. Never through a proxy: replicas are neighbours."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from cloche_shared.errors import Unavailable
from cloche_shared.ports.platform import PeerAnswer, PeerRequest

CONNECT_S = 2.0
MOST_CONNECTIONS = 256


def unreachable(error: Exception) -> Unavailable:
    """Return the error for a replica that does not answer."""
    return Unavailable(
        "peer_unreachable",
        "The replica that holds this does not answer.",
        why=type(error).__name__,
        todo="Try again; another replica takes over when its lease has run out.",
    )


class PeerClient:
    """One pool of connections to all replicas; `ca_file` (PEM) is whom to trust where they speak TLS."""

    def __init__(self, ca_file: str = "") -> None:
        verify = ssl.create_default_context(cafile=ca_file or None)
        limits = httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=32, keepalive_expiry=15.0)
        # where no connection came about nothing was sent, so a second try does nothing twice
        transport = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits, retries=1)
        self._client = httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def ask(self, address: str, request: PeerRequest) -> AsyncIterator[PeerAnswer]:
        limits = httpx2.Timeout(request.timeout, connect=CONNECT_S)
        try:
            sent = self._client.stream(
                request.method,
                address.rstrip("/") + request.target,
                headers=list(request.fields),
                content=request.body,
                timeout=limits,
            )
            async with sent as answer:
                fields = [(name.lower(), value) for name, value in answer.headers.raw]
                yield PeerAnswer(answer.status_code, fields, _body(answer))
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise unreachable(error) from error


async def _body(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx2.TransportError as error:
        raise unreachable(error) from error
