"""Replay: what topics hold comes again to one group, through the topic that letters come again by.

The group's own place stays where it is, so that what is new is not held up, and no member has to stop: offsets of a
group whose members live cannot be set from outside.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from cloche_shared.adapters.kafka.letters import RESENT_GROUP, RESENT_TOPIC
from cloche_shared.adapters.kafka.reach import DEAD, Reach, unavailable, within
from cloche_shared.adapters.kafka.reading import Tail
from cloche_shared.adapters.kafka.sending import Message, Sender
from cloche_shared.bus.letters import RESENT
from cloche_shared.bus.topics import is_pattern, names
from cloche_shared.ports.bus import Again, Delivery, Ranges

PAGE_S: Final = 10.0
"""Seconds that one page may take."""
QUIET_S: Final = 2.0
"""Seconds without a message after which the broker is asked whether anything is left."""


class Replaying:
    """The past of one installation's topics."""

    def __init__(self, reach: Reach, sender: Sender) -> None:
        self._reach = reach
        self._sender = sender

    async def past(self, wanted: Sequence[str], since: datetime | None) -> Again:
        """Return the ranges of offsets that topics hold. Raises `Unavailable`."""
        left = await within(self._reach.settings.deadline_s, lambda: self._ranges(wanted, since))
        return Again(sum(end - start for start, end in left.values()), left)

    async def replay(self, group: str, wanted: Sequence[str], left: Ranges, limit: int) -> Again:
        """Send one page of the ranges to the group. Raises `Unavailable`; what was sent then comes twice."""
        mine = {source: ends for source, ends in left.items() if any(names(name, _topic(source)) for name in wanted)}
        if not mine:
            return Again(0, {})
        tail = _Past(self._reach, {self._place(source): start for source, (start, _) in mine.items()})
        try:
            found = await self._fetched(tail, mine, limit)
            again = [_again(group, one) for one in found]
            await self._sender.send([message for message in again if message is not None])
            places = await tail.reached()
        finally:
            await tail.close()
        rest = {source: (places[self._place(source)], end) for source, (_, end) in mine.items()}
        return Again(len(found), {source: ends for source, ends in rest.items() if ends[0] < ends[1]})

    async def _fetched(self, tail: "_Past", left: Ranges, limit: int) -> list[Delivery]:
        """Return messages of the ranges: about `limit`, or what came within the time.

        Raises `Unavailable` when nothing came and no place moved: the same page would be asked for again for ever.
        """
        found: list[Delivery] = []
        try:
            async with asyncio.timeout(PAGE_S):
                await tail.open()
                while len(found) < limit and not await self._done(tail, left):
                    came = await _some(tail, limit - len(found))
                    found.extend(one for one in came if one.offset < left[one.source][1])
        except TimeoutError as error:
            if not found and not await self._moved(tail, left):
                raise unavailable(error) from error
        return found

    async def _moved(self, tail: "_Past", left: Ranges) -> bool:
        places = await tail.reached()
        return any(places[self._place(source)] > start for source, (start, _) in left.items())

    async def _done(self, tail: "_Past", left: Ranges) -> bool:
        places = await tail.reached()
        return all(places[self._place(source)] >= end for source, (_, end) in left.items())

    async def _ranges(self, wanted: Sequence[str], since: datetime | None) -> Ranges:
        consumer = self._reach.loner()
        try:
            await consumer.start()
            places = await self._reach.places(consumer, await self._named(consumer, wanted))
            ends = await consumer.end_offsets(places)
            starts = await self._starts(consumer, places, ends, since)
        finally:
            await self._reach.stopped(consumer)
        return {self._source(place): (starts[place], end) for place, end in ends.items() if starts[place] < end}

    async def _starts(
        self,
        consumer: AIOKafkaConsumer,
        places: Sequence[TopicPartition],
        ends: Mapping[TopicPartition, int],
        since: datetime | None,
    ) -> Mapping[TopicPartition, int]:
        oldest: Mapping[TopicPartition, int] = await consumer.beginning_offsets(places)
        if since is None or not places:
            return oldest
        moment = max(0, round(since.timestamp() * 1000))
        found = await consumer.offsets_for_times(dict.fromkeys(places, moment))
        return {place: ends[place] if found[place] is None else found[place].offset for place in places}

    async def _named(self, consumer: AIOKafkaConsumer, wanted: Sequence[str]) -> list[str]:
        """Return the full names of the topics that are there."""
        prefix = self._reach.prefix
        there = [name.removeprefix(prefix) for name in await consumer.topics() if name.startswith(prefix)]
        found = {one for name in wanted for one in ([name] if not is_pattern(name) else there) if names(name, one)}
        return sorted(prefix + one for one in found if not one.endswith(DEAD))

    def _place(self, source: str) -> TopicPartition:
        topic, _, number = source.rpartition("/")
        return TopicPartition(self._reach.prefix + topic, int(number))

    def _source(self, place: TopicPartition) -> str:
        return f"{place.topic.removeprefix(self._reach.prefix)}/{place.partition}"


class _Past(Tail):
    """Some partitions from given places on."""

    def __init__(self, reach: Reach, places: Mapping[TopicPartition, int]) -> None:
        super().__init__(reach, 0.0, [], from_start=True)
        self._given = dict(places)

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        consumer.assign(list(self._given))
        for place, offset in self._given.items():
            consumer.seek(place, offset)

    async def reached(self) -> Mapping[TopicPartition, int]:
        """Return for each partition what comes behind all that was handed out."""
        consumer = self._consumer
        if consumer is None or self._due:
            return dict(self._given)
        # what is no message to hand out (one that only marks a place in the log) is passed as well
        return {place: max(given, await consumer.position(place)) for place, given in self._given.items()}


async def _some(tail: _Past, limit: int) -> Sequence[Delivery]:
    try:
        async with asyncio.timeout(QUIET_S):
            return await tail.fetch(limit)
    except TimeoutError:
        return ()


def _topic(source: str) -> str:
    return source.rpartition("/")[0]


def _again(group: str, delivery: Delivery) -> Message | None:
    """Return the message for the group; None for one that could not be read: it lies with the dead letters."""
    event = delivery.event
    if event is None:
        return None
    to = [(RESENT_GROUP, group.encode()), (RESENT_TOPIC, event.topic.encode()), *event.headers()]
    return (RESENT, delivery.key.encode(), event.value(), to)
