"""Holds the network that user code shares, with no way to the addresses where a cloud tells a machine its secrets.

    python -m cloche_shared.adapters.route_fence          # forbids, then holds the network until SIGTERM
    python -m cloche_shared.adapters.route_fence --check  # exit status 0 if everything is forbidden

It needs CAP_NET_ADMIN, in a network namespace of its own; the executor joins that namespace and has no such right.
A refused address fails at once (`EHOSTUNREACH`) instead of after a time-out.
"""

import fcntl
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FORBIDDEN: Final = ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
"""Link-local (the metadata of most clouds), and the metadata addresses that lie elsewhere."""
_ANY: Final = "0.0.0.0"  # noqa: S104 - of a route that has no gateway; nothing listens
_SIOCADDRT: Final = 0x890B
_UP, _HOST, _REJECT = 0x1, 0x4, 0x200
_ENTRY: Final = "=Q16s16s16sH"
_ENTRY_BYTES: Final = 120
"""`struct rtentry` of 64-bit Linux: padding, destination, gateway, mask, flags, and nothing else that is needed."""


def _address(text: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def parts(network: str) -> tuple[str, str]:
    """Return a network's address and mask as texts."""
    address, _, bits = network.partition("/")
    mask = (0xFFFFFFFF << (32 - int(bits))) & 0xFFFFFFFF
    return address, socket.inet_ntoa(struct.pack("!L", mask))


def rejected(table: str) -> set[tuple[str, str]]:
    """Return what a routing table (`/proc/net/route`) refuses, as addresses and masks."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return {(_shown(row[1]), _shown(row[7])) for row in rows if int(row[3], 16) & _REJECT}


def _shown(hexadecimal: str) -> str:
    return socket.inet_ntoa(struct.pack("=L", int(hexadecimal, 16)))


def forbid(network: str) -> None:
    """Add a route that refuses. Raises `OSError`: without the right, or when it is there already."""
    address, mask = parts(network)
    flags = _UP | _REJECT | (_HOST if mask == "255.255.255.255" else 0)
    entry = struct.pack(_ENTRY, 0, _address(address), _address(_ANY), _address(mask), flags).ljust(_ENTRY_BYTES, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        fcntl.ioctl(plug, _SIOCADDRT, entry)


def missing() -> list[str]:
    """Return the networks that are not refused yet."""
    there = rejected(Path("/proc/net/route").read_text())
    return [network for network in FORBIDDEN if parts(network) not in there]


def main(arguments: Sequence[str]) -> int:
    """Return the exit status."""
    if "--check" in arguments:
        return 1 if missing() else 0
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        for network in missing():
            forbid(network)
    except OSError as error:
        sys.stderr.write(f"route_fence: a route cannot be set: {error.strerror}; CAP_NET_ADMIN is needed\n")
        return 1
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
