"""Waiting for clients with an end, by one coarse timer for all of them.

`asyncio.timeout` arms a timer for each wait, which costs more than what most waits are for: a body that
is there already.
"""

import asyncio
from typing import Any, Final

from starlette.types import Message, Receive

TICK_S: Final = 1.0


class Patience:
    """Ends waits that take too long; of one event loop."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def next(self, receive: Receive, seconds: float) -> Message:
        """Return the client's next message. Raises `TimeoutError` a second late at most."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("clients are waited for in tasks")
        self._until[task] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(min(TICK_S, seconds), self._tick)
        try:
            return await receive()
        except asyncio.CancelledError:
            # somebody else may have cancelled the task meanwhile, and goes first
            if task not in self._late or task.uncancel() > 0:
                raise
            raise TimeoutError from None
        finally:
            del self._until[task]
            self._late.discard(task)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, until in self._until.items():
            if until <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        nearest = min(self._until.values(), default=None)
        self._timer = None if nearest is None else loop.call_later(min(TICK_S, max(nearest - now, 0.01)), self._tick)
