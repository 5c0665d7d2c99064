"""The executor itself: starts, adopts and forgets groups whose folders lie under one root."""

import asyncio
import os
from collections import defaultdict
from pathlib import Path
from typing import Final

from cloche_runtime.seedbeds import interpreter_of
from cloche_shared.adapters.local_executor import folder as folders
from cloche_shared.adapters.local_executor.nursery import Nursery
from cloche_shared.adapters.local_executor.process import LocalProcess
from cloche_shared.errors import Conflict, Unavailable
from cloche_shared.ports.executor import Process, ProcessSpec

PATIENCE_S: Final = 20.0
"""Seconds within which a supervisor says its first word on a machine that is very busy."""


class LocalExecutor:
    """Groups on this machine. `root` (0700) holds a folder for each; one executor at a time may use it.

    `patience`: seconds after which who starts supervisors is taken to be stuck, and replaced.
    """

    def __init__(self, root: Path, *, patience: float = PATIENCE_S) -> None:
        self._root = root
        self._patience = patience
        self._nursery = Nursery()
        self._known: dict[str, LocalProcess] = {}
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def warm(self) -> None:
        """Start the nursery now, so that the first run does not wait for it."""
        await self._nursery.warm()

    async def start(self, spec: ProcessSpec) -> Process:
        folder = folders.place(self._root, spec.id)
        await self._prepare()
        async with self._locks[spec.id]:
            process = self._known.get(spec.id)
            if process is not None:
                return process
            if await asyncio.to_thread(folders.create, folder, spec):
                return await self._begin(spec, folder)
            return await self._join(folder)

    async def adopt(self, owner: str) -> list[Process]:
        processes = []
        await self._prepare()
        for folder in await asyncio.to_thread(folders.owned, self._root, owner):
            async with self._locks[folder.name]:
                processes.append(self._known.get(folder.name) or await self._join(folder))
        return [*processes]

    async def forget(self, process_id: str) -> None:
        folder = folders.place(self._root, process_id)
        async with self._locks[process_id]:
            process = self._known.get(process_id)
            has_ended = process is not None and process.has_ended
            if not has_ended and not await asyncio.to_thread(_ended, folder):
                raise Conflict(
                    "process_lives",
                    f"The process {process_id} cannot be forgotten.",
                    why="It still lives.",
                    todo="Cancel it and wait for its end first.",
                )
            process = self._known.pop(process_id, None)
            if process is not None:
                await process.wait()
                await process.leave()
            await asyncio.to_thread(folders.remove, folder)
        self._locks.pop(process_id, None)

    async def let_go(self) -> None:
        """Let go of the groups: they live on for the next owner, who may come to this executor."""
        for process in list(self._known.values()):
            await process.leave()
        self._known.clear()

    async def close(self) -> None:
        """Let go of everything, the nursery included."""
        await self.let_go()
        await self._nursery.close()

    async def _prepare(self) -> None:
        """Clear the root once, before anything is made in it."""
        async with self._preparing:
            if not self._prepared:
                await asyncio.to_thread(folders.tidy, self._root)
                self._prepared = True

    async def _begin(self, spec: ProcessSpec, folder: Path) -> LocalProcess:
        """Have a supervisor raised for a fresh folder and wait for its first word."""
        process = await self._raise(spec.id, folder, interpreter_of(spec.argv, spec.env))
        if not await process.met() and (await process.wait()).ending == "not_started":
            await self._discard(process, folder)
            await asyncio.to_thread(folders.create, folder, spec)
            process = await self._raise(spec.id, folder, "")
        if await process.met():
            return process
        ended = await process.wait()
        await self._discard(process, folder)
        raise Unavailable(
            "executor_unavailable",
            f"The process {spec.id} could not be started.",
            why=ended.detail,
            todo="Look at the limits of this machine (processes, memory, disk) and try again.",
        )

    async def _raise(self, process_id: str, folder: Path, interpreter: str) -> LocalProcess:
        """Ask for a supervisor. A program may stop the nursery or a warm interpreter: then both are replaced.

        A supervisor that they did not come to has ended then, without a word.
        """
        process = LocalProcess(process_id, folder)
        try:
            process.attend(await self._nursery.fork(folder, interpreter))
        except Unavailable:
            await asyncio.to_thread(folders.remove, folder)
            raise
        self._known[process_id] = process
        try:
            async with asyncio.timeout(self._patience):
                await process.met()
        except TimeoutError:
            await self._nursery.close()
        return process

    async def _discard(self, process: LocalProcess, folder: Path) -> None:
        """Forget a group that did not begin."""
        await process.leave()
        self._known.pop(process.id, None)
        await asyncio.to_thread(folders.remove, folder)

    async def _join(self, folder: Path) -> LocalProcess:
        """Attend to a group that a former owner left."""
        process = LocalProcess(folder.name, folder)
        self._known[folder.name] = process
        process.attend(None)
        await process.met()
        return process


def _ended(folder: Path) -> bool:
    return not os.path.lexists(folder) or folders.settle(folder) is not None
