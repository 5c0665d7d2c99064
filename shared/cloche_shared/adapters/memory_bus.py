"""A small broker in memory: topics with partitions, durable groups, dead letters.

It has no thread and no clock but the event loop's, so that a seed replays it.
"""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from cloche_shared.adapters.memory_faults import NO_FAULTS, Faults
from cloche_shared.bus.letters import letter_not_found
from cloche_shared.bus.topics import is_pattern, names
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.ports.bus import Again, DeadLetter, Delivery, Letter, Ranges, Subscription


@dataclass(slots=True)
class Partition:
    """A log: deliveries in order, and when (by the loop's clock) each becomes visible."""

    source: str
    log: list[Delivery] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)

    def add(self, event: Event | None, key: str, at: float, raw: bytes = b"", reason: str = "") -> None:
        """Append; what comes later is never visible earlier."""
        self.log.append(Delivery(self.source, len(self.log), key, event, raw, reason))
        self.visible.append(max(at, self.visible[-1]) if self.visible else at)

    def first(self, since: datetime | None) -> int:
        """Return the place of the first message that came since a time, by what the events say."""
        if since is None:
            return 0
        old = (one.event is None or _moment(one.event) < since for one in self.log)
        return next((place for place, is_old in enumerate(old) if not is_old), len(self.log))


def _moment(event: Event) -> datetime:
    return datetime.fromisoformat(event.time)


class MemoryBroker:
    """What outlives the buses that talk to it: logs, offsets, dead letters and the members of groups."""

    def __init__(self, *, partitions: int = 4) -> None:
        self.count = partitions
        self.topics: defaultdict[str, list[Partition]] = defaultdict(list)
        self.offsets: dict[tuple[str, str], int] = {}
        self.dead: list[DeadLetter] = []
        self.members: defaultdict[str, list[MemorySubscription]] = defaultdict(list)
        self.followers: list[MemorySubscription] = []

    def partitions(self, topic: str) -> list[Partition]:
        """Return a topic's partitions, creating them at first."""
        found = self.topics[topic]
        if not found:
            found.extend(Partition(f"{topic}/{number}") for number in range(self.count))
            self._tell_patterns(topic)
        return found

    def _tell_patterns(self, topic: str) -> None:
        """Deal a new topic to the groups that want all of its kind."""
        for group, members in list(self.members.items()):
            if any(is_pattern(name) and names(name, topic) for member in members for name in member.topics):
                self.share(group)

    def named(self, name: str) -> list[str]:
        """Return the topics that a subscription's name means now."""
        return sorted(topic for topic in self.topics if names(name, topic)) if is_pattern(name) else [name]

    def place(self, topic: str, key: str) -> Partition:
        """Return the partition of a key (the same in every process)."""
        return self.partitions(topic)[zlib.crc32(key.encode()) % self.count]

    def wake(self) -> None:
        """Let every subscription look again."""
        for subscription in self.followers:
            subscription.wake()

    def join(self, group: str, member: "MemorySubscription") -> None:
        """Take a member into a group."""
        self.members[group].append(member)
        self.followers.append(member)
        self.share(group)

    def leave(self, group: str, member: "MemorySubscription") -> None:
        """Let a member go, if it is still there; the others take over what it had."""
        if member in self.followers:
            self.followers.remove(member)
            member.assign({})
        if member in self.members[group]:
            self.members[group].remove(member)
            self.share(group)

    def share(self, group: str) -> None:
        """Deal the partitions of a group's topics to its members, who start at the committed offsets."""
        members = self.members[group]
        for index, member in enumerate(members):
            topics = dict.fromkeys(topic for name in member.topics for topic in self.named(name))
            found = (part for topic in topics for part in self.partitions(topic))
            mine = [part for number, part in enumerate(found) if number % len(members) == index]
            member.assign({part.source: (part, self.offsets.get((group, part.source), 0)) for part in mine})


