"""A broker that lost everything locks nobody out: the registry's start fills in the keys again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from cloche_registry.settings import RegistrySettings
from cloche_registry.wiring import build
from cloche_shared.access import AccessTable
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.bus.access_feed import feed_access
from cloche_shared.lifecycle import Lifecycle
from tests.unit.registry_world import PEPPER, World, started

ACCESS = "cloche.access"


async def settled(world: World) -> None:
    async with asyncio.timeout(20):
        while world.store.unsent:  # noqa: ASYNC110 - seen from outside only
            await asyncio.sleep(0.01)


def ids(broker: MemoryBroker) -> list[str]:
    return [one.event.id for part in broker.partitions(ACCESS) for one in part.log if one.event is not None]


@asynccontextmanager
async def begun_anew(world: World, bus: MemoryBus) -> AsyncIterator[AccessTable]:
    """Start another registry on the same journal and this bus; return the keys that another service knows."""
    clock = SystemClock()
    platform = replace(world.platform, bus=bus, access=AccessTable(PEPPER, clock))
    registry = build(platform, RegistrySettings(default_python="3.11", platform="linux-x86_64"), PEPPER)
    others = AccessTable(PEPPER, clock, staleness=900)
    async with Lifecycle() as life:
        await registry.refill_access()
        await registry.start(life)
        life.spawn("others", feed_access(bus, others))
        yield others
        life.stop()


async def let_in(table: AccessTable, token: str) -> None:
    async with asyncio.timeout(20):
        while table.authenticate(token) is None:  # noqa: ASYNC110 - seen from outside only
            await asyncio.sleep(0.01)


async def keys_of_a_whole_life() -> tuple[World, str, str]:
    """Return a registry's world after its end, a token that holds and one that was revoked."""
    async with started() as world:
        await world.post("/projects", {"name": "team"})
        held, gone = [(await world.post("/tokens", {"role": "admin", "projects": ["*"]})).json() for _ in range(2)]
        assert (await world.client.delete(f"/tokens/{gone['id']}")).status_code in {200, 204}
        await settled(world)
    return world, held["token"], gone["token"]


async def test_a_token_holds_after_the_broker_lost_everything_without_a_republish() -> None:
    world, held, gone = await keys_of_a_whole_life()
    broker = MemoryBroker()
    async with begun_anew(world, MemoryBus(broker)) as others:
        await let_in(others, held)
        assert others.authenticate(gone) is None
        assert "team" in others.projects
    assert sorted(ids(broker)) == sorted(set(ids(world.broker)))


async def test_what_the_broker_lost_in_part_comes_again() -> None:
    world, held, _ = await keys_of_a_whole_life()
    for part in world.broker.partitions(ACCESS)[:2]:
        part.log.clear()
        part.visible.clear()
    async with begun_anew(world, MemoryBus(world.broker)) as others:
        await let_in(others, held)
        assert "team" in others.projects


async def test_a_broker_that_lost_nothing_gets_nothing_again() -> None:
    world, held, _ = await keys_of_a_whole_life()
    before = ids(world.broker)
    async with begun_anew(world, MemoryBus(world.broker)) as others:
        await let_in(others, held)
    assert ids(world.broker) == before
