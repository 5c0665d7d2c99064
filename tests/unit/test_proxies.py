"""Proxies in front: whose word about a caller's address is believed."""

from typing import TYPE_CHECKING

import pytest

from cloche_shared.errors import Invalid
from cloche_shared.http.proxies import Proxies

if TYPE_CHECKING:
    from starlette.types import Scope


def caller(proxies: Proxies, address: str, *forwarded: bytes) -> str:
    scope: Scope = {"client": (address, 4711), "headers": [(b"x-forwarded-for", value) for value in forwarded]}
    proxies.see_through(scope)
    return str(scope["client"][0])


@pytest.mark.parametrize(
    ("address", "forwarded", "seen"),
    [
        ("10.0.0.7", [b"192.0.2.9"], "192.0.2.9"),
        ("10.0.0.7", [b"203.0.113.1, 192.0.2.9"], "192.0.2.9"),
        ("10.0.0.7", [b"203.0.113.1", b"192.0.2.9"], "192.0.2.9"),
        ("10.0.0.7", [b"2001:DB8::1"], "2001:db8::1"),
        ("10.0.0.7", [], "10.0.0.7"),
        ("10.0.0.7", [b"unknown"], "10.0.0.7"),
        ("198.51.100.3", [b"192.0.2.9"], "198.51.100.3"),
    ],
)
def test_only_the_last_word_of_a_known_proxy_counts(address: str, forwarded: list[bytes], seen: str) -> None:
    assert caller(Proxies(["10.0.0.0/8"]), address, *forwarded) == seen


def test_nobody_is_believed_unless_that_was_set() -> None:
    proxies = Proxies()
    assert not proxies
    assert caller(proxies, "127.0.0.1", b"192.0.2.9") == "127.0.0.1"


def test_a_text_that_is_no_address_is_refused() -> None:
    with pytest.raises(Invalid, match=r"http\.proxies"):
        Proxies(["gateway"])
