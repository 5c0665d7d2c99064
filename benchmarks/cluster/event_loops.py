"""One loop in a process of its own: reads a plan from standard input, prints the seconds that it took (`Took`).

Both sides write with `w:1, j:true`, send with `acks=all` as idempotent producers to a topic of three
partitions, and commit offsets behind the effects. Some events go before, so that groups and
connections are there when the clock starts.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import WriteConcern

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.dispatch import Consumer
from cloche_shared.bus.relay import Relay
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import TOPICS, EnvironmentArchived
from cloche_shared.journal.commit import Actor, Commit, Origin, StreamId
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document, Verdict
from tests.environments.kafka import kafka_settings
from tests.environments.mongo import mongo_settings
from tests.environments.servers import KafkaServer, MongoServer

PARTITIONS = 3
FETCHED = 500
WARM = 250
LOOK_EVERY_S = 0.1
LONGEST_S = 100.0
"""More than enough for every loop; one that does not end has lost an event."""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds from the first event on its way until each has its effect, and until all book-keeping is done too."""

    effects: float
    settled: float


Produce = Callable[[int, int], Awaitable[None]]
"""Let the events from one number up to another begin their way."""
Settled = Callable[[], Awaitable[None]]
"""Wait until nothing of what was sent is left to be noted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`side`: `ours` or `bare`. `name` begins the names of its topics and databases, which nobody else has."""

    side: str
    kafka: KafkaServer
    store: MongoServer
    name: str
    events: int
    batch: int

    @classmethod
    def read(cls, text: str) -> "Plan":
        """Return the plan that standard input holds."""
        found: dict[str, Any] = json.loads(text)
        kafka, store = KafkaServer(**found.pop("kafka")), MongoServer(**found.pop("store"))
        return cls(kafka=kafka, store=store, **found)


@dataclass(slots=True)
class Effects:
    """How many effects there were; whoever waits hears of each."""

    done: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, number: int = 1) -> None:
        """Count."""
        self.done += number
        self.more.set()

    async def reach(self, number: int) -> None:
        """Wait until so many are there."""
        async with asyncio.timeout(LONGEST_S):
            while self.done < number:
                self.more.clear()
                await self.more.wait()


async def timed(plan: Plan, produce: Produce, effects: Effects, settled: Settled) -> Took:
    """Send a few, then all in batches."""
    await produce(0, WARM)
    await effects.reach(WARM)
    await settled()
    began, end = time.perf_counter(), WARM + plan.events
    for first in range(WARM, end, plan.batch):
        await produce(first, min(end, first + plan.batch))
    await effects.reach(end)
    took = time.perf_counter() - began
    await settled()
    return Took(took, time.perf_counter() - began)


# --- ours: journal, relay, bus, consumer, journal


async def ours(plan: Plan) -> Took:
    """Commit as the registry does, and have an effect for each as the builder has."""
    effects = Effects()
    async with AsyncExitStack() as stack:
        own, other = [await stack.enter_async_context(_store(plan, name)) for name in ("registry", "builder")]
        own_bus, other_bus = [await stack.enter_async_context(_bus(plan, name)) for name in ("registry", "builder")]
        relay = Relay(own.journal, own_bus, "/cloche/registry")
        await stack.enter_async_context(_going_on(relay.run()))
        await stack.enter_async_context(_consuming(other, other_bus, effects))
        writer = Writer(own.journal, SystemClock(), SystemRandom(), offer=relay.offer)

        async def produce(first: int, end: int) -> None:
            await writer.append([_document(writer, number) for number in range(first, end)])

        async def marked() -> None:
            async with asyncio.timeout(LONGEST_S):
                while await own.journal.unsent(1):  # noqa: ASYNC110 - the journal tells nobody of marks
                    await asyncio.sleep(LOOK_EVERY_S)

        took = await timed(plan, produce, effects, marked)
        found = await other.journal.read("effect/", limit=effects.done + 1)
        assert len(found) == WARM + plan.events, f"{len(found)} effects of {WARM + plan.events} events"
    return took


