"""An owner's groups: in a folder of their own, held while the owner is connected."""

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path

from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.adapters.local_executor import folder as folders
from cloche_shared.adapters.socket_executor.handover import Handover
from cloche_shared.adapters.socket_executor.messages import UNKNOWN, Members, present_members
from cloche_shared.errors import NotFound, Unavailable
from cloche_shared.ports.executor import Exit, Process, ProcessSpec

_log = logging.getLogger(__name__)


class Group:
    """A process with what its owner is told of it."""

    def __init__(self, process: Process, folder: Path, handover: Handover) -> None:
        self.process = process
        self.folder = folder
        self._handover = handover
        self._writes = folders.writes_of(folder)
        self.starting = asyncio.create_task(process.started(), name=f"started:{process.id}")
        self.ending = asyncio.create_task(self._end(), name=f"ended:{process.id}")

    async def _end(self) -> Exit:
        """Wait for the end, and open what it left before anybody is told."""
        ended = await self.process.wait()
        try:
            await asyncio.to_thread(self._handover.open_up, self._writes)
        except OSError as error:
            _log.warning("folders_not_handed_over: %s: %s", self.process.id, error)
        return ended

    def began(self) -> bool | None:
        """Tell whether the program began, None while that is open."""
        return self.starting.result() if self.starting.done() else None

    def present(self) -> Members:
        """Return what there is to say."""
        ended = self.ending.result() if self.ending.done() else None
        began = self.began() if ended is None else ended.started
        return present_members(self.process.id, self.process.pid, began=began, ended=ended)

    async def news(self, began: bool | None) -> Members:  # noqa: FBT001 - the state that the asker knows
        """Return what there is to say as soon as it is more than `began`."""
        if not self.ending.done() and self.began() == began:
            waiting = [self.ending] if self.starting.done() else [self.starting, self.ending]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return self.present()

    async def leave(self) -> None:
        """Stop waiting for news."""
        for task in (self.starting, self.ending):
            task.cancel()
        await asyncio.gather(self.starting, self.ending, return_exceptions=True)


class Room:
    """Groups of one owner below `root`, which nobody else's requests can name."""

    def __init__(self, root: Path, owner: str, handover: Handover) -> None:
        self.owner = owner
        self._root = root / owner
        self._executor = LocalExecutor(self._root)
        self._handover = handover
        self._groups: dict[str, Group] = {}
        self._guests = 0
        self._lock = asyncio.Lock()
        self._starting: set[asyncio.Task[Group]] = set()
        self._is_closing = False

    async def enter(self) -> None:
        """Take part; the first one takes over what a former owner left, and settles what a crash left."""
        async with self._lock:
            if not self._guests:
                for process in await self._executor.adopt(self.owner):
                    self._known(process)
            self._guests += 1

    async def leave(self) -> None:
        """Go; after the last one the groups are on their own, and their supervisors know."""
        async with self._lock:
            self._guests -= 1
            if not self._guests:
                await asyncio.gather(*self._starting, return_exceptions=True)
                await self._forget_all()
                await self._executor.let_go()

    async def _forget_all(self) -> None:
        groups, self._groups = list(self._groups.values()), {}
        await asyncio.gather(*(group.leave() for group in groups))

    async def start(self, spec: ProcessSpec) -> Group:
        """Start a group; a caller who goes leaves none half made."""
        if self._is_closing:
            raise Unavailable("executor_unavailable", "The executor is being stopped.", todo="Try again in a moment.")
        return await asyncio.shield(self._task(self._start(spec)))

    async def _start(self, spec: ProcessSpec) -> Group:
        return self._known(await self._executor.start(spec))

    def _task(self, work: Coroutine[None, None, Group]) -> asyncio.Task[Group]:
        task = asyncio.create_task(work)
        self._starting.add(task)
        task.add_done_callback(self._made)
        return task

    def _made(self, task: asyncio.Task[Group]) -> None:
        self._starting.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    def _known(self, process: Process) -> Group:
        group = self._groups.get(process.id)
        if group is None or group.process is not process:
            folder = self._root / process.id
            group = self._groups[process.id] = Group(process, folder, self._handover)
        return group

    def find(self, process_id: str) -> Group:
        """Return a group. Raises `NotFound` (code `unknown_process`)."""
        group = self._groups.get(process_id)
        if group is None:
            raise NotFound(UNKNOWN, "The executor knows no such process.")
        return group

    def after(self, process_id: str, most: int) -> tuple[list[Group], bool]:
        """Return a page of groups whose ids come after this one, and whether there are more."""
        ids = sorted(one for one in self._groups if one > process_id)
        return [self._groups[one] for one in ids[:most]], len(ids) > most

    async def forget(self, process_id: str) -> Members | None:
        """Remove an ended group and return what there was to say of it. Raises `Conflict` while it lives."""
        await self._executor.forget(process_id)
        group = self._groups.pop(process_id, None)
        if group is None:
            return None
        await group.ending
        await group.starting
        return group.present()

    async def end(self) -> None:
        """Have every group ended by its supervisor, as one whose machine goes down."""
        self._is_closing = True
        await asyncio.gather(*self._starting, return_exceptions=True)
        groups = list(self._groups.values())
        for group in groups:
            await asyncio.to_thread(folders.tell_to_end, group.folder)
        if groups:
            await asyncio.wait([group.ending for group in groups])

    async def close(self) -> None:
        """Let go of everything; the nursery ends."""
        await self._forget_all()
        await self._executor.close()
