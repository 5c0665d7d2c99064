"""The bus of one machine: the journals are the log, so there is nothing to send and nothing to poll.

After each commit the writer hands over the documents that it holds in memory; each is decoded once
and the same deliveries go to all subscriptions that want its topic. A subscription that is behind
(at its start, or when its tail overflowed) reads the tables until it has caught up.

An offset is `position << 16 | index of the fact`, so that a document's facts are told apart. Positions are
counted for all journals of the file together, so deliveries come in the order of commits, also where
they are read from the tables.
"""

import asyncio
import sqlite3
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from itertools import islice

from cloche_shared.adapters.sqlite.inbox import INBOX, Inbox
from cloche_shared.adapters.sqlite.letters import RESENT, Letters
from cloche_shared.adapters.sqlite.past import first_position
from cloche_shared.adapters.sqlite.writer import Placed, Writer
from cloche_shared.contracts.envelope import COMMANDS, Event
from cloche_shared.journal.commit import events_of
from cloche_shared.ports.bus import Again, DeadLetter, Delivery, Letter, Ranges, Subscription
from cloche_shared.ports.journal import Document

_SHIFT = 16
TAIL = 20_000
"""Deliveries that are held in memory for a subscription before it must read the tables again."""
_PAGE = 500
_LONGEST_PLACE = 18
"""Digits of an offset that SQLite can hold."""
_OWN_LOGS = frozenset((RESENT, INBOX))
"""Sources that are no journal: each has a table and positions of its own."""


