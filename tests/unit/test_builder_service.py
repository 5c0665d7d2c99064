"""The whole builder on memory ports, in virtual time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from cloche_builder.adapters.memory_logs import MemoryLogs
from cloche_builder.domain.names import shown_id
from cloche_builder.settings import BuilderSettings
from cloche_builder.wiring import BuilderService, OwnPorts, build
from cloche_shared.access import AccessTable
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_node_files import MemoryNodeFiles
from cloche_shared.adapters.memory_resolver import MemoryIndexHttp, MemoryResolver, Package
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.contracts.definition import Definition, Lock, PipOptions, PythonSection
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    BuildSubmitted,
    ReferencesResolved,
    RunCanceled,
    RunPreparing,
)
from cloche_shared.contracts.references import EnvironmentRef, References, ResolvedEnvironment
from cloche_shared.errors import NotFound, Unavailable
from cloche_shared.journal.commit import Actor, Origin, StreamId, written
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.journal import Lease, Leases
from cloche_shared.ports.resolver import Resolution, Say
from cloche_shared.service import Platform
from cloche_shared.store.hashing import definition_hash

pytestmark = pytest.mark.looptime

PRIVATE = PipOptions(index_url="https://packages.corp.example/simple")


def environment(*pip: str, options: PipOptions | None = None, name: str = "quickstart") -> ResolvedEnvironment:
    definition = Definition(
        python=PythonSection(pip=pip, pip_options=options or PipOptions()), variables={"COLOR": "green"}
    )
    return ResolvedEnvironment(
        name=name,
        version="1",
        definition_hash=definition_hash(definition, platform="linux-x86_64"),
        definition=definition,
    )


ENVIRONMENT = environment("alpha", "beta")


class Index(MemoryResolver):
    """An index in memory whose solver takes `seconds`; `solved` counts how often it was asked."""

    def __init__(self, seconds: float, **versions: str) -> None:
        super().__init__()
        self.seconds = seconds
        self.solved = 0
        self.offer(**versions)

    def offer(self, **versions: str) -> None:
        self.packages.extend(Package(name, version) for name, version in versions.items())

    async def resolve(self, definition: Definition, say: Say) -> Resolution:
        self.solved += 1
        await say(f"Resolving {len(definition.python.pip)} requirements")
        await asyncio.sleep(self.seconds)
        return await super().resolve(definition, say)


class StubbornIndex(Index):
    """Its first solving cannot be stopped: like a builder that was suspended and goes on too late."""

    async def resolve(self, definition: Definition, say: Say) -> Resolution:
        if self.solved:
            return await super().resolve(definition, say)
        self.solved += 1
        until = asyncio.get_running_loop().time() + self.seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        self.offer(alpha="6.6")
        return await MemoryResolver.resolve(self, definition, say)


class CutOff(NoFaults):
    """Nothing reaches the store of leases between two moments of the loop's time."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    async def before(self, call: str) -> None:
        if call == "put" and self.start <= asyncio.get_running_loop().time() < self.end:
            raise Unavailable("store_unavailable", "The store does not answer.")


