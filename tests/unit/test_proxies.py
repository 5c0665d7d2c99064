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


@pytest.mark.parametrize(
    ("forwarded", "seen"),
    [
        ([b"192.0.2.9, 203.0.113.7"], "192.0.2.9"),
        ([b"192.0.2.9", b"203.0.113.7"], "192.0.2.9"),
        ([b"192.0.2.9, 203.0.113.8, 203.0.113.7"], "192.0.2.9"),
        ([b"8.8.8.8, 192.0.2.9, 203.0.113.7"], "192.0.2.9"),  # whoever calls wrote the first
        ([b"8.8.8.8, 10.0.0.1, 203.0.113.7"], "10.0.0.1"),  # those that connect to us do not stand before others
        ([b"8.8.8.8, 192.0.2.9"], "192.0.2.9"),  # past the outer proxy
        ([b"8.8.8.8, 203.0.113.7, 192.0.2.9"], "192.0.2.9"),
        ([b"203.0.113.8, 203.0.113.7"], "203.0.113.8"),
        ([b"unknown, 203.0.113.7"], "203.0.113.7"),
        ([b"192.0.2.9, , 203.0.113.7"], "203.0.113.7"),
        ([b"203.0.113.7"], "203.0.113.7"),
        ([b"8.8.8.8" + 20 * b", 203.0.113.7"], "203.0.113.7"),
    ],
)
def test_proxies_before_those_that_connect_are_seen_through_and_what_a_caller_wrote_is_not_believed(
    forwarded: list[bytes], seen: str
) -> None:
    proxies = Proxies(["10.0.0.0/8"], ["203.0.113.0/28"])
    assert caller(proxies, "10.0.0.7", *forwarded) == seen
    assert caller(proxies, "203.0.113.7", *forwarded) == "203.0.113.7"  # only who connects to us is asked


def test_nobody_is_believed_unless_that_was_set() -> None:
    proxies = Proxies()
    assert not proxies
    assert caller(proxies, "127.0.0.1", b"192.0.2.9") == "127.0.0.1"


def test_a_text_that_is_no_address_is_refused() -> None:
    with pytest.raises(Invalid, match=r"http\.proxies"):
        Proxies(["gateway"])
    with pytest.raises(Invalid, match=r"http\.outer_proxies"):
        Proxies(["10.0.0.1"], ["balancer"])
