"""`HttpClient`: the port Http over httpx2. Proxies and CA files come from the environment.

Every connection, so each hop of a redirect too, goes to an address that was judged before
(`host_check`), with the name in SNI and certificate check. Where a proxy stands between, the proxy
resolves names, and it is the proxy's business whom it asks.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpcore2
import httpx2

from cloche_shared.adapters.host_check import CheckedBackend, any_near, not_allowed
from cloche_shared.errors import Unavailable
from cloche_shared.ports.platform import HttpAnswer

CONNECT_SECONDS = 10.0
CONNECTIONS = 32
KEEP_SECONDS = 5.0
KNOWN_SECONDS = 30.0
"""For so long it is known whether an index is in the own network."""

_AGENT = "cloche/0.1"


def _verify() -> ssl.SSLContext:
    """Return a context that trusts SSL_CERT_FILE / SSL_CERT_DIR where set, else the system's authorities."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    context = httpx2.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _unreachable(error: Exception) -> Unavailable:
    slow = isinstance(error, httpx2.TimeoutException)
    return Unavailable(
        "unreachable",
        "The server did not answer in time." if slow else "The server cannot be reached.",
        why=type(error).__name__,
        todo="See that the address is right and that this machine may reach it.",
    )


class _Direct(httpx2.AsyncHTTPTransport):
    """What connects without a proxy: httpx2's own, with a backend that judges where it connects to."""

    def __init__(self, verify: ssl.SSLContext, *, near: bool) -> None:
        super().__init__(verify=verify)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=verify,
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEP_SECONDS,
            network_backend=CheckedBackend(near=near),
        )


async def _refuse_downgrade(answer: httpx2.Response) -> None:
    target = answer.headers.get("location", "") if answer.has_redirect_location else ""
    if answer.request.url.scheme == "https" and target.lower().startswith("http:"):
        raise not_allowed(httpx2.URL(target).host)


class HttpClient:
    """Two pools of connections, one that reaches the own network and one that does not; given back by `close`."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx2.AsyncClient] = {}
        self._near: tuple[tuple[str, ...], float, bool] = ((), 0.0, False)

    def _opened(self, *, near: bool) -> httpx2.AsyncClient:
        client = self._clients.get(near)
        if client is None:
            verify = _verify()
            client = self._clients[near] = httpx2.AsyncClient(
                verify=verify,
                follow_redirects=True,
                max_redirects=5,
                # what is downloaded is checked by digest, so it must come as it is stored
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
                event_hooks={"response": [_refuse_downgrade]},
            )
            # given as `transport`, it would take the proxies of the environment away
            client._transport = _Direct(verify, near=near)  # noqa: SLF001 - tests/contract/test_http.py would see it fail
        return client

    async def _reaches(self, beside: Sequence[str]) -> bool:
        """Whether these hosts are in the own network, as it was found out a moment ago or now."""
        known, until, near = self._near
        now = asyncio.get_running_loop().time()
        if known != tuple(beside) or now > until:
            near = await any_near(beside)
            self._near = (tuple(beside), now + KNOWN_SECONDS, near)
        return near

    async def close(self) -> None:
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    @asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109 - it bounds each read, which no timeout around the call can
        beside: Sequence[str] = (),
    ) -> AsyncIterator[HttpAnswer]:
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        near = bool(beside) and await self._reaches(beside)
        try:
            request = self._opened(near=near).stream("GET", url, headers=dict(headers or {}), timeout=limits)
            async with request as answer:
                yield HttpAnswer(answer.status_code, dict(answer.headers), _body(answer))
        except (httpx2.TransportError, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
            raise _unreachable(error) from error


async def _body(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx2.TransportError as error:
        raise _unreachable(error) from error
