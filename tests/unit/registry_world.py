"""A registry on ports in memory, with its clients and the other services' facts."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson

from cloche_registry.settings import RegistrySettings
from cloche_registry.wiring import build
from cloche_shared.access import AccessTable
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.envelope import Event
from cloche_shared.contracts.fact import Fact, fact_type
from cloche_shared.contracts.facts import (
    TOPICS,
    RunCompleted,
    RunStarted,
    RunSubmitted,
)
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import References, ResolvedEnvironment
from cloche_shared.contracts.runs import Ended, RunSpec
from cloche_shared.http.app import AppParts, create_app
from cloche_shared.http.files import FILE_RULES
from cloche_shared.http.front import FrontParts
from cloche_shared.http.health import Version
from cloche_shared.http.policy import FrontPolicy
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.service import Platform
from cloche_shared.store.hashing import manifest_bytes

PEPPER = b"p" * 32
TOKEN = "cloche_abcdef0123456789_0123456789abcdefghijklmnopqrstuv"
DIGEST = "sha256:" + "a" * 64
SPEC = RunSpec(script="train.py", snapshot=DIGEST)
SKLEARN = {"python": {"version": "3.11", "pip": ["scikit-learn==1.5.2"]}}


class World:
    """A registry, a broker that outlives it, and a client."""

    def __init__(self, *, atomic: bool = True, exclusive: bool = False, delay: float = 0.0) -> None:
        clock, random = SystemClock(), SystemRandom()
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, delay=delay)
        self.blobs = MemoryBlobStore()
        self.store = MemoryStore()
        self.access = AccessTable(PEPPER, clock)
        self.platform = Platform(
            journal=MemoryJournal(self.store, atomic=atomic),
            views=MemoryViews(),
            leases=MemoryLeases(),
            bus=self.bus,
            blobs=self.blobs,
            clock=clock,
            random=random,
            http=HttpClient(),
            access=self.access,
            installation="here",
            exclusive=exclusive,
        )
        self.registry = build(self.platform, RegistrySettings(default_python="3.11", platform="linux-x86_64"), PEPPER)
        policy = FrontPolicy(hosts=frozenset({"cloche.test"}), routes=FILE_RULES)
        front = FrontParts(access=self.access, clock=clock, random=random, policy=policy)
        version = Version(name="cloche", version="0", installation="here")
        self.app = create_app([self.registry.surface.router], AppParts(version=version, front=front))
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.app),
            base_url="http://cloche.test/api/v1",
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        self.asked = 0

    async def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        return await self.client.post(path, json=body, headers=headers)

    async def register(self, name: str, definition: object = None, **headers: str) -> dict[str, Any]:
        answer = await self.post("/environments", {"name": name, "definition": definition or {}}, **headers)
        assert answer.status_code in {200, 201}, answer.text
        return {**answer.json(), "status": answer.status_code}

    async def happens(self, subject: str, fact: Fact, sequence: int = 1, project: str = "default") -> Event:
        """Publish a fact of another service."""
        event = Event(
            id=f"{subject}/{sequence:012d}#0",
            type=fact_type(type(fact)),
            source="/cloche/runner",
            subject=subject,
            sequence=sequence,
            project=project,
            time="2026-01-01T00:00:00Z",
            correlation="chain",
            data=orjson.loads(fact.model_dump_json()),
            topic=TOPICS[subject.partition("/")[0]],
            key=subject,
            actor="key:somebody",
        )
        await self.bus.publish([event])
        return event

    async def ask(self, references: Mapping[str, object]) -> Event:
        """Submit a run with these references; return the one answer."""
        self.asked += 1
        subject = f"run/default/r{self.asked}"
        fact = RunSubmitted(spec=SPEC, references=References.model_validate_json(orjson.dumps(references)))
        async with self.bus.tail([TOPICS["answers"]]) as answers:
            await self.happens(subject, fact)
            await self.happens(subject, fact)
            [delivery] = await answers.fetch()
        assert delivery.event is not None
        assert delivery.event.subject == subject
        assert delivery.event.causation == f"{subject}/000000000001#0"
        return delivery.event

    async def upload(self, *contents: tuple[str, bytes]) -> str:
        """Send files and their manifest to the registry."""
        entries = []
        for path, content in contents:
            digest = digest_of(content)
            answer = await self.client.put(f"/files/models/{digest}", content=content)
            assert answer.status_code in {200, 201}
            entries.append(FileEntry(path=path, digest=digest, size=len(content)))
        raw = manifest_bytes(Manifest(files=tuple(entries)))
        assert (await self.client.put(f"/files/models/{digest_of(raw)}", content=raw)).status_code in {200, 201}
        return digest_of(raw)

    async def run_ends(self, run_id: str, files: Mapping[str, bytes], project: str = "default") -> None:
        """Let a run end whose outputs are these files."""
        space = self.blobs.space("runner", project)
        entries = [
            FileEntry(path=path, digest=(await space.put_bytes(content)).digest, size=len(content))
            for path, content in files.items()
        ]
        outputs = (await space.put_bytes(manifest_bytes(Manifest(files=tuple(entries))))).digest
        environment = ResolvedEnvironment(
            name="sk", version="2", definition_hash="e1:" + "0" * 64, definition=Definition()
        )
        fact = RunCompleted(outputs=outputs, ended=Ended(ending="exited", code=0), environment=environment)
        await self.happens(f"run/{project}/{run_id}", RunStarted(attempt=1, fence=2), 6, project)
        await self.happens(f"run/{project}/{run_id}", fact, 7, project)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def listed(world: World, path: str, position: str) -> list[str]:
    answer = await world.client.get(path, headers={"cloche-position": position})
    assert answer.status_code == 200
    return [item["name"] for item in answer.json()["items"]]


@asynccontextmanager
async def started(*, delay: float = 0.0, exclusive: bool = False) -> AsyncIterator[World]:
    """Start a registry with a first key."""
    made = World(atomic=exclusive, exclusive=exclusive, delay=delay)
    await made.registry.ensure_bootstrap_key(TOKEN)
    async with Lifecycle() as life, made.client:
        await made.registry.start(life)
        yield made
        life.stop()
