"""Builds the deployer from its ports and starts it."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from cloche_deployer.adapters.scoring_links import UnixConnector
from cloche_deployer.api import Parts, service_router
from cloche_deployer.commands import ServiceCommands
from cloche_deployer.consumers import OWN_TOPICS, answers_consumer, driver_consumer, lists, views_consumer
from cloche_deployer.driver import Driver
from cloche_deployer.handlers import KIND, Handlers, Stores, living
from cloche_deployer.lease import keep_lease
from cloche_deployer.lookout import PacedLookout
from cloche_deployer.ports import Stage
from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.onward import PeerOnward
from cloche_deployer.scoring.ports import Connector
from cloche_deployer.scoring.target import RoutingTable
from cloche_deployer.settings import DeployerSettings
from cloche_shared.access import AccessTable, FailureGate
from cloche_shared.bus.commands import DeskParts
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.bus.projector import Projector
from cloche_shared.bus.relay import Relay
from cloche_shared.denials import Denials
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.http.operations import republish_router
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.key_uses import KeyUses
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.notes import notes_of
from cloche_shared.service import Platform, Surface

NAME = "deployer"
_log = notes_of(__name__)
SCORING_ACTION = "services.read"


class TokenAccess:
    """Platform tokens score in their projects like a service's own keys."""

    def __init__(self, access: AccessTable) -> None:
        self._access = access

    async def projects(self, token: str, *, patient: bool) -> frozenset[str]:
        if patient and self._access.lacks(token):
            await self._access.catch_up(token)
        principal = self._access.authenticate(token)
        if principal is None or not principal.may(SCORING_ACTION):
            return frozenset()
        return frozenset(principal.projects)


class KeyGuard:
    """Slows down who guesses keys."""

    def __init__(self, gate: FailureGate) -> None:
        self._gate = gate

    def retry_after(self, address: str) -> int:
        wait = self._gate.wait(address)
        return int(wait) + 1 if wait else 0

    def is_suspect(self, address: str) -> bool:
        return self._gate.is_suspect(address)

    def failed(self, address: str) -> None:
        self._gate.failed(address)


@dataclass(frozen=True, slots=True)
class Extras:
    """What the deployer needs beyond the platform.

    `stage` is that of the node `node`, which this replica drives; without one it only answers requests and
    sends scoring on. `pepper` is the installation's secret; `base_url` tells where clients reach this
    installation, `address` where other replicas reach this one.
    """

    stage: Stage | None
    pepper: bytes
    base_url: Callable[[], str]
    connector: Connector | None = None
    code_version: str = "0"
    node: str = ""
    address: str = ""
    elsewhere: Elsewhere | None = None


