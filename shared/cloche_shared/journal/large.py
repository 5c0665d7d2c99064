"""Large parts: what makes a document longer than 64 KiB lies in a blob, and nobody notices.

`LargeJournal` and `LargeBus` stand before a journal and a bus. A document over the limit loses its
longest parts (the data of a fact, the outcome, a snapshot's state) to blobs before it is inserted; what
is left in their place is `{"$blob": digest, "size": bytes}`. Reading puts them back. A document within the limit
costs one comparison of its length.

The blobs lie in a space of their own, `<service>.journal`: they live as long as the journal that names
them, and no sweep of the service's files passes there.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson

from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import NotFound
from cloche_shared.ports.blobs import Blobs, BlobStore
from cloche_shared.ports.bus import Again, Bus, DeadLetter, Delivery, Letter, Ranges, Subscription
from cloche_shared.ports.journal import Document, Journal, Verdict

LIMIT: Final = 64 * 1024
LONGEST_PART: Final = 64 * 1024 * 1024
"""Bytes of one part that are read back; requests are held far below it."""
COMMANDS: Final = "cloche.commands"
_MARK: Final = "$blob"
_MARK_BYTES: Final = b'{"$blob":'

_Place = tuple[dict[str, Any], str]


def _places(body: dict[str, Any]) -> Iterator[_Place]:
    """Yield the parts of a commit or a snapshot that may lie in a blob."""
    for fact in body.get("facts", ()):
        yield fact, "data"
    for name in ("outcome", "state"):
        if isinstance(body.get(name), dict):
            yield body, name


def _is_mark(part: object) -> bool:
    """Whether a part stands for a blob: names of fields never begin with a dollar sign."""
    return isinstance(part, dict) and _MARK in part


async def lightened(document: Document, blobs: Blobs, limit: int = LIMIT) -> Document:
    """Return the document within the limit, its longest parts put into blobs first."""
    if len(document.body) <= limit:
        return document
    body = orjson.loads(document.body)
    left = len(document.body)
    parts = sorted(((orjson.dumps(holder[name]), holder, name) for holder, name in _places(body)), key=_length)
    while parts and left > limit:
        data, holder, name = parts.pop()
        blob = await blobs.put_bytes(data)
        holder[name] = {_MARK: blob.digest, "size": blob.size}
        left -= len(data) - len(orjson.dumps(holder[name]))
    return replace(document, body=orjson.dumps(body))


def _length(part: tuple[bytes, dict[str, Any], str]) -> int:
    return len(part[0])


async def whole(document: Document, blobs: Blobs) -> Document:
    """Return the document as it was inserted. Raises `NotFound` (`blob_not_found`)."""
    if _MARK_BYTES not in document.body:
        return document
    body = orjson.loads(document.body)
    marks = [(holder, name) for holder, name in _places(body) if _is_mark(holder[name])]
    for holder, name in marks:
        holder[name] = await _part(holder[name], blobs)
    return replace(document, body=orjson.dumps(body)) if marks else document


async def _part(mark: dict[str, Any], blobs: Blobs) -> Any:  # noqa: ANN401 - JSON
    return orjson.loads(await blobs.read_bytes(str(mark[_MARK]), limit=LONGEST_PART))


def _space(blobs: BlobStore, service: str, project: str) -> Blobs:
    return blobs.space(f"{service}.journal", project)


class LargeJournal:
    """A service's journal that takes documents of any length."""

    def __init__(self, journal: Journal, blobs: BlobStore, service: str, *, limit: int = LIMIT) -> None:
        self._journal = journal
        self._blobs = blobs
        self._service = service
        self._limit = limit

    @property
    def atomic(self) -> bool:
        """Whether the documents of one `append_many` are written all or none."""
        return self._journal.atomic

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        """Insert in order; the blobs are durable before the documents that name them."""
        if any(len(document.body) > self._limit for document in documents):
            documents = [await lightened(document, self._of(document), self._limit) for document in documents]
        return await self._journal.append_many(documents)

    async def get(self, key: str) -> Document | None:
        """Return a document whole."""
        document = await self._journal.get(key)
        return None if document is None else await self._whole(document)

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        """Return documents whole."""
        found = await self._journal.read(prefix, after=after, limit=limit)
        return [await self._whole(document) for document in found]

    async def unsent(self, limit: int = 1000) -> list[Document]:
        """Return what was not marked as sent, whole."""
        return [await self._whole(document) for document in await self._journal.unsent(limit)]

    async def mark_sent(self, keys: Sequence[str]) -> None:
        """Remember that the facts of these documents are with the bus."""
        await self._journal.mark_sent(keys)

    async def _whole(self, document: Document) -> Document:
        return await whole(document, self._of(document)) if _MARK_BYTES in document.body else document

    def _of(self, document: Document) -> Blobs:
        return _space(self._blobs, self._service, document.key.split("/", 2)[1])


