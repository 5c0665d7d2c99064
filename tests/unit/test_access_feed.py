"""How a process's table of keys follows the bus, and what it does when the bus is silent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.bus.access_feed import feed_access
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import TOPICS, ApiKeyIssued, ApiKeyRevoked, ProjectCreated
from cloche_shared.errors import Unavailable
from cloche_shared.journal.writer import Writer
from cloche_shared.key_uses import KeyUses
from cloche_shared.ports.bus import Subscription

pytestmark = pytest.mark.looptime

PEPPER = b"p" * 32
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVENT = Event("", "", "/cloche/registry", "", 1, "default", "2026-01-01T12:00:00Z", "chain", {}, TOPICS["access"], "")


class LoopClock:
    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Link:
    """A bus behind a link that can be cut: who asks then waits in vain, and is told so when asked whether it lives."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.whole = asyncio.Event()
        self.whole.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self.bus, name)

    @asynccontextmanager
    async def tail(self, topics: Sequence[str], *, from_start: bool = False) -> AsyncIterator[Subscription]:
        await self.whole.wait()
        async with self.bus.tail(topics, from_start=from_start) as inner:
            asked = inner.behind

            async def behind() -> int:
                if not self.whole.is_set():
                    raise Unavailable("bus_unavailable", "Cut.")
                return await asked()

            inner.behind = behind  # type: ignore[method-assign]  # this one's own
            yield inner


class World:
    def __init__(self, delay: float = 0.0) -> None:
        self.link = Link(MemoryBus(MemoryBroker(), delay=delay))
        self.table = AccessTable(PEPPER, LoopClock(), staleness=900)
        self.sent = 0

    async def happens(self, fact: Fact, project: str = "default") -> None:
        self.sent += 1
        event = replace(
            EVENT,
            id=f"{self.sent}",
            type=fact_type(type(fact)),
            project=project,
            subject=f"access/{project}/keys",
            data=fact.model_dump(mode="json"),
        )
        await self.link.bus.publish([event])

    async def issued(self) -> tuple[str, str]:
        key = issue_key(SystemRandom(), PEPPER)
        await self.happens(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="viewer", projects=("default",)))
        return key.key_id, key.token


@asynccontextmanager
async def fed(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(feed_access(world.link, world.table))  # type: ignore[arg-type]  # the bus behind its link
    await asyncio.sleep(1)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nobody_gets_in_before_all_keys_were_read() -> None:
    world = World()
    world.link.whole.clear()
    await world.issued()
    async with fed(world):
        assert world.table.stale() is not None
        world.link.whole.set()
        await asyncio.sleep(2)
        assert world.table.stale() is None


async def test_a_silent_hour_is_no_stale_table() -> None:
    world = World()
    async with fed(world):
        await asyncio.sleep(3600)
        assert world.table.stale() is None


async def test_keys_hold_for_their_time_while_the_broker_is_away_and_are_read_again_after_it() -> None:
    world = World()
    key_id, token = await world.issued()
    async with fed(world):
        assert world.table.authenticate(token) is not None
        world.link.whole.clear()
        await asyncio.sleep(890)
        assert world.table.stale() is None
        await asyncio.sleep(20)
        assert world.table.stale() is not None
        await world.happens(ApiKeyRevoked(key_id=key_id))
        world.link.whole.set()
        await asyncio.sleep(3)
        assert world.table.stale() is None
        assert world.table.authenticate(token) is None


async def test_a_revocation_is_never_held_back() -> None:
    world = World(delay=60)
    key_id, token = await world.issued()
    async with fed(world):
        assert world.table.authenticate(token) is not None
        await world.happens(ApiKeyRevoked(key_id=key_id))
        await world.happens(ProjectCreated(), "team")
        await asyncio.sleep(0.1)
        assert world.table.authenticate(token) is None
        assert "team" in world.table.projects


async def test_uses_of_keys_are_written_once_an_hour() -> None:
    world = World()
    _, token = await world.issued()
    store = MemoryStore()
    uses = KeyUses(world.table, Writer(MemoryJournal(store), LoopClock(), SystemRandom()), "registry")
    async with fed(world):
        task = asyncio.create_task(uses.run())
        for _ in range(30):
            world.table.authenticate(token)
            await asyncio.sleep(240)
        task.cancel()
    assert len(store.documents) == 2
    assert all(key.startswith("usage/*/") for key in store.documents)
