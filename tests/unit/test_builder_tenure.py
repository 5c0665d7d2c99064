"""A builder's lease, and when others count as dead."""

import asyncio

import pytest

from cloche_builder.tenure import Tenure
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.errors import Unavailable
from cloche_shared.ports.journal import Lease

pytestmark = pytest.mark.looptime


class Breakable(MemoryLeases):
    """Leases whose store can be gone, or never answer."""

    broken = False
    silent = False

    async def put(self, lease: Lease) -> None:
        if self.silent:
            await asyncio.sleep(1e6)
        if self.broken:
            raise Unavailable("store_unavailable", "Gone.")
        await super().put(lease)


def tenure(leases: MemoryLeases, lost: list[float], holder: str = "one") -> Tenure:
    clock = MemoryClock()

    def changed(held: bool) -> None:
        if not held:
            lost.append(clock.monotonic())

    return Tenure(holder, leases, clock, 10.0, changed)


async def test_a_lease_is_renewed_at_a_third_and_counts_on_from_a_former_process() -> None:
    leases = Breakable()
    await leases.put(Lease("one", 41, 10.0))
    task = asyncio.create_task(tenure(leases, []).run())
    await asyncio.sleep(7)
    task.cancel()
    lease = await leases.get("one")
    assert lease is not None
    assert lease.counter == 44


@pytest.mark.parametrize("how", ["broken", "silent"])
async def test_without_renewal_own_work_is_stopped_at_seventy_percent(how: str) -> None:
    leases = Breakable()
    lost: list[float] = []
    mine = tenure(leases, lost)
    task = asyncio.create_task(mine.run())
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    assert mine.held
    setattr(leases, how, True)
    await asyncio.sleep(30)
    assert not mine.held
    assert [7 - 0.2 <= at - began <= 7.2 for at in lost] == [True]
    setattr(leases, how, False)
    await asyncio.sleep(4)
    assert mine.held
    task.cancel()


async def test_nothing_begins_between_the_end_of_a_lease_and_the_news_of_it() -> None:
    leases = Breakable()
    mine = tenure(leases, [])
    task = asyncio.create_task(mine.run())
    await asyncio.sleep(0.1)
    await asyncio.wait_for(mine.until_held(), timeout=0.1)
    leases.broken = True
    await asyncio.sleep(30)
    waiting = asyncio.create_task(mine.until_held())
    await asyncio.sleep(30)
    assert not waiting.done()
    leases.broken = False
    await asyncio.wait_for(waiting, timeout=5)
    task.cancel()


async def observe_for(watcher: Tenure, seconds: int) -> None:
    for _ in range(seconds):
        await watcher.observe({"two"})
        await asyncio.sleep(1)
    await watcher.observe({"two"})


async def test_a_holder_is_dead_one_second_after_its_ttl_by_the_observers_clock() -> None:
    leases = MemoryLeases()
    await leases.put(Lease("two", 5, 10.0))
    watcher = tenure(leases, [])
    await observe_for(watcher, 10)
    assert not watcher.is_dead("two")
    await observe_for(watcher, 1)
    assert watcher.is_dead("two")
    await leases.put(Lease("two", 6, 10.0))
    await watcher.observe({"two"})
    assert not watcher.is_dead("two")


async def test_a_holder_without_a_lease_dies_after_the_same_time() -> None:
    watcher = tenure(MemoryLeases(), [])
    await observe_for(watcher, 11)
    assert watcher.is_dead("two")
    assert not watcher.is_dead("three")


async def test_an_observer_that_slept_holds_nobody_dead_for_it() -> None:
    watcher = tenure(MemoryLeases(), [])
    await watcher.observe({"two"})
    await asyncio.sleep(100)
    await watcher.observe({"two"})
    assert not watcher.is_dead("two")
