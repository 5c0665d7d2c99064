"""Bus on Kafka, through aiokafka: CloudEvents in binary mode, at least once, in order per key.

Who publishes hears of it once all replicas that are in sync have the message; who consumes commits what it
was told to, never what it no longer owns. A broker that is away is waited for; nothing here ends because
of it.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)
from aiokafka.helpers import create_ssl_context

from cloche_shared.backends import KafkaSettings
from cloche_shared.bus.letters import letter_not_found
from cloche_shared.contracts.envelope import Event, from_message
from cloche_shared.contracts.facts import TOPICS
from cloche_shared.errors import ClocheError, Conflict, Invalid, Unavailable
from cloche_shared.notes import notes_of
from cloche_shared.ports.bus import DeadLetter, Delivery, Letter, Subscription

DEAD: Final = ".dead"
ACCESS: Final = "cloche.access"
"""Who may do what: kept for ever, and never delayed."""
RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
WAIT_MS: Final = 1000
SESSION_MS: Final = 10_000
POLL_LIMIT_MS: Final = 600_000
CLOSE_S: Final = 5.0
MOST_BYTES: Final = 8 << 20
_GONE = (CommitFailedError, IllegalStateError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)

T = TypeVar("T")
Headers = Sequence[tuple[str, bytes]]

_log = notes_of(__name__)


def _unavailable(error: BaseException) -> Unavailable:
    """Return what users see; the driver's own texts may hold addresses and are left out."""
    return Unavailable(
        "bus_unavailable",
        "The message broker does not answer.",
        why=type(error).__name__,
        todo="Try again; nothing was lost.",
    )


