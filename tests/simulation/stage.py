"""Scoring workers in memory: they outlive the deployer, become ready, fail or crash by script."""

import asyncio
import contextvars
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from cloche_deployer.domain import Revision
from cloche_deployer.scoring.ports import Link, LinkOwner, WorkerEnd
from cloche_runtime import scoring_frames as frames
from cloche_shared.errors import Failed, Unavailable
from cloche_shared.journal.commit import StreamId
from tests.simulation.record import Lived

Place = tuple[StreamId, int, int]
ORPHAN_S = 20.0


class Worker:
    """A worker process: it says `ready` or `failed` after a while, or dies."""

    def __init__(self, number: int, behaviour: str, delay: float, lived: Lived) -> None:
        self.id = f"worker-{number}"
        self.socket = f"/sim/{number}.sock"
        self.behaviour = behaviour
        self.lived = lived
        self.delay = delay
        self.ended_at: float | None = None
        self._end = asyncio.Event()
        self._losses: list[Callable[[], object]] = []
        self._owners = 0
        self._orphan: asyncio.TimerHandle | None = None

    def hold(self, change: int) -> None:
        """Gain or lose an owner; without one the worker ends after a while."""
        self._owners += change
        if self._orphan is not None:
            self._orphan.cancel()
        if not self._owners and self.ended_at is None:
            loop = asyncio.get_running_loop()
            self._orphan = loop.call_later(ORPHAN_S, self.die, context=contextvars.Context())

    def heard_by(self, owner: LinkOwner) -> None:
        """Take a connection; everything goes to its owner in the owner's own process."""
        loop = asyncio.get_running_loop()
        mine = contextvars.copy_context()
        self._losses.append(lambda: loop.call_soon(owner.lost, context=mine))
        if self.behaviour == "dies":
            loop.call_later(self.delay, self.die, context=contextvars.Context())
            return
        ready = self.behaviour != "fails"
        payload = {"headers": False, "methods": False} if ready else FAILURE
        kind = frames.READY if ready else frames.FAILED
        loop.call_later(self.delay, owner.received, kind, 0, orjson.dumps(payload))

    def die(self) -> None:
        """End the process."""
        if self.ended_at is None:
            self.ended_at = self.lived.ended = asyncio.get_running_loop().time()
            self._end.set()
            for lost in self._losses:
                lost()

    async def ended(self) -> WorkerEnd:
        await self._end.wait()
        return WorkerEnd("it was ended")

    async def stop(self, *, grace: float) -> None:
        self.die()


FAILURE: dict[str, Any] = {"code": "init_failed", "what": "init() raised.", "traceback": "ValueError", "todo": ""}


class _Link:
    def __init__(self, worker: Worker, owner: LinkOwner) -> None:
        self._worker = worker
        self._owner = owner

    def send(self, frame: bytes) -> None:
        if self._worker.ended_at is None:
            asyncio.get_running_loop().call_soon(self._owner.received, frames.PONG, 0, b"")

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self._owner.lost)


class Workshop:
    """What a machine has of scoring workers, and their scripts. `lived` gets every worker."""

    def __init__(self, seed: str, node: str, lived: list[Lived]) -> None:
        self._seed = seed
        self._node = node
        self._lived = lived
        self._numbers = itertools.count(1)
        self.workers: dict[Place, list[Worker]] = {}

    def behaviour(self, place: Place) -> str:
        """Return what a revision's workers do, always the same for a revision."""
        draw = random.Random(f"{self._seed}/{place[0]}/{place[1]}/{place[2]}")
        return draw.choices(("serves", "fails", "dies", "cannot be prepared"), (6, 1, 1, 1))[0]

    def living(self, place: Place) -> list[Worker]:
        """Return a revision's living workers."""
        return [worker for worker in self.workers.get(place, ()) if worker.ended_at is None]

    def begin(self, place: Place, gpus: tuple[str, ...]) -> Worker:
        """Start a worker."""
        number = next(self._numbers)
        delay = random.Random(f"{self._seed}/{self._node}/{number}").uniform(0.0, 2.0)
        lived = Lived(self._node, f"{place[0]}#{place[2]}", gpus, asyncio.get_running_loop().time())
        self._lived.append(lived)
        worker = Worker(number, self.behaviour(place), delay, lived)
        self.workers.setdefault(place, []).append(worker)
        return worker

    def end_all(self) -> None:
        """End every worker, as when the machine goes down."""
        for workers in self.workers.values():
            for worker in workers:
                worker.die()

    def at(self, socket: str) -> Worker | None:
        """Return the living worker that listens there."""
        found = (worker for workers in self.workers.values() for worker in workers)
        return next((one for one in found if one.socket == socket and one.ended_at is None), None)


class _Workers:
    def __init__(self, stage: "MemoryStage", place: Place, gpus: tuple[str, ...]) -> None:
        self._stage = stage
        self._place = place
        self._gpus = gpus

    async def adopt(self) -> Sequence[Worker]:
        await asyncio.sleep(0)
        return [self._stage.hold(worker) for worker in self._stage.workshop.living(self._place)]

    async def start(self) -> Worker:
        await asyncio.sleep(0)
        return self._stage.hold(self._stage.workshop.begin(self._place, self._gpus))

    def log(self) -> bytes:
        return b""

    def note(self, sentence: str) -> None:
        """Keep no log."""

    async def tail(self) -> bytes:
        return b""

    async def follow(self) -> AsyncIterator[bytes]:
        yield b""

    async def clear(self) -> None:
        """Forget nothing: nothing lies on a disk."""


class MemoryStage:
    """A deployer's hold on the machine."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._held: dict[str, Worker] = {}

    def hold(self, worker: Worker) -> Worker:
        """Own a worker from now on."""
        if worker.id not in self._held:
            self._held[worker.id] = worker
            worker.hold(1)
        return worker

    def disconnect(self) -> None:
        """Let go, because the owner died."""
        for worker in self._held.values():
            worker.hold(-1)
        self._held.clear()

    async def prepare(self, service: StreamId, incarnation: int, revision: Revision) -> _Workers:
        await asyncio.sleep(0)
        place = (service, incarnation, revision.number)
        if self.workshop.behaviour(place) == "cannot be prepared":
            raise Failed("disk_full", "The node has no room for the environment.")
        return _Workers(self, place, revision.gpus)

    async def end(self, service: StreamId, incarnation: int, revision: int) -> None:
        await asyncio.sleep(0)
        for worker in self.workshop.living((service, incarnation, revision)):
            worker.die()

    async def sweep(self, keep: set[Place]) -> None:
        await asyncio.sleep(0)
        for place, workers in self.workshop.workers.items():
            for worker in workers:
                if place in keep and worker.ended_at is None:
                    self.hold(worker)
                else:
                    worker.die()


class MemoryConnector:
    """Connections to workers in memory."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    async def connect(self, path: str, owner: LinkOwner) -> Link:
        await asyncio.sleep(0)
        worker = self._workshop.at(path)
        if worker is None:
            raise Unavailable("worker_unreachable", "Nobody listens there.")
        worker.heard_by(owner)
        return _Link(worker, owner)
