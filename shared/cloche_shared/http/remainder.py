"""The rest of a small body whose request is answered before it was read.

A gateway that passes a body on as it arrives closes the client's connection when the answer overtakes the
body (RFC 9112, section 9.6), although it has just said that the connection lives; the client's next request
on it then fails. What is small and declared is therefore taken in first, for a moment at most.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import Message, Receive

from cloche_shared.http.patience import Patience

REST_BYTES: Final = 65_536
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
        try:
            while self._more and (left := end - asyncio.get_running_loop().time()) > 0:
                await self._patience.next(self, left)
        except TimeoutError:
            self._more = False


def remainder(headers: Mapping[bytes, bytes], receive: Receive, patience: Patience) -> Remainder | None:
    """Return what watches a request's body; None when there is none, or it is long, or the client waits to be asked."""
    length = headers.get(b"content-length")
    if length is None or not length.isdigit() or not 0 < int(length) <= REST_BYTES or b"expect" in headers:
        return None
    return Remainder(receive, patience)
