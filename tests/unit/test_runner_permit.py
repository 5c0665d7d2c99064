"""The permit: without a renewed lease no process begins, and none lives on."""

import asyncio
from pathlib import Path

import pytest

from cloche_runner.permit import Permit
from cloche_shared.adapters.memory_executor import Life, MemoryExecutor, MemoryMachine
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.ports.executor import ProcessSpec

pytestmark = pytest.mark.looptime


async def long_program(life: Life) -> int:
    life.begin()
    await asyncio.sleep(3600)
    return 0


async def test_nothing_begins_before_the_lease_was_renewed_or_after_it_ran_out() -> None:
    permit = Permit(MemoryClock(), 10.0)
    waiting = asyncio.create_task(permit.wait())
    await asyncio.sleep(5)
    assert not waiting.done()
    permit.extend(7.0)
    await asyncio.sleep(0.1)
    assert waiting.done()
    assert permit.is_before(waiting.result())
    await asyncio.sleep(7)
    assert not permit.is_before(waiting.result())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(permit.wait(), 1)


async def test_a_process_that_was_just_started_ends_with_the_grant_of_its_node() -> None:
    permit = Permit(MemoryClock(), 10.0)
    permit.extend(7.0)
    await asyncio.sleep(4)
    executor = MemoryExecutor(MemoryMachine(lambda _: long_program))
    process = await executor.start(ProcessSpec("a", "runner", ["x"], Path("/memory"), {}))
    await permit.apply(process)
    ended = await process.wait()
    assert ended.ending == "orphaned"
    assert ended.wall_seconds == pytest.approx(3, abs=0.1)


async def test_without_leases_everything_may_begin_and_live_on() -> None:
    permit = Permit(MemoryClock(), None)
    await permit.wait()
    assert permit.orphan_after(86_400.0) == 86_400.0
    executor = MemoryExecutor(MemoryMachine(lambda _: long_program))
    process = await executor.start(ProcessSpec("a", "runner", ["x"], Path("/memory"), {}))
    await permit.apply(process)
    assert (await process.wait()).ending == "exited"
