"""What the network of user code refuses, read from its routing table."""

import ipaddress

from cloche_shared.adapters.route_fence import FORBIDDEN, parts, rejected

TABLE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0110A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
*\tC8646464\t00000000\t0205\t0\t0\t0\tFFFFFFFF\t0\t0\t0
*\t0000FEA9\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0010A8C0\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0
"""


def test_only_routes_that_refuse_count() -> None:
    assert rejected(TABLE) == {("100.100.100.200", "255.255.255.255"), ("169.254.0.0", "255.255.0.0")}


def test_what_is_forbidden_is_found_again_in_the_table() -> None:
    assert {parts(network) for network in FORBIDDEN[:2]} == rejected(TABLE)


def test_networks_are_taken_apart_as_they_are_meant() -> None:
    for text in FORBIDDEN:
        network = ipaddress.ip_network(text)
        assert parts(text) == (str(network.network_address), str(network.netmask))