class LargeBus:
    """A bus that reads journals as they are stored: what it delivers is whole again."""

    def __init__(self, bus: Bus, blobs: BlobStore) -> None:
        self._bus = bus
        self._blobs = blobs

    async def publish(self, events: Sequence[Event]) -> None:
        """Send events as they are."""
        await self._bus.publish(events)

    def subscribe(self, group: str, topics: Sequence[str]) -> AbstractAsyncContextManager[Subscription]:
        """Join a durable group."""
        return self._whole(self._bus.subscribe(group, topics))

    def tail(
        self, topics: Sequence[str], *, from_start: bool = False, after: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        """Follow topics without a group."""
        return self._whole(self._bus.tail(topics, from_start=from_start, after=after))

    def place(self, delivery: Delivery) -> str:
        """Return where a tail goes on behind a delivery."""
        return self._bus.place(delivery)

    async def provide(self, topics: Sequence[str]) -> None:
        """Make topics that are not there."""
        await self._bus.provide(topics)

    async def bury(self, letter: DeadLetter) -> None:
        """Put a poison message aside."""
        await self._bus.bury(letter)

    async def letters(self, limit: int = 100, *, after: str = "") -> Sequence[Letter]:
        """Return dead letters as they were buried."""
        return await self._bus.letters(limit, after=after)

    async def letter(self, letter_id: str) -> Letter | None:
        """Return a dead letter as it was buried."""
        return await self._bus.letter(letter_id)

    async def resend(self, letter_id: str) -> None:
        """Deliver a dead letter again."""
        await self._bus.resend(letter_id)

    async def past(self, topics: Sequence[str], since: datetime | None = None) -> Again:
        """Return what topics hold."""
        return await self._bus.past(topics, since)

    async def replay(self, group: str, topics: Sequence[str], left: Ranges, limit: int = 1000) -> Again:
        """Deliver the past to a group once more."""
        return await self._bus.replay(group, topics, left, limit)

    @asynccontextmanager
    async def _whole(self, joining: AbstractAsyncContextManager[Subscription]) -> AsyncIterator[Subscription]:
        async with joining as subscription:
            yield _LargeSubscription(subscription, self._blobs)


def _is_light(event: Event | None) -> bool:
    """Whether an event of ours names a blob; what others send as commands is never looked up."""
    return event is not None and _MARK in event.data and not event.topic.startswith(COMMANDS)


class _LargeSubscription:
    def __init__(self, subscription: Subscription, blobs: BlobStore) -> None:
        self._subscription = subscription
        self._blobs = blobs

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        found = await self._subscription.fetch(limit)
        if not any(_is_light(item.event) for item in found):
            return found
        return [await self._delivery(item) for item in found]

    async def _delivery(self, delivery: Delivery) -> Delivery:
        event = delivery.event
        if event is None or not _is_light(event):
            return delivery
        service = event.source.rpartition("/")[2]
        try:
            data = await _part(dict(event.data), _space(self._blobs, service, event.project))
        except NotFound as error:
            return replace(delivery, event=None, raw=orjson.dumps(event.data), reason=f"blob_not_found: {error}")
        return replace(delivery, event=replace(event, data=data))

    async def commit(self, offsets: dict[str, int]) -> None:
        await self._subscription.commit(offsets)

    async def lag(self) -> int:
        return await self._subscription.lag()

    async def behind(self) -> int:
        return await self._subscription.behind()
