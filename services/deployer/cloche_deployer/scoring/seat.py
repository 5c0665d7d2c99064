"""One place for a worker in a pool: the connection to it and the calls that it holds."""

import asyncio
import json
from typing import TYPE_CHECKING

from cloche_deployer.scoring.calls import Call, WaitedTooLong
from cloche_runtime import scoring_frames as frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloche_deployer.scoring.ports import Link, WorkerProcess

QUICK_WINDOW = 16
SLOW_WINDOW = 1
_SLOW_MS = 5.0


class Seat:
    """Sends calls to one worker and matches its answers.

    A quick script gets several calls ahead, so that neither side waits for the other; a slow one
    gets a single call, so that no call waits behind a slow one while another worker is free.
    """

    __slots__ = (
        "_free",
        "_loop",
        "_number",
        "fallen",
        "head_since",
        "hello",
        "killed",
        "link",
        "open",
        "process",
        "silent_since",
        "why_killed",
        "window",
    )

    def __init__(self, free: "Callable[[Seat], None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._free = free
        self._number = 0
        self.open: dict[int, Call] = {}
        self.head_since = 0.0
        self.silent_since: float | None = None
        self.window = QUICK_WINDOW
        self.killed = False
        self.why_killed = ""
        self.fallen: Call | None = None
        """The call that the worker executed when it ended; it has its answer once it is known how."""
        self.link: Link | None = None
        self.process: WorkerProcess | None = None
        self.hello: asyncio.Future[dict[str, object] | None] = self._loop.create_future()

    def send(self, call: Call, now: float) -> None:
        """Give a call to the worker."""
        if self.link is None:
            raise RuntimeError("a call was given to a seat without a worker")
        number = self._number = (self._number + 1) & 0xFFFFFFFF
        if not self.open:
            self.head_since = now
        self.open[number] = call
        self.link.send(frames.pack_request(number, call.deadline, call.request_id, call.meta, call.body))

    def received(self, kind: int, number: int, payload: bytes) -> None:
        """Take what the worker sent."""
        self.silent_since = None
        if kind == frames.RESPONSE:
            self._answered(number, payload)
        elif kind in {frames.READY, frames.FAILED} and not self.hello.done():
            self.hello.set_result({**json.loads(payload), "ready": kind == frames.READY})

    def _answered(self, number: int, payload: bytes) -> None:
        call = self.open.pop(number, None)
        outcome = frames.unpack_response(payload)
        self.head_since = self._loop.time()
        self.window = QUICK_WINDOW if outcome[2] < _SLOW_MS else SLOW_WINDOW
        if call is not None and not call.future.done():
            if outcome[1] & frames.NOT_STARTED:
                call.future.set_exception(WaitedTooLong())
            else:
                call.future.set_result(outcome)
        self._free(self)

    def drop(self, number: int) -> None:
        """Forget a call that need not begin any more; the worker may have begun it."""
        if self.link is not None:
            self.link.send(frames.pack(frames.CANCEL, number))

    def ping(self, now: float) -> None:
        """Ask for a sign of life."""
        if self.link is not None and self.silent_since is None:
            self.silent_since = now
            self.link.send(frames.pack(frames.PING, 0))

    def kill(self, why: str = "") -> None:
        """Give the worker up: it runs for too long, or does not answer."""
        self.killed = True
        self.why_killed = why
        if self.link is not None:
            self.link.close()

    def lost(self) -> None:
        """Hear that the connection has ended."""
        self.link = None
        if not self.hello.done():
            self.hello.set_result(None)
        self._free(self)
