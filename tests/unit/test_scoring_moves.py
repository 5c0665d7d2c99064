"""A service moves to another node while it is scored: nothing is dropped, and nothing is done twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.onward import PATIENCE_S, PeerOnward
from cloche_deployer.scoring.pool import PoolSettings, WorkerPool
from cloche_deployer.scoring.target import RoutingTable, ServiceTarget, TargetSettings, digest
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_peers import MemoryPeers
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.ports.journal import Lease
from tests.unit.deployer_world import Revisions, World


class Installation:
    """Replicas of the deployer, each with a node of its name; `at` is the node that the journal names."""

    def __init__(self) -> None:
        self.at = "b"
        self.peers = MemoryPeers()
        self.leases = MemoryLeases()
        self.world = World()
        self.replicas: dict[str, Replica] = {}

    async def add(self, name: str, believes: str) -> "Replica":
        await self.leases.put(Lease(name, 1, 30.0, f"http://{name}"))
        replica = self.replicas[name] = Replica(self, name)
        self.peers.apps[f"http://{name}"] = replica.app
        await replica.pool.start()
        await replica.pool.ready()
        replica.believe(believes)
        return replica


class Replica:
    """A scoring front on a node, with what it believes of where the service is; a look corrects that."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.name = name
        self.looks = 0
        self.stubborn = False
        self._installation = installation
        number = len(installation.replicas) + 1
        self.pool = WorkerPool(Revisions(installation.world, number), installation.world, PoolSettings())
        self.target = ServiceTarget("p", "svc", [digest("key")], None, TargetSettings())
        table = RoutingTable()
        table.put(self.target)
        clock = MemoryClock()
        elsewhere = Elsewhere(installation.peers, installation.leases, clock, name, f"http://{name}")
        self.app = ScoringApp(table, lambda: "id", onward=PeerOnward(elsewhere, self), lookout=self)

    def believe(self, node: str) -> None:
        self.target.node = "" if node == self.name else node
        self.target.switch(None if self.target.node else self.pool)

    async def look(self, project: str | None, name: str) -> None:
        raise AssertionError("nobody guesses here")

    async def look_at(self, projects: Collection[str], name: str) -> None:
        self.looks += 1
        await asyncio.sleep(0.01)
        if not self.stubborn:
            self.believe(self._installation.at)

    @property
    def answered(self) -> int:
        """How many requests its own workers answered."""
        return self.pool.metrics.read().requests

    async def score(self, *fields: tuple[bytes, bytes], arriving: asyncio.Event | None = None) -> tuple[int, Any]:
        """Score as a client of this replica; the body is there once `arriving` is set."""
        sent: list[dict[str, Any]] = []
        given = False

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                await asyncio.Event().wait()
            if arriving is not None:
                await arriving.wait()
            given = True
            return {"type": "http.request", "body": b"1", "more_body": False}

        headers = [(b"authorization", b"Bearer key"), (b"content-type", b"application/json"), *fields]
        path = "/api/v1/services/svc/score"
        await self.app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
        return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    made = Installation()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(made.world.driver.close)
        yield made
        for replica in made.replicas.values():
            await replica.pool.stop()


@pytest.mark.looptime
async def test_a_replica_that_has_not_heard_of_a_move_asks_again_where_the_service_went(
    installation: Installation,
) -> None:
    former = await installation.add("a", believes="b")
    present = await installation.add("b", believes="b")
    stale = await installation.add("c", believes="a")
    assert await stale.score() == (200, 1)
    assert [one.answered for one in (former, present, stale)] == [0, 1, 0]
    assert stale.target.node == "b"


@pytest.mark.looptime
async def test_the_new_place_answers_though_it_has_not_heard_yet_that_it_is_the_one(installation: Installation) -> None:
    former = await installation.add("a", believes="b")
    present = await installation.add("b", believes="a")
    assert await former.score() == (200, 1)
    assert await present.score() == (200, 1)
    assert (former.answered, present.answered) == (0, 2)


@pytest.mark.looptime
async def test_a_service_that_comes_here_while_it_is_sought_is_answered_here(installation: Installation) -> None:
    installation.at = "c"
    await installation.add("a", believes="b")
    await installation.add("b", believes="a")
    stale = await installation.add("c", believes="a")
    assert await stale.score() == (200, 1)
    assert stale.answered == 1


@pytest.mark.looptime
async def test_a_service_that_moves_while_the_body_arrives_answers_from_its_new_place(
    installation: Installation,
) -> None:
    former = await installation.add("a", believes="a")
    present = await installation.add("b", believes="b")
    arriving = asyncio.Event()
    scoring = asyncio.create_task(former.score(arriving=arriving))
    await asyncio.sleep(0.1)
    former.believe("b")
    arriving.set()
    assert await scoring == (200, 1)
    assert (former.answered, present.answered) == (0, 1)


@pytest.mark.looptime
async def test_replicas_that_send_each_other_a_request_for_ever_are_followed_for_a_while_only(
    installation: Installation,
) -> None:
    former = await installation.add("a", believes="b")
    present = await installation.add("b", believes="a")
    former.stubborn = present.stubborn = True
    began = asyncio.get_running_loop().time()
    status, problem = await former.score()
    assert (status, problem["code"]) == (503, "service_unavailable")
    assert PATIENCE_S <= asyncio.get_running_loop().time() - began < PATIENCE_S + 5
    assert former.answered + present.answered == 0


@pytest.mark.looptime
async def test_a_request_that_says_it_was_forwarded_is_sent_nowhere(installation: Installation) -> None:
    asked = await installation.add("a", believes="b")
    present = await installation.add("b", believes="b")
    status, problem = await asked.score((b"cloche-forwarded", b"made-up"))
    assert (status, problem["code"]) == (503, "service_unavailable")
    assert (asked.looks, present.answered) == (1, 0)
