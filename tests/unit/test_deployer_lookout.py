"""Nobody is refused by a replica that has not heard yet what others answered, and nobody hammers the store."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cloche_deployer.domain import decide_rekey
from cloche_deployer.keys import keys_of
from cloche_deployer.lookout import MOST_OF_PROJECT, PATIENCE_S, PAUSE_S, PacedLookout
from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.http import KEY_PREFIX
from cloche_deployer.scoring.target import RoutingTable
from cloche_deployer.wiring import KeyGuard
from cloche_shared.access import FailureGate
from cloche_shared.errors import Unavailable
from cloche_shared.journal.commit import StreamId
from tests.unit.deployer_world import World

PEPPER = b"p" * 32


class Replica:
    """A scoring front over the world's driver, which hears of nothing unless it looks; it counts its looks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.read: list[StreamId] = []
        self.lists = 0
        self.takes = 0.0
        self.broken = False
        self.lookout = PacedLookout(world.routes, self._read, self._everywhere)
        gate = FailureGate(lambda: 0.0, limit=3)
        self._app = ScoringApp(world.routes, lambda: "id", access=self, guard=KeyGuard(gate), lookout=self.lookout)

    async def _read(self, stream: StreamId) -> None:
        self.read.append(stream)
        await asyncio.sleep(self.takes)
        if self.broken:
            raise Unavailable("store_unavailable", "The store does not answer.")
        await self.world.driver.look(stream)

    async def _everywhere(self) -> list[StreamId]:
        self.lists += 1
        return [self.world.stream]

    async def projects(self, token: str, *, patient: bool) -> frozenset[str]:
        return frozenset({token.removeprefix("token-of-")}) if token.startswith("token-of-") else frozenset()

    async def answers(self, key: str, names: list[str]) -> set[tuple[int, str]]:
        """Return what requests for all these names are answered, asked at the same time."""
        return set(await asyncio.gather(*(self.status(key, name) for name in names)))

    async def key(self) -> str:
        return keys_of(PEPPER, "default", "svc", await self.world.state())["primary"]

    async def status(self, key: str, name: str = "svc", address: str = "192.0.2.1") -> tuple[int, str]:
        """Return status and code of a scoring request; 503 is said to whoever is let in, for nothing serves."""
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/api/v1/services/{name}/score",
            "headers": [(b"authorization", b"Bearer " + key.encode())],
            "client": (address, 1),
        }
        await self._app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])["code"]


OPEN = (503, "service_unavailable")
SHUT = (401, "unauthenticated")
UNKNOWN = (404, "service_not_found")


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    world = World()
    found = Replica(world)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(world.driver.close)
        running = asyncio.create_task(found.lookout.run())
        stack.callback(running.cancel)
        yield found


async def deployed(replica: Replica) -> None:
    """Deploy through another replica: nobody wakes the driver of this one."""
    await replica.world.deploy(placed=False, resources={"gpus": 1}, wake=False)


@pytest.mark.looptime
async def test_a_key_that_another_replica_made_opens_here_at_once(replica: Replica) -> None:
    await deployed(replica)
    former = await replica.key()
    assert await replica.status(former) == OPEN
    await replica.world.change(lambda state: decide_rekey(state, "primary"))
    assert await replica.status(await replica.key()) == OPEN
    assert await replica.status(former) == SHUT


@pytest.mark.looptime
async def test_a_service_that_another_replica_deployed_is_found_with_a_key_and_with_a_token(replica: Replica) -> None:
    await deployed(replica)
    assert await replica.status("token-of-default") == OPEN
    assert await replica.status("token-of-default", "other") == (404, "service_not_found")
    assert await replica.status("wrong", "other") == SHUT


@pytest.mark.looptime
async def test_wrong_keys_share_looks_at_a_bounded_pace(replica: Replica) -> None:
    await deployed(replica)
    await replica.status(await replica.key())
    replica.read.clear()
    began = asyncio.get_running_loop().time()
    guesses = (replica.status(f"{KEY_PREFIX}{number}", address=f"192.0.2.{number % 250}") for number in range(500))
    assert set(await asyncio.gather(*guesses)) == {SHUT}
    took = asyncio.get_running_loop().time() - began
    assert len(replica.read) <= 2 + took / PAUSE_S
    assert took < 1.0


@pytest.mark.looptime
async def test_unknown_names_are_answered_at_once_each_after_a_look_by_its_key(replica: Replica) -> None:
    await deployed(replica)
    began = asyncio.get_running_loop().time()
    names = [f"n{number}" for number in range(MOST_OF_PROJECT)]
    assert await replica.answers("token-of-default", names) == {UNKNOWN}
    assert asyncio.get_running_loop().time() - began < 0.01
    assert {stream.id for stream in replica.read} == set(names)
    assert replica.lists == 0
    assert await replica.status("token-of-default", "svc") == UNKNOWN  # as many as a project may look at
    await asyncio.sleep(2 * PAUSE_S)
    assert await replica.status("token-of-default", "svc") == OPEN


@pytest.mark.looptime
async def test_who_asks_for_many_names_holds_up_no_other_project_even_where_the_store_is_slow(
    replica: Replica,
) -> None:
    await deployed(replica)
    replica.takes = 3600.0
    names = [f"n{number}" for number in range(10 * MOST_OF_PROJECT)]
    flood = asyncio.create_task(replica.answers("token-of-flood", names))
    await asyncio.sleep(1)
    replica.takes = 0.0
    assert await replica.status("token-of-default", "svc") == OPEN
    began = asyncio.get_running_loop().time()
    assert await flood == {UNKNOWN}
    assert asyncio.get_running_loop().time() - began <= PATIENCE_S
    assert sum(stream.project == "flood" for stream in replica.read) == MOST_OF_PROJECT


@pytest.mark.looptime
async def test_what_has_not_the_form_of_a_key_or_a_name_is_refused_without_a_look(replica: Replica) -> None:
    await deployed(replica)
    assert await replica.status("guess") == SHUT
    assert await replica.status("token-of-default", "no such") == UNKNOWN
    assert await replica.status(f"{KEY_PREFIX}guess", "\0") == SHUT
    assert (replica.read, replica.lists) == ([], 0)


@pytest.mark.looptime
async def test_an_address_that_guesses_too_often_gets_no_more_looks_but_known_keys_pass(replica: Replica) -> None:
    await deployed(replica)
    for _ in range(3):
        assert await replica.status(f"{KEY_PREFIX}guess") == SHUT
    replica.read.clear()
    assert await replica.status(f"{KEY_PREFIX}guess") == (429, "too_many_requests")
    assert replica.read == []
    assert await replica.status(await replica.key()) == OPEN


@pytest.mark.looptime
async def test_a_store_that_does_not_answer_leaves_what_is_known_as_it_is(replica: Replica) -> None:
    await deployed(replica)
    await replica.status(await replica.key())
    replica.broken = True
    assert await replica.status(f"{KEY_PREFIX}guess") == SHUT
    assert await replica.status(await replica.key()) == OPEN
    replica.broken = False
    assert await replica.status(f"{KEY_PREFIX}guess") == SHUT


async def test_more_names_than_can_wait_are_refused_without_a_look() -> None:
    read: list[StreamId] = []

    async def note(stream: StreamId) -> None:
        read.append(stream)

    async def nothing() -> list[StreamId]:
        return []

    lookout = PacedLookout(RoutingTable(), note, nothing)
    waiting = [asyncio.create_task(lookout.look(None, f"n{number}")) for number in range(300)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == 300 - 256
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
