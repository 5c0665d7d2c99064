"""The consumer engine: order, retries, dead letters, offsets."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.bus.dispatch import BatchConsumer, Consumer, Handler
from cloche_shared.contracts.envelope import Event
from cloche_shared.errors import Invalid, Unavailable

TOPIC = "cloche.runs"
KNOWN, UNKNOWN = "cloche.RunSubmitted.v1", "cloche.RunTeleported.v9"


def event(key: str, seq: int = 1, type_name: str = KNOWN) -> Event:
    return Event(
        id=f"{key}/{seq:012d}#0",
        type=type_name,
        source="/cloche/runner",
        subject=key,
        sequence=seq,
        project="default",
        time="2026-01-01T00:00:00Z",
        correlation="chain",
        data={},
        topic=TOPIC,
        key=key,
    )


@asynccontextmanager
async def consuming(bus: MemoryBus, handlers: Mapping[str, Handler], **options: int) -> AsyncIterator[Consumer]:
    consumer = Consumer(bus, "g", [TOPIC], handlers, random=SeededRandom(1), code_version="1.0", **options)
    running = asyncio.create_task(consumer.run())
    yield consumer
    consumer.stop()
    await running


def committed(bus: MemoryBus) -> int:
    return sum(bus.broker.offsets.values())


class Trouble:
    """A handler that fails for some keys as long as it is told to."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        self.errors = dict(errors)
        self.tries: defaultdict[str, int] = defaultdict(int)
        self.seen: list[str] = []

    async def __call__(self, what: Event) -> None:
        self.tries[what.id] += 1
        if what.key in self.errors:
            raise self.errors[what.key]
        self.seen.append(what.id)


@pytest.mark.looptime
async def test_each_event_reaches_its_handler_and_is_committed() -> None:
    bus, handler = MemoryBus(), Trouble({})
    async with consuming(bus, {KNOWN: handler}) as consumer:
        await bus.publish([event("a", 1), event("a", 2), event("b", 1)])
        await asyncio.sleep(1)
    assert sorted(handler.seen) == [event("a", 1).id, event("a", 2).id, event("b", 1).id]
    assert committed(bus) == 3
    assert consumer.counters.handled == 3


@pytest.mark.looptime
async def test_types_that_nobody_handles_are_skipped_counted_and_committed() -> None:
    bus = MemoryBus()
    async with consuming(bus, {KNOWN: Trouble({})}) as consumer:
        await bus.publish([event("a", 1, UNKNOWN), event("a", 2), event("a", 3, UNKNOWN)])
        await asyncio.sleep(1)
    assert (consumer.counters.skipped, consumer.counters.handled) == (2, 1)
    assert committed(bus) == 3
    assert bus.broker.dead == []


@pytest.mark.looptime
async def test_one_key_is_handled_in_order_while_other_keys_go_on() -> None:
    bus = MemoryBus()
    ended: list[tuple[float, str, int]] = []

    async def slow(what: Event) -> None:
        await asyncio.sleep(10)
        ended.append((asyncio.get_running_loop().time(), what.key, what.sequence))

    start = asyncio.get_running_loop().time()
    async with consuming(bus, {KNOWN: slow}):
        await bus.publish([event(key, seq) for seq in (1, 2, 3) for key in "abcdef"])
        await asyncio.sleep(31)
    assert [seq for _, key, seq in ended if key == "c"] == [1, 2, 3]
    assert len(ended) == 18
    assert ended[-1][0] - start < 31


@pytest.mark.looptime
async def test_no_more_handlers_run_at_a_time_than_allowed() -> None:
    bus = MemoryBus()
    running: list[int] = [0, 0]

    async def count(_: Event) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(1)
        running[0] -= 1

    async with consuming(bus, {KNOWN: count}, concurrency=3):
        await bus.publish([event(f"k{number}") for number in range(12)])
        await asyncio.sleep(5)
    assert running[1] == 3


@pytest.mark.looptime
async def test_passing_trouble_is_tried_again_until_it_is_over_and_nothing_is_skipped() -> None:
    bus = MemoryBus()
    handler = Trouble({"bad": Unavailable("store_unavailable", "down")})
    async with consuming(bus, {KNOWN: handler}, concurrency=1) as consumer:
        await bus.publish([event("bad", 1), event("bad", 2), event("good", 1)])
        await asyncio.sleep(120)
        assert handler.seen == [event("good", 1).id]
        assert 6 <= handler.tries[event("bad", 1).id] <= 12
        assert await consumer.lag() == 2
        handler.errors.clear()
        await asyncio.sleep(31)
    assert handler.seen[1:] == [event("bad", 1).id, event("bad", 2).id]
    assert bus.broker.dead == []
    assert committed(bus) == 3