@dataclass
class World:
    """What outlives a builder's process."""

    index: Index = field(default_factory=lambda: Index(5.0, alpha="1.0", beta="2.0"))
    store: MemoryStore = field(default_factory=MemoryStore)
    views: MemoryViews = field(default_factory=MemoryViews)
    leases: MemoryLeases = field(default_factory=MemoryLeases)
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    logs: MemoryLogs = field(default_factory=MemoryLogs)
    clock: MemoryClock = field(default_factory=MemoryClock)
    started: int = 0

    def service(self, holder: str = "one", leases: Leases | None = None) -> BuilderService:
        self.started += 1
        platform = Platform(
            journal=MemoryJournal(self.store),
            views=self.views,
            leases=leases or self.leases,
            bus=MemoryBus(self.broker),
            blobs=self.blobs,
            clock=self.clock,
            random=SeededRandom(self.started),
            http=MemoryIndexHttp(self.index),
            access=AccessTable(b"p" * 32, self.clock),
            installation="test",
        )
        settings = BuilderSettings(platform="linux-x86_64", default_python="3.11")
        node = MemoryNodeFiles()
        return build(platform, settings, OwnPorts(self.index, self.logs, holder, prove=node.prefix, warm=node.warm))

    @asynccontextmanager
    async def running(self, holder: str = "one", leases: Leases | None = None) -> AsyncIterator[BuilderService]:
        service = self.service(holder, leases)
        async with Lifecycle() as life:
            await service.start(life)
            yield service
            assert not life.stopping, "a task died"

    async def tell(self, subject: str, fact: Fact, *, topic: str = "cloche.runs", sequence: int = 2) -> Event:
        kind, project, name = subject.split("/")
        event = Event(
            id=f"{subject}/{sequence:012d}#0",
            type=fact_type(type(fact)),
            source="/cloche/test",
            subject=f"{kind}/{project}/{name}",
            sequence=sequence,
            project=project,
            time="2026-01-01T00:00:00Z",
            correlation=f"chain of {name}",
            data=fact.model_dump(mode="json"),
            topic=topic,
            key=subject,
        )
        await self.again([event])
        return event

    async def again(self, events: Sequence[Event]) -> None:
        await MemoryBus(self.broker).publish(events)

    async def prepare(self, run: str, wanted: ResolvedEnvironment = ENVIRONMENT, project: str = "default") -> Event:
        return await self.tell(f"run/{project}/{run}", RunPreparing(environment=wanted))

    def answers(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (whom, type's name, data) of every answer."""
        found = [written(document) for key, document in self.store.documents.items() if key.startswith("answers/")]
        return [(one.reply_to, kind.split(".")[1], dict(data)) for one in found for kind, data in one.facts]

    async def lock(self, digest: str) -> Lock:
        return Lock.model_validate_json(await self.blobs.space("builder", "public").read_bytes(digest))

    def facts(self, kind: str = "build") -> list[str]:
        """Return the names of what was recorded, in order per aggregate."""
        found = [written(self.store.documents[key]) for key in self.store.keys if key.startswith(f"{kind}/")]
        return [name.split(".")[1] for one in found for name, _ in one.facts]

    async def answered(self, count: int, seconds: float = 120.0) -> list[tuple[str, str, dict[str, Any]]]:
        async with asyncio.timeout(seconds):
            while len(self.answers()) < count:  # noqa: ASYNC110 - the store in memory tells nobody
                await asyncio.sleep(0.1)
        return self.answers()


async def test_fifty_askers_share_one_build_and_each_gets_one_answer() -> None:
    world = World()
    async with world.running():
        for number in range(50):
            await world.prepare(f"r{number}")
        answers = await world.answered(50)
        await asyncio.sleep(30)
    assert world.facts().count("ImageBuildStarted") == 1
    assert sorted(whom for whom, _, _ in world.answers()) == sorted(f"run/default/r{n}" for n in range(50))
    assert {(kind, data["reused"]) for _, kind, data in answers} == {("ImageProvided", False)}
    assert world.index.solved == 1


async def test_what_was_built_is_provided_at_once() -> None:
    world = World()
    async with world.running():
        await world.prepare("first")
        await world.answered(1)
        await world.prepare("second")
        answers = await world.answered(2, seconds=1.0)
    assert [data["reused"] for whom, _, data in answers if whom == "run/default/second"] == [True]
    assert world.facts() == ["ImageRequested", "ImageBuildStarted", "ImageBuilt"]


async def test_an_image_whose_artefact_is_gone_is_restored_from_its_lock() -> None:
    world = World()
    async with world.running():
        await world.prepare("first")
        first = (await world.answered(1))[0][2]
        blobs = world.blobs.space("builder", "public")
        gone = (await world.lock(first["lock_digest"])).artefacts[0].digest
        await blobs.delete(gone)
        world.index.offer(alpha="1.1", beta="2.1")
        await world.prepare("second")
        answers = await world.answered(2)
    second = next(data for whom, _, data in answers if whom == "run/default/second")
    assert (second["lock_digest"], second["reused"]) == (first["lock_digest"], False)
    assert not await blobs.missing([gone])
    assert "ImageEvicted" in world.facts()


async def test_a_failure_is_repeated_within_the_backoff_and_tried_again_after_it() -> None:
    world = World()
    wanted = environment("gamma")
    async with world.running():
        await world.prepare("first", wanted)
        await world.answered(1)
        await world.prepare("second", wanted)
        answers = await world.answered(2, seconds=1.0)
        assert world.index.solved == 1
        await asyncio.sleep(11)
        await world.prepare("third", wanted)
        await world.answered(3)
    problems = [data["problem"] for _, kind, data in answers if kind == "ImageRefused"]
    assert [(p["code"], p["extra"]) for p in problems] == [("package_not_found", {"package": "gamma"})] * 2
    assert world.index.solved == 2


async def test_the_log_of_a_failed_build_is_kept() -> None:
    world = World()
    async with world.running() as service:
        await world.prepare("first", environment("gamma"))
        answer = (await world.answered(1))[0][2]
        found = await service.reader.find(str(answer["build_id"]), "default")
        log = b"".join([piece.data async for piece in service.reader.log(found)]).decode()
    assert "Resolving 1 requirements" in log
    assert "Failed (package_not_found): The package gamma does not exist" in log


async def test_a_build_whose_builder_died_is_taken_over_after_its_lease() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    async with world.running("one"):
        await world.prepare("first")
        await asyncio.sleep(2)
    died = loop.time()
    async with world.running("two"):
        await world.answered(1)
    assert 11 <= loop.time() - died <= 11 + 5 + 6
    assert world.facts().count("ImageBuildStarted") == 2
    assert world.facts().count("ImageBuilt") == 1


class OwnLeases(MemoryLeases):
    """One builder's connection to leases that others see too; it is cut between two moments."""

    def __init__(self, shared: MemoryLeases, start: float, end: float) -> None:
        super().__init__(faults=CutOff(start, end))
        self._shared = shared

    async def put(self, lease: Lease) -> None:
        await super().put(lease)
        await self._shared.put(lease)

    async def get(self, holder: str) -> Lease | None:
        return await self._shared.get(holder)

    async def all(self) -> list[Lease]:
        return await self._shared.all()


async def test_a_builder_that_cannot_renew_stops_before_others_take_over() -> None:
    world = World(index=Index(30.0, alpha="1.0", beta="2.0"))
    now = asyncio.get_running_loop().time
    cut = OwnLeases(world.leases, now() + 2, now() + 200)
    async with world.running("one", cut) as service:
        await world.prepare("first")
        await asyncio.sleep(1)
        assert await service.surface.checks["builder lease"]() is None
        began = now()
        async with asyncio.timeout(30):
            while await service.surface.checks["builder lease"]() is None:  # noqa: ASYNC110 - a probe polls
                await asyncio.sleep(0.1)
        assert now() - began < 10
        async with world.running("two"):
            await asyncio.sleep(10.5)
            assert world.facts().count("ImageBuildStarted") == 1
            await world.answered(1)
    assert world.facts().count("ImageBuilt") == 1


async def test_the_result_of_a_builder_that_was_taken_over_is_refused() -> None:
    world = World(index=StubbornIndex(40.0, alpha="1.0", beta="2.0"))
    now = asyncio.get_running_loop().time
    cut = OwnLeases(world.leases, now() + 2, now() + 200)
    async with world.running("one", cut):
        await world.prepare("first")
        await asyncio.sleep(3)
        async with world.running("two"):
            world.index.seconds = 5.0
            answers = await world.answered(1)
            await asyncio.sleep(60)
    built = [fact for fact in world.facts() if fact != "ImageRequested"]
    assert built == ["ImageBuildStarted", "ImageBuildStarted", "ImageBuilt"]
    assert len(world.answers()) == 1
    lock = await world.lock(str(answers[0][2]["lock_digest"]))
    assert [artefact.version for artefact in lock.artefacts] == ["1.0", "2.0"]


async def test_a_builder_that_comes_back_goes_on_at_once() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    async with world.running("one"):
        await world.prepare("first")
        await asyncio.sleep(2)
    died = loop.time()
    async with world.running("one") as service:
        answer = (await world.answered(1))[0][2]
        found = await service.reader.find(str(answer["build_id"]), "default")
        log = b"".join([piece.data async for piece in service.reader.log(found)]).decode()
    assert loop.time() - died < 6
    assert "attempt 1" in log
    assert "attempt 2" in log


async def test_the_cancel_of_the_only_waiter_stops_the_build() -> None:
    world = World()
    async with world.running() as service:
        await world.prepare("first")
        await asyncio.sleep(2)
        await world.tell("run/default/first", RunCanceled(), sequence=3)
        await asyncio.sleep(20)
        stream = StreamId.parse(next(key for key in world.store.keys if key.startswith("build/")))
        found = await service.reader.find(shown_id(stream), "default")
    assert world.facts() == ["ImageRequested", "ImageBuildStarted", "ImageReleased", "ImageBuildFailed"]
    assert [(kind, data["problem"]["code"]) for _, kind, data in world.answers()] == [
        ("ImageRefused", "request_withdrawn")
    ]
    assert found.shown("default").problem is not None


async def test_the_cancel_of_one_of_two_waiters_changes_nothing_for_the_other() -> None:
    world = World()
    async with world.running():
        await world.prepare("first")
        await world.prepare("second")
        await asyncio.sleep(2)
        await world.tell("run/default/first", RunCanceled(), sequence=3)
        answers = await world.answered(2)
    assert {(whom, kind) for whom, kind, _ in answers} == {
        ("run/default/first", "ImageRefused"),
        ("run/default/second", "ImageProvided"),
    }
    assert world.facts().count("ImageBuildStarted") == 1


async def test_every_event_again_changes_nothing() -> None:
    world = World()
    async with world.running():
        events = [await world.prepare("first"), await world.prepare("second", environment("gamma"))]
        await world.answered(2)
        events.append(await world.tell("run/default/third", RunCanceled(), sequence=3))
        await asyncio.sleep(15)
        own = [
            delivery.event
            for topic in ("cloche.builds", "cloche.answers")
            for part in world.broker.partitions(topic)
            for delivery in part.log
            if delivery.event is not None
        ]
        before = dict(world.store.documents)
        await world.again([*events, *own, *events, *own])
        await asyncio.sleep(30)
    assert world.store.documents == before


async def test_a_private_build_is_for_its_project_alone() -> None:
    world = World()
    wanted = environment("alpha", options=PRIVATE)
    async with world.running() as service:
        await world.prepare("mine", wanted, "red")
        mine = (await world.answered(1))[0][2]
        await world.prepare("theirs", wanted, "blue")
        await world.answered(2)
        with pytest.raises(NotFound):
            await service.reader.find(str(mine["build_id"]), "green")
    assert {data["scope"] for _, _, data in world.answers()} == {"red", "blue"}
    assert world.facts().count("ImageBuildStarted") == 2


async def test_a_public_build_is_shared_but_known_only_to_projects_that_asked() -> None:
    world = World()
    async with world.running() as service:
        await world.prepare("mine", project="red")
        mine = (await world.answered(1))[0][2]
        with pytest.raises(NotFound):
            await service.reader.find(str(mine["build_id"]), "blue")
        await world.prepare("theirs", project="blue")
        await world.answered(2)
        seen = await service.reader.find(str(mine["build_id"]), "blue")
    assert seen.shown("blue").environment == "quickstart:1"
    assert world.facts().count("ImageBuildStarted") == 1
    assert not any(b"green" in document.body for key, document in world.store.documents.items() if "build/" in key)


async def ask_by_name(world: World, service: BuilderService, request: str, *, refresh: bool = False) -> None:
    wanted = BuildSubmitted(references=References(environment=EnvironmentRef(name="quickstart")), refresh=refresh)
    await service.requests.submit("default", request, wanted, Origin(Actor("key:test"), "chain"))
    resolved = ReferencesResolved(environment=ENVIRONMENT)
    await world.tell(f"buildrequest/default/{request}", resolved, topic="cloche.answers", sequence=1)


async def test_a_request_by_name_goes_from_references_to_a_lock() -> None:
    world = World()
    async with world.running() as service:
        await ask_by_name(world, service, "req1")
        found = await service.reader.wait("req1", "default", 60)
        lock = await service.reader.lock(found)
        rows = await world.views.page("builds", "default", facet="shown")
    assert found.shown("default").status == "Completed"
    assert [artefact.name for artefact in lock.artefacts] == ["alpha", "beta"]
    assert [row.key for row in rows] == [found.shown("default").build_id]
    assert world.facts("buildrequest") == ["BuildSubmitted", "BuildAssigned", "BuildCompleted"]


async def test_refresh_makes_another_lock_and_keeps_the_old_one() -> None:
    world = World()
    async with world.running() as service:
        await ask_by_name(world, service, "req1")
        old = await service.reader.lock(await service.reader.wait("req1", "default", 60))
        world.index.offer(alpha="1.1")
        await ask_by_name(world, service, "req2")
        same = await service.reader.lock(await service.reader.wait("req2", "default", 60))
        await ask_by_name(world, service, "req3", refresh=True)
        new = await service.reader.lock(await service.reader.wait("req3", "default", 60))
        kept = await service.reader.lock(await service.reader.find("req1", "default"))
    assert (same, kept) == (old, old)
    assert [artefact.version for artefact in new.artefacts] == ["1.1", "2.0"]


async def test_an_explicit_request_builds_again_within_the_backoff() -> None:
    world = World(index=Index(1.0, alpha="1.0"))
    async with world.running() as service:
        await world.prepare("first")
        await world.answered(1)
        world.index.offer(beta="2.0")
        await ask_by_name(world, service, "req1")
        found = await service.reader.wait("req1", "default", 60)
    assert found.shown("default").status == "Completed"


async def test_the_live_log_comes_as_it_is_written_and_ends_with_the_build() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    seen: list[tuple[float, bytes]] = []
    async with world.running() as service:
        await ask_by_name(world, service, "req1")
        started = loop.time()
        async for piece in service.reader.follow("req1", "default"):
            seen.extend((loop.time() - started, line) for line in piece.data.splitlines())
    assert seen[0][0] < 1.5
    assert b"Resolving" in seen[1][1]
    assert seen[-1][0] >= 5
    assert b"Built sha256:" in seen[-1][1]