class MemoryBus:
    """Bus over a broker in memory. `delay` holds back every delivery by so many seconds."""

    def __init__(self, broker: MemoryBroker | None = None, *, delay: float = 0.0, faults: Faults = NO_FAULTS) -> None:
        self.broker = broker or MemoryBroker()
        self._mine: list[tuple[str, MemorySubscription]] = []
        self._delay = delay
        self._faults = faults

    async def publish(self, events: Sequence[Event]) -> None:
        await self._faults.before("publish")
        loop = asyncio.get_running_loop()
        for event in events:
            first, *again = self._faults.copies(event.id)
            self._add(event, first)
            for later in again:
                loop.call_later(later, self._add, event, 0.0)
        self.broker.wake()
        await self._faults.after("publish")

    def publish_raw(self, topic: str, key: str, raw: bytes, reason: str) -> None:
        """Put bytes into a topic that are not an event, as a foreign producer would."""
        self.broker.place(topic, key).add(None, key, asyncio.get_running_loop().time() + self._delay, raw, reason)
        self.broker.wake()

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> AsyncIterator[Subscription]:
        subscription = MemorySubscription(self.broker, group, topics)
        self.broker.join(group, subscription)
        self._mine.append((group, subscription))
        try:
            yield subscription
        finally:
            self.broker.leave(group, subscription)

    def place(self, delivery: Delivery) -> str:  # noqa: ARG002 - the port's signature
        return ""

    @asynccontextmanager
    async def tail(
        self,
        topics: Sequence[str],
        *,
        from_start: bool = False,
        after: str = "",  # noqa: ARG002 - partitions have no one order, as on a cluster's broker
    ) -> AsyncIterator[Subscription]:
        subscription = MemorySubscription(self.broker, "", topics)
        found = [part for topic in topics for part in self.broker.partitions(topic)]
        subscription.assign({part.source: (part, 0 if from_start else len(part.log)) for part in found})
        self.broker.followers.append(subscription)
        try:
            yield subscription
        finally:
            self.broker.leave("", subscription)

    def vanish(self) -> None:
        """Give up every membership, as a broker decides when a process died without a word."""
        for group, subscription in self._mine:
            self.broker.leave(group, subscription)
        self._mine.clear()

    async def provide(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self.broker.partitions(topic)

    async def bury(self, letter: DeadLetter) -> None:
        await self._faults.before("bury")
        self.broker.dead.append(letter)
        await self._faults.after("bury")

    async def letters(self, limit: int = 100, *, after: str = "") -> list[Letter]:
        found = [Letter(_name_of(letter), letter) for letter in self.broker.dead]
        names = [one.id for one in found]
        start = names.index(after) + 1 if after in names else 0
        return found[start : start + limit]

    async def letter(self, letter_id: str) -> Letter | None:
        return next((one for one in await self.letters(len(self.broker.dead)) if one.id == letter_id), None)

    async def resend(self, letter_id: str) -> None:
        """Put a buried event at the end of its topic again, for all groups; those that had it see it twice."""
        found = await self.letter(letter_id)
        if found is None:
            raise letter_not_found(letter_id)
        self.broker.dead.remove(found.letter)
        event = found.letter.delivery.event
        if event is not None:
            self._add(event, 0.0)

    async def past(self, topics: Sequence[str], since: datetime | None = None) -> Again:
        found = [part for name in topics for topic in self.broker.named(name) for part in self.broker.partitions(topic)]
        ranges = {part.source: (part.first(since), len(part.log)) for part in found}
        left = {source: (start, end) for source, (start, end) in ranges.items() if start < end}
        return Again(sum(end - start for start, end in left.values()), left)

    async def replay(self, group: str, topics: Sequence[str], left: Ranges, limit: int = 1000) -> Again:  # noqa: ARG002 - nothing is sent
        """Set the group back."""
        sources = {
            part.source for name in topics for topic in self.broker.named(name) for part in self.broker.topics[topic]
        }
        mine = {source: ends for source, ends in left.items() if source in sources}
        for source, (start, _) in mine.items():
            self.broker.offsets[group, source] = start
        for member in self.broker.members[group]:
            member.go_back({source: start for source, (start, _) in mine.items()})
        return Again(sum(end - start for start, end in mine.values()), {})

    def _add(self, event: Event, latency: float) -> None:
        delay = self._delay if event.topic != TOPICS["access"] else 0.0  # who may do what is never held back
        at = asyncio.get_running_loop().time() + delay + latency
        self.broker.place(event.topic, event.key).add(event, event.key, at)
        self.broker.wake()


def _name_of(letter: DeadLetter) -> str:
    was = letter.delivery
    return sha256(f"{letter.group} {was.source} {was.offset}".encode()).hexdigest()[:16]


class MemorySubscription:
    """A member's place in the partitions that it was dealt."""

    def __init__(self, broker: MemoryBroker, group: str, topics: Sequence[str]) -> None:
        self.topics = tuple(dict.fromkeys(topics))
        self._broker = broker
        self._group = group
        self._places: dict[str, tuple[Partition, int]] = {}
        self._dealt: dict[str, int] = {}
        self._changed = asyncio.Event()

    def assign(self, places: Mapping[str, tuple[Partition, int]]) -> None:
        """Take over partitions; one that is kept goes on where it is."""
        self._dealt = {source: self._dealt.get(source, place) for source, (_, place) in places.items()}
        self._places = {source: self._places.get(source, place) for source, place in places.items()}
        self.wake()

    def go_back(self, places: Mapping[str, int]) -> None:
        """Begin again at these places, where they are this member's."""
        for source, (part, _) in list(self._places.items()):
            if source in places:
                self._places[source] = (part, places[source])
                self._dealt[source] = places[source]
        self.wake()

    def wake(self) -> None:
        """Look for messages again."""
        self._changed.set()

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = loop.time()
            found = self._take(now, limit)
            if found:
                return found
            later = [part.visible[place] for part, place in self._places.values() if place < len(part.log)]
            timer = loop.call_at(min(later), self.wake) if later else None
            try:
                await self._changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    async def commit(self, offsets: dict[str, int]) -> None:
        for source, offset in offsets.items():
            # what was handed out before the partition was dealt anew says nothing: others went on meanwhile
            if self._group and offset >= self._dealt.get(source, offset + 1):
                self._broker.offsets[self._group, source] = offset

    async def lag(self) -> int:
        return sum(len(part.log) - place for part, place in self._places.values())

    async def behind(self) -> int:
        return await self.lag()

    def _take(self, now: float, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        for source, (part, place) in self._places.items():
            count = sum(1 for _ in self._ready(part, place, limit - len(found), now))
            found.extend(part.log[place : place + count])
            self._places[source] = (part, place + count)
        return found

    @staticmethod
    def _ready(part: Partition, place: int, limit: int, now: float) -> Iterable[float]:
        for at in part.visible[place : place + limit]:
            if at > now:
                return
            yield at
