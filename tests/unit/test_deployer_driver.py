"""The driver: updates drop nothing, and what goes down for good is said."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.deployer_world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.driver.close()


async def settle(seconds: float = 1.0) -> None:
    await asyncio.sleep(seconds)


@pytest.mark.looptime
async def test_an_update_lets_requests_end_however_long_they_may_take(world: World) -> None:
    world.seconds = 100.0
    await world.deploy(timeout_ms=120_000)
    await settle()
    call = world.call()
    await world.deploy(timeout_ms=120_000)
    await settle()
    assert (await world.state()).active == 2
    assert (await call.future)[0] == 200
    await settle()
    assert world.revisions[1].cleared


@pytest.mark.looptime
async def test_the_end_of_cloche_does_not_wait_for_requests_of_a_former_revision(world: World) -> None:
    world.seconds = 100.0
    await world.deploy(timeout_ms=120_000)
    await settle()
    call = world.call()
    await world.deploy(timeout_ms=120_000)
    await settle()
    began = asyncio.get_running_loop().time()
    await world.driver.close()
    assert asyncio.get_running_loop().time() - began < 10
    assert all(worker.gone.is_set() for worker in world.workers.values())
    assert call.future.exception() is not None
