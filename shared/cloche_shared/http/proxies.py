"""Proxies in front: who calls through them, as far as they are believed."""

import ipaddress
from collections.abc import Iterable

from starlette.types import Scope

from cloche_shared.errors import Invalid

FORWARDED_FOR = b"x-forwarded-for"
_REMEMBERED = 1024


class Proxies:
    """The addresses and networks whose word about a caller's address is believed."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Raise `Invalid` (`invalid_setting`) for a text that is no address or network."""
        try:
            self._networks = tuple(ipaddress.ip_network(text.strip(), strict=False) for text in known)
        except ValueError as error:
            raise Invalid(
                "invalid_setting",
                "http.proxies holds a text that is no address and no network.",
                why=str(error),
                todo="Write addresses as 10.1.2.3, networks as 10.0.0.0/8.",
            ) from None
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
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def see_through(self, scope: Scope) -> None:
        """Put the caller's own address into the scope of a request that came through a proxy.

        Only the last address counts: it is the one that the proxy itself saw.
        """
        client = scope.get("client")
        if client is None or not self.knows(client[0]):
            return
        given = [value for name, value in scope["headers"] if name == FORWARDED_FOR]
        last = given[-1].rpartition(b",")[2].strip().decode("latin-1") if given else ""
        try:
            scope["client"] = (str(ipaddress.ip_address(last)), 0)
        except ValueError:
            return
