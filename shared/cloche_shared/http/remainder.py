"""The rest of a body whose request is answered before it was read.

A gateway that passes a body on as it arrives closes the client's connection when the answer overtakes the
body (RFC 9112, section 9.6), although it has just said that the connection lives; the client's next request
on it then fails. What is not too much is therefore taken in first and thrown away, for a moment at most.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import Message, Receive

from cloche_shared.http.patience import Patience

REST_BYTES: Final = 8 << 20
"""So much is taken in; who sends more is answered at once."""
REST_S: Final = 1.0
"""So long a client may take to send what nobody asks for."""


class Remainder:
    """Passes messages on and knows whether the body has ended."""

    __slots__ = ("_more", "_patience", "_receive")

    def __init__(self, receive: Receive, patience: Patience) -> None:
        self._receive = receive
        self._patience = patience
        self._more = True

    async def __call__(self) -> Message:
        """Return the client's next message."""
        message = await self._receive()
        self._more = message.get("more_body", False)
        return message

    async def finish(self) -> None:
        """Take in what is left of the body, unless it does not come in time."""
        end = asyncio.get_running_loop().time() + REST_S
        room = REST_BYTES
        try:
            while self._more and room > 0 and (left := end - asyncio.get_running_loop().time()) > 0:
                room -= len((await self._patience.next(self, left)).get("body", b""))
        except TimeoutError:
            self._more = False


def remainder(headers: Mapping[bytes, bytes], receive: Receive, patience: Patience) -> Remainder | None:
    """Return what watches a request's body; None when there is none, or too much, or the client waits to be asked."""
    if b"expect" in headers:
        return None
    length = headers.get(b"content-length", b"")
    taken = 0 < int(length) <= REST_BYTES if length.isdigit() else b"transfer-encoding" in headers
    return Remainder(receive, patience) if taken else None
