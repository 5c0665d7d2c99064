"""The runner's surroundings for its tests: ports in memory, other services that answer, clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson

from cloche_runner.adapters.memory import MemoryAttemptFiles, MemoryDisk, MemoryNodeFiles
from cloche_runner.attempt import NodeParts
from cloche_runner.settings import RunnerSettings
from cloche_runner.wiring import NodePorts, Runner, build
from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.devices import MemoryDevices
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_executor import Life, MemoryExecutor, MemoryMachine, Program
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_peers import MemoryPeers
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.contracts.definition import Definition, Lock
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    TOPICS,
    ApiKeyIssued,
    ImageProvided,
    ImageRefused,
    ReferencesRefused,
    ReferencesResolved,
)
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import Problem, ResolvedEnvironment
from cloche_shared.http.app import AppParts, create_app
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.http.files import FILE_RULES
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.journal.commit import written
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.devices import Gpu, Offer
from cloche_shared.ports.executor import ProcessSpec
from cloche_shared.service import Platform
from cloche_shared.store.hashing import lock_bytes, lock_digest, manifest_bytes

PEPPER = b"p" * 32
LOCK = Lock(definition_hash="e1:" + "0" * 64, python="3.11.9", platform="linux-x86_64", artefacts=(), pylock="")
GIB = 2**30
OFFER = Offer(cpus=2.0, memory=4 * GIB, gpus=(Gpu("GPU-a", "H200", 141 * GIB),))


async def quick(life: Life) -> int:
    life.begin()
    life.say(b"hello\n")
    return 0


def sleeping(seconds: float, *, code: int = 0, stubborn: bool = False) -> Program:
    async def program(life: Life) -> int:
        life.stubborn = stubborn
        life.begin()
        life.say(b"begun\n")
        await asyncio.sleep(seconds)
        life.say(b"done\n")
        return code

    return program


class Cluster:
    """What outlives the runner: store, broker, blobs, a machine for each node, and the other services' answers."""

    def __init__(self, *, shared: bool = False, atomic: bool = True, delay: float = 0.0) -> None:
        self.shared = shared
        self.store = MemoryStore()
        self.broker = MemoryBroker()
        self.atomic = atomic
        self.bus = MemoryBus(self.broker, delay=delay)
        self.blobs = MemoryBlobStore()
        self.views = MemoryViews()
        self.leases = MemoryLeases()
        self.peers = MemoryPeers()
        self.random = SeededRandom(1)
        self.clock = MemoryClock()
        self.programs: dict[str, Program] = {}
        self.machines: dict[str, MemoryMachine] = {}
        self.disks: dict[str, MemoryDisk] = {}
        self.access = AccessTable(PEPPER, self.clock)
        key = issue_key(self.random, PEPPER)
        self.token = key.token
        self.access.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="admin", projects=("*",)))
        self.resolves = True
        self.builds = True
        self.copies = 1

    def platform(self) -> Platform:
        return Platform(
            journal=MemoryJournal(self.store, atomic=self.atomic),
            views=self.views,
            leases=self.leases,
            bus=self.bus,
            blobs=self.blobs,
            clock=self.clock,
            random=self.random,
            http=HttpClient(),
            access=self.access,
            installation="here",
            exclusive=not self.shared,
        )

    def program_of(self, spec: ProcessSpec) -> Program:
        return self.programs.get(Path(spec.argv[3]).name, quick)

    def node(self, name: str) -> NodePorts:
        machine = self.machines.setdefault(name, MemoryMachine(self.program_of))
        disk = self.disks.setdefault(name, MemoryDisk())
        parts = NodeParts(
            MemoryExecutor(machine), MemoryNodeFiles(disk), MemoryAttemptFiles(disk), Path("/rt/bootstrap.py")
        )
        return NodePorts(parts, MemoryDevices(OFFER))

    async def publish(self, subject: str, fact: Fact, event_id: str, *, topic: str) -> None:
        event = Event(
            id=event_id,
            type=fact_type(type(fact)),
            source="/cloche/other",
            subject=subject,
            sequence=1,
            project="default",
            time="2026-01-01T00:00:00Z",
            correlation="chain",
            data=orjson.loads(fact.model_dump_json()),
            topic=topic,
            key=subject,
        )
        await self.bus.publish([event] * self.copies)

    async def others(self) -> None:
        """Answer as the registry and the builder do."""
        async with self.bus.tail([TOPICS["run"]], from_start=True) as runs:
            while True:
                for delivery in await runs.fetch():
                    if delivery.event is not None:
                        await self._answer(delivery.event)

    async def _answer(self, event: Event) -> None:
        answer: Fact | None = None
        if event.name == "RunSubmitted" and self.resolves:
            answer = ReferencesResolved(environment=RESOLVED)
        elif event.name == "RunSubmitted":
            answer = ReferencesRefused(problem=Problem(code="environment_not_found", message="No such environment."))
        elif event.name == "RunPreparing" and self.builds:
            answer = ImageProvided(
                definition_hash=LOCK.definition_hash,
                lock_digest=lock_digest(LOCK),
                scope="public",
                target="process",
                image="cloche/x",
                reused=True,
                build_id="public-b1",
            )
        elif event.name == "RunPreparing":
            answer = ImageRefused(problem=Problem(code="solver_conflict", message="They do not fit."))
        if answer is not None:
            await self.publish(event.subject, answer, f"{event.id}!answer", topic=TOPICS["answers"])


