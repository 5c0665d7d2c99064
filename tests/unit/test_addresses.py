"""Which addresses may be asked: by their bytes, whatever form they come in."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche_shared.adapters.host_check import nearest
from cloche_shared.store.addresses import is_disguised, reach_of

NEVER = [
    *("169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::"),  # noqa: S104 - judged
    *("fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"),
    *("fd00:ec2::254", "100.100.100.200", "::169.254.169.254"),
]
NEAR = [
    *("127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "::1", "fd12::1"),
    *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::127.0.0.1", "fc00::1"),
]
GLOBAL = ["1.1.1.1", "151.101.0.223", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize(("kind", "texts"), [("never", NEVER), ("near", NEAR), ("global", GLOBAL)])
def test_each_address_is_of_one_kind(kind: str, texts: list[str]) -> None:
    assert {text: reach_of(text) for text in texts} == dict.fromkeys(texts, kind)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    kind = reach_of(str(address))
    assert reach_of(f"::ffff:{address}") == kind
    assert reach_of(str(ipaddress.IPv6Address((0x64FF9B << 96) | number))) == kind
    assert reach_of(str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))) == kind


def test_the_worst_of_several_addresses_counts() -> None:
    assert nearest(["1.1.1.1", "10.0.0.1"]) == "near"
    assert nearest(["1.1.1.1", "10.0.0.1", "169.254.169.254"]) == "never"
    assert nearest(["1.1.1.1", "::ffff:1.1.1.1"]) == "global"
    assert nearest([]) is None


@pytest.mark.parametrize(
    "host",
    [
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "127.1",
        "\uff11.1.1.1",
        "%31.1.1.1",
        "a.1.",
        "0x7f.1",
    ],
)
def test_a_host_that_is_read_as_another_is_disguised(host: str) -> None:
    assert is_disguised(host)


@pytest.mark.parametrize(
    "host", ["pypi.org", "127.0.0.1", "::1", "index", "xn--bcher-kva.example", "1a.example", "v1.example."]
)
def test_a_host_that_is_what_it_says_is_not(host: str) -> None:
    assert not is_disguised(host)
