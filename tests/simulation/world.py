"""The world of one history: stores, broker and machines that last, and service processes that do not."""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter

import cloche_builder.wiring as builder_wiring
import cloche_deployer.wiring as deployer_wiring
import cloche_registry.wiring as registry_wiring
import cloche_runner.wiring as runner_wiring
from cloche_builder.adapters.memory_logs import MemoryLogs
from cloche_builder.settings import BuilderSettings
from cloche_deployer.settings import DeployerSettings
from cloche_registry.settings import RegistrySettings
from cloche_runner.adapters.memory import MemoryAttemptFiles, MemoryNodeFiles
from cloche_runner.attempt import NodeParts
from cloche_runner.settings import RunnerSettings
from cloche_shared.access import AccessTable
from cloche_shared.adapters.devices import MemoryDevices
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_bus import MemoryBroker, MemoryBus
from cloche_shared.adapters.memory_journal import MemoryJournal
from cloche_shared.adapters.memory_leases import MemoryLeases
from cloche_shared.adapters.memory_resolver import MemoryIndexHttp, MemoryResolver, Package
from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.system_clock import MemoryClock
from cloche_shared.adapters.system_random import SeededRandom
from cloche_shared.bus import dispatch
from cloche_shared.contracts.definition import Definition
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.notes import MEMBERS
from cloche_shared.ports.devices import Gpu, Offer
from cloche_shared.ports.journal import Document, Lease
from cloche_shared.ports.resolver import Resolution, Say
from cloche_shared.service import Platform
from tests.simulation.loop import OWNER, Owner, SeededLoop, owned
from tests.simulation.machines import HostedExecutor, Machine
from tests.simulation.record import History, Pending, RecordingStore, Solved, Trace, entry_of
from tests.simulation.stage import MemoryConnector, MemoryStage
from tests.simulation.weather import Climate, Weather, WeatheredBlobStore, WeatheredViews

T = TypeVar("T")

SERVICES = ("registry", "builder", "runner", "deployer")
NODES_SERVICES = frozenset({"runner", "deployer"})
"""Services whose processes each live on a machine, and go with it."""
OURS = ("cloche_shared", *(f"cloche_{name}" for name in SERVICES))
SILENT = logging.CRITICAL + 1
PEPPER = b"p" * 32
GIB = 1 << 30
PACKAGES = (Package("alpha", "1.0"), Package("beta", "2.0", requires=("alpha",)), Package("gamma", "3.0"))


class LostError(Exception):
    """The process that was asked died, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What runs where in one history."""

    theme: str
    registries: int
    builders: int
    nodes: int
    gpus: int
    atomic: bool
    commit_every: float

    @classmethod
    def drawn(cls, seed: str) -> "Layout":
        """Return a history's layout; most stores are not atomic."""
        draw = random.Random(seed)
        theme = draw.choice(("everything", "runs", "zombies", "environments", "services", "places"))
        return cls(
            theme=theme,
            registries=draw.choice((1, 1, 2)),
            builders=draw.choice((1, 1, 2)),
            nodes=draw.choice((2, 2, 3) if theme in {"runs", "zombies", "services", "places"} else (1, 2)),
            gpus=draw.choice((1, 2) if theme == "places" else (0, 1, 2)),
            atomic=draw.random() < 0.2,
            commit_every=draw.choice((0.2, 1.0, 3.0)),
        )


class SlowResolver(MemoryResolver):
    """An index in memory whose solver takes a while; it writes down who solves what, and when."""

    def __init__(self, draw: random.Random, solved: list[Solved]) -> None:
        super().__init__(PACKAGES)
        self._draw = draw
        self._solved = solved

    async def resolve(self, definition: Definition, say: Say) -> Resolution:
        loop = asyncio.get_running_loop()
        owner = OWNER.get()
        assert owner is not None
        mine = Solved(f"{definition.python.pip}", owner.name, loop.time())
        self._solved.append(mine)
        try:
            await asyncio.sleep(self._draw.choice((0.0, 0.3, 4.0)) * self._draw.random())
            return await super().resolve(definition, say)
        finally:
            mine.ended = min(mine.ended, loop.time())