@pytest.mark.looptime
async def test_offsets_stay_before_the_first_event_that_is_not_done() -> None:
    bus = MemoryBus(MemoryBroker(partitions=1))
    handler = Trouble({"bad": Unavailable("store_unavailable", "down")})
    async with consuming(bus, {KNOWN: handler}):
        await bus.publish([event("good", 1), event("bad", 1), event("good", 2)])
        await asyncio.sleep(10)
    assert handler.seen == [event("good", 1).id, event("good", 2).id]
    assert committed(bus) == 1


@pytest.mark.looptime
async def test_what_is_invalid_is_buried_at_once_and_blocks_nobody() -> None:
    bus = MemoryBus()
    handler = Trouble({"bad": Invalid("malformed_event", "no such thing")})
    async with consuming(bus, {KNOWN: handler}) as consumer:
        await bus.publish([event("bad", 1), event("good", 1)])
        await asyncio.sleep(0.06)
    (letter,) = bus.broker.dead
    assert handler.tries[event("bad", 1).id] == letter.attempts == 1
    assert (letter.group, letter.code_version, letter.delivery.event) == ("g", "1.0", event("bad", 1))
    assert letter.reason == "Invalid: no such thing"
    assert consumer.counters.buried == 1
    assert committed(bus) == 2


@pytest.mark.looptime
async def test_a_bug_is_tried_three_times_and_then_buried() -> None:
    bus = MemoryBus()
    handler = Trouble({"bad": ZeroDivisionError("oops")})
    async with consuming(bus, {KNOWN: handler}):
        await bus.publish([event("bad", 1), event("bad", 2)])
        await asyncio.sleep(30)
    assert [handler.tries[event("bad", seq).id] for seq in (1, 2)] == [3, 3]
    assert [letter.attempts for letter in bus.broker.dead] == [3, 3]
    assert committed(bus) == 2


@pytest.mark.looptime
async def test_a_handler_that_waits_for_something_cancelled_does_not_take_the_consumer_with_it() -> None:
    bus = MemoryBus()
    handler = Trouble({})

    async def wait_for_cancelled(what: Event) -> None:
        if what.key == "bad":
            task = asyncio.create_task(asyncio.sleep(1))
            task.cancel()
            await task
        await handler(what)

    async with consuming(bus, {KNOWN: wait_for_cancelled}, concurrency=1):
        await bus.publish([event("bad"), event("good")])
        await asyncio.sleep(30)
    assert handler.seen == [event("good").id]
    assert [letter.attempts for letter in bus.broker.dead] == [3]


@pytest.mark.looptime
async def test_bytes_that_are_no_event_are_buried_with_the_reason() -> None:
    bus = MemoryBus()
    async with consuming(bus, {}):
        bus.publish_raw(TOPIC, "a", b"\x00", "The message is not a CloudEvent.")
        await asyncio.sleep(1)
    (letter,) = bus.broker.dead
    assert (letter.delivery.raw, letter.reason) == (b"\x00", "The message is not a CloudEvent.")
    assert committed(bus) == 1


class NoGraveyard(NoFaults):
    """A bus that cannot take dead letters for a while."""

    closed = True

    async def before(self, call: str) -> None:
        if call == "bury" and self.closed:
            raise Unavailable("bus_unavailable", "down")


@pytest.mark.looptime
async def test_a_poison_message_is_committed_only_after_it_was_buried() -> None:
    faults = NoGraveyard()
    bus = MemoryBus(faults=faults)
    handler = Trouble({"bad": Invalid("malformed_event", "no")})
    async with consuming(bus, {KNOWN: handler}):
        await bus.publish([event("bad")])
        await asyncio.sleep(20)
        assert committed(bus) == 0
        faults.closed = False
        await asyncio.sleep(31)
        assert committed(bus) == 1
    assert handler.tries[event("bad").id] == len(bus.broker.dead) == 1


@pytest.mark.looptime
async def test_stopping_lets_running_handlers_finish_and_commits_them() -> None:
    bus, ended = MemoryBus(), []

    async def slow(what: Event) -> None:
        await asyncio.sleep(5)
        ended.append(what.sequence)

    consumer = Consumer(bus, "g", [TOPIC], {KNOWN: slow}, random=SeededRandom(1), code_version="1.0")
    running = asyncio.create_task(consumer.run())
    await bus.publish([event("a", 1), event("a", 2)])
    await asyncio.sleep(1)
    consumer.stop()
    await running
    assert ended == [1]
    assert committed(bus) == 1


@pytest.mark.looptime
async def test_stopping_waits_no_longer_than_its_deadline() -> None:
    bus = MemoryBus()
    loop = asyncio.get_running_loop()
    consumer = Consumer(
        bus,
        "g",
        [TOPIC],
        {KNOWN: lambda _: asyncio.sleep(3600)},
        random=SeededRandom(1),
        code_version="1.0",
        stop_deadline=7,
    )
    running = asyncio.create_task(consumer.run())
    await bus.publish([event("a")])
    await asyncio.sleep(1)
    stopped = loop.time()
    consumer.stop()
    await running
    assert 7 <= loop.time() - stopped < 7.1
    assert committed(bus) == 0


