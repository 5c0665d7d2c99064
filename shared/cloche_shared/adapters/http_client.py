"""`HttpClient`: the port Http over httpx2. Proxies and CA files come from the environment."""

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2

from cloche_shared.errors import Unavailable
from cloche_shared.ports.platform import HttpAnswer

CONNECT_SECONDS = 10.0

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


class HttpClient:
    """One pool of connections; made at the first request, given back by `close`."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                verify=_verify(),
                follow_redirects=True,
                max_redirects=5,
                # what is downloaded is checked by digest, so it must come as it is stored
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
            )
        return self._client

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    @asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109 - it bounds each read, which no timeout around the call can
    ) -> AsyncIterator[HttpAnswer]:
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        try:
            request = self._opened().stream("GET", url, headers=dict(headers or {}), timeout=limits)
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