@asynccontextmanager
async def _consuming(store: MongoStore, bus: KafkaBus, effects: Effects) -> AsyncIterator[None]:
    random = SystemRandom()
    writer = Writer(store.journal, SystemClock(), random)

    async def effect(event: Event) -> None:
        stream = StreamId("effect", "default", f"e{event.key.split('/')[2]}")
        commit = Commit(writer.unique(), (), Origin.of_event(event, "builder"), writer.now())
        told = await writer.append([Document(stream.key(1), commit.body())])
        effects.add(told.count(Verdict.INSERTED))

    handlers = {fact_type(EnvironmentArchived): effect}
    consumer = Consumer(bus, "bench", [TOPICS["environment"]], handlers, random=random, code_version="bench")
    running = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        consumer.stop()
        await running


@asynccontextmanager
async def _going_on(work: Any) -> AsyncIterator[None]:  # noqa: ANN401 - a coroutine of whatever kind
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _store(plan: Plan, service: str) -> AsyncIterator[MongoStore]:
    store = MongoStore(mongo_settings(plan.store, database=plan.name), service)
    try:
        await store.probe()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _bus(plan: Plan, service: str) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(kafka_settings(plan.kafka, partitions=PARTITIONS), service, "1", prefix=f"{plan.name}.")
    try:
        await bus.probe()
        yield bus
    finally:
        await bus.close()


def _document(writer: Writer, number: int) -> Document:
    origin = Origin(Actor("key:bench", "127.0.0.1", "bench"), "bench")
    stream = StreamId("environment", "default", f"b{number}")
    commit = Commit(writer.unique(), (EnvironmentArchived(),), origin, writer.now())
    return Document(stream.key(1), commit.body(), TOPICS["environment"], str(stream))


# --- bare: producer, consumer, insert


async def bare(plan: Plan) -> Took:
    """Do what one would write first, and not slowly: all inserts of what one fetch brought go on at once."""
    effects, topic = Effects(), f"{plan.name}.events"
    await _make_topic(plan, topic)
    producer = AIOKafkaProducer(bootstrap_servers=plan.kafka.bootstrap, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=plan.kafka.bootstrap, group_id=topic, enable_auto_commit=False,
        auto_offset_reset="earliest",
    )  # fmt: skip
    client: Any = AsyncIOMotorClient(plan.store.url)
    documents = client[f"{plan.name}_bare"].get_collection("events", write_concern=WriteConcern(1, j=True))

    async def produce(first: int, end: int) -> None:
        sent = [await producer.send(topic, _value(number), key=_key(number)) for number in range(first, end)]
        await asyncio.gather(*sent)

    async def nothing() -> None:
        """Offsets are committed before effects are counted."""

    await producer.start()
    await consumer.start()
    try:
        async with _going_on(_insert_each(consumer, documents, effects)):
            took = await timed(plan, produce, effects, nothing)
        held = await documents.count_documents({})
        assert held == WARM + plan.events, f"{held} documents of {WARM + plan.events} events"
    finally:
        await producer.stop()
        await consumer.stop()
        client.close()
    return took


async def _insert_each(consumer: AIOKafkaConsumer, documents: Any, effects: Effects) -> None:  # noqa: ANN401 - motor has no types
    while True:
        found = await consumer.getmany(timeout_ms=1000, max_records=FETCHED)
        records = [record for part in found.values() for record in part]
        await asyncio.gather(*(documents.insert_one({"_id": one.key, "body": one.value}) for one in records))
        if records:
            await consumer.commit()
            effects.add(len(records))


async def _make_topic(plan: Plan, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=plan.kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    finally:
        await admin.close()


def _key(number: int) -> bytes:
    return f"environment/default/b{number}".encode()


def _value(number: int) -> bytes:
    """Return a body as long as that of an event of ours with its headers."""
    return json.dumps({"id": f"b{number}", "filling": "x" * FILLING}).encode()


FILLING = 500
LOOPS: dict[str, Callable[[Plan], Awaitable[Took]]] = {"ours": ours, "bare": bare}


def main() -> None:
    """Do what the plan says."""
    plan = Plan.read(sys.stdin.read())
    sys.stdout.write(json.dumps(asdict(uvloop.run(_run(plan)))))


async def _run(plan: Plan) -> Took:
    return await LOOPS[plan.side](plan)


if __name__ == "__main__":
    main()
