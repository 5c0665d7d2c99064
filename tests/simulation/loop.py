"""An event loop whose time is virtual and whose every choice comes from a seed."""

import asyncio
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CALLBACKS_AT_MOST = 3_000_000


class StuckError(Exception):
    """Nothing is ready and nothing is scheduled, or the history does not end."""


class SeededLoop(asyncio.BaseEventLoop):
    """Runs ready handles in an order drawn from a seed; jumps to the next timer when none is ready."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._now = 0.0
        self._draw = random.Random(seed)
        self.callbacks = 0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise StuckError("every task waits for another")
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        if not ready:
            return
        self.callbacks += 1
        if self.callbacks > CALLBACKS_AT_MOST:
            raise StuckError(f"the history goes on after {CALLBACKS_AT_MOST} callbacks")
        chosen = self._draw.randrange(len(ready))
        ready.rotate(-chosen)
        handle = ready.popleft()
        ready.rotate(chosen)
        if not handle._cancelled:
            handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timer_cancelled_count += 1

    def _write_to_self(self) -> None:
        """There is no other thread to wake up for."""

    def _process_events(self, event_list: object) -> None:
        """There is no selector."""

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        raise AssertionError("threads have no place in a simulation")


def simulate(seed: int, history: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a history to its end on a loop of its own; the same seed runs it the same way."""
    loop = SeededLoop(seed)
    errors: list[str] = []
    loop.set_exception_handler(lambda _, context: errors.append(repr(context.get("exception") or context["message"])))
    previous = events._get_running_loop()
    assert previous is None
    try:
        events._set_running_loop(None)
        return loop.run_until_complete(history())
    finally:
        _finish(loop)
        loop.close()


def _finish(loop: SeededLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
