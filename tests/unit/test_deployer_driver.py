"""The driver: updates drop nothing, and what goes down for good is said."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cloche_deployer.domain import decide_deployed, decide_displaced, decide_placed
from cloche_shared.contracts.fact import fact_type
from cloche_shared.contracts.facts import ReplicaEnded
from tests.unit.deployer_world import World, allocated


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


@pytest.mark.looptime
async def test_a_deployed_revision_whose_workers_keep_ending_has_failed(world: World) -> None:
    world.sick.add(1)
    await world.deploy()
    await settle(0.2)
    assert (await world.state()).status == "Healthy"
    await settle(30)
    state = await world.state()
    assert (state.status, state.active) == ("Failed", 0)
    problem = state.newest.problem
    assert problem is not None
    assert problem.code == "worker_ended"
    assert "Traceback: boom" in problem.message
    started = len(world.workers)
    await settle(100)
    assert len(world.workers) == started

    await world.deploy()
    await settle()
    assert ((await world.state()).status, (await world.state()).active) == ("Healthy", 2)
    await world.delete()
    await settle()
    assert all(worker.gone.is_set() for worker in world.workers.values())


@pytest.mark.looptime
async def test_requests_that_end_their_worker_do_not_end_the_service(world: World) -> None:
    world.seconds = 10.0
    await world.deploy()
    for _ in range(6):
        await settle(5)
        call = world.call()
        await settle(0.1)
        for worker in world.workers.values():
            if not worker.gone.is_set():
                worker.crash()
        await settle(0.1)
        assert call.future.exception() is not None
    assert world.driver.trouble(world.stream, 1) is not None
    await settle(60)
    assert (await world.state()).status == "Healthy"
    assert world.driver.trouble(world.stream, 1) is None


@pytest.mark.looptime
async def test_an_error_that_nobody_foresaw_fails_the_revision_and_is_not_waited_for(world: World) -> None:
    world.breaks = OSError(24, "too many open files")
    await world.deploy()
    await settle()
    state = await world.state()
    assert state.status == "Failed"
    assert state.newest.problem is not None
    assert state.newest.problem.code == "worker_not_started"


@pytest.mark.looptime
async def test_the_figures_of_a_service_go_on_over_its_revisions(world: World) -> None:
    assert world.driver.figures() == b""
    world.seconds = 0.02
    await world.deploy()
    await settle()
    world.pool().metrics.observe(0.02, error=False)
    await world.deploy()
    await settle()
    world.pool().metrics.observe(7.0, error=True)
    shown = world.driver.figures().decode()
    assert 'cloche_score_requests_total{project="default",service="svc"} 2' in shown
    assert 'cloche_score_errors_total{project="default",service="svc"} 1' in shown
    assert 'cloche_score_seconds_bucket{project="default",service="svc",le="0.025"} 1' in shown
    assert 'cloche_score_seconds_bucket{project="default",service="svc",le="+Inf"} 2' in shown
    await world.delete()
    await settle()
    assert world.driver.figures() == b""


def ended(world: World) -> list[int]:
    return [data["revision"] for name, data in world.facts() if name == fact_type(ReplicaEnded)]


@pytest.mark.looptime
async def test_gpus_are_free_once_the_workers_that_had_them_have_ended(world: World) -> None:
    world.seconds = 100.0
    await world.deploy(timeout_ms=120_000, resources={"gpus": 1})
    await settle()
    call = world.call()
    await world.deploy(timeout_ms=120_000, resources={"gpus": 1})
    await settle()
    assert ((await world.state()).active, ended(world)) == (2, [])
    await call.future
    await settle()
    assert ended(world) == [1]
    await world.delete()
    await settle()
    assert ended(world) == [1, 2]
    assert not (await world.state()).holding


@pytest.mark.looptime
async def test_gpus_of_a_revision_that_never_began_are_free_too(world: World) -> None:
    await world.deploy(placed=False, resources={"gpus": 1})
    await settle()
    assert ended(world) == []
    await world.delete()
    await settle()
    assert ended(world) == [1]


async def _placed_on(world: World, node: str) -> None:
    await world.change(
        lambda found: decide_placed(found, found.latest, allocated(found).model_copy(update={"node": node}))
    )
    world.driver.wake(world.stream)
    await settle()


@pytest.mark.looptime
async def test_what_was_placed_on_another_node_is_routed_there_and_not_started_here(world: World) -> None:
    await world.deploy(placed=False, resources={"gpus": 1})
    await _placed_on(world, "elsewhere")
    await world.change(lambda found: decide_deployed(found, found.latest, "u"))
    world.driver.wake(world.stream)
    await settle()
    assert (world.revisions, world.driver.other_node(await world.state())) == ({}, "elsewhere")


@pytest.mark.looptime
async def test_a_service_that_moves_here_is_started_and_answers_here(world: World) -> None:
    await world.deploy(placed=False, resources={"gpus": 1})
    await _placed_on(world, "elsewhere")
    await world.change(lambda found: decide_deployed(found, found.latest, "u"))
    await world.change(lambda found: decide_displaced(found, "elsewhere"))
    await _placed_on(world, world.driver.node)
    assert (world.driver.other_node(await world.state()), world.pool().ready_workers) == ("", 1)


@pytest.mark.looptime
async def test_a_service_that_moves_away_is_drained_here(world: World) -> None:
    world.seconds = 5.0
    await world.deploy(resources={"gpus": 1})
    await settle()
    call = world.call()
    await world.change(lambda found: decide_displaced(found, world.driver.node))
    await _placed_on(world, "elsewhere")
    assert world.driver.other_node(await world.state()) == "elsewhere"
    assert (await call.future)[0] == 200


@pytest.mark.looptime
async def test_nothing_of_a_driver_goes_on_after_it_let_go(world: World) -> None:
    await world.deploy()
    await settle()
    await world.driver.let_go()
    await settle()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert left == []
