"""The bus on a broker that is away at the start, killed under load, or held for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.errors import Unavailable
from tests.environments.fixtures import Start
from tests.environments.kafka import drop_topics, kafka_bus, kafka_settings
from tests.environments.servers import KafkaServer
from tests.integration.kafka_events import RUNS, Taken, event, follow, ids, send, take, until_all

pytestmark = pytest.mark.timeout(180)


@asynccontextmanager
async def a_bus(server: KafkaServer, replica: str = "1") -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(kafka_settings(server, deadline_s=3.0), "test", replica)
    try:
        yield bus
    finally:
        await bus.close()


async def probed(bus: KafkaBus, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await bus.probe()
            except Unavailable:
                await asyncio.sleep(0.3)
            else:
                return


async def load(bus: KafkaBus, events_of_key: int) -> int:
    return sum([await send(bus, [event(f"k{key}", number + 1) for key in range(8)]) for number in range(events_of_key)])


async def test_a_broker_killed_and_restarted_under_load_costs_time_and_nothing_else(own_server: Start) -> None:
    server = cast("KafkaServer", await asyncio.to_thread(own_server, "kafka"))
    async with a_bus(server) as bus, a_bus(server, "2") as other:
        await probed(bus)
        taken = Taken()
        async with (
            bus.subscribe("g", [RUNS]) as one,
            other.subscribe("g", [RUNS]) as two,
            bus.tail([RUNS], from_start=True) as tail,
        ):
            seen = Taken()
            members = (follow(one, taken), follow(two, taken), follow(tail, seen))
            reading = [asyncio.create_task(member) for member in members]
            sending = asyncio.create_task(load(bus, 60))
            await until_all(taken, 100, 30)
            await asyncio.to_thread(server.handle().kill)
            await asyncio.sleep(2)
            assert await bus.check() is not None
            await asyncio.to_thread(server.handle().start)
            await probed(other)
            back = asyncio.get_running_loop().time()
            await sending
            await until_all(taken, 480, 60)
            await until_all(seen, 480, 60)
            caught_up = asyncio.get_running_loop().time() - back
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        assert await bus.check() is None
    assert taken.in_order()
    assert seen.in_order()
    assert caught_up < 15, caught_up


async def test_a_broker_that_is_held_for_a_while_is_told_within_the_deadline_and_goes_on(own_server: Start) -> None:
    server = cast("KafkaServer", await asyncio.to_thread(own_server, "kafka"))
    async with a_bus(server) as bus:
        await probed(bus)
        loop = asyncio.get_running_loop()
        async with bus.subscribe("g", [RUNS]) as subscription:
            await bus.publish([event("a", 1)])
            (first,) = await take(subscription, 1)
            await asyncio.to_thread(server.handle().pause)
            started = loop.time()
            with pytest.raises(Unavailable):
                await bus.publish([event("a", 2)])
            with pytest.raises(Unavailable):
                await subscription.commit({first.source: first.offset + 1})
            assert loop.time() - started < 8
            assert await bus.check() is not None
            await asyncio.sleep(max(0.0, 12 - (loop.time() - started)))
            await asyncio.to_thread(server.handle().unpause)
            await send(bus, [event("a", 2), event("a", 3)])
            found: list[str] = []
            while event("a", 3).id not in found:
                found += ids(await take(subscription, 1, 40))
    assert list(dict.fromkeys(found))[-2:] == [event("a", 2).id, event("a", 3).id]


async def test_a_broker_that_is_away_at_the_start_is_waited_for(own_server: Start) -> None:
    server = cast("KafkaServer", await asyncio.to_thread(own_server, "kafka"))
    async with a_bus(server) as bus:
        await probed(bus)
        await bus.publish([event("a")])
    await asyncio.to_thread(server.handle().kill)
    async with a_bus(server) as bus:
        for ask in (bus.probe, bus.letters, lambda: bus.publish([event("a", 2)])):
            with pytest.raises(Unavailable):
                await ask()

        async def first() -> list[str]:
            async with bus.subscribe("g", [RUNS]) as subscription:
                return ids(await take(subscription, 1, 60))

        waiting = asyncio.create_task(first())
        await asyncio.sleep(1)
        assert not waiting.done()
        await asyncio.to_thread(server.handle().start)
        assert await waiting == [event("a").id]


async def test_topics_that_a_broker_lost_are_named_until_the_process_begins_anew(kafka_server: KafkaServer) -> None:
    async with kafka_bus(kafka_server) as bus:
        assert [await bus.check(), await bus.check()] == [None, None]
        await drop_topics(bus)
        said = ""
        async with asyncio.timeout(60):
            while not said.startswith("topics_lost: the broker lost cloche."):
                said = str(await bus.check())
                await asyncio.sleep(0.1)
        other = KafkaBus(kafka_settings(kafka_server), "test", "2", prefix=bus.prefix)
        try:
            await probed(other)
            assert [await other.check(), await other.check()] == [None, None]
        finally:
            await other.close()
        assert str(await bus.check()).startswith("topics_lost:")
