"""An event loop whose time is virtual and whose every choice comes from a seed.

Every callback belongs to the simulated process (`Owner`) in whose context it was scheduled, so a
process can be killed between any two of its steps: nothing of it runs any more, not even a `finally`.
It can be paused the same way, as SIGSTOP pauses a process while the world goes on.
"""

import asyncio
import contextlib
import gc
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

CALLBACKS_AT_MOST = 600_000
LAST_CALLBACKS = 50_000
LAST_ROUNDS = 20


class StuckError(Exception):
    """Nothing is ready and nothing is scheduled, or the history does not end."""


class Owner:
    """A simulated process, as the loop sees it.

    `fuse` counts down its callbacks: at zero it dies, in the middle of whatever it does.
    """

    def __init__(self, name: str, on_death: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.fuse: int | None = None
        self.held: list[asyncio.Handle] = []
        self._on_death = on_death

    def kill(self) -> None:
        """Let it die now; what it had under way never goes on."""
        if not self.dead:
            self.dead = True
            self._on_death()

    def admits(self, handle: asyncio.Handle) -> bool:
        """Tell whether a callback may run now. While paused it is kept for later, once dead for the end of all."""
        if self.fuse is not None and not self.dead and not self.paused:
            self.fuse -= 1
            if self.fuse < 0:
                self.kill()
        if self.dead or self.paused:
            self.held.append(handle)
            return False
        return True


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)


class _Task(asyncio.Task[T]):
    """A task that sets hold in the same order in every process."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[T]):
    """A future that sets hold in the same order in every process."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SeededLoop(asyncio.BaseEventLoop):
    """Runs ready handles in an order drawn from a seed; jumps to the next timer when none is ready."""

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self._now = 0.0
        self._timer_cancelled_count = 0
        self._random = random.Random(seed).random
        self._numbers = 0
        self._kept: list[asyncio.Task[Any]] = []
        self._stopped: dict[Owner, None] = {}
        self.callbacks = 0
        self.closing = False
        self._last_callbacks = 0
        self.set_task_factory(self._task)

    def time(self) -> float:
        return self._now

    def resume(self, owner: Owner) -> None:
        """Let a paused process go on; it finds that its timers are late."""
        owner.paused = False
        held, owner.held = owner.held, []
        self._ready.extend(held)  # type: ignore[attr-defined]

    def close_down(self) -> None:
        """Let also those run again that were killed, so that they can end."""
        self.closing = True
        for owner in self._stopped:
            self.resume(owner)

    def left(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, in the order of their creation."""
        return [task for task in self._kept if not task.done()]

    def create_future(self) -> asyncio.Future[Any]:
        self._numbers += 1
        return _Future(self._numbers, self)

    def _task(self, _loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        self._numbers += 1
        task = _Task(self._numbers, coro, loop=self, **options)
        # one that nobody refers to would run its `finally` when it is collected, also after its owner's death
        self._kept.append(task)
        return task

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
        chosen = int(self._random() * len(ready))
        ready.rotate(-chosen)
        handle = ready.popleft()
        ready.rotate(chosen)
        if not handle._cancelled:
            self._run_handle(handle)

    def _run_handle(self, handle: asyncio.Handle) -> None:
        owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
        if owner is not None and not self.closing and not owner.admits(handle):
            self._stopped[owner] = None
            return
        if self.closing:
            self._last_callbacks += 1
        else:
            self.callbacks += 1
        if self.callbacks > CALLBACKS_AT_MOST or self._last_callbacks > LAST_CALLBACKS:
            raise StuckError(f"the history goes on after {self.callbacks} callbacks")
        handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timer_cancelled_count += 1

    def _write_to_self(self) -> None:
        """There is no other thread to wake up for."""

    def _process_events(self, event_list: object) -> None:
        """There is no selector."""

    def run_in_executor(self, executor: object, func: object, *args: object) -> Any:
        raise AssertionError("threads have no place in a simulation")


def owned(owner: Owner) -> Context:
    """Return a context in which everything belongs to a process."""
    context = Context()
    context.run(OWNER.set, owner)
    return context


def simulate(seed: int | str, history: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a history to its end on a loop of its own; the same seed runs it the same way."""
    loop = SeededLoop(seed)
    loop.set_exception_handler(lambda _loop, _context: None)
    assert events._get_running_loop() is None
    collecting = gc.isenabled()
    gc.disable()  # a collection would end abandoned generators at a moment that no seed decides
    try:
        return loop.run_until_complete(history())
    finally:
        loop.close_down()
        _finish(loop)
        loop.close()
        if collecting:
            gc.enable()


def _finish(loop: SeededLoop) -> None:
    """End what is left, also what was killed, so that nothing complains about it later."""
    for _ in range(LAST_ROUNDS):
        left = loop.left()
        if not left:
            break
        for task in left:
            task.cancel()
        with contextlib.suppress(StuckError):
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    for task in loop.left():
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    with contextlib.suppress(StuckError):
        loop.run_until_complete(loop.shutdown_asyncgens())
