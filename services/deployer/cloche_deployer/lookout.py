"""Services and keys that this replica has not heard of yet: what the journal says is read anew, at a bounded pace.

Facts reach a replica a moment after another one answered for them. Whoever was just told a key may use it
anywhere, so nobody is refused before such a look.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cloche_deployer.scoring.ports import Routes
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.journal.commit import StreamId
from cloche_shared.notes import notes_of

PAUSE_S: Final = 0.25
"""Seconds between two looks, whoever asks."""
MOST_NAMES: Final = 16
"""Names that one look reads."""
MOST_WAITING: Final = 256
"""Names that wait for a look; who comes with another is refused without one."""
PATIENCE_S: Final = 5.0
"""Seconds that a request waits for a look at most."""

Wanted = tuple[str, str]
"""Project (empty: any) and name."""

_log = notes_of(__name__)


class PacedLookout:
    """Fulfils `Lookout` with one look at a time for all who wait.

    `read` brings the route of one service up to date, `everywhere` returns the services of all projects.
    """

    def __init__(
        self,
        routes: Routes,
        read: Callable[[StreamId], Awaitable[None]],
        everywhere: Callable[[], Awaitable[Sequence[StreamId]]],
    ) -> None:
        self._routes = routes
        self._read = read
        self._everywhere = everywhere
        self._waiting: dict[Wanted, asyncio.Future[None]] = {}
        self._asked = asyncio.Event()

    async def look(self, project: str | None, name: str) -> None:
        """Return after a look at the services of that name which began later than this call, or without one."""
        wanted = (project or "", name)
        if wanted not in self._waiting:
            if len(self._waiting) >= MOST_WAITING:
                return
            self._waiting[wanted] = asyncio.get_running_loop().create_future()
            self._asked.set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(self._waiting[wanted])
        except TimeoutError:
            return

    async def run(self) -> None:
        """Look for ever, whenever somebody asks."""
        while True:
            await self._asked.wait()
            taken = {wanted: self._waiting.pop(wanted) for wanted in list(self._waiting)[:MOST_NAMES]}
            if not self._waiting:
                self._asked.clear()
            try:
                await self._look(list(taken))
            except TRANSIENT as error:
                _log.warning("keys_not_looked_up", error=str(error))
            finally:
                for waiter in taken.values():
                    waiter.set_result(None)
            await asyncio.sleep(PAUSE_S)

    async def _look(self, wanted: Sequence[Wanted]) -> None:
        streams: set[StreamId] = set()
        unknown: set[Wanted] = set()
        for project, name in wanted:
            known = self._routes.lookup(project or None, name)
            streams.update(StreamId("service", one.project, name) for one in known)
            if not known:
                unknown.add((project, name))
        if unknown:
            streams.update(one for one in await self._everywhere() if _is_wanted(one, unknown))
        for stream in streams:
            await self._read(stream)


def _is_wanted(stream: StreamId, wanted: set[Wanted]) -> bool:
    return ("", stream.id) in wanted or (stream.project, stream.id) in wanted
