"""The life of a process: parts that start in order, tasks that may never end, an end in phases.

A task that is meant to run for ever and ends is a defect: it is logged at once and the process
stops, because a process whose side task is dead looks healthy and does nothing (reliability R37).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Final, Self, TypeVar

from cloche_shared.errors import Internal

PHASE_S: Final = 10.0

T = TypeVar("T")
Report = Callable[[str, dict[str, object]], None]
"""Takes an action (`task_died`) and its members, for the log."""


def _silent(_: str, __: dict[str, object]) -> None:
    return


class Lifecycle:
    """What a process started, in order.

        async with Lifecycle() as life:
            journal = await life.enter(open_journal())
            life.spawn("relay", relay.run())
            life.at_end("stop intake", server.drain)
            await life.wait()                   # until stop() or until a task dies

    Leaving runs the phases (`at_end`), each within its deadline, in the order in which they were
    added; then the tasks are cancelled, newest first; then what was entered is left, newest first.
    What killed a task is raised at the end, as `Internal` (`task_died`).
    """

    def __init__(self, report: Report = _silent) -> None:
        self._report = report
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._phases: list[tuple[str, Callable[[], Awaitable[None]], float]] = []
        self._stopping = asyncio.Event()
        self._died: tuple[str, BaseException | None] | None = None

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begin the end."""
        self._stopping.set()

    def crash(self, name: str, error: BaseException | None) -> None:
        """Begin the end because a part is dead; the first one is remembered and raised."""
        if self._died is None:
            self._died = (name, error)
        self._report("task_died", {"task": name, "error": repr(error) if error else "it ended"})
        self._stopping.set()

    async def wait(self) -> None:
        """Wait for `stop` or for the death of a task."""
        await self._stopping.wait()

    async def enter(self, part: AbstractAsyncContextManager[T]) -> T:
        """Enter a context that is left at the end."""
        return await self._stack.enter_async_context(part)

    def spawn(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task that may never end before the process does."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        return task

    def at_end(self, name: str, phase: Callable[[], Awaitable[None]], *, deadline_s: float = PHASE_S) -> None:
        """Add a phase of the end. One that is over its deadline is cancelled, and the next begins."""
        self._phases.append((name, phase, deadline_s))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping.is_set():
            return
        self.crash(task.get_name(), None if task.cancelled() else task.exception())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        try:
            for name, phase, deadline_s in self._phases:
                await self._phase(name, phase, deadline_s)
        finally:
            await self._cancel_tasks()
            await self._stack.__aexit__(kind, error, trace)
        if self._died is not None and error is None:
            name, cause = self._died
            raise Internal("task_died", f"The task {name} died; the process stopped.") from cause

    async def _phase(self, name: str, phase: Callable[[], Awaitable[None]], deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await phase()
        except TimeoutError:
            self._report("phase_late", {"phase": name, "deadline_s": deadline_s})
        except Exception as error:  # noqa: BLE001 - the end goes on, whatever one phase does
            self._report("phase_failed", {"phase": name, "error": repr(error)})

    async def _cancel_tasks(self) -> None:
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