class Deployer:
    """The deployer service."""

    def __init__(self, platform: Platform, settings: DeployerSettings, extras: Extras) -> None:
        self._platform = platform
        self._settings = settings
        self._extras = extras
        self._relay = Relay(platform.journal, platform.bus, f"/cloche/{NAME}") if platform.relays else None
        offer = self._relay.offer if self._relay is not None else None
        writer = self._writer = Writer(platform.journal, platform.clock, platform.random, offer=offer)
        self.streams = Streams(KIND, writer, exclusive=platform.exclusive)
        stores = Stores(writer, platform.views, platform.blobs)
        many = not platform.exclusive
        self.handlers = Handlers(self.streams, stores, settings.max_snapshot_bytes, many=many)
        self.routes = RoutingTable()
        self.driver = Driver(
            self.streams,
            extras.stage,
            extras.connector or UnixConnector(),
            self.routes,
            settings,
            pepper=extras.pepper,
            base_url=extras.base_url,
            origin_of=self.handlers.origin_of,
            node=extras.node,
        )
        parts = Parts(
            self.handlers,
            self.driver,
            platform.views,
            platform.blobs,
            platform.installation,
            extras.pepper,
            extras.base_url,
            extras.elsewhere,
        )
        gate = FailureGate(platform.clock.monotonic)
        self._lookout = None if platform.exclusive else PacedLookout(self.routes, self.driver.look, self._living)
        self.scoring = ScoringApp(
            self.routes,
            platform.random.uuid7,
            access=TokenAccess(platform.access),
            guard=KeyGuard(gate),
            onward=self._onward(),
            lookout=self._lookout,
        )
        self._denials = Denials(writer, platform.clock.monotonic, "deployer")
        self._key_uses = KeyUses(platform.access, writer, "deployer")
        routes = service_router(parts)
        routes.routes.extend(republish_router(NAME, platform, writer).routes)
        self._surface = Surface(
            router=routes,
            ahead=(self.scoring,),
            figures=self.driver.figures,
            finished=self._denials.note,
        )

    def _onward(self) -> PeerOnward | None:
        elsewhere, lookout = self._extras.elsewhere, self._lookout
        return PeerOnward(elsewhere, lookout) if elsewhere is not None and lookout is not None else None

    @property
    def name(self) -> str:
        return NAME

    @property
    def surface(self) -> Surface:
        return self._surface

    async def start(self, lifecycle: Lifecycle) -> None:
        platform, version = self._platform, self._extras.code_version
        if self._relay is not None:
            lifecycle.spawn("deployer-relay", self._relay.run())
        answers = answers_consumer(platform.bus, self.handlers, platform.random, version)
        projector = lists(self.streams, platform.views)
        views = views_consumer(platform.bus, projector, platform.random, version)
        await self.driver.begin(await living(platform.views))
        desk = DeskParts(platform.bus, self._writer, platform.views, platform.clock, platform.random, version)
        commands = ServiceCommands(self.handlers, platform.blobs).consumer(desk)
        for consumer in (answers, views, commands):
            lifecycle.spawn(consumer.group, consumer.run())
        if platform.exclusive:
            wakes = driver_consumer(platform.bus, self.driver, platform.random, version)
            lifecycle.spawn(wakes.group, wakes.run())
        else:
            self._start_shared(lifecycle)
        if self._settings.sweep_every_s:
            lifecycle.spawn("deployer-sweep", self._sweep(projector))
        lifecycle.at_end("scoring workers", self._leave, deadline_s=20.0)

    def _start_shared(self, lifecycle: Lifecycle) -> None:
        """Start what only several processes on one journal need."""
        extras, platform = self._extras, self._platform
        self._denials.start(lifecycle)
        self._key_uses.start(lifecycle)
        lifecycle.spawn("deployer-follow", self._follow())
        lifecycle.spawn("deployer-look-again", self._look_again())
        if self._lookout is not None:
            lifecycle.spawn("deployer-lookout", self._lookout.run())
        if extras.node and extras.address:
            lifecycle.spawn("deployer-lease", keep_lease(platform.leases, extras.node, extras.address))

    async def _follow(self) -> None:
        """Hear of every change of a service: each replica routes to all of them."""
        while True:
            try:
                async with self._platform.bus.tail(OWN_TOPICS) as subscription:
                    await self._wake_all()
                    while True:
                        for delivery in await subscription.fetch():
                            if delivery.event is not None and delivery.event.subject.startswith("service/"):
                                self.driver.wake(StreamId.parse(delivery.event.subject))
            except TRANSIENT as error:
                _log.warning("events_missed", error=str(error))
                await asyncio.sleep(self._settings.retry_pause)

    async def _look_again(self) -> None:
        """Look at every service now and then, whatever events were missed."""
        while True:
            await asyncio.sleep(self._settings.look_every)
            with contextlib.suppress(*TRANSIENT):
                await self._wake_all()

    async def _wake_all(self) -> None:
        for stream in await self._living():
            self.driver.wake(stream)

    async def _living(self) -> list[StreamId]:
        return await living(self._platform.views)

    async def _leave(self) -> None:
        """End the workers, or leave them to the executor, which outlives this process."""
        if self._platform.exclusive:
            await self.driver.close()
        else:
            await self.driver.let_go()

    async def _sweep(self, projector: Projector) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_every_s)
            # the next pass makes up for one that the store cut short
            with contextlib.suppress(*TRANSIENT):
                await projector.sweep(self._platform.journal)


def build(platform: Platform, settings: DeployerSettings, extras: Extras) -> Deployer:
    """Build the deployer; nothing runs before `start`."""
    return Deployer(platform, settings, extras)
