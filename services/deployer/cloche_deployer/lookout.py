"""Services and keys that this replica has not heard of yet: what the journal says is read anew, at a bounded pace.

Facts reach a replica a moment after another one answered for them. Whoever was just told a key may use it
anywhere, so nobody is refused before such a look.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
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
MOST_STREAMS: Final = 1024
"""Services that callers of their projects have looked at within one pause; who asks for another is answered without."""
MOST_OF_PROJECT: Final = 64
"""How many of them may be one project's."""

Wanted = tuple[str, str]
"""Project (empty: any) and name."""

_log = notes_of(__name__)


class PacedLookout:
    """Fulfils `Lookout`: one look at a time for all who may be guessing, and one for each service for its callers.

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
        self._following: dict[StreamId, asyncio.Future[None]] = {}
        self._readers: dict[StreamId, asyncio.Task[None]] = {}
        self._of_project: Counter[str] = Counter()

    async def look(self, project: str | None, name: str) -> None:
        """Return after a look at the services of that name which began later than this call, or without one."""
        wanted = (project or "", name)
        if wanted not in self._waiting:
            if len(self._waiting) >= MOST_WAITING:
                return
            self._waiting[wanted] = asyncio.get_running_loop().create_future()
            self._asked.set()
        await _waited(self._waiting[wanted])

    async def look_at(self, projects: Collection[str], name: str) -> None:
        """Return after looks at the services of that name in these projects which began later than this call.

        The first look at a service begins at once, the next after a pause.
        """
        looks = [self._next_look(StreamId("service", project, name)) for project in sorted(projects)]
        await asyncio.gather(*(_waited(look) for look in looks if look is not None))

    def _next_look(self, stream: StreamId) -> asyncio.Future[None] | None:
        if stream not in self._readers:
            if len(self._readers) >= MOST_STREAMS or self._of_project[stream.project] >= MOST_OF_PROJECT:
                return None
            self._readers[stream] = asyncio.create_task(self._read_for_callers(stream), name=f"look-{stream}")
            self._of_project[stream.project] += 1
        if stream not in self._following:
            self._following[stream] = asyncio.get_running_loop().create_future()
        return self._following[stream]

    async def _read_for_callers(self, stream: StreamId) -> None:
        """Look at a service as long as somebody waits for it."""
        try:
            while (waiter := self._following.pop(stream, None)) is not None:
                try:
                    await self._read(stream)
                except TRANSIENT as error:
                    _log.warning("service_not_looked_up", service=str(stream), error=str(error))
                except Exception:  # noqa: BLE001 - who waits is answered from what is known here
                    _log.exception("service_not_looked_up", service=str(stream))
                finally:
                    waiter.set_result(None)
                await asyncio.sleep(PAUSE_S)
        finally:
            del self._readers[stream]
            self._of_project.subtract((stream.project,))
            self._of_project = +self._of_project

    async def run(self) -> None:
        """Look for ever, whenever somebody asks."""
        try:
            await self._look_for_ever()
        finally:
            readers = list(self._readers.values())
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _look_for_ever(self) -> None:
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


async def _waited(look: asyncio.Future[None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.shield(look)


def _is_wanted(stream: StreamId, wanted: set[Wanted]) -> bool:
    return ("", stream.id) in wanted or (stream.project, stream.id) in wanted
