"""The builder's REST routes, on ports in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest

from cloche_builder.adapters.memory_logs import MemoryLogs
from cloche_builder.settings import BuilderSettings
from cloche_builder.wiring import OwnPorts, build
from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_resolver import MemoryIndexHttp, MemoryResolver, Package
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import ApiKeyIssued, BuildSubmitted, ReferencesResolved, RunPreparing
from cloche_shared.contracts.references import ResolvedEnvironment
from cloche_shared.http.app import AppParts, create_app
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.service import Platform
from cloche_shared.store.hashing import definition_hash

PEPPER = b"p" * 32
INLINE = {"name": "quick", "definition": {"python": {"pip": ["alpha"]}}}


class World:
    """A builder behind its front, and a registry that resolves whatever is asked."""

    def __init__(self) -> None:
        clock, random = SystemClock(), SystemRandom()
        self.bus = MemoryBus(MemoryBroker())
        self.access = AccessTable(PEPPER, clock)
        self.resolver = MemoryResolver([Package("alpha", "1.0")])
        platform = Platform(
            journal=MemoryJournal(),
            views=MemoryViews(),
            leases=MemoryLeases(),
            bus=self.bus,
            blobs=MemoryBlobStore(),
            clock=clock,
            random=random,
            http=MemoryIndexHttp(self.resolver),
            access=self.access,
            installation="here",
        )
        settings = BuilderSettings(platform="linux-x86_64", default_python="3.11")
        self.builder = build(platform, settings, OwnPorts(self.resolver, MemoryLogs()))
        front = FrontParts(
            access=self.access, clock=clock, random=random, policy=FrontPolicy(hosts=frozenset({"cloche.test"}))
        )
        version = Version(name="cloche", version="0", installation="here")
        self.app = create_app([self.builder.surface.router], AppParts(version=version, front=front))
        self.random = random
        self.client = self.client_of("red")

    def client_of(self, project: str) -> httpx2.AsyncClient:
        key = issue_key(self.random, PEPPER)
        self.access.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="submitter", projects=(project,)))
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.app),
            base_url="http://cloche.test/api/v1",
            headers={"authorization": f"Bearer {key.token}"},
        )

    async def tell(self, subject: str, fact: Fact, topic: str, correlation: str = "c") -> None:
        event = Event(
            id=f"{subject}#{fact_type(type(fact))}",
            type=fact_type(type(fact)),
            source="/cloche/test",
            subject=subject,
            sequence=1,
            project=subject.split("/")[1],
            time="",
            correlation=correlation,
            data=orjson.loads(fact.model_dump_json()),
            topic=topic,
            key=subject,
        )
        await self.bus.publish([event])

    def resolved(self, *pip: str) -> ResolvedEnvironment:
        definition = Definition(python=PythonSection(pip=pip))
        found = definition_hash(definition, platform="linux-x86_64")
        return ResolvedEnvironment(name="quick", version="1", definition_hash=found, definition=definition)

    async def registry(self) -> None:
        """Resolve every inline environment that a build is asked for."""
        async with self.bus.tail(["cloche.builds"]) as subscription:
            while True:
                for delivery in await subscription.fetch():
                    event = delivery.event
                    if event is not None and event.type == fact_type(BuildSubmitted):
                        data: dict[str, Any] = dict(event.data)
                        wanted = data["references"]["environment"]
                        pip = wanted.get("definition", {"python": {"pip": ["alpha"]}})["python"]["pip"]
                        answer = ReferencesResolved(environment=self.resolved(*pip))
                        await self.tell(event.subject, answer, "cloche.answers")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with Lifecycle() as life:
        await world.builder.start(life)
        life.spawn("registry", world.registry())
        yield world
        assert not life.stopping, "a task died"


async def submit(world: World, environment: object = INLINE, **headers: str) -> httpx2.Response:
    headers.setdefault("prefer", "wait=20")
    return await world.client.post("/builds", json={"environment": environment}, headers=headers)


async def test_a_build_that_ends_while_the_caller_waits_is_answered_whole(world: World) -> None:
    answer = await submit(world)
    shown = answer.json()
    assert (answer.status_code, shown["status"], shown["environment"]) == (200, "Completed", "quick:1")
    assert answer.headers["location"] == f"/api/v1/builds/{shown['id']}"
    assert answer.headers["cloche-position"].startswith("here:buildrequest/red/")


async def test_without_patience_the_answer_says_where_to_look(world: World) -> None:
    answer = await submit(world, prefer="respond-async")
    assert answer.status_code == 202
    later = await world.client.get(answer.headers["location"].removeprefix("/api/v1"), headers={"prefer": "wait=20"})
    assert (later.status_code, later.json()["status"]) == (200, "Completed")


async def test_the_build_behind_a_request_has_an_id_of_its_own(world: World) -> None:
    shown = (await submit(world)).json()
    build = (await world.client.get(f"/builds/{shown['build_id']}")).json()
    assert shown["build_id"].startswith("public-")
    assert (build["id"], build["status"], build["lock_digest"]) == (
        shown["build_id"],
        "Completed",
        shown["lock_digest"],
    )


async def test_the_same_idempotency_key_is_the_same_request(world: World) -> None:
    first, again = [await submit(world, **{"idempotency-key": "k1"}) for _ in range(2)]
    assert first.json()["id"] == again.json()["id"]
    other = await submit(world, {"name": "quick"}, **{"idempotency-key": "k1"})
    assert other.json()["code"] == "idempotency_key_reused"


async def test_requests_with_one_key_at_once_make_one_build_request(world: World) -> None:
    answers = await asyncio.gather(*(submit(world, **{"idempotency-key": "k2"}) for _ in range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_failed_build_names_the_package(world: World) -> None:
    wanted = {"name": "quick", "definition": {"python": {"pip": ["gamma"]}}}
    shown = (await submit(world, wanted)).json()
    assert (shown["status"], shown["problem"]["code"]) == ("Failed", "package_not_found")
    assert shown["problem"]["extra"] == {"package": "gamma"}
    log = await world.client.get(f"/builds/{shown['id']}/log")
    assert "package gamma does not exist" in log.text


async def test_a_defect_of_ours_ends_one_build_and_tells_nothing_of_itself(world: World) -> None:
    del world.resolver.packages
    shown = (await submit(world)).json()
    assert shown["problem"]["code"] == "build_crashed"
    assert "packages" not in (await world.client.get(f"/builds/{shown['id']}/log")).text
    world.resolver.packages = [Package("alpha", "1.0")]
    assert (await submit(world)).json()["status"] == "Completed"


async def test_requirements_that_cannot_be_read_are_refused_with_pointers(world: World) -> None:
    answer = await submit(world, {"name": "quick", "definition": {"python": {"pip": ["-r other.txt"]}}})
    assert answer.status_code == 422
    assert answer.json()["errors"]


async def test_the_log_is_text_from_any_offset(world: World) -> None:
    shown = (await submit(world)).json()
    whole = (await world.client.get(f"/builds/{shown['id']}/log")).text
    rest = (await world.client.get(f"/builds/{shown['id']}/log", params={"offset": 10})).text
    assert whole.splitlines()[-1].split(" ", 1)[1].startswith("Built sha256:")
    assert rest == whole[10:]
    assert (await world.client.get(f"/builds/{shown['id']}/log", params={"offset": 10**9})).text == ""


async def test_the_log_comes_as_events_and_goes_on_where_the_client_was(world: World) -> None:
    shown = (await submit(world, prefer="respond-async")).json()
    path = f"/builds/{shown['id']}/log"
    stream = await world.client.get(path, headers={"accept": "text/event-stream"})
    events = [block for block in stream.text.split("\n\n") if block.startswith(("id:", "event:"))]
    last = orjson.loads(events[-1].split("data: ", 1)[1])
    assert (events[-1].splitlines()[0], last["status"]) == ("event: end", "Completed")
    second = events[1].splitlines()[0].removeprefix("id: ")
    resumed = await world.client.get(path, params={"follow": True}, headers={"last-event-id": second})
    assert [block for block in resumed.text.split("\n\n") if block.startswith("id:")] == events[2:-1]


async def test_a_last_event_id_of_another_stream_is_refused(world: World) -> None:
    shown = (await submit(world)).json()
    answer = await world.client.get(f"/builds/{shown['id']}/log?follow=true", headers={"last-event-id": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_header")


async def test_the_lock_is_pylock_text(world: World) -> None:
    shown = (await submit(world)).json()
    lock = await world.client.get(f"/builds/{shown['id']}/lock")
    assert lock.headers["content-type"].startswith("text/plain")
    assert 'name = "alpha"' in lock.text


async def test_a_failed_build_has_no_lock(world: World) -> None:
    shown = (await submit(world, {"name": "q", "definition": {"python": {"pip": ["gamma"]}}})).json()
    answer = await world.client.get(f"/builds/{shown['id']}/lock")
    assert (answer.status_code, answer.json()["code"]) == (404, "lock_not_found")


async def test_a_list_shows_what_was_just_written(world: World) -> None:
    answer = await submit(world, prefer="respond-async")
    position = {"cloche-position": answer.headers["cloche-position"]}
    items = (await world.client.get("/builds", headers=position)).json()["items"]
    assert len(items) == 1
    assert items[0]["environment"].startswith("quick")


async def test_a_list_holds_the_builds_of_runs_and_pages_through_them(world: World) -> None:
    names = [f"p{number}" for number in range(3)]
    world.resolver.packages += [Package(name, "1.0") for name in names]
    for name in names:
        await world.tell(f"run/red/{name}", RunPreparing(environment=world.resolved(name)), "cloche.runs")
        await asyncio.sleep(0.002)
    async with asyncio.timeout(10):
        while len((await world.client.get("/builds")).json()["items"]) < 3:  # noqa: ASYNC110 - as a client polls
            await asyncio.sleep(0.02)
    first = (await world.client.get("/builds", params={"page_size": 2})).json()
    rest = (await world.client.get("/builds", params={"page_token": first["next_page_token"]})).json()
    assert [len(first["items"]), len(rest["items"]), rest["next_page_token"]] == [2, 1, None]


@pytest.mark.parametrize("path", ["", "/log", "/lock"])
async def test_another_project_knows_nothing_of_it(world: World, path: str) -> None:
    shown = (await submit(world)).json()
    async with world.client_of("blue") as blue:
        answers = [await blue.get(f"/builds/{name}{path}") for name in (shown["id"], shown["build_id"])]
        listed = (await blue.get("/builds")).json()["items"]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "build_not_found")] * 2
    assert listed == []
