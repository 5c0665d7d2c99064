"""What every adapter of the port Bus promises."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.contracts.facts import EnvironmentArchived, EnvironmentRestored
from cloche_shared.errors import NotFound
from cloche_shared.journal.commit import Actor, Commit, Origin, events_of
from cloche_shared.ports.bus import Bus, DeadLetter, Delivery, Subscription
from cloche_shared.ports.journal import Document
from tests.environments.kafka import kafka_bus, kafka_settings
from tests.environments.servers import KafkaServer

RUNS, MODELS = "cloche.runs", "cloche.models"
ORIGIN = Origin(Actor("key:1"), "chain")


def document(name: str, seq: int, topic: str = RUNS, *, facts: int = 1) -> Document:
    said = (EnvironmentArchived(), EnvironmentRestored())[:facts]
    body = Commit(f"{name}-{seq}", said, ORIGIN, "2026-01-01T00:00:00Z").body()
    return Document(f"run/default/{name}/{seq:012d}", body, topic, f"run/default/{name}")


@dataclass
class World:
    """A bus, how facts get onto it, and how it comes back after everything that used it was closed."""

    bus: Bus
    send: Callable[[Sequence[Document]], Awaitable[object]]
    reopen: Callable[[], Awaitable[None]]


async def sqlite_world(path: Path, stack: AsyncExitStack, delay: float) -> World:
    async def open_it() -> tuple[Bus, Callable[[Sequence[Document]], Awaitable[object]]]:
        file = await SqliteFile.open(path / "cloche.db", delay=delay)
        stack.push_async_callback(file.close)
        return file.bus(), file.journal("runner").append_many

    async def reopen() -> None:
        await stack.aclose()
        made.bus, made.send = await open_it()

    made = World(*await open_it(), reopen)
    return made


async def memory_world(delay: float) -> World:
    broker = MemoryBroker()
    bus = MemoryBus(broker, delay=delay)

    async def send(documents: Sequence[Document]) -> None:
        await bus.publish([event for item in documents for event in events_of(item, "/cloche/runner")])

    async def reopen() -> None:
        made.bus = MemoryBus(broker, delay=delay)

    made = World(bus, send, reopen)
    return made


async def kafka_world(server: KafkaServer, stack: AsyncExitStack, delay: float) -> World:
    bus = await stack.enter_async_context(kafka_bus(server, delay=delay))

    async def send(documents: Sequence[Document]) -> None:
        await bus.publish([event for item in documents for event in events_of(item, "/cloche/runner")])

    async def reopen() -> None:
        made.bus = KafkaBus(kafka_settings(server), "test", "2", delay=delay, prefix=bus.prefix)
        stack.push_async_callback(made.bus.close)

    made = World(bus, send, reopen)
    return made


async def make_world(request: pytest.FixtureRequest, path: Path, stack: AsyncExitStack, delay: float) -> World:
    if request.param == "kafka":
        return await kafka_world(request.getfixturevalue("kafka_server"), stack, delay)
    return await (sqlite_world(path, stack, delay) if request.param == "journal" else memory_world(delay))


@pytest.fixture(params=["journal", "memory", "kafka"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await make_world(request, tmp_path, stack, 0.0)


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += await subscription.fetch(count - len(found))
    return found


async def nothing_comes(subscription: Subscription) -> bool:
    try:
        async with asyncio.timeout(0.02):
            await subscription.fetch()
    except TimeoutError:
        return True
    return False


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.event.id for delivery in deliveries if delivery.event is not None]


async def test_a_group_gets_what_was_there_before_it_and_what_comes_later(world: World) -> None:
    await world.send([document("a", 1)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        assert ids(await take(subscription, 1)) == ["run/default/a/000000000001#0"]
        await world.send([document("a", 2)])
        assert ids(await take(subscription, 1)) == ["run/default/a/000000000002#0"]


async def test_the_event_says_what_the_document_held(world: World) -> None:
    await world.send([document("a", 1)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        (delivery,) = await take(subscription, 1)
    assert delivery.event == events_of(document("a", 1), "/cloche/runner")[0]
    assert delivery.key == "run/default/a"


async def test_only_the_topics_that_were_asked_for_come(world: World) -> None:
    async with world.bus.subscribe("g", [MODELS]) as subscription:
        await world.send([document("a", 1), document("m", 1, MODELS), document("quiet", 1, "")])
        assert [item.key for item in await take(subscription, 1)] == ["run/default/m"]
        assert await nothing_comes(subscription)


async def test_facts_of_one_document_come_in_order_and_are_told_apart(world: World) -> None:
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        await world.send([document("a", 1, facts=2)])
        first, second = await take(subscription, 2)
        assert ids([first, second]) == ["run/default/a/000000000001#0", "run/default/a/000000000001#1"]
        await subscription.commit({first.source: first.offset + 1})
    await world.reopen()
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        assert ids(await take(subscription, 1)) == ["run/default/a/000000000001#1"]


async def test_order_per_key_holds_under_load(world: World) -> None:
    async with world.bus.subscribe("g", [RUNS]) as subscription:

        async def write(name: str) -> None:
            for seq in range(1, 51):
                await world.send([document(name, seq)])

        writers = asyncio.gather(*(write(f"n{number}") for number in range(8)))
        found = await take(subscription, 400)
        await writers
    for number in range(8):
        mine = [item.event.sequence for item in found if item.event and item.key == f"run/default/n{number}"]
        assert mine == list(range(1, 51))


async def test_a_committed_offset_survives_and_what_is_behind_it_comes_again(world: World) -> None:
    await world.send([document("a", seq) for seq in (1, 2, 3)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        first, *_ = await take(subscription, 3)
        await subscription.commit({first.source: first.offset + 1})
    await world.reopen()
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        assert ids(await take(subscription, 2)) == ["run/default/a/000000000002#0", "run/default/a/000000000003#0"]


async def test_after_everything_was_committed_only_news_come(world: World) -> None:
    await world.send([document("a", 1), document("m", 1, MODELS)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        (only,) = await take(subscription, 1)
        await subscription.commit({only.source: only.offset + 1})
    await world.reopen()
    await world.send([document("a", 2)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        assert ids(await take(subscription, 1)) == ["run/default/a/000000000002#0"]


async def test_each_group_gets_everything(world: World) -> None:
    async with world.bus.subscribe("g", [RUNS]) as one, world.bus.subscribe("h", [RUNS]) as two:
        await world.send([document("a", 1)])
        assert ids(await take(one, 1)) == ids(await take(two, 1))


async def test_several_topics_come_in_the_order_in_which_they_were_written(world: World) -> None:
    await world.send([document(f"a{number}", 1, (RUNS, MODELS)[number % 2]) for number in range(40)])
    async with world.bus.subscribe("g", [RUNS, MODELS]) as subscription:
        found = await take(subscription, 40)
    by_source = [[item.offset for item in found if item.source == source] for source in {i.source for i in found}]
    assert all(offsets == sorted(offsets) for offsets in by_source)
    assert len({item.key for item in found}) == 40


async def test_a_fetch_returns_no_more_than_its_limit(world: World) -> None:
    await world.send([document("a", seq) for seq in range(1, 11)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        assert len(await subscription.fetch(4)) == 4
        assert await subscription.lag() == 6


async def test_a_long_past_is_read_in_order_and_then_the_present(world: World) -> None:
    await world.send([document("a", seq) for seq in range(1, 1201)])
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        past = await take(subscription, 1200)
        await world.send([document("a", 1201)])
        present = await take(subscription, 1)
    assert [item.event.sequence for item in (*past, *present) if item.event] == list(range(1, 1202))


async def test_a_tail_shows_news_only_unless_it_is_asked_for_the_start(world: World) -> None:
    await world.send([document("a", 1)])
    async with world.bus.tail([RUNS]) as news, world.bus.tail([RUNS], from_start=True) as whole:
        await world.send([document("a", 2)])
        assert ids(await take(news, 1)) == ["run/default/a/000000000002#0"]
        assert len(await take(whole, 2)) == 2


async def test_a_subscriber_that_leaves_does_not_disturb_the_others(world: World) -> None:
    async with world.bus.subscribe("g", [RUNS]) as staying:
        async with world.bus.subscribe("h", [RUNS]):
            pass
        await world.send([document("a", 1)])
        assert len(await take(staying, 1)) == 1


async def replayed(world: World, group: str, topics: Sequence[str], since: datetime | None = None) -> None:
    left = (await world.bus.past(topics, since)).left
    async with asyncio.timeout(20):
        while left:
            left = (await world.bus.replay(group, topics, left, 2)).left


async def test_a_replay_brings_a_group_its_past_again_in_order_and_no_other_hears_of_it(world: World) -> None:
    await world.send([document("a", 1, facts=2), document("a", 2), document("m", 1, MODELS), document("a", 3)])
    async with world.bus.subscribe("g", [RUNS]) as mine, world.bus.subscribe("h", [RUNS]) as others:
        for subscription in (mine, others):
            had = await take(subscription, 4)
            await subscription.commit({had[-1].source: had[-1].offset + 1})
        assert (await world.bus.past([RUNS])).messages >= 3
        await replayed(world, "g", [RUNS])
        again = await take(mine, 4)
        assert ids(again) == [f"run/default/a/{seq:012d}#{index}" for seq, index in ((1, 0), (1, 1), (2, 0), (3, 0))]
        assert [one.event.topic for one in again if one.event is not None] == [RUNS] * 4
        assert await nothing_comes(others)
        await world.send([document("a", 4)])
        assert ids(await take(mine, 1)) == ["run/default/a/000000000004#0"]


async def test_nothing_is_replayed_of_what_came_before_the_time_that_is_asked_for(world: World) -> None:
    await world.send([document("a", 1)])
    async with world.bus.subscribe("g", [RUNS]) as mine:
        await take(mine, 1)
        past = await world.bus.past([RUNS], datetime.now(UTC) + timedelta(hours=1))
        assert (past.messages, dict(past.left)) == (0, {})
        await replayed(world, "g", [RUNS], datetime(2020, 1, 1, tzinfo=UTC))
        assert ids(await take(mine, 1)) == ["run/default/a/000000000001#0"]


async def test_publishing_again_is_harmless(world: World) -> None:
    await world.send([document("a", 1)])
    await world.bus.publish(events_of(document("a", 1), "/cloche/runner"))
    async with world.bus.subscribe("g", [RUNS]) as subscription:
        assert set(ids(await take(subscription, 1))) == {"run/default/a/000000000001#0"}


@pytest.fixture(params=["journal", "memory", "kafka"])
async def slow_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await make_world(request, tmp_path, stack, 0.15)


async def test_a_delay_holds_each_delivery_back_but_never_one_behind_the_other(slow_world: World) -> None:
    loop = asyncio.get_running_loop()
    came: dict[str, float] = {}
    sent: dict[str, float] = {}
    async with slow_world.bus.subscribe("g", [RUNS]) as subscription:

        async def write() -> None:
            for seq in range(1, 11):
                sent[f"run/default/a/{seq:012d}#0"] = loop.time()
                await slow_world.send([document("a", seq)])
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        while len(came) < 10:
            async with asyncio.timeout(5):
                came.update(dict.fromkeys(ids(await subscription.fetch()), loop.time()))
        await writing
    waits = [came[name] - sent[name] for name in sent]
    assert min(waits) >= 0.149
    assert max(waits) < 0.15 + 0.35
    assert list(came) == list(sent)


async def test_a_dead_letter_is_kept_listed_and_comes_again_to_its_group_only(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    await file.journal("runner").append_many([document("a", 1)])
    bus = file.bus()
    async with bus.subscribe("g", [RUNS]) as subscription:
        (poison,) = await take(subscription, 1)
        await bus.bury(DeadLetter("g", poison, "Invalid: no", 3, "1.0"))
        await subscription.commit({poison.source: poison.offset + 1})
    await file.close()
    file = await SqliteFile.open(tmp_path / "cloche.db")
    bus = file.bus()
    (found,) = await bus.letters()
    assert await bus.letter(found.id) == found
    assert (await bus.letter("7"), await bus.letter("../x"), await bus.letters(after=found.id)) == (None, None, [])
    assert (found.letter.delivery, found.letter.reason, found.letter.attempts) == (poison, "Invalid: no", 3)
    assert datetime.fromisoformat(found.at).tzinfo is not None
    async with bus.subscribe("g", [RUNS]) as mine, bus.subscribe("h", [MODELS]) as other:
        await bus.resend(found.id)
        (again,) = await take(mine, 1)
        assert again.event == poison.event
        assert await nothing_comes(other)
        await mine.commit({again.source: again.offset + 1})
    async with bus.subscribe("g", [RUNS]) as mine:
        assert await nothing_comes(mine)
    assert await bus.letters() == []
    with pytest.raises(NotFound) as refused:
        await bus.resend(found.id)
    assert refused.value.code == "letter_not_found"
    await file.close()


async def test_a_document_that_cannot_be_read_comes_as_bytes_with_a_reason(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    await file.journal("runner").append_many([Document("run/default/a/000000000001", b"nonsense", RUNS, "a")])
    async with file.bus().subscribe("g", [RUNS]) as subscription:
        (delivery,) = await take(subscription, 1)
    await file.close()
    assert delivery.event is None
    assert (delivery.raw, delivery.key) == (b"nonsense", "a")
    assert "JSON" in delivery.reason


async def test_a_group_that_falls_behind_the_tail_in_memory_misses_nothing(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db", tail=50)
    journal = file.journal("runner")
    async with file.bus().subscribe("g", [RUNS]) as subscription:
        assert await nothing_comes(subscription)
        for start in range(1, 400, 20):
            await journal.append_many([document("a", seq) for seq in range(start, start + 20)])
        found = await take(subscription, 400)
        assert [item.event.sequence for item in found if item.event] == list(range(1, 401))
        await journal.append_many([document("a", 401)])
        assert len(await take(subscription, 1)) == 1
    await file.close()


async def test_members_of_a_group_share_the_partitions_and_take_over_when_one_leaves() -> None:
    bus = MemoryBus()
    async with bus.subscribe("g", [RUNS]) as one:
        async with bus.subscribe("g", [RUNS]) as two:
            for number in range(20):
                await bus.publish(events_of(document(f"n{number}", 1), "/cloche/runner"))
            mine, theirs = await one.fetch(), await two.fetch()
            assert len(mine) + len(theirs) == 20
            await one.commit({item.source: item.offset + 1 for item in mine})
        assert set(ids(await take(one, len(theirs)))) == set(ids(theirs))


async def test_a_member_that_dies_without_a_word_is_replaced_from_the_committed_offsets() -> None:
    broker = MemoryBroker()
    dying, living = MemoryBus(broker), MemoryBus(broker)
    async with dying.subscribe("g", [RUNS]) as lost, living.subscribe("g", [RUNS]) as kept:
        for number in range(20):
            await living.publish(events_of(document(f"n{number}", 1), "/cloche/runner"))
        unhandled, handled = await lost.fetch(), await kept.fetch()
        dying.vanish()
        assert set(ids(await take(kept, len(unhandled)))) == set(ids(unhandled))
        await lost.commit({item.source: item.offset + 1 for item in unhandled})
        assert await nothing_comes(lost)
    assert len(handled) + len(unhandled) == 20
    assert broker.offsets == {}


async def test_a_member_that_gets_a_partition_back_does_not_undo_what_another_handled() -> None:
    broker = MemoryBroker(partitions=1)
    slow, quick = MemoryBus(broker), MemoryBus(broker)
    async with slow.subscribe("g", [RUNS]) as mine:
        for seq in (1, 2, 3):
            await slow.publish(events_of(document("a", seq), "/cloche/runner"))
        taken = await mine.fetch(2)
        slow.vanish()
        async with quick.subscribe("g", [RUNS]) as theirs:
            for item in await take(theirs, 3):
                await theirs.commit({item.source: item.offset + 1})
            broker.join("g", mine)  # type: ignore[arg-type]  # it comes back, as a paused process does
        await mine.commit({taken[0].source: taken[1].offset + 1})
    assert broker.offsets == {("g", f"{RUNS}/0"): 3}


class Twice(NoFaults):
    """Delivers each event again after 10 ms, and the first of all late."""

    def __init__(self) -> None:
        self.late = [0.005]

    def copies(self, event_id: str) -> list[float]:
        return [self.late.pop() if self.late else 0.0, 0.01]


async def test_duplicates_and_delays_keep_the_order_of_first_deliveries() -> None:
    bus = MemoryBus(faults=Twice())
    async with bus.subscribe("g", [RUNS]) as subscription:
        for seq in (1, 2, 3):
            await bus.publish(events_of(document("a", seq), "/cloche/runner"))
        found = [item.event.sequence for item in await take(subscription, 6) if item.event]
    assert list(dict.fromkeys(found)) == [1, 2, 3]
    assert sorted(found) == [1, 1, 2, 2, 3, 3]


async def test_a_letter_that_is_sent_again_comes_to_the_groups_of_its_topic() -> None:
    bus = MemoryBus()
    await bus.publish(events_of(document("a", 1), "/cloche/runner"))
    async with bus.subscribe("g", [RUNS]) as subscription:
        (poison,) = await take(subscription, 1)
        await bus.bury(DeadLetter("g", poison, "Invalid: no", 1, "1.0"))
        (letter,) = await bus.letters()
        assert await bus.letters(after=letter.id) == []
        assert await bus.letter(letter.id) == letter
        await bus.resend(letter.id)
        assert ids(await take(subscription, 1)) == ids([poison])
    assert await bus.letters() == []
    with pytest.raises(NotFound):
        await bus.resend(letter.id)
