"""When keys were used last (security rule 24): each process tells of the keys that open something in it.

A fact per request would be a flood, so a key is told of at its first use, and then once an hour. Who
wants to know is the registry, which hears of it as of everything else.
"""

import asyncio
from typing import Final

from cloche_shared.access import EVERY_PROJECT, AccessTable
from cloche_shared.contracts.facts import TOPICS, ApiKeysUsed
from cloche_shared.errors import Unavailable
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.journal import Document, OutcomeUnknownError

KIND: Final = "usage"
LOOK_S: Final = 5.0
EVERY_S: Final = 3600.0
AT_ONCE: Final = 500
"""Keys in one record at most."""


class KeyUses:
    """Writes which keys were used in one process to its service's journal."""

    def __init__(self, access: AccessTable, writer: Writer, service: str) -> None:
        self._access = access
        self._writer = writer
        self._service = service

    def start(self, lifecycle: Lifecycle) -> None:
        """Tell of uses while the service lives."""
        lifecycle.spawn(f"{self._service} key uses", self.run())

    async def run(self) -> None:
        """Tell of uses, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what there is to tell; it is kept while the store cannot be written."""
        used = self._access.take_used(EVERY_S)
        for start in range(0, len(used), AT_ONCE):
            some = used[start : start + AT_ONCE]
            try:
                await self._write(some)
            except (Unavailable, OutcomeUnknownError):
                self._access.untold(some)

    async def _write(self, subjects: list[str]) -> None:
        stream = StreamId(KIND, EVERY_PROJECT, self._writer.unique())
        now = self._writer.now()
        origin = Origin(Actor(f"service:{self._service}"), correlation=stream.id)
        commit = Commit(self._writer.unique(), (ApiKeysUsed(subjects=tuple(subjects), at=now),), origin, now)
        await self._writer.append([Document(stream.key(1), commit.body(), TOPICS[KIND], str(stream))])