class JournalBus:
    """Bus over the journals of a file. `delay` holds every delivery back by so many seconds.

    Offsets are remembered with the next commit or within a second: a crash means redelivery of what
    was handled in that time. A group has one subscription at a time.
    """

    def __init__(self, reader: sqlite3.Connection, writer: Writer, *, delay: float = 0.0, tail: int = TAIL) -> None:
        self.released = writer.heads()
        self.tail_limit = tail
        self.reader = reader
        self.writer = writer
        self._delay = delay
        self._held: deque[tuple[float, str, Placed]] = deque()
        self._wanted: defaultdict[str, list[JournalSubscription]] = defaultdict(list)
        self._offsets: dict[tuple[str, str], int] = {}
        self._letters = Letters(reader, writer)
        self._inbox = Inbox(reader, writer)
        writer.listen(self._committed)

    async def publish(self, events: Sequence[Event]) -> None:
        """Keep commands; of facts there is nothing to do: what the journal holds is published."""
        commands = [event for event in events if event.topic.startswith(COMMANDS)]
        if commands:
            await self._inbox.put(commands)
            asyncio.get_running_loop().call_later(self._delay, self._look_into_inbox)

    async def provide(self, topics: Sequence[str]) -> None:
        """Do nothing: here a topic is a column."""

    def _look_into_inbox(self) -> None:
        for subscription in self._commanded():
            subscription.look(INBOX)

    def _commanded(self) -> "set[JournalSubscription]":
        """Return the subscriptions that want commands."""
        wanted = (subscriptions for name, subscriptions in self._wanted.items() if name.startswith(COMMANDS))
        return {one for subscriptions in wanted for one in subscriptions if one.group}

    @asynccontextmanager
    async def _joined(self, subscription: "JournalSubscription") -> AsyncIterator[Subscription]:
        for topic in subscription.topics:
            self._wanted[topic].append(subscription)
        try:
            yield subscription
        finally:
            for topic in subscription.topics:
                self._wanted[topic].remove(subscription)

    def subscribe(self, group: str, topics: Sequence[str]) -> AbstractAsyncContextManager[Subscription]:
        commands = (INBOX,) if any(topic.startswith(COMMANDS) for topic in topics) else ()
        sources = (*self.released, RESENT, *commands)
        return self._joined(
            JournalSubscription(self, group, topics, {name: self._offset(group, name) for name in sources})
        )

    def tail(
        self, topics: Sequence[str], *, from_start: bool = False, after: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        head = (max(self.released.values(), default=0) + 1) << _SHIFT
        first = min(int(after) + 1, head) if _is_place(after) else 0 if from_start else head
        return self._joined(JournalSubscription(self, "", topics, dict.fromkeys(self.released, first)))

    def place(self, delivery: Delivery) -> str:
        return str(delivery.offset)

    async def bury(self, letter: DeadLetter) -> None:
        await self._letters.put(letter)

    async def letters(self, limit: int = 100, *, after: str = "") -> list[Letter]:
        return self._letters.page(limit, after)

    async def letter(self, letter_id: str) -> Letter | None:
        return self._letters.find(letter_id)

    async def resend(self, letter_id: str) -> None:
        """Deliver a dead letter again to the group that buried it."""
        group = await self._letters.resend(letter_id)
        for subscription in {sub for subs in self._wanted.values() for sub in subs if sub.group == group}:
            subscription.look(RESENT)

    async def past(self, topics: Sequence[str], since: datetime | None = None) -> Again:
        """Return where the journals begin, or began to be written since a time; commands are kept by nobody."""
        starts = {
            name: first_position(self.reader, name, last, since) << _SHIFT for name, last in self.released.items()
        }
        ends = {name: (start, (self.released[name] + 1) << _SHIFT) for name, start in starts.items()}
        waiting = sum(self.waiting(name, topics, start) for name, start in starts.items())
        return Again(waiting, {name: range_ for name, range_ in ends.items() if range_[0] < range_[1]})

    async def replay(self, group: str, topics: Sequence[str], left: Ranges, limit: int = 1000) -> Again:  # noqa: ARG002 - nothing is copied
        """Set the group back."""
        mine = {name: start for name, (start, _) in left.items() if name in self.released}
        for name, start in mine.items():
            self.remember(group, name, start)
        for subscription in {sub for subs in self._wanted.values() for sub in subs if sub.group == group}:
            subscription.go_back(mine)
        return Again(sum(self.waiting(name, topics, start) for name, start in mine.items()), {})

    def remember(self, group: str, source: str, offset: int) -> None:
        """Keep a group's next offset; it is written with the next commit."""
        if self._offsets.get((group, source)) == offset:
            return
        self._offsets[group, source] = offset
        sql = "INSERT OR REPLACE INTO offsets VALUES (?,?,?)"
        self.writer.write_lazily(("offset", group, source), sql, (group, source, offset))
        if source == RESENT:
            self._letters.forget(group, offset >> _SHIFT)
        elif source == INBOX:
            self._inbox.forget(-(-min(self._offset(one.group, INBOX) for one in self._commanded()) >> _SHIFT))

    def again(self, group: str, start: int) -> list[Delivery]:
        """Return the next letters that come again; none: caught up."""
        letters = self._letters.resent(group, start >> _SHIFT, _PAGE)
        return [item for pos, letter in letters if (item := _again(letter, pos << _SHIFT)).offset >= start]

    def commands(self, topics: Sequence[str], start: int) -> tuple[list[Delivery], int]:
        """Return the next commands of these topics, and the offset behind all that were looked at."""
        items: list[Delivery] = []
        while not items and (found := self._inbox.page(topics, -(-start >> _SHIFT), _PAGE)):
            items = [Delivery(INBOX, pos << _SHIFT, event.key, event) for pos, event in found if event is not None]
            start = (found[-1][0] + 1) << _SHIFT
        return items, start

    def page(self, source: str, topics: Sequence[str], start: int) -> tuple[list[Delivery], bool]:
        """Return the next deliveries of a journal from its table, of up to 500 documents, and whether more follow."""
        # One range of the topic's index each: the cost depends on the page, not on the history.
        sql = (
            f"SELECT pos,key,body,topic,partition_key FROM {source}_journal"  # noqa: S608 - our own name
            " WHERE topic=? AND pos>=? AND pos<=? ORDER BY pos LIMIT ?"
        )
        first, last = start >> _SHIFT, self.released[source]
        ranges = (self.reader.execute(sql, (topic, first, last, _PAGE)).fetchall() for topic in topics)
        rows = sorted(row for rows in ranges for row in rows)[:_PAGE]
        found = (deliveries(source, pos, Document(*columns)) for pos, *columns in rows)
        return [item for items in found for item in items if item.offset >= start], len(rows) == _PAGE

    def waiting(self, source: str, topics: Sequence[str], start: int) -> int:
        """Return how many documents of these topics lie behind `start`."""
        if source in _OWN_LOGS:
            return self._inbox.waiting(-(-start >> _SHIFT)) if source == INBOX else 0
        sql = f"SELECT count(*) FROM {source}_journal WHERE topic=? AND pos>=? AND pos<=?"  # noqa: S608 - our own name
        first, last = -(-start >> _SHIFT), self.released[source]
        return sum(int(self.reader.execute(sql, (topic, first, last)).fetchone()[0]) for topic in topics)

    def _offset(self, group: str, source: str) -> int:
        known = self._offsets.get((group, source))
        if known is not None:
            return known
        sql = "SELECT next FROM offsets WHERE consumers=? AND source=?"
        row = self.reader.execute(sql, (group, source)).fetchone()
        return int(row[0]) if row else 0

    def _committed(self, source: str, placed: Placed) -> None:
        if self._delay <= 0:
            self._release(source, placed)
            return
        loop = asyncio.get_running_loop()
        self._held.append((loop.time() + self._delay, source, placed))
        if len(self._held) == 1:
            loop.call_later(self._delay, self._release_due)

    def _release_due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time() + 1e-6
        while self._held and self._held[0][0] <= now:
            _, source, placed = self._held.popleft()
            self._release(source, placed)
        if self._held:
            loop.call_at(self._held[0][0], self._release_due)

    def _release(self, source: str, placed: Placed) -> None:
        if not placed:
            return
        for pos, document in placed:
            subscriptions = self._wanted.get(document.topic)
            if subscriptions:
                items = deliveries(source, pos, document)
                for subscription in subscriptions:
                    subscription.push(source, items)
        self.released[source] = placed[-1][0]


class JournalSubscription:
    """A group's (or nobody's) place in the journals."""

    def __init__(self, bus: JournalBus, group: str, topics: Sequence[str], start: Mapping[str, int]) -> None:
        self.group = group
        self.topics = tuple(dict.fromkeys(topics))
        self._bus = bus
        self._next = dict(start)
        self._behind = set(start)
        self._tail: deque[Delivery] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        while not self._tail:
            if self._behind:
                self._catch_up()
                # Reading pages never suspends by itself; others want the loop too.
                await asyncio.sleep(0)
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        tail = self._tail
        if len(tail) <= limit:
            found = list(tail)
            tail.clear()
            return found
        found = list(islice(tail, limit))
        for _ in found:
            tail.popleft()
        return found

    async def commit(self, offsets: dict[str, int]) -> None:
        if not self.group:
            return
        for source, offset in offsets.items():
            self._bus.remember(self.group, source, self._beyond_others(source, offset))

    async def lag(self) -> int:
        return len(self._tail) + sum(self._bus.waiting(name, self.topics, self._next[name]) for name in self._behind)

    async def behind(self) -> int:
        return await self.lag()

    def push(self, source: str, items: list[Delivery]) -> None:
        """Take fresh deliveries, unless older ones must be read first: everything comes in order of commit."""
        if not items:
            return
        if self._behind or len(self._tail) >= self._bus.tail_limit:
            self._behind.add(source)
            return
        self._tail.extend(items)
        self._next[source] = items[-1].offset + 1
        self._wake()

    def go_back(self, places: Mapping[str, int]) -> None:
        """Read these journals again from there, behind what waits already."""
        for source, start in places.items():
            self._next[source] = min(start, self._next[source])
        self._behind |= set(places)
        self._wake()

    def look(self, source: str) -> None:
        """Read the table of a source again."""
        self._behind.add(source)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _catch_up(self) -> None:
        """Read a page of each source, and take what is older than whatever was not read yet."""
        journals = sorted(self._behind - _OWN_LOGS)
        pages = {name: self._bus.page(name, self.topics, self._next[name]) for name in journals}
        edge = min((found[-1].offset for found, more in pages.values() if more), default=None)
        taken = [item for found, _ in pages.values() for item in found if edge is None or item.offset <= edge]
        if RESENT in self._behind:
            self._take(self._bus.again(self.group, self._next[RESENT]))
        if INBOX in self._behind:
            commands, self._next[INBOX] = self._bus.commands(self.topics, self._next[INBOX])
            self._tail.extend(commands)
        self._take(sorted(taken, key=_offset))
        if not self._tail:
            self._behind.clear()

    def _take(self, items: Sequence[Delivery]) -> None:
        self._tail.extend(items)
        for item in items:
            self._next[item.source] = item.offset + 1

    def _beyond_others(self, source: str, offset: int) -> int:
        """Skip documents of other topics, so that a restart does not read them again."""
        caught_up = not self._tail and source not in self._behind and self._next[source] == offset
        skips = caught_up and source not in _OWN_LOGS
        return max(offset, (self._bus.released[source] + 1) << _SHIFT) if skips else offset


def _offset(delivery: Delivery) -> int:
    return delivery.offset


def _is_place(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_PLACE


def deliveries(source: str, pos: int, document: Document) -> list[Delivery]:
    """Return one delivery per fact of a document (one without an event when it cannot be read)."""
    key, first = document.partition_key, pos << _SHIFT
    try:
        events = events_of(document, f"/cloche/{source}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return [Delivery(source, first, key, None, document.body, f"{type(error).__name__}: {error}")]
    return [Delivery(source, first + index, key, event) for index, event in enumerate(events)]


def _again(letter: DeadLetter, offset: int) -> Delivery:
    was = letter.delivery
    return Delivery(RESENT, offset, was.key, was.event, was.raw, was.reason)
