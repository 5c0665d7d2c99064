"""The builder from its ports: the only place that names concrete adapters."""

import asyncio
import contextlib
import platform as machine
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloche_builder.adapters.file_logs import FileLogs
from cloche_builder.api import ApiParts, make_router
from cloche_builder.commands import commands_consumer
from cloche_builder.conda import CondaTools
from cloche_builder.consumers import NO_PROJECT, OPEN, OPEN_LIST, OWN_TOPICS, TOPICS, Inbox, build_rows, request_rows
from cloche_builder.domain.builds import BUILDS
from cloche_builder.domain.requests import REQUESTS
from cloche_builder.driver import Driver, Site
from cloche_builder.handlers import SERVICE, Builds, Requests
from cloche_builder.ports import BuildLogs, Prove, Warm
from cloche_builder.reading import Reader
from cloche_builder.settings import BuilderSettings
from cloche_builder.tenure import Tenure
from cloche_builder.workshop import Tools, Workshop
from cloche_shared.adapters.conda.machine import virtual_packages
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.uv_resolver import UvResolver
from cloche_shared.bus.commands import DeskParts
from cloche_shared.bus.dispatch import TRANSIENT, BatchConsumer, Consumer
from cloche_shared.bus.projector import Projection, Projector
from cloche_shared.bus.relay import Relay
from cloche_shared.denials import Denials
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.http.operations import republish_router
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.key_uses import KeyUses
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.ports.conda import CondaSolver
from cloche_shared.ports.resolver import Resolver
from cloche_shared.ports.views import Views
from cloche_shared.service import Platform, Surface
from cloche_shared.store.artefacts import Stage

PAGE = 500
CODE_VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class OwnPorts:
    """What only the builder needs.

    `holder` is the builder's id: under one id at most one process may live at a time (embedded, the
    folder's lock sees to that), and whoever starts under it adopts its builds at once. `prove` and
    `warm` are a node's `prefix` and `warm` where the builder has a node; `stage` is needed where blobs
    lie on another machine. `conda` chooses conda packages where they can be had; `virtual` is what
    conda is told of the machines that environments are made for. `address` is where other replicas
    reach this one, `elsewhere` the way to them.
    """

    resolver: Resolver
    logs: BuildLogs
    holder: str = "builder"
    prove: Prove | None = None
    warm: Warm | None = None
    stage: Stage | None = None
    conda: CondaSolver | None = None
    virtual: tuple[str, ...] = ()
    address: str = ""
    elsewhere: Elsewhere | None = None


class _OpenBuilds:
    def __init__(self, views: Views) -> None:
        self._views = views

    async def find(self) -> Sequence[StreamId]:
        found: list[StreamId] = []
        after: tuple[str, str] | None = None
        while True:
            rows = await self._views.page(OPEN_LIST, NO_PROJECT, facet=OPEN, after=after, limit=PAGE)
            found.extend(StreamId.parse(row.key) for row in rows)
            if len(rows) < PAGE:
                return found
            after = (rows[-1].sort, rows[-1].key)


