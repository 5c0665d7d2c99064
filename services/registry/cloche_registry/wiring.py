"""Puts the registry together: the one place that knows what it is made of."""

import asyncio
import contextlib
import platform as machine
import sys

from fastapi import APIRouter

from cloche_registry.access_api import project_routes, token_routes
from cloche_registry.api import environment_routes, model_routes
from cloche_registry.commands import CommandTopics, RegistryCommands
from cloche_registry.consumers import KeyViews, Listeners, RunViews, list_projector
from cloche_registry.definitions import Recipe
from cloche_registry.handlers import ENVIRONMENT, MODEL, OWNER, Environments, Models, Resolver
from cloche_registry.keys import ACCESS, Keys
from cloche_registry.letters import LETTER, DeadLetters, letter_routes
from cloche_registry.refill import refill_access
from cloche_registry.replay import replay_routes
from cloche_registry.settings import RegistrySettings
from cloche_registry.uses import RUNS_SEEN
from cloche_registry.wheels import AREA, WHEEL, Wheels, wheel_routes
from cloche_shared.adapters.wheel_check import check_wheel
from cloche_shared.bus.access_feed import feed_access
from cloche_shared.bus.commands import DeskParts
from cloche_shared.bus.dispatch import TRANSIENT, BatchConsumer, Consumer
from cloche_shared.bus.projector import Projector
from cloche_shared.bus.relay import Relay
from cloche_shared.contracts.references import InlineEnvironment
from cloche_shared.denials import Denials
from cloche_shared.http.commands import commands_router
from cloche_shared.http.events import events_router
from cloche_shared.http.files import files_router
from cloche_shared.http.operations import republish_router
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.key_uses import KeyUses
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.service import Platform, Surface

CODE_VERSION = "0.1.0"


def recipe_of(settings: RegistrySettings) -> Recipe:
    """Return what hashes hold besides the definition; what the settings leave open is taken from this machine."""
    here = f"{sys.platform}-{machine.machine()}"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Recipe(
        settings.platform or here,
        settings.default_python or version,
        settings.allowed_indexes,
        settings.allowed_channels,
    )