@pytest.mark.looptime
async def test_what_is_redelivered_after_a_stop_starts_with_the_first_that_was_not_done() -> None:
    bus = MemoryBus(MemoryBroker(partitions=1))
    first, second = Trouble({"bad": Unavailable("x", "x")}), Trouble({})
    async with consuming(bus, {KNOWN: first}):
        await bus.publish([event("good", 1), event("bad", 1)])
        await asyncio.sleep(1)
    async with consuming(bus, {KNOWN: second}):
        await asyncio.sleep(1)
    assert second.seen == [event("bad", 1).id]


@settings(max_examples=30, deadline=None)
@given(
    keys=st.lists(st.sampled_from("abcde"), min_size=1, max_size=60),
    waits=st.lists(st.floats(0, 0.01), min_size=60, max_size=60),
    failures=st.sets(st.integers(0, 59), max_size=10),
    concurrency=st.integers(1, 8),
)
def test_every_event_is_handled_in_the_order_of_its_key_whatever_fails_on_the_way(
    keys: list[str], waits: list[float], failures: set[int], concurrency: int
) -> None:
    asyncio.run(check_order(keys, waits, failures, concurrency))


async def check_order(keys: Sequence[str], waits: Sequence[float], failures: set[int], concurrency: int) -> None:
    failing = set(failures)
    seen: list[tuple[str, int]] = []
    all_seen = asyncio.Event()

    async def handle(what: Event) -> None:
        if waits[what.sequence] > 0.005:
            await asyncio.sleep(0)
        if what.sequence in failing:
            failing.discard(what.sequence)
            raise ConnectionResetError
        seen.append((what.key, what.sequence))
        if len(seen) == len(keys):
            all_seen.set()

    bus = MemoryBus()
    consumer = Consumer(
        bus,
        "g",
        [TOPIC],
        {KNOWN: handle},
        random=NoWait(1),
        code_version="1.0",
        concurrency=concurrency,
    )
    running = asyncio.create_task(consumer.run())
    await bus.publish([event(key, number) for number, key in enumerate(keys)])
    async with asyncio.timeout(5):
        await all_seen.wait()
    consumer.stop()
    await running
    for key in "abcde":
        assert [seq for name, seq in seen if name == key] == [seq for seq, name in enumerate(keys) if name == key]
    assert committed(bus) == len(keys)


class NoWait(SeededRandom):
    """Jitter that makes every wait nothing."""

    def uniform(self, low: float, high: float) -> float:
        return 0.0 * low * high


class Projection:
    """A batch handler that keeps what it was given and fails on what it is told."""

    def __init__(self, *, poison: str = "", down: int = 0) -> None:
        self.poison = poison
        self.down = down
        self.seen: list[str] = []
        self.calls = 0

    async def __call__(self, events: Sequence[Event]) -> None:
        self.calls += 1
        if self.down:
            self.down -= 1
            raise Unavailable("store_unavailable", "down")
        if any(item.key == self.poison for item in events):
            raise ZeroDivisionError
        self.seen += [item.id for item in events]


async def project(bus: MemoryBus, handle: Projection, seconds: float) -> BatchConsumer:
    consumer = BatchConsumer(bus, "views", [TOPIC], handle, random=SeededRandom(1), code_version="1.0")
    running = asyncio.create_task(consumer.run())
    await asyncio.sleep(seconds)
    consumer.stop()
    await running
    return consumer


@pytest.mark.looptime
async def test_a_projector_gets_batches_and_commits_once_for_each() -> None:
    bus, handle = MemoryBus(), Projection()
    await bus.publish([event("a", seq) for seq in range(1, 101)])
    consumer = await project(bus, handle, 1)
    assert handle.seen == [event("a", seq).id for seq in range(1, 101)]
    assert handle.calls == 1
    assert committed(bus) == consumer.counters.handled == 100


@pytest.mark.looptime
async def test_a_projector_waits_for_a_store_that_is_down() -> None:
    bus, handle = MemoryBus(), Projection(down=4)
    await bus.publish([event("a", 1)])
    await project(bus, handle, 60)
    assert handle.seen == [event("a", 1).id]
    assert committed(bus) == 1


@pytest.mark.looptime
async def test_a_projector_buries_only_what_it_cannot_handle() -> None:
    bus, handle = MemoryBus(), Projection(poison="bad")
    await bus.publish([event("a", 1), event("bad", 1), event("a", 2)])
    bus.publish_raw(TOPIC, "a", b"?", "no event")
    await project(bus, handle, 60)
    assert sorted(handle.seen) == [event("a", 1).id, event("a", 2).id]
    assert sorted(letter.reason for letter in bus.broker.dead) == ["ZeroDivisionError: ", "no event"]
    assert committed(bus) == 4
