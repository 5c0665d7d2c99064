"""The runner through crashes, lost nodes and zombies."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cloche_runner.domain.nodes import decide_lost
from cloche_runner.handlers import service_origin
from cloche_shared.adapters.memory_executor import Life
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.contracts.facts import (
    TOPICS,
    ReplicaEnded,
    ReplicaRequested,
    ServiceDeleted,
)
from cloche_shared.contracts.runs import Resources
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.executor import ProcessSpec
from tests.unit.runner_world import (
    CHAIN,
    Client,
    Cluster,
    answering,
    facts_of,
    replica,
    sleeping,
)

pytestmark = pytest.mark.looptime


# --- crashes


@pytest.mark.parametrize("down_for", [0.0, 100.0])
async def test_a_run_is_adopted_after_a_crash_not_started_again(cluster: Cluster, down_for: float) -> None:
    # shorter than what a renewal of the lease grants: nothing lives on without its owner for longer
    cluster.programs["a.py"] = sleeping(12)
    async with replica(cluster) as client:
        run_id = await client.submit("a.py")
        await client.until(run_id, "Running")
    assert len(cluster.machines["n1"].groups) == 1
    await asyncio.sleep(down_for)
    async with replica(cluster) as client:
        shown = await client.ended(run_id)
        assert (shown["status"], shown["attempt"]) == ("Completed", 1)
        assert (await client.http.get(f"/runs/{run_id}/log")).text == "begun\ndone\n"
    assert facts_of(cluster, run_id) == CHAIN


async def test_a_crash_at_any_moment_loses_no_run(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(0.01)
    ids = []
    for step in range(60):
        async with replica(cluster) as client:
            ids.append(await client.submit("a.py"))
            for _ in range(step):
                await asyncio.sleep(0)
    async with replica(cluster) as client:
        for run_id in ids:
            shown = await client.ended(run_id)
            assert (shown["status"], shown["attempt"]) == ("Completed", 1), run_id
            assert facts_of(cluster, run_id) == CHAIN
        await asyncio.sleep(100)
        assert cluster.machines["n1"].groups == {}
        [node] = (await client.get("/nodes"))["items"]
        assert (node["free_cpus"], node["holders"]) == (2.0, [])


async def test_runs_that_the_lists_forgot_go_on_after_a_start(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(12)
    async with replica(cluster) as client:
        run_id = await client.submit("a.py")
        await client.until(run_id, "Running")
        queued = await client.submit("a.py", resources={"cpus": 2.0})
        await client.until(queued, "Queued")
    cluster.views = MemoryViews()
    cluster.machines["n1"].groups.clear()
    async with replica(cluster) as client:
        for one in (run_id, queued):
            assert (await client.ended(one))["status"] == "Completed"
        assert len((await client.get("/runs"))["items"]) == 2


async def test_a_process_that_nobody_holds_is_ended_and_forgotten(cluster: Cluster) -> None:
    executor = cluster.node("n1").parts.executor
    cluster.programs["a.py"] = sleeping(1e6)
    spec = ProcessSpec(id="run-x-1", owner="runner", argv=["p", "b", "--", "a.py"], cwd=Path("/"), env={})
    await executor.start(spec)
    await executor.start(replace(spec, id="service-y", owner="deployer"))
    async with replica(cluster):
        await asyncio.sleep(5)
    assert list(cluster.machines["n1"].groups) == ["service-y"]


async def test_a_claim_whose_process_vanished_is_lost_and_tried_again(cluster: Cluster) -> None:
    cluster.programs["a.py"] = sleeping(30)
    async with replica(cluster) as client:
        run_id = await client.submit("a.py")
        await client.until(run_id, "Running")
    cluster.machines["n1"].groups.clear()
    async with replica(cluster) as client:
        shown = await client.ended(run_id)
    assert (shown["status"], shown["attempt"]) == ("Completed", 2)


# --- several nodes


async def test_a_lost_nodes_run_goes_on_elsewhere_and_its_zombie_is_refused() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = sleeping(200)
    async with answering(cluster), AsyncExitStack() as stack:
        zombie = await stack.enter_async_context(replica(cluster, "n1"))
        run_id = await zombie.submit("a.py")
        await zombie.until(run_id, "Running")
        other = await stack.enter_async_context(replica(cluster, "n2"))
        third = await stack.enter_async_context(replica(cluster, ""))
        assert [node["id"] for node in (await third.get("/nodes"))["items"]] == ["n1", "n2"]
        [old] = list(zombie.runner.core.board.claims.values())
        # n1 stops renewing: its store takes no lease any more. The first attempt ends with its grant, the
        # second is not begun without one
        refusing = _Refusing()
        zombie.runner._membership._leases = refusing
        await asyncio.sleep(70)
        shown = await third.get(f"/runs/{run_id}")
        assert (shown["status"], shown["node"], shown["attempt"]) == ("Running", "n2", 3)
        assert cluster.machines["n1"].groups == {}
        assert old.fence < zombie.runner.core.board.claims[StreamId("run", "default", run_id)].fence
        shown = await other.ended(run_id)
        assert (shown["status"], shown["attempt"]) == ("Completed", 3)
        zombie.runner._membership._leases = cluster.leases
        await asyncio.sleep(60)
        nodes = (await third.get("/nodes"))["items"]
        assert [(node["status"], node["free_cpus"]) for node in nodes] == [("ready", 2.0), ("ready", 2.0)]


async def test_runs_of_a_node_that_never_returns_are_found_when_its_observer_died_in_between() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = sleeping(20)
    async with answering(cluster):
        async with replica(cluster, "n1") as client:
            run_id = await client.submit("a.py")
            await client.until(run_id, "Running")
        async with replica(cluster, "") as observer:
            # it dies between the two steps of `declare_lost`
            await observer.runner.core.change_node("n1", service_origin(), decide_lost)
        async with replica(cluster, "n2") as client:
            shown = await client.ended(run_id)
            assert (shown["status"], shown["node"], shown["attempt"]) == ("Completed", "n2", 2)
    assert facts_of(cluster, run_id).count("AttemptLost") == 1


class _Refusing(MemoryLeases):
    async def put(self, lease: object) -> None:
        raise TimeoutError


async def test_replicas_of_services_get_gpus_until_they_end(client: Client, cluster: Cluster) -> None:
    subject = "service/default/iris"
    wanted = ReplicaRequested(revision=1, replica=1, resources=Resources(gpus=1))
    async with cluster.bus.tail([TOPICS["answers"]]) as answers:
        await cluster.publish(subject, wanted, f"{subject}/1#0", topic=TOPICS["service"])
        await cluster.publish(subject, wanted, f"{subject}/1#0", topic=TOPICS["service"])
        [first] = await answers.fetch()
        assert first.event is not None
        assert (first.event.name, first.event.data["gpus"]) == ("ReplicaAllocated", ["GPU-a"])
        other = wanted.model_copy(update={"revision": 2})
        await cluster.publish(subject, other, f"{subject}/2#0", topic=TOPICS["service"])
        [second] = await answers.fetch()
        assert second.event is not None
        assert (second.event.name, second.event.data["problem"]["code"]) == ("ReplicaRefused", "resources_busy")
    run_id = await client.submit(resources={"gpus": 1})
    await client.until(run_id, "Queued")
    await cluster.publish(subject, ServiceDeleted(), f"{subject}/3#0", topic=TOPICS["service"])
    await asyncio.sleep(5)
    assert (await client.get(f"/runs/{run_id}"))["status"] == "Queued"
    await cluster.publish(subject, ReplicaEnded(revision=1), f"{subject}/4#0", topic=TOPICS["service"])
    assert (await client.ended(run_id))["status"] == "Completed"


async def test_many_runs_share_a_node_without_ever_overbooking_it(client: Client, cluster: Cluster) -> None:
    live = 0
    most = 0

    async def program(life: Life) -> int:
        nonlocal live, most
        life.begin()
        live += 1
        most = max(most, live)
        await asyncio.sleep(1)
        live -= 1
        return 0

    cluster.programs["a.py"] = program
    ids = [await client.submit("a.py") for _ in range(20)]
    for run_id in ids:
        assert (await client.ended(run_id))["status"] == "Completed"
    assert most == 2


async def test_a_slow_bus_and_a_store_that_writes_one_by_one_change_nothing_but_the_time() -> None:
    cluster = Cluster(shared=True, atomic=False, delay=2.0)
    async with answering(cluster), replica(cluster, "n1") as client, replica(cluster, "") as other:
        body = {"script": "a.py", "snapshot": await client.snapshot("a.py")}
        first = (await client.post("/runs", body, Idempotency_Key="k")).json()["id"]
        assert (await other.post("/runs", body, Idempotency_Key="k")).json()["id"] == first
        assert (await other.ended(first))["status"] == "Completed"
        assert facts_of(cluster, first) == CHAIN
        answer = await other.post("/runs", body)
        position = {"cloche-position": answer.headers["cloche-position"]}
        listed = await other.http.get("/runs", headers=position)
        assert [run["id"] for run in listed.json()["items"]] == [answer.json()["id"], first]
