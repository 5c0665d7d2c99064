"""Reading: a place in some partitions, which survives brokers that go and groups that are dealt anew.

Members of a group are dynamic: who leaves says so, and the others go on at once. (A static member keeps its
partitions until its session ends, also when it left for good, and this client names itself neither in
heartbeats nor in commits, so that a twin would not be fenced.)
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from cloche_shared.adapters.kafka.letters import RESENT_GROUP, RESENT_TOPIC
from cloche_shared.adapters.kafka.reach import ACCESS, AWAIT_NEW_S, DEAD, READ_S, READING, Reach, unavailable, within
from cloche_shared.bus.letters import RESENT
from cloche_shared.contracts.envelope import from_message
from cloche_shared.errors import Invalid, Unavailable
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import Delivery

Record: TypeAlias = ConsumerRecord[bytes, bytes]
ANY: Final = "*"
WAIT_MS: Final = 1000
POLL_LIMIT_MS: Final = 600_000
QUIET_S: Final = 30.0
"""Seconds without a message after which the broker is asked whether there really is none."""
ASK_S: Final = 5.0
STEP_S: Final = 0.02
"""The pause when messages are taken one by one and there is none."""
PASS_ON_S: Final = 1.0
"""Seconds between two commits of what was for other groups."""
MOST_HELD: Final = 10_000
"""Messages that a delay holds back; beyond it nothing more is fetched until some are due."""
_GONE: Final = (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

_log = notes_of(__name__)


class Reader:
    """What groups and tails have in common: fetching in order per partition, and beginning again after trouble."""

    def __init__(self, reach: Reach, delay: float, group: str = "") -> None:
        self._reach = reach
        self._delay = delay
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self._due: deque[Delivery] = deque()
        self._held: deque[tuple[float, Delivery]] = deque()
        self._next: dict[TopicPartition, int] = {}
        """For each partition what comes behind the last message that was taken from the client."""
        self._heard = time.monotonic()
        self._stuck: dict[TopicPartition, int] = {}
        self._careful = False
        self._suspects: set[TopicPartition] = set()

    async def open(self) -> None:
        """Reach the broker, however long that takes."""
        self._consumer = await self._opened()
        self._heard = time.monotonic()

    async def close(self) -> None:
        """Leave."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self._reach.stopped(consumer)

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        while True:
            found = self._take_due(limit)
            if found:
                return found
            if len(self._held) >= MOST_HELD:
                await asyncio.sleep(self._pause())
            else:
                await self._poll(limit)

    async def commit(self, offsets: dict[str, int]) -> None:
        """Without a group nothing is remembered."""

    async def lag(self) -> int:
        waiting = len(self._held) + len(self._due)
        if self._consumer is None:
            return waiting
        with suppress(IllegalStateError):
            for place, taken in list(self._next.items()):
                end = self._consumer.highwater(place)
                waiting += max(0, end - taken) if end is not None else 0
        return waiting

    async def behind(self) -> int:
        ends, positions = await within(self._reach.settings.deadline_s, self._ends_and_positions)
        missing = sum(max(0, end - positions[place]) for place, end in ends.items())
        return missing + len(self._held) + len(self._due)

    # --- to be given by a group and by a tail

    async def _opened(self) -> AIOKafkaConsumer:
        raise NotImplementedError

    # --- fetching

    async def _poll(self, limit: int) -> None:
        """Take over what the broker has, waiting for it for about a second."""
        if self._consumer is None:
            await self.open()
        consumer = self._consumer
        if consumer is None:
            return
        wait = WAIT_MS if not self._held else max(1, min(WAIT_MS, round(self._pause() * 1000)))
        try:
            if self._careful:
                await self._step(consumer)
                return
            found = await consumer.getmany(timeout_ms=wait, max_records=limit)
        except UnicodeDecodeError:
            # What else it had taken out for this answer is lost with it: begin again, and find the message.
            self._careful = True
            self._give_up()
            return
        except Exception as error:
            # Its background tasks may have ended for good, with errors of its own or by a defect: begin again.
            _log.warning("consumer_given_up", group=self._group, error=type(error).__name__)
            self._give_up()
            raise unavailable(error) from error
        for records in found.values():
            self._take(records)
        if found:
            self._heard, self._stuck = time.monotonic(), {}
        elif time.monotonic() - self._heard > QUIET_S:
            await self._look()
        await self._pass_on()

    async def _pass_on(self) -> None:
        """Remember what was passed over; without a group nothing is."""

    def _passed_over(self, place: TopicPartition, offset: int) -> None:
        """Hear of a message that is for another group."""

    def _give_up(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._reach.leave(consumer)
        self._forget()

    def _forget(self) -> None:
        """Pass over what was fetched and not handed out: whoever has the partitions now begins with it."""
        self._suspects.clear()
        self._due.clear()
        self._held.clear()

    async def _look(self) -> None:
        """After a long silence: begin again when the broker has messages that do not come."""
        self._heard = time.monotonic()
        try:
            async with asyncio.timeout(ASK_S):
                ends, positions = await self._ends_and_positions()
        except Exception as error:  # noqa: BLE001 - a broker that is away now is no news here
            _log.info("broker_not_asked", group=self._group, error=type(error).__name__)
            return
        waiting = {place: positions[place] for place, end in ends.items() if end > positions[place]}
        if any(self._stuck.get(place) == position for place, position in waiting.items()):
            _log.warning("consumer_stuck", group=self._group, partitions=len(waiting))
            self._give_up()
        self._stuck = waiting

    async def _ends_and_positions(self) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        consumer = self._consumer
        if consumer is None:
            raise IllegalStateError
        places = list(consumer.assignment())
        ends = await consumer.end_offsets(places)
        return ends, {place: await consumer.position(place) for place in places}

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        """Take messages one by one; hand out as unreadable what the client itself cannot read, and go on behind it.

        It reads from the beginning of a batch each time, so what follows in the same batch (the same
        producer's) cannot be read either.
        """
        before = len(self._due) + len(self._held)
        for place in consumer.assignment():
            try:
                found = await consumer.getmany(place, timeout_ms=0, max_records=1)
            except UnicodeDecodeError:
                offset = await consumer.position(place)
                consumer.seek(place, offset + 1)
                self._suspects.add(place)
                source = self._source(place.topic, place.partition)
                self._due.append(Delivery(source, offset, "", None, b"", "The names of its headers are not UTF-8."))
                continue
            for records in found.values():
                self._take(records)
            if found and place in self._suspects:
                self._suspects.discard(place)
                self._careful = bool(self._suspects)
        if before == len(self._due) + len(self._held):
            await asyncio.sleep(STEP_S)

    def _source(self, topic: str, partition: int) -> str:
        return f"{topic.removeprefix(self._reach.prefix)}/{partition}"

    # --- what came

    def _take(self, records: Iterable[Record]) -> None:
        """Queue what came. A delay counts from the broker's time; a topic is delayed as a whole, so order stays."""
        now = time.time()
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            self._next[place] = record.offset + 1
            delivery = self._delivery(record)
            if delivery is None:
                self._passed_over(place, record.offset)
                continue
            if not self._delay or record.topic == self._reach.prefix + ACCESS:
                self._due.append(delivery)
                continue
            # No clock of a producer holds a message back for longer than the delay.
            due = min(record.timestamp / 1000, now) + self._delay
            self._held.append((max(due, self._held[-1][0]) if self._held else due, delivery))

    def _take_due(self, limit: int) -> list[Delivery]:
        now = time.time()
        while self._held and self._held[0][0] <= now:
            self._due.append(self._held.popleft()[1])
        return [self._due.popleft() for _ in range(min(limit, len(self._due)))]

    def _pause(self) -> float:
        return min(self._delay, max(0.001, self._held[0][0] - time.time()))

    def _delivery(self, record: Record) -> Delivery | None:
        """Return the message; None when it is one that comes again for another group."""
        topic, source = record.topic.removeprefix(self._reach.prefix), self._source(record.topic, record.partition)
        headers = dict(record.headers)
        if topic == RESENT:
            group = headers.pop(RESENT_GROUP, b"").decode(errors="replace")
            topic = headers.pop(RESENT_TOPIC, b"").decode(errors="replace")
            if group != self._group:
                return None
        key = (record.key or b"").decode(errors="replace")
        try:
            event = from_message(topic, record.key, headers, record.value)
        except Invalid as error:
            reason = f"{error.what} {error.why}".strip()
        except Exception as error:  # noqa: BLE001 - whatever a stranger sends, it must not end the consumer
            reason = f"The message cannot be read: {type(error).__name__}."
        else:
            return Delivery(source, record.offset, key, event)
        return Delivery(source, record.offset, key, None, record.value or b"", reason)


class Tail(Reader):
    """All partitions of some topics, without a group; it goes on where it was after any trouble."""

    def __init__(self, reach: Reach, delay: float, topics: Sequence[str], *, from_start: bool) -> None:
        super().__init__(reach, delay)
        self._topics = [reach.prefix + topic for topic in dict.fromkeys(topics)]
        self._from_start = from_start
        self._given: dict[TopicPartition, int] = {}

    async def _opened(self) -> AIOKafkaConsumer:
        consumer = await self._reach.started(self._reach.loner)
        try:
            await within(self._reach.settings.deadline_s, lambda: self._assign(consumer))
        except BaseException:
            self._reach.leave(consumer)
            raise
        return consumer

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        places = await self._reach.places(consumer, self._topics)
        consumer.assign(places)
        if set(self._given) != set(places):
            offsets = await (consumer.beginning_offsets if self._from_start else consumer.end_offsets)(places)
            self._given = {**offsets, **self._given}
        for place in places:
            consumer.seek(place, self._given[place])

    def _take_due(self, limit: int) -> list[Delivery]:
        found = super()._take_due(limit)
        for one in found:
            topic, _, number = one.source.rpartition("/")
            self._given[TopicPartition(self._reach.prefix + topic, int(number))] = one.offset + 1
        return found


class Member(Reader):
    """A member of a group.

    When partitions are dealt anew, what was fetched is forgotten and nothing of before is committed any
    more: the next owner (maybe this member) begins behind the last commit, so some messages come twice.
    """

    def __init__(self, reach: Reach, delay: float, group: str, topics: Sequence[str], *, session_s: float) -> None:
        super().__init__(reach, delay, group)
        self._topics = [reach.prefix + topic for topic in dict.fromkeys((*topics, RESENT))]
        self._open_ended = any(topic.endswith(ANY) for topic in topics)
        self._session_s = session_s
        self._handed: dict[str, int] = {}
        """For each source what comes behind the last message handed out since the partitions were dealt."""
        self._done: dict[str, int] = {}
        """For each source what was committed last of it."""
        self._over: dict[TopicPartition, int] = {}
        """Behind the last message that was for another group, where it is not committed yet."""
        self._over_at = 0.0
        self._dealt = False
        self._committing: asyncio.Task[None] | None = None
        self._ear: _Ear | None = None

    async def _opened(self) -> AIOKafkaConsumer:
        return await self._reach.started(self._made)

    def _made(self) -> AIOKafkaConsumer:
        session_ms = round(self._session_s * 1000)
        options = self._reach.options(max(READ_S, 2 * self._session_s)) | READING
        if self._open_ended:
            options["metadata_max_age_ms"] = round(AWAIT_NEW_S * 1000)
        self._ear = _Ear(self)
        consumer = AIOKafkaConsumer(
            **options,
            group_id=self._reach.prefix + self._group,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
            max_poll_interval_ms=POLL_LIMIT_MS,
        )
        if self._open_ended:
            consumer.subscribe(pattern=self._pattern(), listener=self._ear)
        else:
            consumer.subscribe(self._topics, listener=self._ear)
        return consumer

    def _pattern(self) -> str:
        """Return what the client finds topics by: it takes names or one expression, not both."""
        whole = (
            rf"{re.escape(name.removesuffix(ANY))}(?!.*{re.escape(DEAD)}$).*" if name.endswith(ANY) else re.escape(name)
            for name in self._topics
        )
        return f"^(?:{'|'.join(whole)})$"

    def revoked(self, *, some: bool) -> None:
        """Forget what was fetched; a commit that is on its way ends."""
        self._dealt = False
        self._forget()
        if some:
            self._careful = False
        if self._committing is not None:
            self._committing.cancel()

    def assigned(self) -> None:
        """Begin anew."""
        self._dealt = True

    def listens_by(self, ear: "_Ear") -> bool:
        """Whether an ear is that of the present client: one that is ending may still hear of deals."""
        return self._ear is ear

    def _forget(self) -> None:
        super()._forget()
        self._next.clear()
        self._handed.clear()
        self._done.clear()
        self._over.clear()

    def _give_up(self) -> None:
        self._dealt = False
        super()._give_up()

    def _take_due(self, limit: int) -> list[Delivery]:
        found = super()._take_due(limit)
        self._handed.update((one.source, one.offset + 1) for one in found)
        return found

    async def commit(self, offsets: dict[str, int]) -> None:
        consumer = self._consumer
        mine = {
            self._place(source): offset
            for source, offset in offsets.items()
            if source in self._handed and offset <= self._handed[source]
        }
        if not mine or consumer is None or not self._dealt:
            return
        await self._uncut(lambda: consumer.commit(mine))
        # a deal in between has forgotten what was handed out, and with it what was done
        self._done.update({source: at for source, at in offsets.items() if at <= self._handed.get(source, -1)})

    def _passed_over(self, place: TopicPartition, offset: int) -> None:
        self._over[place] = offset + 1

    async def _pass_on(self) -> None:
        """Commit what lies behind the messages for other groups, so that nobody who begins anew reads them again."""
        now = time.monotonic()
        consumer = self._consumer
        if not self._over or consumer is None or not self._dealt or now - self._over_at < PASS_ON_S:
            return
        self._over_at = now
        waiting = {one.source for one in (*self._due, *(held for _, held in self._held))}
        mine = {
            place: offset
            for place, offset in self._over.items()
            if (source := self._source(place.topic, place.partition)) not in waiting
            and self._handed.get(source, 0) <= self._done.get(source, 0)
            and self._next.get(place) == offset
        }
        if mine:
            with suppress(Unavailable):
                await self._uncut(lambda: consumer.commit(mine))
                self._over = {place: offset for place, offset in self._over.items() if mine.get(place) != offset}

    async def _uncut(self, act: Callable[[], Awaitable[None]]) -> None:
        """Commit within the deadline; a commit that a new deal overtook is passed over."""

        async def timely() -> None:
            async with asyncio.timeout(self._reach.settings.deadline_s):
                await act()

        before = self._committing
        if before is not None:
            await asyncio.wait({before})
        task = self._committing = asyncio.create_task(timely(), name="kafka-commit")
        try:
            await task
        except asyncio.CancelledError:
            mine = asyncio.current_task()
            if mine is not None and mine.cancelling():
                task.cancel()
                raise
            _log.info("commit_overtaken", group=self._group, error="dealt_anew")
        except _GONE as error:
            _log.info("commit_overtaken", group=self._group, error=type(error).__name__)
        except Exception as error:
            raise unavailable(error) from error
        finally:
            if self._committing is task:
                self._committing = None

    def _place(self, source: str) -> TopicPartition:
        topic, _, partition = source.rpartition("/")
        return TopicPartition(self._reach.prefix + topic, int(partition))


class _Ear(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """Tells a member of new deals. The client waits for it before it goes on, so nothing here waits."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        if self._member.listens_by(self):
            self._member.revoked(some=bool(revoked))

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:  # noqa: ARG002 - asked when needed
        if self._member.listens_by(self):
            self._member.assigned()
