"""What a name resolves to, judged before anything is asked there (security rule 44).

A name is resolved once, every address of it must be allowed, and what connects connects to one of
these addresses: a name that answers differently the next time gains nothing.
"""

import asyncio
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpcore2

from cloche_shared.errors import Failed
from cloche_shared.store.addresses import Reach, reach_of

RESOLVE_SECONDS = 10.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


async def addresses_of(host: str, port: int) -> list[str]:
    """Return the addresses of a name, in the order in which they should be tried; none when it has none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return list(dict.fromkeys(str(place[4][0]) for place in found))


async def reach_of_url(url: str) -> Reach | None:
    """Return how far away the host of an address is: the least that any of its addresses is; None: it has none."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower(), 443)
    return nearest(await addresses_of(parts.hostname or "", port))


def nearest(addresses: Iterable[str]) -> Reach | None:
    """Return the worst kind among addresses."""
    kinds = {reach_of(address) for address in addresses}
    worst: tuple[Reach, ...] = ("never", "near", "global")
    return next((kind for kind in worst if kind in kinds), None)


async def any_near(urls: Iterable[str]) -> bool:
    """Whether one of these hosts is in our own network. Raises `Failed` (`url_not_allowed`): one is never asked."""
    kinds = [(url, await reach_of_url(url)) for url in urls]
    for url, kind in kinds:
        if kind == "never":
            raise not_allowed(urlsplit(url).hostname or "")
    return any(kind == "near" for _, kind in kinds)


async def check_files(urls: Iterable[str], *, beside: Iterable[str]) -> None:
    """Raise `Failed` (`url_not_allowed`) unless each address is global, or in our own network as an index is."""
    near = await any_near(beside)
    for url in urls:
        kind = await reach_of_url(url)
        if kind == "never" or (kind == "near" and not near):
            raise not_allowed(urlsplit(url).hostname or "")


def not_allowed(host: str) -> Failed:
    """Return the error of a host that may not be asked."""
    return Failed(
        "url_not_allowed",
        f"{host} is not asked for anything.",
        why="Its name stands for an address inside a network, or for one that no package index has.",
        todo="Name an index or a file that lies on a public host; or the index of your own network itself.",
    )


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects only where it is allowed, and to the very address that was judged."""

    def __init__(self, *, near: bool) -> None:
        self._near = near
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the backend's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of the host that answers. Raises `Failed` (`url_not_allowed`)."""
        addresses = await addresses_of(host, port)
        kind = nearest(addresses)
        if kind == "never" or (kind == "near" and not self._near):
            raise not_allowed(host)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait, for the pool's own retries."""
        await self._inner.sleep(seconds)