class Registry:
    """The registry."""

    def __init__(self, platform: Platform, settings: RegistrySettings, pepper: bytes) -> None:
        self._platform = platform
        self._settings = settings
        self._relay = (
            Relay(platform.journal, platform.bus, "/cloche/registry", answered=self._answered)
            if platform.relays
            else None
        )
        offer = self._relay.offer if self._relay is not None else None
        self._writer = Writer(platform.journal, platform.clock, platform.random, offer=offer)
        wheel_streams = Streams(WHEEL, self._writer, exclusive=platform.exclusive)
        self.wheels = Wheels(wheel_streams, self._writer, platform.blobs, check_wheel)
        self.environments = Environments(
            Streams(ENVIRONMENT, self._writer, exclusive=platform.exclusive),
            self._writer,
            platform.views,
            recipe_of(settings),
            self.wheels,
        )
        self._runs = RunViews(platform.views)
        self.models = Models(
            Streams(MODEL, self._writer, exclusive=platform.exclusive),
            self._writer,
            platform.views,
            platform.blobs,
            self._runs,
            settings.max_model_bytes,
        )
        access = Streams(ACCESS, self._writer, exclusive=platform.exclusive)
        self.keys = Keys(access, self._writer, platform.access, pepper, clock=platform.clock, random=platform.random)
        self._letters = DeadLetters(platform.bus, Streams(LETTER, self._writer, exclusive=platform.exclusive))
        self._projector = list_projector(platform.views, self.environments, self.models, self.keys, self.wheels)
        self._denials = Denials(self._writer, platform.clock.monotonic, OWNER)
        self._key_uses = KeyUses(platform.access, self._writer, OWNER)
        self._surface = Surface(self._router(), finished=self._denials.note)

    @property
    def name(self) -> str:
        """`registry`."""
        return OWNER

    @property
    def surface(self) -> Surface:
        """What it shows to HTTP."""
        return self._surface

    async def ensure_bootstrap_key(self, token: str) -> None:
        """Make the token of the first start open everything; harmless when it does already."""
        await self.keys.ensure_bootstrap_key(token)

    async def refill_access(self) -> None:
        """Fill the bus with the keys again that it lost, before the start.

        No later fact of a stream goes out before one that was lost, as the relay does not run yet. A bus that
        reads the journal itself lacks nothing.
        """
        if self._relay is not None:
            await refill_access(self._platform.journal, self._platform.bus)

    async def start(self, lifecycle: Lifecycle) -> None:
        """Start relay, consumers and the sweep of the lists."""
        platform = self._platform
        if self._relay is not None:
            lifecycle.spawn("registry.relay", self._relay.run())
        listeners = Listeners(platform.bus, platform.random, CODE_VERSION)
        resolver = Resolver(self.environments, self.models, self._writer, self._default())
        desk = DeskParts(platform.bus, self._writer, platform.views, platform.clock, platform.random, CODE_VERSION)
        consumers = (
            listeners.resolver(resolver),
            listeners.lists(self._projector),
            listeners.runs(self._runs),
            listeners.uses(KeyViews(platform.views)),
            RegistryCommands(self.environments, self.models).consumer(desk),
            CommandTopics(platform.bus).consumer(desk),
        )
        for consumer in consumers:
            _run(lifecycle, consumer)
        self._denials.start(lifecycle)
        self._key_uses.start(lifecycle)
        lifecycle.spawn("registry.access", feed_access(platform.bus, platform.access))
        if self._settings.sweep_every_s:
            lifecycle.spawn("registry.sweep", self._sweep(self._projector))

    def _default(self) -> InlineEnvironment:
        settings = self._settings
        return InlineEnvironment(name=settings.default_environment, definition=settings.default_definition)

    def _answered(self, stream: StreamId, request_id: str) -> None:
        own = (self.environments.streams, self.models.streams, self.keys.streams, self._letters.streams)
        for streams in (*own, self.wheels.streams):
            if streams.kind.name == stream.kind:
                streams.forget_asked(stream, request_id)

    async def _sweep(self, projector: Projector) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_every_s)
            # the next pass makes up for one that the store cut short
            with contextlib.suppress(*TRANSIENT):
                await projector.sweep(self._platform.journal)

    def _router(self) -> APIRouter:
        platform = self._platform
        parts = (
            environment_routes(self.environments, platform.installation),
            model_routes(self.models, platform.blobs, platform.installation, RUNS_SEEN),
            files_router("models", platform.blobs, OWNER, max_file_bytes=self._settings.max_file_bytes),
            wheel_routes(self.wheels, platform.views, platform.blobs, platform.installation),
            files_router(AREA, platform.blobs, OWNER, max_file_bytes=self._settings.max_wheel_bytes),
            project_routes(self.keys, platform.views, platform.installation),
            token_routes(self.keys, platform.views, platform.installation),
            letter_routes(self._letters),
            commands_router(platform.bus, platform.clock),
            events_router(platform.bus),
            republish_router(OWNER, platform, self._writer),
            replay_routes(platform.bus, self._writer),
        )
        whole = APIRouter()
        # each part's routes are complete; an included router would hide them from the check of `create_app`
        whole.routes.extend(route for part in parts for route in part.routes)
        return whole


def _run(lifecycle: Lifecycle, consumer: Consumer | BatchConsumer) -> None:
    async def stop() -> None:
        consumer.stop()

    lifecycle.spawn(consumer.group, consumer.run())
    lifecycle.at_end(f"stop {consumer.group}", stop)


def build(platform: Platform, settings: RegistrySettings, pepper: bytes) -> Registry:
    """Return the registry; `pepper` is the installation's secret for the digests of keys."""
    return Registry(platform, settings, pepper)