class WeatheredLeases:
    """A process's way to leases that outlive it."""

    def __init__(self, leases: MemoryLeases, climate: Climate) -> None:
        self._leases = leases
        self._faults = Weather(climate)

    async def put(self, lease: Lease) -> None:
        await self._faults.before("put")
        await self._leases.put(lease)
        await self._faults.after("put")

    async def get(self, holder: str) -> Lease | None:
        await self._faults.before("get")
        return await self._leases.get(holder)

    async def all(self) -> list[Lease]:
        await self._faults.before("all")
        return await self._leases.all()


@dataclass
class Slot:
    """A place where a service process runs, again and again. `name` is unique (`runner-2`)."""

    service: str
    number: int
    incarnations: int = 0
    process: "Incarnation | None" = None
    down: bool = False
    gone: bool = False

    @property
    def name(self) -> str:
        return f"{self.service}-{self.number}"

    @property
    def ready(self) -> bool:
        """Whether requests are answered here."""
        return self.process is not None and self.process.service is not None and not self.process.owner.paused


@dataclass
class World:
    """Everything that outlives the services."""

    seed: str
    layout: Layout
    climate: Climate
    trace: Trace
    history: History = field(default_factory=History)
    pending: Pending = field(default_factory=Pending)
    counts: Counter[str] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        self.loop = loop
        self.clock = MemoryClock()
        self.broker = MemoryBroker(partitions=2)
        self.blobs = MemoryBlobStore()
        self.stores = {name: RecordingStore(self._taker(name)) for name in SERVICES}
        self.views = {name: MemoryViews() for name in SERVICES}
        self.leases = {name: MemoryLeases() for name in SERVICES}
        self.logs = MemoryLogs()
        self.resolver = SlowResolver(random.Random(f"{self.seed}/resolver"), self.history.solved)
        self.machines = [self._machine(number) for number in range(1, self.layout.nodes + 1)]
        layout = self.layout
        replicas = {
            "registry": layout.registries,
            "builder": layout.builders,
            "runner": layout.nodes,
            "deployer": layout.nodes,
        }
        self.slots = [Slot(name, number) for name in SERVICES for number in range(1, replicas[name] + 1)]

    def _machine(self, number: int) -> Machine:
        gpus = tuple(f"GPU-{number}-{index}" for index in range(self.layout.gpus))
        return Machine(
            f"{self.seed}/machine-{number}", f"node-{number}", gpus, self.history, self.layout.theme == "zombies"
        )

    def _taker(self, service: str) -> Callable[[Document], None]:
        def take(document: Document) -> None:
            entry = entry_of(service, self.loop.time(), document)
            self.history.entries.append(entry)
            self.pending.take(entry)
            facts = ",".join(name for name, _ in entry.facts)
            self.trace.note(entry.at, service, document.key, facts, entry.body["id"])

        return take

    def note(self, *words: object) -> None:
        """Write something down that happens to the world."""
        self.trace.note(self.loop.time(), *words)

    def boot(self, slot: Slot) -> None:
        """Start the next incarnation of a service process, unless its machine is gone."""
        if slot.gone:
            return
        slot.incarnations += 1
        slot.down = False
        slot.process = Incarnation(self, slot)
        self.note("boot", slot.process.owner.name)
        slot.process.begin()

    def ready(self, service: str) -> list[Slot]:
        """Return where a service answers now."""
        return [slot for slot in self.slots if slot.service == service and slot.ready]

    def caught_up(self) -> bool:
        """Whether everything is published, and read by every group."""
        unsent = any(store.unsent for store in self.stores.values())
        behind = (
            self.broker.offsets.get((group, part.source), 0) < len(part.log)
            for group, members in self.broker.members.items()
            for topic in {topic: None for member in members for topic in member.topics}
            for part in self.broker.partitions(topic)
        )
        return not unsent and not any(behind)

    def lose_machine(self, machine: Machine) -> None:
        """Let a machine go down for ever."""
        self.note("gone", machine.name)
        machine.go()
        self.pending.gone.add(f"node/-/{machine.name}")
        for slot in self.slots:
            if slot.service in NODES_SERVICES and self.machines[slot.number - 1] is machine:
                slot.gone = True
                if slot.process is not None:
                    slot.process.owner.kill()

    def left_over(self) -> list[str]:
        """Return what is still on the machines although every run has ended."""
        here = [machine for machine in self.machines if not machine.gone]
        found = [f"{name} is on {machine.name}" for machine in here for name in machine.remains()]
        for machine in here:
            for (stream, incarnation, revision), workers in machine.workshop.workers.items():
                living = [worker.id for worker in workers if worker.ended_at is None]
                if living and not self._serves(str(stream), revision, machine.name):
                    found.append(f"{living} of {stream}, revision {incarnation}.{revision}, live on {machine.name}")
        return found

    def _serves(self, stream: str, revision: int, node: str) -> bool:
        pending = self.pending
        return pending.serving.get(stream) == revision and pending.places.get((stream, revision)) == node

    def unserved(self) -> list[str]:
        """Return the services that have a healthy revision of which no worker lives where it is placed."""
        serving = {
            str(stream)
            for machine in self.machines
            for (stream, _, revision), workers in machine.workshop.workers.items()
            if self._serves(str(stream), revision, machine.name) and any(one.ended_at is None for one in workers)
        }
        return [f"{stream} is healthy and has no workers" for stream in self.pending.serving if stream not in serving]


