"""A driver on scripted workers: what a worker answers, how long it takes, and when it crashes."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloche_deployer.domain import (
    Revision,
    ServiceState,
    decide_delete,
    decide_deploy,
    decide_placed,
    decide_provided,
    decide_resolved,
    decide_update,
)
from cloche_deployer.driver import Driver
from cloche_deployer.handlers import KIND
from cloche_deployer.scoring.calls import Call
from cloche_deployer.scoring.pool import WorkerPool
from cloche_deployer.scoring.ports import LinkOwner, WorkerEnd
from cloche_deployer.scoring.target import RoutingTable
from cloche_deployer.settings import DeployerSettings
from cloche_runtime import scoring_frames as frames
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.facts import ImageProvided, ReferencesResolved, ReplicaAllocated
from cloche_shared.contracts.references import References, ResolvedEnvironment
from cloche_shared.contracts.services import ServiceSpec
from cloche_shared.errors import Unavailable
from cloche_shared.journal.commit import Actor, Origin, StreamId, written
from cloche_shared.journal.streams import Decision, Streams
from cloche_shared.journal.writer import Writer

DIGEST = "sha256:" + "0" * 64
ENVIRONMENT = ResolvedEnvironment(name="e", version="1", definition_hash="e1:0", definition=Definition())
RESOLVED = ReferencesResolved(environment=ENVIRONMENT)
PROVIDED = ImageProvided(
    definition_hash="e1:0", lock_digest=DIGEST, scope="public", target="process", image="i", reused=True
)
ALLOCATED = ReplicaAllocated(node="n", holder="service/default/iris#1.0", gpus=("GPU-1",))


def allocated(state: ServiceState) -> ReplicaAllocated:
    """Return the runner's answer to the newest revision's request."""
    place = f"{state.latest}.{state.places.get(state.latest, 0)}"
    return ALLOCATED.model_copy(update={"holder": f"service/default/iris#{place}"})


HELLO = {"ready": True, "headers": False, "methods": False}
ORIGIN = Origin(Actor("test"), correlation="test")


@dataclass
class Worker:
    """A worker that takes `seconds` for each call."""

    id: str
    seconds: float
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    owner: LinkOwner | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def socket(self) -> str:
        return self.id

    async def ended(self) -> WorkerEnd:
        await self.gone.wait()
        return WorkerEnd("it exited with code 1", "Traceback: boom")

    async def stop(self, *, grace: float) -> None:
        self.crash()

    def crash(self) -> None:
        """End at once."""
        self.gone.set()
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.lost()

    def send(self, frame: bytes) -> None:
        for kind, number, _ in frames.FrameReader().feed(frame):
            if kind == frames.REQUEST:
                task = asyncio.create_task(self._answer(number))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _answer(self, number: int) -> None:
        await asyncio.sleep(self.seconds)
        if self.owner is not None:
            packed = frames.pack_response(number, 200, body=b"1")
            ((kind, number, payload),) = frames.FrameReader().feed(packed)
            self.owner.received(kind, number, payload)

    def close(self) -> None:
        self.crash()


class Revisions:
    """The workers of one revision."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._number = number
        self.workers: list[Worker] = []
        self.cleared = False

    async def adopt(self) -> Sequence[Worker]:
        return []

    async def start(self) -> Worker:
        if self._world.breaks:
            raise self._world.breaks
        worker = Worker(f"r{self._number}-{len(self.workers)}", self._world.seconds)
        self.workers.append(worker)
        self._world.workers[worker.id] = worker
        return worker

    def log(self) -> bytes:
        return b""

    def note(self, sentence: str) -> None:
        """Keep no log."""

    async def tail(self) -> bytes:
        return b""

    async def follow(self) -> AsyncIterator[bytes]:
        yield b""

    async def clear(self) -> None:
        self.cleared = True


class World:
    """One service's driver; `sick` revisions have workers that end as soon as they begin."""

    def __init__(self, **settings: float) -> None:
        self.seconds = 0.0
        self.breaks: Exception | None = None
        self.sick: set[int] = set()
        self.workers: dict[str, Worker] = {}
        self.revisions: dict[int, Revisions] = {}
        self.store = MemoryStore()
        self.routes = RoutingTable()
        writer = Writer(MemoryJournal(self.store), MemoryClock(), SeededRandom(1))
        self.streams: Streams[ServiceState] = Streams(KIND, writer, exclusive=True)
        self.stream = self.streams.id("default", "svc")
        self.driver = Driver(
            self.streams,
            self,
            self,
            self.routes,
            DeployerSettings(**settings),  # type: ignore[arg-type]
            pepper=b"p" * 32,
            base_url=lambda: "",
            origin_of=self._origin,
            node=ALLOCATED.node,
        )

    async def _origin(self, stream: StreamId, revision: int) -> Origin:
        return Origin(Actor("service:deployer"), correlation=f"{stream}#{revision}")

    async def prepare(self, service: StreamId, incarnation: int, revision: Revision) -> Revisions:
        found = self.revisions[revision.number] = Revisions(self, revision.number)
        return found

    async def end(self, service: StreamId, incarnation: int, revision: int) -> None:
        """Nothing is left by a former owner."""

    async def sweep(self, keep: set[tuple[StreamId, int, int]]) -> None:
        """Nothing was left."""

    async def connect(self, path: str, owner: LinkOwner) -> Worker:
        worker = self.workers[path]
        if worker.gone.is_set():
            raise Unavailable("worker_unreachable", "It has ended.")
        worker.owner = owner
        payload = json.dumps(HELLO).encode()
        loop = asyncio.get_running_loop()
        loop.call_soon(owner.received, frames.READY, 0, payload)
        if int(path[1:].partition("-")[0]) in self.sick:
            loop.call_later(0.5, worker.crash)
        return worker

    async def state(self) -> ServiceState:
        return (await self.streams.get(self.stream)).state

    def facts(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return every fact of the service, in order."""
        return [fact for key in self.store.keys for fact in written(self.store.documents[key]).facts]

    async def deploy(self, *, placed: bool = True, wake: bool = True, **fields: object) -> None:
        """Ask for a revision and take it as far as its workers; without `wake` the driver does not hear of it."""
        spec = ServiceSpec.model_validate({"entry_script": "score.py", "snapshot": DIGEST, **fields})
        state = await self.state()
        decide = decide_update if state.exists else decide_deploy
        await self.change(lambda found: decide(found, spec, References()))
        await self.change(lambda found: decide_resolved(found, found.latest, RESOLVED))
        await self.change(lambda found: decide_provided(found, found.latest, PROVIDED))
        if placed and spec.resources.gpus:
            await self.change(lambda found: decide_placed(found, found.latest, allocated(found)))
        if wake:
            self.driver.wake(self.stream)

    async def delete(self) -> None:
        await self.change(decide_delete)
        self.driver.wake(self.stream)

    async def change(self, decide: "Decide") -> None:
        await self.streams.change(self.stream, ORIGIN, decide)

    def pool(self) -> WorkerPool:
        found = self.driver.active_pool(self.stream)
        assert found is not None
        return found

    def call(self) -> Call:
        """Begin a scoring request."""

        async def watch() -> None:
            await asyncio.Event().wait()

        call = Call(b"id", b"", b"1", watch)
        self.pool().submit(call)
        return call


class Decide(Protocol):
    """A decision on the service's state."""

    def __call__(self, state: ServiceState) -> Decision: ...
