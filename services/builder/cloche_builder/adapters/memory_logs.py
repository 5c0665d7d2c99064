"""Live logs in memory: for the simulation, and wherever nothing has to outlive the process."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

from cloche_builder.ports import LogPiece


class MemoryLogs:
    """`BuildLogs` in memory."""

    def __init__(self) -> None:
        self._logs: dict[str, bytearray] = {}
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def _tell(self, log_id: str) -> None:
        changed = self._changed.pop(log_id, None)
        if changed is not None:
            changed.set()

    async def append(self, log_id: str, text: str) -> None:
        self._logs.setdefault(log_id, bytearray()).extend(text.encode())
        self._tell(log_id)

    async def read(self, log_id: str, offset: int = 0) -> AsyncIterator[LogPiece]:
        data = bytes(self._logs.get(log_id, b"")[offset:])
        if data:
            yield LogPiece(offset, data)

    async def changed(self, log_id: str, offset: int, seconds: float) -> None:
        if len(self._logs.get(log_id, b"")) > offset:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed[log_id].wait()

    async def remove(self, log_id: str) -> None:
        self._logs.pop(log_id, None)
        self._tell(log_id)