class KafkaBus:
    """The bus of one process.

    `prefix` goes before every topic's and group's name; `delay` holds every delivery back, in seconds.
    """

    def __init__(
        self, settings: KafkaSettings, service: str, replica: str, *, delay: float = 0.0, prefix: str = ""
    ) -> None:
        self._settings = settings
        self._client = f"cloche-{service}-{replica}"
        self.delay = delay
        self.prefix = prefix
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def options(self) -> dict[str, Any]:
        """Return how to reach the broker, for every client."""
        settings = self._settings
        options: dict[str, Any] = {
            "bootstrap_servers": settings.bootstrap_servers,
            "client_id": self._client,
            "security_protocol": settings.security_protocol,
            "request_timeout_ms": round(settings.deadline_s * 1000),
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": 30_000,
        }
        if settings.security_protocol.endswith("SSL"):
            options["ssl_context"] = (
                create_ssl_context(cafile=settings.ca_file) if settings.ca_file else ssl.create_default_context()
            )
        if settings.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": settings.sasl_mechanism,
                "sasl_plain_username": settings.username,
                "sasl_plain_password": settings.password.get_secret_value(),
            }
        return options

    # --- sending

    async def publish(self, events: Sequence[Event]) -> None:
        messages = [(event.topic, event.key.encode(), event.value(), event.headers()) for event in events]
        await self._send(messages)

    async def _send(self, messages: Sequence[tuple[str, bytes, bytes | None, Headers]]) -> None:
        if not messages:
            return
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                producer = await self._ready_producer()
                sent = [
                    await producer.send(self.prefix + topic, value, key=key, headers=list(headers))
                    for topic, key, value, headers in messages
                ]
                await asyncio.gather(*sent)
        except TopicAuthorizationFailedError as error:
            raise Unavailable(
                "bus_forbidden",
                "The message broker does not let this service write there.",
                todo="Give its principal the right to write its own topics.",
            ) from error
        except (KafkaError, TimeoutError, OSError) as error:
            self._drop_producer()
            raise _unavailable(error) from error

    async def _ready_producer(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self.options(),
                    acks="all",
                    enable_idempotence=True,
                    max_request_size=MOST_BYTES,
                    linger_ms=0,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _stopped(producer)
                    raise
                self._producer = producer
            return self._producer

    def _drop_producer(self) -> None:
        """Give up a producer that failed: one that wedged never sends again. The next send makes another."""
        producer, self._producer = self._producer, None
        if producer is not None:
            task = asyncio.create_task(_stopped(producer), name="kafka-producer-stop")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # --- reading

    @asynccontextmanager
    async def subscribe(self, group: str, topics: Sequence[str]) -> AsyncIterator[Subscription]:
        names = [self.prefix + topic for topic in dict.fromkeys(topics)]

        def make() -> AIOKafkaConsumer:
            return AIOKafkaConsumer(
                *names,
                **self.options(),
                group_id=self.prefix + group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=SESSION_MS // 4,
                max_poll_interval_ms=POLL_LIMIT_MS,
                max_partition_fetch_bytes=MOST_BYTES,
            )

        consumer = await _started(make)
        try:
            yield KafkaSubscription(self, consumer, group=group)
        finally:
            await _stopped(consumer)

    @asynccontextmanager
    async def tail(
        self,
        topics: Sequence[str],
        *,
        from_start: bool = False,
        after: str = "",  # noqa: ARG002 - there is no one order to resume in
    ) -> AsyncIterator[Subscription]:
        consumer = await _started(self._loner)
        try:
            await self._assign(consumer, [self.prefix + topic for topic in dict.fromkeys(topics)], from_start)
            yield KafkaSubscription(self, consumer)
        finally:
            await _stopped(consumer)

    def _loner(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self.options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MOST_BYTES,
        )

    async def _assign(self, consumer: AIOKafkaConsumer, topics: Sequence[str], from_start: bool) -> None:  # noqa: FBT001 - handed on
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                places = await _places(consumer, topics)
                consumer.assign(places)
                offsets = await (consumer.beginning_offsets if from_start else consumer.end_offsets)(places)
        except (KafkaError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error
        for place, offset in offsets.items():
            consumer.seek(place, offset)

    def place(self, delivery: Delivery) -> str:  # noqa: ARG002 - topics and partitions have no one order
        return ""

    # --- dead letters

    async def bury(self, letter: DeadLetter) -> None:
        delivery = letter.delivery
        topic = delivery.source.rpartition("/")[0]
        notes = {
            "group": letter.group,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "code_version": letter.code_version,
            "source": delivery.source,
            "offset": delivery.offset,
            "why": delivery.reason,
            "parsed": delivery.event is not None,
        }
        headers = [("cloche_letter", orjson.dumps(notes))]
        value: bytes | None = delivery.raw
        if delivery.event is not None:
            headers += delivery.event.headers()
            value = delivery.event.value()
        await self._send([(topic + DEAD, delivery.key.encode(), value, headers)])

    async def letters(self, limit: int = 100, *, after: str = "") -> list[Letter]:
        found = await self._all_letters()
        names = [letter.id for letter in found]
        start = names.index(after) + 1 if after in names else 0
        return found[start : start + limit] if not after or after in names else []

    async def letter(self, letter_id: str) -> Letter | None:
        return next((letter for letter in await self._all_letters() if letter.id == letter_id), None)

    async def resend(self, letter_id: str) -> None:
        """Send to the letter's topic once more, for all its groups: those that had it see it twice."""
        found = await self.letter(letter_id)
        if found is None:
            raise letter_not_found(letter_id)
        delivery = found.letter.delivery
        topic = delivery.source.rpartition("/")[0]
        event = delivery.event
        value, headers = (event.value(), event.headers()) if event is not None else (delivery.raw, [])
        await self._send([(topic, delivery.key.encode(), value, headers)])
        await self._send([(topic + DEAD, letter_id.encode(), None, [("cloche_resent", letter_id.encode())])])

    async def _all_letters(self) -> list[Letter]:
        """Read every dead-letter topic from its beginning to its present end."""
        topics = [self.prefix + topic + DEAD for topic in dict.fromkeys(TOPICS.values())]
        records: list[ConsumerRecord[bytes, bytes]] = []
        consumer = await _started(self._loner)
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                places = await _places(consumer, topics)
                consumer.assign(places)
                ends = await consumer.end_offsets(places)
                for place, offset in (await consumer.beginning_offsets(places)).items():
                    consumer.seek(place, offset)
                while any([await consumer.position(place) < end for place, end in ends.items()]):
                    for found in (await consumer.getmany(timeout_ms=200)).values():
                        records += found
        except (KafkaError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error
        finally:
            await _stopped(consumer)
        resent = {value.decode() for record in records for name, value in record.headers if name == "cloche_resent"}
        letters = (self._letter(record) for record in sorted(records, key=lambda one: (one.timestamp, one.offset)))
        return [letter for letter in letters if letter is not None and letter.id not in resent]

    def _letter(self, record: "ConsumerRecord[bytes, bytes]") -> Letter | None:
        headers = dict(record.headers)
        if "cloche_letter" not in headers:
            return None
        notes = orjson.loads(headers.pop("cloche_letter"))
        topic = notes["source"].rpartition("/")[0]
        event = from_message(topic, record.key, headers, record.value) if notes["parsed"] else None
        raw = b"" if event is not None else record.value or b""
        delivery = Delivery(notes["source"], notes["offset"], (record.key or b"").decode(), event, raw, notes["why"])
        letter = DeadLetter(notes["group"], delivery, notes["reason"], notes["attempts"], notes["code_version"])
        name = f"{record.topic.removeprefix(self.prefix)}-{record.partition}-{record.offset}"
        return Letter(name, letter)

    # --- the broker

    async def probe(self) -> str:
        """Create the topics that are not there; return which broker it is and how it is guarded.

        Raises `Unavailable` while it does not answer; what waiting does not mend is `Invalid`
        (`broker_open`, `store_auth`) or `Conflict` (`topic_partitions_differ`).
        """
        settings = self._settings
        if not settings.security_protocol.startswith("SASL") and not settings.allow_no_acls:
            raise Invalid(
                "broker_open",
                "The message broker does not know who writes to it.",
                why="Whoever may write to a topic decides what Cloche believes, so the broker must tell users apart.",
                todo="Set kafka.security_protocol and a user; or kafka.allow_no_acls where nobody else reaches it.",
            )
        admin = AIOKafkaAdminClient(**self.options())
        try:
            async with asyncio.timeout(settings.deadline_s):
                await admin.start()
                await self._make_topics(admin)
                brokers = (await admin.describe_cluster())["brokers"]
        except SaslAuthenticationFailed as error:
            raise Invalid(
                "store_auth",
                "The message broker refuses the credentials.",
                todo="See kafka.username and kafka.password_file.",
            ) from error
        except (KafkaError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error
        finally:
            with suppress(KafkaError, OSError, AttributeError):
                await admin.close()
        return f"Kafka with {len(brokers)} broker(s), {settings.security_protocol}"

    async def _make_topics(self, admin: AIOKafkaAdminClient) -> None:
        wanted = [topic for fact in dict.fromkeys(TOPICS.values()) for topic in (fact, fact + DEAD)]
        there = set(await admin.list_topics())
        new = [self._topic(topic) for topic in wanted if self.prefix + topic not in there]
        if new:
            with suppress(TopicAlreadyExistsError):
                await admin.create_topics(new)
        known = [self.prefix + topic for topic in wanted if not topic.endswith(DEAD) and self.prefix + topic in there]
        for found in await admin.describe_topics(known) if known else ():
            count = len(found["partitions"])
            if count and count != self._settings.partitions:
                raise Conflict(
                    "topic_partitions_differ",
                    f"The topic {found['topic']} has {count} partitions, not {self._settings.partitions}.",
                    why="With another count a key's messages would go to another partition than before: order is lost.",
                    todo=f"Set kafka.partitions to {count} in all services.",
                )

    def _topic(self, topic: str) -> NewTopic:
        settings = self._settings
        hours = settings.retention_h if topic != ACCESS else -1
        return NewTopic(
            self.prefix + topic,
            1 if topic.endswith(DEAD) else settings.partitions,
            settings.replication,
            topic_configs={
                "retention.ms": str(-1 if hours < 0 else hours * 3600 * 1000),
                "max.message.bytes": str(MOST_BYTES),
            },
        )

    async def check(self) -> str | None:
        """Return what is wrong with the broker now, None when it is well."""
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                producer = await self._ready_producer()
                await producer.client.fetch_all_metadata()
        except (KafkaError, TimeoutError, OSError) as error:
            self._drop_producer()
            return f"bus_unavailable: {type(error).__name__}"
        except ClocheError as error:
            return f"{error.code}: {error.why}"
        return None

    async def close(self) -> None:
        """Send what waits and close every connection."""
        self._drop_producer()
        await asyncio.gather(*self._closing, return_exceptions=True)


class KafkaSubscription:
    """A consumer's place in the partitions that it was dealt."""

    def __init__(self, bus: KafkaBus, consumer: AIOKafkaConsumer, *, group: str = "") -> None:
        self._bus = bus
        self._consumer = consumer
        self._group = group
        self._held: deque[tuple[float, Delivery]] = deque()

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        while True:
            ready = self._ready(limit)
            if ready:
                return ready
            wait = WAIT_MS
            if self._held:
                wait = max(1, min(wait, round((self._held[0][0] - time.time()) * 1000)))
            try:
                found = await self._consumer.getmany(timeout_ms=wait, max_records=limit)
            except (KafkaError, OSError) as error:
                raise _unavailable(error) from error
            self._hold([record for records in found.values() for record in records])

    def _ready(self, limit: int) -> list[Delivery]:
        now, ready = time.time(), list[Delivery]()
        while self._held and len(ready) < limit and self._held[0][0] <= now:
            ready.append(self._held.popleft()[1])
        return ready

    def _hold(self, records: "Sequence[ConsumerRecord[bytes, bytes]]") -> None:
        """Keep what came until it is due: its time at the broker and the delay, never before what came earlier."""
        for record in records:
            topic = record.topic.removeprefix(self._bus.prefix)
            due = 0.0 if topic == ACCESS or not self._bus.delay else record.timestamp / 1000 + self._bus.delay
            if self._held:
                due = max(due, self._held[-1][0])
            self._held.append((due, _delivery(topic, record)))

    async def commit(self, offsets: dict[str, int]) -> None:
        mine = self._consumer.assignment()
        wanted = {self._place(source): offset for source, offset in offsets.items()}
        owned = {place: offset for place, offset in wanted.items() if place in mine}
        if not self._group or not owned:
            return
        try:
            await self._consumer.commit(owned)
        except _GONE as error:
            # Another member has the partition now; it begins behind the last commit, so some come again.
            _log.info("commit_overtaken", group=self._group, error=type(error).__name__)
        except (KafkaError, OSError) as error:
            raise _unavailable(error) from error

    def _place(self, source: str) -> TopicPartition:
        topic, _, partition = source.rpartition("/")
        return TopicPartition(self._bus.prefix + topic, int(partition))

    async def lag(self) -> int:
        behind = len(self._held)
        try:
            for place in self._consumer.assignment():
                end = self._consumer.highwater(place)
                if end is not None:
                    behind += max(0, end - await self._consumer.position(place))
        except (KafkaError, OSError) as error:
            raise _unavailable(error) from error
        return behind

    async def behind(self) -> int:
        try:
            async with asyncio.timeout(10):
                ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
                return sum([max(0, int(end) - await self._consumer.position(at)) for at, end in ends.items()])
        except (KafkaError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error


def _delivery(topic: str, record: "ConsumerRecord[bytes, bytes]") -> Delivery:
    source, key = f"{topic}/{record.partition}", (record.key or b"").decode(errors="replace")
    try:
        event = from_message(topic, record.key, dict(record.headers), record.value)
    except Invalid as error:
        return Delivery(source, record.offset, key, None, record.value or b"", f"{error.what} {error.why}".strip())
    return Delivery(source, record.offset, key, event)


async def _places(consumer: AIOKafkaConsumer, topics: Sequence[str]) -> list[TopicPartition]:
    """Return all partitions of topics; waits until each of the topics has some."""
    while True:
        # the public call returns names only
        cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001
        found = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        if all(found.values()):
            return [TopicPartition(topic, number) for topic, numbers in found.items() for number in numbers]
        await asyncio.sleep(RETRY_S[0])


async def _started(make: Callable[[], AIOKafkaConsumer]) -> AIOKafkaConsumer:
    """Return a consumer that has reached the broker, however long that takes."""
    tries = 0
    while True:
        consumer = make()
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await _stopped(consumer)
            _log.warning("broker_not_reached", error=type(error).__name__)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1
        except BaseException:
            await _stopped(consumer)
            raise
        else:
            return consumer


async def _stopped(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop a client; one that hangs is left after a while."""
    with suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.stop()
