"""Any replica of the runner answers any request, whichever node has the run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.unit.runner_world import Client, Cluster, answering, replica, sleeping

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def two_nodes(**settings: object) -> AsyncIterator[tuple[Cluster, Client, Client]]:
    cluster = Cluster(shared=True)
    async with (
        answering(cluster),
        replica(cluster, "n1", **settings) as first,
        replica(cluster, "", **settings) as other,
    ):
        yield cluster, first, other


async def test_a_log_is_followed_through_a_replica_without_the_run() -> None:
    async with two_nodes() as (cluster, _, other):
        cluster.programs["a.py"] = sleeping(5)
        run_id = await other.submit("a.py")
        async with other.http.stream("GET", f"/runs/{run_id}/log?follow=true") as answer:
            text = (await answer.aread()).decode()
        assert "id: 6\ndata: begun" in text
        assert "id: 11\ndata: done" in text
        assert 'event: end\ndata: {"status":"Completed"' in text


async def test_a_log_as_it_is_now_is_read_at_the_node_that_has_the_run() -> None:
    async with two_nodes() as (cluster, _, other):
        cluster.programs["a.py"] = sleeping(60)
        run_id = await other.submit("a.py")
        await other.until(run_id, "Running")
        await asyncio.sleep(3)
        assert (await other.http.get(f"/runs/{run_id}/log")).text == "begun\n"
        assert (await other.http.get(f"/runs/{run_id}/log?tail=1")).text == "begun\n"


async def test_a_follower_sees_the_next_attempt_when_the_node_dies() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = sleeping(20)
    async with answering(cluster), replica(cluster, "", lease=6.0, loss_delay=0.1) as other:
        async with replica(cluster, "n1", lease=6.0) as first:
            run_id = await other.submit("a.py")
            await other.until(run_id, "Running")
            following = asyncio.create_task(other.http.get(f"/runs/{run_id}/log?follow=true", timeout=600))
            await asyncio.sleep(3)
            del cluster.peers.apps["http://n1.cloche.test"]
        assert first
        async with replica(cluster, "n2", lease=6.0):
            text = (await following).text
        assert "data: done" in text
        assert 'event: end\ndata: {"status":"Completed"' in text


async def test_cancel_reaches_the_run_from_any_replica() -> None:
    async with two_nodes() as (cluster, _, other):
        cluster.programs["a.py"] = sleeping(1000)
        run_id = await other.submit("a.py")
        await other.until(run_id, "Running")
        assert (await other.post(f"/runs/{run_id}/cancel")).status_code == 202
        assert (await other.ended(run_id))["status"] == "Canceled"


async def test_a_log_that_cannot_be_asked_for_is_said_so() -> None:
    async with two_nodes() as (cluster, _, other):
        cluster.programs["a.py"] = sleeping(60)
        run_id = await other.submit("a.py")
        await other.until(run_id, "Running")
        del cluster.peers.apps["http://n1.cloche.test"]
        answer = await other.http.get(f"/runs/{run_id}/log")
        assert (answer.status_code, answer.json()["code"]) == (503, "peer_unreachable")
