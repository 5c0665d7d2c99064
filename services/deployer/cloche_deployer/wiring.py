"""Builds the deployer from its ports and starts it."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from cloche_deployer.adapters.scoring_links import UnixConnector
from cloche_deployer.api import Parts, service_router
from cloche_deployer.consumers import answers_consumer, driver_consumer, lists, living, views_consumer
from cloche_deployer.driver import Driver
from cloche_deployer.handlers import KIND, Handlers
from cloche_deployer.ports import Stage
from cloche_deployer.scoring.app import ScoringApp
from cloche_deployer.scoring.ports import Connector
from cloche_deployer.scoring.target import RoutingTable
from cloche_deployer.settings import DeployerSettings
from cloche_shared.access import AccessTable, FailureGate
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.bus.projector import Projector
from cloche_shared.bus.relay import Relay
from cloche_shared.journal.streams import Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.service import Platform, Surface

NAME = "deployer"
SCORING_ACTION = "services.read"


class TokenAccess:
    """Platform tokens score in their projects like a service's own keys."""

    def __init__(self, access: AccessTable) -> None:
        self._access = access

    async def projects(self, token: str) -> frozenset[str]:
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

    def failed(self, address: str) -> None:
        self._gate.failed(address)


@dataclass(frozen=True, slots=True)
class Extras:
    """What the deployer needs beyond the platform.

    `pepper` is the installation's secret; `base_url` tells where clients reach this installation.
    """

    stage: Stage
    pepper: bytes
    base_url: Callable[[], str]
    connector: Connector | None = None
    code_version: str = "0"


class Deployer:
    """The deployer service."""

    def __init__(self, platform: Platform, settings: DeployerSettings, extras: Extras) -> None:
        self._platform = platform
        self._settings = settings
        self._extras = extras
        self._relay = Relay(platform.journal, platform.bus, f"/cloche/{NAME}") if platform.relays else None
        offer = self._relay.offer if self._relay is not None else None
        writer = Writer(platform.journal, platform.clock, platform.random, offer=offer)
        self.streams = Streams(KIND, writer, exclusive=platform.exclusive)
        self.handlers = Handlers(self.streams, writer, platform.blobs, settings.max_snapshot_bytes)
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
        )
        parts = Parts(
            self.handlers,
            self.driver,
            platform.views,
            platform.blobs,
            platform.installation,
            extras.pepper,
            extras.base_url,
        )
        gate = FailureGate(platform.clock.monotonic)
        self.scoring = ScoringApp(
            self.routes, platform.random.uuid7, access=TokenAccess(platform.access), guard=KeyGuard(gate)
        )
        self._surface = Surface(router=service_router(parts), ahead=(self.scoring,), figures=self.driver.figures)

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
        wakes = driver_consumer(platform.bus, self.driver, platform.random, version)
        await self.driver.begin(await living(platform.views))
        for consumer in (answers, views, wakes):
            lifecycle.spawn(consumer.group, consumer.run())
        if self._settings.sweep_every_s:
            lifecycle.spawn("deployer-sweep", self._sweep(projector))
        lifecycle.at_end("scoring workers", self.driver.close, deadline_s=20.0)

    async def _sweep(self, projector: Projector) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_every_s)
            # the next pass makes up for one that the store cut short
            with contextlib.suppress(*TRANSIENT):
                await projector.sweep(self._platform.journal)


def build(platform: Platform, settings: DeployerSettings, extras: Extras) -> Deployer:
    """Build the deployer; nothing runs before `start`."""
    return Deployer(platform, settings, extras)
