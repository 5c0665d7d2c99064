"""Republish: facts of a journal are sent to the bus again, with their own ids, each stream in order.

For a broker that lost what it held. One page at a time, so that nothing is held for long and whoever asks
sees how far it is; between two pages nothing is remembered but the place, which the caller keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloche_shared.bus.rights import kinds_of
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import Invalid, Violation
from cloche_shared.journal.commit import StreamId, events_of, place_of
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.journal import Document, Journal

MOST_AT_ONCE: Final = 1000
"""Documents of one page."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which facts: those of one stream between two numbers (both included), or all; between two times or whenever."""

    stream: StreamId | None = None
    first: int = 1
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def holds(self, event: Event) -> bool:
        """Whether an event is meant. One whose time cannot be read is."""
        if self.last is not None and event.sequence > self.last:
            return False
        if self.since is None and self.until is None:
            return True
        try:
            moment = datetime.fromisoformat(event.time)
        except ValueError:
            return True
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)


@dataclass(frozen=True, slots=True)
class Sent:
    """One page: documents that were looked at, events that are meant, and how many of them went to the bus.

    `place` is where the next page begins; empty: there is none.
    """

    documents: int
    events: int
    sent: int
    place: str


class Republisher:
    """One service's facts. `sends` is false where the bus reads the journal itself, so that nothing can be missing."""

    def __init__(self, service: str, journal: Journal, bus: Bus, *, sends: bool) -> None:
        self.service = service
        self._journal = journal
        self._bus = bus
        self._sends = sends
        self._kinds = kinds_of(service)

    def check(self, selection: Selection, place: str) -> None:
        """Refuse streams and places that are not of this journal. Raises `Invalid` (`unknown_stream`)."""
        for name, text in (("stream", str(selection.stream or "")), ("place", place)):
            kind = text.partition("/")[0]
            if kind and (kind not in self._kinds or (name == "stream" and kind == "answers")):
                raise Invalid(
                    "unknown_stream",
                    f"The {self.service} has no {name} {text[:128]!r}.",
                    why=f"Its journal holds {', '.join(self._kinds)}.",
                    todo="Name an aggregate as events do in their subject: run/default/<id>.",
                    violations=[Violation(f"/{name}", "unknown_stream", "Not of this journal.")],
                )

    async def page(
        self, selection: Selection, place: str = "", *, limit: int = MOST_AT_ONCE, dry: bool = False
    ) -> Sent:
        """Send one page again; with `dry` only count it. Raises `Unavailable`.

        What the relay has not sent yet is left to it, but for what lies before facts that were sent: no gap goes out.
        """
        self.check(selection, place)
        documents, following = await self._read(selection, place, limit)
        gone = self._gone(documents, await self._going_on(documents, limit))
        events = [event for one in gone for event in self._events(one) if selection.holds(event)]
        sends = self._sends and not dry and bool(events)
        if sends:
            await self._bus.publish(events)  # within the bus's own deadline: another here would hide its error
        return Sent(len(documents), len(events), len(events) if sends else 0, following)

    async def _going_on(self, documents: Sequence[Document], limit: int) -> set[StreamId]:
        """Return the stream that the page cuts, if more of it has been with the bus than the page holds."""
        last = documents[-1] if len(documents) == limit else None
        if last is None or last.sent or not last.topic or not self._sends:
            return set()
        stream, _ = place_of(last.key)
        after = last.key
        while following := await self._journal.read(f"{stream}/", after=after, limit=MOST_AT_ONCE):
            if any(document.sent for document in following):
                return {stream}
            after = following[-1].key
        return set()

    def _gone(self, documents: Sequence[Document], streams: set[StreamId]) -> list[Document]:
        """Return what is known to have been with the bus, and what must have been before it.

        Of `streams` something behind the page has been there.
        """
        found: list[Document] = []
        for document in reversed(documents):
            stream, _ = place_of(document.key)
            if document.topic and (document.sent or not self._sends or stream in streams):
                streams.add(stream)
                found.append(document)
        return found[::-1]

    def _events(self, document: Document) -> list[Event]:
        return events_of(document, f"/cloche/{self.service}")

    async def _read(self, selection: Selection, place: str, limit: int) -> tuple[Sequence[Document], str]:
        """Return the documents behind a place, and the place behind them."""
        if selection.stream is not None:
            begin = max(place, selection.stream.key(selection.first - 1))
            found = await self._journal.read(f"{selection.stream}/", after=begin, limit=limit)
            is_whole = selection.last is not None and bool(found) and place_of(found[-1].key)[1] >= selection.last
            return found, "" if is_whole else self._behind(found, limit)
        kind = place.partition("/")[0] or self._kinds[0]
        found = await self._journal.read(f"{kind}/", after=place if place.partition("/")[2] else "", limit=limit)
        behind = self._behind(found, limit)
        if behind:
            return found, behind
        rest = self._kinds[self._kinds.index(kind) + 1 :]
        return found, f"{rest[0]}/" if rest else ""

    @staticmethod
    def _behind(found: Sequence[Document], limit: int) -> str:
        return found[-1].key if len(found) == limit else ""
