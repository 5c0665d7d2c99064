"""Which network addresses may be asked for something that a user named (security rule 44).

Three kinds: global ones; near ones, which only machines of the same network reach (loopback, private,
shared address space); and those that are never asked, because they answer with credentials of the
machine or are no single host's. An address that carries another one inside counts as that one.
"""

import ipaddress
import re
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Reach = Literal["global", "near", "never"]

_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
"""Where clouds answer with a machine's own credentials."""
_REWRITTEN = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$", re.IGNORECASE)


def reach_of(text: str) -> Reach:
    """Return the kind of an address (not of a name). Raises `ValueError` for what is no address."""
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    unusable = address.is_link_local or address.is_multicast or address.is_unspecified
    if unusable or address in _METADATA:
        return "never"
    if isinstance(address, ipaddress.IPv4Address) and (address in _THIS_NETWORK or address.is_reserved):
        return "never"
    return "global" if address.is_global else "near"


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    teredo = address.teredo
    found = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
    if found is None and address in _NAT64:
        found = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if found is None and 1 < int(address) < 1 << 32:  # ::a.b.c.d, which nobody should use any more
        found = ipaddress.IPv4Address(int(address))
    return found or address


def is_disguised(host: str) -> bool:
    """Whether HTTP libraries may read another host out of this one than it seems to be.

    They decode `%31`, fold wide digits, and take `0x7f.1`, `017700000001` and `2130706433` for addresses.
    """
    if not host.isascii() or "%" in host:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(_REWRITTEN.search(host))
    return False
