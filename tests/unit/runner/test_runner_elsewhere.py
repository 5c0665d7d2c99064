"""Any replica of the runner answers any request, whichever node has the run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloche_shared.adapters.memory_executor import Life, Program
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
        assert "id: 6@1\ndata: begun" in text
        assert "id: 11@1\ndata: done" in text
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


def talking(lines: int, *, pause: float = 1.0) -> Program:
    async def program(life: Life) -> int:
        life.begin()
        for number in range(lines):
            life.say(f"line {number}\n".encode())
            await asyncio.sleep(pause)
        return 0

    return program


async def test_what_was_stored_of_a_lost_nodes_log_stays_and_says_where_it_breaks_off() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = talking(40)
    settings = {"lease": 6.0, "loss_delay": 0.1, "log_kept_every": 5.0}
    async with answering(cluster), replica(cluster, "", **settings) as other:
        async with replica(cluster, "n1", **settings):
            run_id = await other.submit("a.py")
            await other.until(run_id, "Running")
            following = asyncio.create_task(other.http.get(f"/runs/{run_id}/log?follow=true", timeout=600))
            await asyncio.sleep(13)
            del cluster.peers.apps["http://n1.cloche.test"]
            kept = (await other.http.get(f"/runs/{run_id}/log")).text
        async with replica(cluster, "n2", **settings):
            followed = (await following).text
            shown = await other.ended(run_id)
        whole = (await other.http.get(f"/runs/{run_id}/log")).text
    assert shown["status"] == "Completed"
    assert kept.startswith("line 0\n")
    [cut] = shown["log_missing"]
    assert (cut["attempt"], cut["offset"]) == (1, len(kept))
    mark = f"[cloche: from byte {len(kept)} on the log of attempt 1 is missing: node_lost]\n"
    assert whole == kept + mark + "".join(f"line {number}\n" for number in range(40))
    # who followed saw more of the first attempt than is left of it, then the line, and all of the second
    assert followed.count("data: line 12\n") == 2
    assert followed.count(f"data: {mark}") == 1
    assert followed.index(mark) < followed.rindex("data: line 0\n")
    assert f'"missing":[{{"attempt":1,"offset":{len(kept)}}}]' in followed


async def test_a_reader_who_comes_back_after_the_loss_misses_nothing_of_the_next_attempt() -> None:
    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = talking(30)
    settings = {"lease": 6.0, "loss_delay": 0.1}
    async with answering(cluster), replica(cluster, "", **settings) as other:
        async with replica(cluster, "n1", **settings) as first:
            run_id = await other.submit("a.py")
            await other.until(run_id, "Running")
            await asyncio.sleep(8)
            seen = (await first.http.get(f"/runs/{run_id}/log")).text
        async with replica(cluster, "n2", **settings):
            await other.ended(run_id)
        headers = {"accept": "text/event-stream", "last-event-id": f"{len(seen)}@1"}
        resumed = (await other.http.get(f"/runs/{run_id}/log", headers=headers)).text
        refused = await other.http.get(f"/runs/{run_id}/log", headers={**headers, "last-event-id": "5@x"})
    assert "[cloche: from byte 0 on the log of attempt 1 is missing: node_lost]" in resumed
    assert "data: line 0\n" in resumed
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_header")


@pytest.mark.parametrize(("line", "expected"), [(b"y" * 1023 + b"\n", 9), (b"x" * 1024, 8)])
async def test_of_a_fast_writers_log_all_full_parts_are_stored_at_one_look(line: bytes, expected: int) -> None:
    async def program(life: Life) -> int:
        life.begin()
        life.say(line * 9 * 1024)  # 9 MiB; a part has 4
        await asyncio.sleep(60)
        return 0

    cluster = Cluster(shared=True)
    cluster.programs["a.py"] = program
    settings = {"lease": 6.0, "loss_delay": 0.1, "log_kept_every": 5.0}
    async with answering(cluster), replica(cluster, "", **settings) as other, replica(cluster, "n1", **settings):
        run_id = await other.submit("a.py")
        await other.until(run_id, "Running")
        await asyncio.sleep(7)
        del cluster.peers.apps["http://n1.cloche.test"]
        kept = (await other.http.get(f"/runs/{run_id}/log")).content
    assert len(kept) == expected * 1024 * 1024