RESOLVED = ResolvedEnvironment(
    name="sk",
    version="2",
    definition_hash=LOCK.definition_hash,
    definition=Definition(variables={"COLOUR": "red"}),
)


class Client:
    """A caller of one replica."""

    def __init__(self, cluster: Cluster, runner: Runner) -> None:
        self.cluster = cluster
        self.runner = runner
        policy = FrontPolicy(hosts=frozenset({"cloche.test", "n1.cloche.test", "n2.cloche.test"}), routes=FILE_RULES)
        front = FrontParts(access=cluster.access, clock=cluster.clock, random=cluster.random, policy=policy)
        version = Version(name="cloche", version="0", installation="here")
        app = self.app = create_app([runner.surface.router], AppParts(version=version, front=front))
        self.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://cloche.test/api/v1",
            headers={"authorization": f"Bearer {cluster.token}"},
        )

    async def snapshot(self, *paths: str) -> str:
        space = self.cluster.blobs.space("runner", "default")
        blob = await space.put_bytes(b"print()")
        files = tuple(FileEntry(path=path, digest=blob.digest, size=blob.size) for path in sorted(paths))
        return (await space.put_bytes(manifest_bytes(Manifest(files=files)))).digest

    async def post(self, path: str, body: object = None, **headers: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def get(self, path: str) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def submit(self, script: str = "train.py", **more: object) -> str:
        body = {"script": script, "snapshot": await self.snapshot(script), **more}
        answer = await self.post("/runs", body)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/v1/runs/{answer.json()['id']}"
        return str(answer.json()["id"])

    async def ended(self, run_id: str) -> Any:
        for _ in range(200):
            shown = await self.get(f"/runs/{run_id}?wait=60")
            if shown["status"] in {"Completed", "Failed", "Canceled"}:
                return shown
        raise AssertionError(shown)

    async def until(self, run_id: str, status: str) -> Any:
        for _ in range(2000):
            shown = await self.get(f"/runs/{run_id}")
            if shown["status"] == status:
                return shown
            await asyncio.sleep(0.05)
        raise AssertionError(shown)


@asynccontextmanager
async def replica(cluster: Cluster, node: str = "n1", **settings: object) -> AsyncIterator[Client]:
    """Run a replica that drives a node (an empty name: none) until the block is left."""
    ports = cluster.node(node) if node else None
    address = f"http://{node or 'none'}.cloche.test"
    elsewhere = Elsewhere(cluster.peers, cluster.leases, cluster.clock, node or "none", address)
    found = RunnerSettings(node=node, address=address, **{"log_kept_every": 3600.0, **settings})  # type: ignore[arg-type]
    runner = build(cluster.platform(), found, ports, elsewhere if cluster.shared else None)
    client = Client(cluster, runner)
    cluster.peers.apps[address] = client.app
    async with Lifecycle() as life, client.http:
        await runner.start(life)
        try:
            yield client
        finally:
            life.stop()
            if ports is not None:
                ports.parts.executor.disconnect()  # type: ignore[attr-defined]


@asynccontextmanager
async def answering(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.blobs.space("builder", "public").put_bytes(lock_bytes(LOCK))
    task = asyncio.create_task(cluster.others())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def facts_of(cluster: Cluster, run_id: str) -> list[str]:
    """Return the names of a run's facts, in order, and check its fences on the way."""
    names = []
    for key in cluster.store.keys:
        if key.startswith(f"run/default/{run_id}/"):
            commit = written(cluster.store.documents[key])
            for name, data in commit.facts:
                names.append(name.split(".")[1])
                if name.split(".")[1] == "AttemptClaimed":
                    fence = commit.seq
                if "fence" in data and name.split(".")[1] != "RunMeasured":
                    assert data["fence"] == fence
    return names


CHAIN = [
    "RunSubmitted",
    "RunPreparing",
    "RunQueued",
    "AttemptClaimed",
    "RunStarted",
    "RunFinalizing",
    "RunCompleted",
]
