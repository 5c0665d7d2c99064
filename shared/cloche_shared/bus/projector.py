"""Projector: keeps a service's lists from its own facts.

    Projector(views, [Projection(streams, rows_of)])      a handler of a batch of events

A batch names some aggregates; each is read once, as it is now, and becomes rows. So a burst of facts
about one aggregate costs one row, and events that come twice or late do no harm.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel

from cloche_shared.contracts.envelope import Event
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Streams
from cloche_shared.ports.journal import Journal
from cloche_shared.ports.views import Row, Views

S = TypeVar("S", bound=BaseModel)

SWEEP_PAUSE_S = 0.01
"""Seconds between two aggregates of a sweep, so that it never competes with requests."""


class RowSource(Protocol):
    """Makes the rows of one kind of aggregate."""

    @property
    def kind(self) -> str:
        """The kind, as it stands in keys."""

    async def rows(self, stream: StreamId, at_least: int) -> Sequence[Row]:
        """Return the rows of the aggregate as it is now, at position `at_least` or later."""


class Projection(Generic[S]):
    """How the states of one kind become rows.

    `rows_of` gets stream, state and position. It returns a row also for what was deleted (with a
    facet of its own), because somebody may wait for that position.
    """

    def __init__(self, streams: Streams[S], rows_of: Callable[[StreamId, S, int], Sequence[Row]]) -> None:
        self._streams = streams
        self._rows_of = rows_of

    @property
    def kind(self) -> str:
        """The kind of the streams."""
        return self._streams.kind.name

    async def rows(self, stream: StreamId, at_least: int) -> Sequence[Row]:
        """Return the rows of the aggregate as it is now."""
        present = await self._streams.get(stream, at_least=at_least)
        return self._rows_of(stream, present.state, present.seq) if present.seq else ()


class Projector:
    """Writes rows for every aggregate that a batch of events names; other kinds are ignored."""

    def __init__(self, views: Views, sources: Iterable[RowSource]) -> None:
        self._views = views
        self._sources: Mapping[str, RowSource] = {source.kind: source for source in sources}

    async def __call__(self, events: Sequence[Event]) -> None:
        """Handle a batch of events."""
        newest: dict[StreamId, int] = {}
        for event in events:
            if event.subject.partition("/")[0] in self._sources:
                stream = StreamId.parse(event.subject)
                newest[stream] = max(newest.get(stream, 0), event.sequence)
        await self._project(newest)

    async def _project(self, newest: Mapping[StreamId, int]) -> None:
        rows: list[Row] = []
        for stream, seq in newest.items():
            rows.extend(await self._sources[stream.kind].rows(stream, seq))
        if rows:
            await self._views.upsert(rows)

    async def sweep(self, journal: Journal, *, pause_s: float = SWEEP_PAUSE_S) -> int:
        """Write the rows of every aggregate that the journal holds; return how many aggregates those are."""
        count = 0
        for kind in self._sources:
            prefix = f"{kind}/"
            found = await journal.read(prefix, limit=1)
            while found:
                stream = StreamId.parse(found[0].key)
                await self._project({stream: 0})
                count += 1
                await asyncio.sleep(pause_s)
                # behind every number of this stream, so that its history is skipped
                found = await journal.read(prefix, after=f"{stream}/~", limit=1)
        return count
