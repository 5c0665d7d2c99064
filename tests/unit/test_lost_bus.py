"""A bus that does not answer for a while ends no process that listens to it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cloche_builder.signals import Signals
from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import build
from cloche_shared.adapters.memory_bus import MemoryBus
from cloche_shared.errors import Unavailable
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.bus import Delivery, Subscription
from tests.unit.runner_world import Cluster

pytestmark = pytest.mark.looptime


class Flaky(MemoryBus):
    """Refuses the first tails, and breaks the next one at its first fetch."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus.broker)
        self.opened = 0

    @asynccontextmanager
    async def tail(
        self, topics: Sequence[str], *, from_start: bool = False, after: str = ""
    ) -> AsyncIterator[Subscription]:
        self.opened += 1
        if self.opened <= 2:
            raise Unavailable("bus_unavailable", "The message broker does not answer.")
        async with super().tail(topics, from_start=from_start, after=after) as subscription:
            yield _Broken(subscription) if self.opened == 3 else subscription


class _Broken:
    def __init__(self, inner: Subscription) -> None:
        self._inner = inner

    async def fetch(self, limit: int = 500) -> Sequence[Delivery]:
        raise Unavailable("bus_unavailable", "The message broker does not answer.")

    async def commit(self, offsets: dict[str, int]) -> None:
        await self._inner.commit(offsets)

    async def lag(self) -> int:
        return await self._inner.lag()

    async def behind(self) -> int:
        return await self._inner.behind()


async def test_a_builder_hears_of_others_again_and_wakes_who_may_have_missed_something() -> None:
    bus, signals = Flaky(MemoryBus()), Signals()
    following = asyncio.create_task(signals.follow(bus))
    since = signals.count
    await signals.wait("build/public/x", 60, since=since)
    assert signals.count > since
    assert not following.done()
    following.cancel()


async def test_a_runner_hears_of_others_again() -> None:
    cluster = Cluster()
    cluster.shared = True
    bus = Flaky(cluster.bus)
    runner = build(replace(cluster.platform(), bus=bus), RunnerSettings())
    async with Lifecycle() as life:
        await runner.start(life)
        while bus.opened < 4:  # noqa: ASYNC110 - seen from outside only
            await asyncio.sleep(0.1)
        life.stop()
