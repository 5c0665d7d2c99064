"""An owner as its supervisor sees it: one connection that speaks JSON lines (see `cloche_runtime.supervisor`)."""

import json
import socket
from typing import Any, Dict, List, Optional

_LINE = 65536  # bytes of a command: owners send far less


class Owner:
    """A connected owner: what it sent in part, and whether it follows the log."""

    __slots__ = ("follows", "rest", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self.sock = sock
        self.rest = b""
        self.follows = False

    def tell(self, message: Dict[str, Any]) -> None:
        """Send a line. An owner that reads nothing misses it and asks again by connecting anew."""
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.sock.close()

    def lines(self) -> Optional[List[bytes]]:
        """Return the whole lines that came, None when the owner is gone."""
        try:
            data = self.sock.recv(_LINE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data or len(self.rest) > _LINE:
            return None
        parts = (self.rest + data).split(b"\n")
        self.rest = parts.pop()
        return parts
