"""Proxies in front: who calls through them, as far as they are believed."""

import ipaddress
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from cloche_shared.errors import Invalid

FORWARDED_FOR: Final = b"x-forwarded-for"
MOST_HOPS: Final = 16
"""Proxies before each other that are seen through."""
_REMEMBERED: Final = 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The addresses and networks whose word about a caller's address is believed.

    `known` are those that connect to us, `outer` those that stand before them.
    """

    def __init__(self, known: Iterable[str] = (), outer: Iterable[str] = ()) -> None:
        """Raise `Invalid` (`invalid_setting`) for a text that is no address or network."""
        self._networks = _networks("http.proxies", known)
        self._outer = _networks("http.outer_proxies", outer)
        self._seen: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def knows(self, address: str) -> bool:
        """Whether an address is that of a proxy."""
        if not self._networks:
            return False
        found = self._seen.get(address)
        if found is None:
            found = self._is_within(address)
            if len(self._seen) < _REMEMBERED:
                self._seen[address] = found
        return found

    def _is_within(self, address: str) -> bool:
        try:
            return _holds(self._networks, ipaddress.ip_address(address))
        except ValueError:
            return False

    def see_through(self, scope: Scope) -> None:
        """Put the caller's own address into the scope of a request that came through a proxy.

        The last address counts: it is the one that the proxy itself saw. Where that is a proxy's, too, the one
        before it counts, and so on; what stands before that anybody may have written.
        """
        client = scope.get("client")
        if client is None or not self.knows(client[0]):
            return
        given = b",".join(value for name, value in scope["headers"] if name == FORWARDED_FOR)
        for text in reversed(given.rsplit(b",", MOST_HOPS)[-MOST_HOPS:]):
            try:
                address = ipaddress.ip_address(text.strip().decode("latin-1"))
            except ValueError:
                return
            scope["client"] = (str(address), 0)
            if not _holds(self._outer, address):
                return


def _networks(setting: str, texts: Iterable[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text.strip(), strict=False) for text in texts)
    except ValueError as error:
        raise Invalid(
            "invalid_setting",
            f"{setting} holds a text that is no address and no network.",
            why=str(error),
            todo="Write addresses as 10.1.2.3, networks as 10.0.0.0/8.",
        ) from None


def _holds(networks: tuple[Network, ...], address: Address) -> bool:
    return any(address in network for network in networks)
