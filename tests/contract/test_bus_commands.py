"""What every adapter of the port Bus promises of commands: topics by pattern, also of projects to come."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.contracts.commands import EVERY_TOPIC, command_topic
from cloche_shared.contracts.envelope import Event
from cloche_shared.ports.bus import Bus, DeadLetter, Delivery, Subscription
from tests.environments.kafka import kafka_bus, kafka_settings


def command(event_id: str, project: str = "default", key: str = "k") -> Event:
    return Event(
        id=event_id,
        type="cloche.CancelRun.v1",
        source="/s",
        subject="",
        sequence=0,
        project=project,
        time="2026-01-01T00:00:00Z",
        correlation=event_id,
        data={"run_id": event_id},
        topic=command_topic(project),
        key=key,
    )


@dataclass
class World:
    """A bus, and how it comes back after a restart."""

    bus: Bus
    reopen: Callable[[], "AsyncIterator[Bus]"]


@asynccontextmanager
async def opened(kind: str, path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if kind == "memory":
            broker = MemoryBroker()

            async def again() -> AsyncIterator[Bus]:
                yield MemoryBus(broker)

            yield World(MemoryBus(broker), again)
        elif kind == "journal":

            async def file() -> Bus:
                found = await SqliteFile.open(path / "cloche.db")
                stack.push_async_callback(found.close)
                return found.bus()

            async def again() -> AsyncIterator[Bus]:
                await stack.aclose()
                yield await file()

            yield World(await file(), again)
        else:
            server = request.getfixturevalue("kafka_server")
            bus = await stack.enter_async_context(kafka_bus(server))

            async def again() -> AsyncIterator[Bus]:
                made = KafkaBus(kafka_settings(server), "test", "2", prefix=bus.prefix)
                stack.push_async_callback(made.close)
                yield made

            yield World(bus, again)


@pytest.fixture(params=["journal", "memory", "kafka"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request.param, tmp_path, request) as made:
        yield made


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await subscription.fetch(count - len(found))
    return found


def ids(found: Sequence[Delivery]) -> list[str]:
    return [one.event.id for one in found if one.event is not None]


async def test_a_group_gets_the_commands_of_projects_that_are_there_and_of_those_to_come(world: World) -> None:
    await world.bus.provide([command_topic("default")])
    await world.bus.publish([command("1"), command("2")])
    async with world.bus.subscribe("g", [EVERY_TOPIC, "cloche.answers"]) as subscription:
        found = await take(subscription, 2)
        assert ids(found) == ["1", "2"]
        assert found[0].event == command("1")
        await world.bus.provide([command_topic("team-b")])
        await world.bus.publish([command("3", "team-b")])
        later = found
        while "3" not in ids(later):  # what was not committed may come again meanwhile
            later = await take(subscription, 1)
        assert (later[-1].event, later[-1].key) == (command("3", "team-b"), "k")


async def test_every_group_gets_every_command(world: World) -> None:
    await world.bus.provide([command_topic("default")])
    await world.bus.publish([command("1")])
    async with world.bus.subscribe("g", [EVERY_TOPIC]) as one, world.bus.subscribe("h", [EVERY_TOPIC]) as two:
        assert ids(await take(one, 1)) == ids(await take(two, 1)) == ["1"]


async def test_what_was_committed_does_not_come_again_and_what_was_not_does(world: World) -> None:
    await world.bus.provide([command_topic("default")])
    await world.bus.publish([command(str(number)) for number in range(3)])
    async with world.bus.subscribe("g", [EVERY_TOPIC]) as subscription:
        first, *_ = await take(subscription, 3)
        await subscription.commit({first.source: first.offset + 1})
    async for bus in world.reopen():
        async with bus.subscribe("g", [EVERY_TOPIC]) as subscription:
            assert ids(await take(subscription, 2)) == ["1", "2"]


async def test_dead_letters_of_commands_are_listed_and_are_no_commands(world: World) -> None:
    await world.bus.provide([command_topic("default")])
    await world.bus.publish([command("1"), command("2")])
    async with world.bus.subscribe("g", [EVERY_TOPIC]) as subscription:
        first, _ = await take(subscription, 2)
        await world.bus.bury(DeadLetter("g", first, "no", 1, "1"))
        await world.bus.publish([command("3")])
        assert ids(await take(subscription, 1)) == ["3"]
    (letter,) = await world.bus.letters()
    assert letter.letter.delivery.event == command("1")


async def test_providing_a_topic_again_is_harmless(world: World) -> None:
    for _ in range(2):
        await world.bus.provide([command_topic("default")])
    await world.bus.publish([command("1")])
    async with world.bus.subscribe("g", [EVERY_TOPIC]) as subscription:
        assert ids(await take(subscription, 1)) == ["1"]


async def test_commands_that_every_group_has_handled_are_kept_no_longer(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    bus = file.bus()
    await bus.publish([command("1"), command("2")])
    async with bus.subscribe("g", [EVERY_TOPIC]) as one, bus.subscribe("h", [EVERY_TOPIC]) as two:
        first, last = await take(one, 2)
        await take(two, 2)
        await one.commit({last.source: last.offset + 1})
        await two.commit({first.source: first.offset + 1})
    await file.close()
    with closing(sqlite3.connect(tmp_path / "cloche.db")) as connection:
        assert connection.execute("SELECT pos FROM inbox").fetchall() == [(2,)]
