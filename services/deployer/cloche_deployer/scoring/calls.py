"""One request on its way through a pool, and the ways in which it can fail."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

Outcome = tuple[int, int, float, bytes, bytes]
"""Status, flags, milliseconds, headers (JSON) and body, as the worker sent them."""

Watch = Callable[[], Awaitable[None]]
"""Returns when the client has left."""


class ScoringTimeout(Exception):
    """The script's function ran longer than its limit; its worker was killed."""


class WaitedTooLong(Exception):
    """The request did not begin before its deadline, so it was dropped."""


class WorkerLost(Exception):
    """The worker ended while it executed this request; the text says how, as far as that is known."""


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Call:
    """A request that waits for a worker or for its answer.

    `deadline` is a moment of the loop's clock; a call that has not begun by then is dropped.
    `watch` is only used when the call takes long enough for the client to lose patience.
    """

    __slots__ = ("body", "born", "deadline", "future", "meta", "request_id", "watch", "watcher")

    def __init__(self, request_id: bytes, meta: bytes, body: bytes, watch: Watch) -> None:
        self.request_id = request_id
        self.meta = meta
        self.body = body
        self.watch = watch
        self.watcher: asyncio.Task[None] | None = None
        self.born = 0.0
        self.deadline = 0.0
        self.future: asyncio.Future[Outcome]

    def fail(self, error: Exception) -> None:
        """End the call with an error, unless it has ended."""
        if not self.future.done():
            self.future.set_exception(error)