class BuilderService:
    """The builder."""

    name = SERVICE

    def __init__(self, platform: Platform, settings: BuilderSettings, own: OwnPorts) -> None:
        self._platform = platform
        self._settings = settings = here(settings)
        self._relay = Relay(platform.journal, platform.bus, f"/cloche/{SERVICE}", answered=self._answered)
        offer = self._relay.offer if platform.relays else None
        writer = self._writer = Writer(platform.journal, platform.clock, platform.random, offer=offer)
        streams = Streams(BUILDS, writer, exclusive=platform.exclusive)
        self.builds = Builds(streams, writer, platform.blobs, platform.clock, settings)
        self.requests = Requests(Streams(REQUESTS, writer, exclusive=platform.exclusive), self.builds)
        tenure = Tenure(
            own.holder, platform.leases, platform.clock, settings.lease_ttl_s, self._tenure_changed, own.address
        )
        conda = None
        if own.conda is not None:
            conda = CondaTools(own.conda, settings.platform, own.virtual, settings.channel_alias)
        tools = Tools(
            own.resolver, platform.http, platform.blobs, own.prove, own.warm, own.stage, conda, tenure.until_held
        )
        site = Site(Workshop(tools), own.logs, platform.blobs, platform.clock, _OpenBuilds(platform.views), settings)
        self._tenure = tenure
        self._driver = Driver(self.builds, site, tenure)
        self.builds.wake = self._driver.wake
        reader = Reader(self.builds, self.requests, own.logs, platform.blobs, mine=own.holder)
        parts = ApiParts(self.requests, reader, platform.views, platform.random, platform.installation, own.elsewhere)
        self.reader = reader
        self._denials = Denials(writer, platform.clock.monotonic, "builder")
        self._key_uses = KeyUses(platform.access, writer, "builder")
        routes = make_router(parts)
        routes.routes.extend(republish_router(SERVICE, platform, writer).routes)
        self._surface = Surface(router=routes, checks={"builder lease": self._check}, finished=self._denials.note)

    @property
    def surface(self) -> Surface:
        """What it shows to HTTP."""
        return self._surface

    def _tenure_changed(self, held: bool) -> None:  # noqa: FBT001 - the callback of a lease
        self._driver.tenure_changed(held)

    def _answered(self, stream: StreamId, request_id: str) -> None:
        self.builds.streams.forget_asked(stream, request_id)
        self.requests.streams.forget_asked(stream, request_id)

    async def _check(self) -> str | None:
        return None if self._tenure.held else "The builder could not renew its lease; it takes no builds."

    async def start(self, lifecycle: Lifecycle) -> None:
        """Start relay, consumers, lease and driver."""
        platform = self._platform
        if platform.relays:
            lifecycle.spawn("builder relay", self._relay.run())
        inbox = Inbox(self.builds, self.requests, self._driver.known)
        consumer = Consumer(
            platform.bus,
            SERVICE,
            TOPICS,
            inbox.handlers(),
            random=platform.random,
            code_version=CODE_VERSION,
        )
        projector = Projector(
            platform.views,
            [Projection(self.builds.streams, build_rows), Projection(self.requests.streams, request_rows)],
        )
        lists = BatchConsumer(
            platform.bus,
            f"{SERVICE}.lists",
            OWN_TOPICS,
            projector,
            random=platform.random,
            code_version=CODE_VERSION,
        )
        desk = DeskParts(platform.bus, self._writer, platform.views, platform.clock, platform.random, CODE_VERSION)
        for one in (lists, consumer, commands_consumer(self.requests, desk)):
            _run(lifecycle, one)
        if self._settings.sweep_lists_s:
            lifecycle.spawn("builder sweep", self._sweep(projector))
        self._denials.start(lifecycle)
        self._key_uses.start(lifecycle)
        lifecycle.spawn("builder signals", self.builds.signals.follow(platform.bus))
        lifecycle.spawn("builder lease", self._tenure.run())
        lifecycle.spawn("builder driver", self._driver.run())

    async def _sweep(self, projector: Projector) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_lists_s)
            # the next pass makes up for one that the store cut short
            with contextlib.suppress(*TRANSIENT):
                await projector.sweep(self._platform.journal)


def here(settings: BuilderSettings) -> BuilderSettings:
    """Return the settings with what they leave open taken from this machine, as the registry does."""
    return settings.model_copy(
        update={
            "platform": settings.platform or f"{sys.platform}-{machine.machine()}",
            "default_python": settings.default_python or f"{sys.version_info.major}.{sys.version_info.minor}",
        }
    )


def _run(lifecycle: Lifecycle, consumer: Consumer | BatchConsumer) -> None:
    async def stop() -> None:
        consumer.stop()

    lifecycle.spawn(consumer.group, consumer.run())
    lifecycle.at_end(f"stop {consumer.group}", stop)


def build(platform: Platform, settings: BuilderSettings, own: OwnPorts) -> BuilderService:
    """Return the service, complete and not started."""
    return BuilderService(platform, settings, own)


def embedded_ports(
    folder: Path,
    settings: BuilderSettings,
    *,
    interpreters: Interpreters | None = None,
    prove: Prove | None = None,
    warm: Warm | None = None,
    conda: CondaSolver | None = None,
) -> OwnPorts:
    """Return the ports of one machine.

    `folder` is the builder's part of the data folder; `interpreters` should be those of the node, and
    `conda` works in its processes.
    """
    known = interpreters or Interpreters(managed=folder / "uv" / "python")
    resolver = UvResolver(folder / "uv", known, default_index=settings.default_index)
    virtual = virtual_packages(settings.glibc, settings.cuda)
    return OwnPorts(resolver, FileLogs(folder / "logs"), prove=prove, warm=warm, conda=conda, virtual=virtual)