class Incarnation:
    """One process of a service: everything that it runs dies with its owner."""

    def __init__(self, world: World, slot: Slot) -> None:
        self.world = world
        self.slot = slot
        self.name = f"{slot.name}.{slot.incarnations}"
        self.owner = Owner(self.name, self._died)
        self.service: Any = None
        self.gone = asyncio.Event()
        self._context = owned(self.owner)
        self._bus = MemoryBus(world.broker, faults=Weather(world.climate))
        self._hold: HostedExecutor | MemoryStage | None = None

    def begin(self) -> None:
        """Start it."""
        self.world.loop.create_task(self._main(), context=self._context.copy(), name=self.name)

    async def call(self, ask: Callable[[Any], Awaitable[T]], patience: float = 60.0) -> T:
        """Ask the service something, as a client that sees its connection break when it dies.

        Raises `LostError`: it may or may not have been done.
        """
        if self.service is None:
            raise LostError(f"{self.name} is not up")
        task = self.world.loop.create_task(_asked(ask, self.service), context=self._context.copy())
        gone = asyncio.create_task(self.gone.wait())
        await asyncio.wait((task, gone), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not task.done():
            task.cancel()
            raise LostError(f"{self.name} died or is late")
        return task.result()

    def halted(self) -> None:
        """Note that it works on nothing now: it is dead, or stands still."""
        now = self.world.loop.time()
        for solved in self.world.history.solved:
            if solved.builder == self.name:
                solved.ended = min(solved.ended, now)

    def _died(self) -> None:
        self.world.note("died", self.name)
        self.halted()
        self.service = None
        self.slot.process = None
        self.slot.down = True
        self._bus.vanish()
        if self._hold is not None:
            self._hold.disconnect()
        self.gone.set()

    async def _main(self) -> None:
        try:
            async with Lifecycle() as life:
                service = self._build()
                if self.slot.service == "registry":
                    await service.ensure_bootstrap_key("cloche_sim_secretsecretsecret")
                await service.start(life)
                self.service = service
                self.world.note("ready", self.name)
                await life.wait()
        except Exception as error:  # noqa: BLE001 - a process that gives up is started again
            cause = repr(error.__cause__ or error)
            self.world.note("gave up", self.name, cause)
            self.world.deaths.append(f"{self.slot.service}: {error} {cause}")
        self.owner.kill()

    def _platform(self) -> Platform:
        world, name = self.world, self.slot.service
        climate = world.climate
        return Platform(
            journal=MemoryJournal(world.stores[name], atomic=world.layout.atomic, faults=Weather(climate)),
            views=WeatheredViews(world.views[name], climate),
            leases=WeatheredLeases(world.leases[name], climate),
            bus=self._bus,
            blobs=WeatheredBlobStore(world.blobs, climate),
            clock=world.clock,
            random=SeededRandom(f"{world.seed}/{self.name}", lambda: int(1_767_225_600_000 + world.loop.time() * 1000)),
            http=MemoryIndexHttp(world.resolver),
            access=AccessTable(PEPPER, world.clock),
            installation="simulation",
            exclusive=False,
            relays=True,
        )

    def _build(self) -> Any:
        return getattr(self, f"_build_{self.slot.service}")(self._platform())

    def _build_registry(self, platform: Platform) -> Any:
        settings = RegistrySettings(platform="linux-x86_64", default_python="3.11", sweep_every_s=40.0)
        return registry_wiring.build(platform, settings, PEPPER)

    def _build_builder(self, platform: Platform) -> Any:
        world = self.world
        settings = BuilderSettings(lease_ttl_s=4.0, backoff_s=1.0, timeout_s=60.0)
        own = builder_wiring.OwnPorts(world.resolver, world.logs, self.slot.name)
        return builder_wiring.build(platform, settings, own)

    def _build_runner(self, platform: Platform) -> Any:
        machine = self.world.machines[self.slot.number - 1]
        settings = RunnerSettings(
            node=machine.name,
            shared=True,
            lease=6.0,
            loss_delay=0.5,
            patience=5.0,
            starving=60.0,
            cancel_margin=2.0,
            sweep_every=4.0,
        )
        self._hold = executor = machine.executor()
        parts = NodeParts(
            executor, MemoryNodeFiles(machine.disk), MemoryAttemptFiles(machine.disk), Path("/sim/bootstrap.py")
        )
        offer = Offer(4.0, 8 * GIB, tuple(Gpu(uuid, "T4", 16 * GIB) for uuid in machine.gpus))
        return runner_wiring.build(platform, settings, runner_wiring.NodePorts(parts, MemoryDevices(offer)))

    def _build_deployer(self, platform: Platform) -> Any:
        machine = self.world.machines[self.slot.number - 1]
        self._hold = stage = MemoryStage(machine.workshop)
        extras = deployer_wiring.Extras(
            stage,
            PEPPER,
            lambda: "http://sim.invalid",
            MemoryConnector(machine.workshop),
            node=machine.name,
            address=f"http://{machine.name}.invalid",
        )
        settings = DeployerSettings(drain=2.0, grace=1.0, retry_pause=1.0)
        return deployer_wiring.build(platform, settings, extras)


async def _asked(ask: Callable[[Any], Awaitable[T]], service: Any) -> T:
    return await ask(service)


def _no_routes(*_: object, **__: object) -> APIRouter:
    return APIRouter()


@contextlib.contextmanager
def composed(commit_every: float, say: Callable[[str], None] | None) -> Iterator[None]:
    """Compose services without routes (making them costs more than a history), and quiet their logs."""
    replaced: list[tuple[Any, str, object]] = [
        (registry_wiring.Registry, "_router", _no_routes),
        (builder_wiring, "make_router", _no_routes),
        (runner_wiring, "router", _no_routes),
        (deployer_wiring, "service_router", _no_routes),
        (dispatch, "COMMIT_EVERY", commit_every),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        with _listening(say):
            yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


@contextlib.contextmanager
def _listening(say: Callable[[str], None] | None) -> Iterator[None]:
    """Take what our own code notes out of the process's log, and tell it where somebody listens."""
    handler = _Log(say)
    loggers = [logging.getLogger(name) for name in OURS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO if say is not None else SILENT)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


class _Log(logging.Handler):
    def __init__(self, say: Callable[[str], None] | None) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        if self._say is not None:
            members = getattr(record, MEMBERS, {})
            said = " ".join(f"{key}={value}" for key, value in members.items())
            self._say(f"           . {record.levelname.lower()} {record.getMessage()} {said}")
