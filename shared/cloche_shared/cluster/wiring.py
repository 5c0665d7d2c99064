"""The composition of one service's process: settings, secrets, stores, server, and how it ends.

The server listens first, so that `/livez` answers and `/readyz` names what fails while a store is not
there yet; the service itself starts once every store has answered.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cloche_shared.access import MIN_PEPPER_BYTES, AccessTable
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.http_server import Server, front_policy, listen, run, serve
from cloche_shared.adapters.kafka_bus import KafkaBus
from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.adapters.peer_client import PeerClient
from cloche_shared.adapters.s3_blobs import S3BlobStore
from cloche_shared.adapters.sharing import Sharing
from cloche_shared.adapters.socket_executor.link import answers
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.backends import secrets_read
from cloche_shared.bus.access_feed import feed_access
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.cluster.process_log import process_log
from cloche_shared.cluster.settings import ClusterSettings, ProcessSettings
from cloche_shared.errors import ClocheError, Internal, Invalid
from cloche_shared.http.elsewhere import Elsewhere
from cloche_shared.http.health import Check, Version
from cloche_shared.http.policy import FrontPolicy, host_name
from cloche_shared.http.whole import ProcessParts, whole_app
from cloche_shared.journal.large import LargeJournal
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.logs import Log, Scrubber
from cloche_shared.service import Platform, Service
from cloche_shared.settings import FILE, Loaded, load

RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
OPENAPI = "openapi.json"
STARTING = "starting"

P = TypeVar("P", bound=ProcessSettings)


@dataclass(frozen=True, slots=True)
class Opened(Generic[P]):
    """What a service is built from. `data` is this replica's folder, `pepper` the installation's secret."""

    settings: P
    platform: Platform
    pepper: bytes
    token: str
    replica: str
    data: Path
    version: str
    base_url: Callable[[], str]
    elsewhere: Elsewhere

    @property
    def sharing(self) -> Sharing:
        """Who besides this service works in the node's folder."""
        return Sharing(self.settings.cluster.share_group)


@dataclass(frozen=True, slots=True)
class Built:
    """A service, and what is done once the stores answer, before it starts.

    `owns_keys`: it feeds the table of keys itself.
    """

    service: Service
    prelude: Callable[[], Awaitable[None]] | None = None
    owns_keys: bool = False


Build = Callable[[Opened[P]], AbstractAsyncContextManager[Built]]


class Store(Protocol):
    """A server that the process needs. `probe` raises what is wrong; a transient trouble is tried again."""

    async def probe(self) -> str:
        """Ask the server who it is and whether it guarantees what we need; return that as a sentence."""

    async def check(self) -> str | None:
        """Return what is wrong now, None when it is well."""


@dataclass(slots=True)
class _Stores:
    mongo: MongoStore
    kafka: KafkaBus
    s3: S3BlobStore

    def named(self) -> Mapping[str, Store]:
        return {"mongo": self.mongo, "kafka": self.kafka, "s3": self.s3}


# --- settings


def read_settings(model: type[P], path: str, environ: Mapping[str, str]) -> Loaded[P]:
    """Return the settings with every secret read. Raises `Invalid`."""
    found = load(model, Path(path).read_text() if path else "", environ)
    sections = {
        name: secrets_read(getattr(found.value, name), lambda file: Path(file).read_text(), name)
        for name in ("cluster", "kafka", "mongo", "s3")
    }
    value = found.value.model_copy(update=sections)
    _check(value.cluster)
    return Loaded(value, found.sources)


def _check(cluster: ClusterSettings) -> None:
    if not cluster.installation:
        raise Invalid(
            "invalid_setting",
            "The installation has no id.",
            todo="Set cluster.installation (CLOCHE_CLUSTER__INSTALLATION) to the same id in all processes.",
        )
    if len(cluster.pepper.get_secret_value().encode()) < MIN_PEPPER_BYTES:
        raise Invalid(
            "invalid_setting",
            "The installation's pepper is missing or shorter than 20 bytes.",
            todo="Set cluster.pepper_file to a file with at least 20 random bytes, the same for all processes.",
        )
    if cluster.executor and cluster.share_group is None:
        raise Invalid(
            "invalid_setting",
            "There is an executor, and no group that it shares the node's files with.",
            why="Its programs run as another user, who could read nothing of what the service makes for them.",
            todo="Set cluster.share_group to the group that services and executor have in common.",
        )


# --- stores


@asynccontextmanager
async def _stores(found: ProcessSettings, service: str, replica: str) -> AsyncIterator[_Stores]:
    async with AsyncExitStack() as stack:
        mongo = MongoStore(found.mongo, service)
        stack.push_async_callback(mongo.close)
        kafka = KafkaBus(found.kafka, service, replica, delay=found.cluster.delay, prefix=found.kafka.topic_prefix)
        stack.push_async_callback(kafka.close)
        s3 = S3BlobStore(found.s3, service)
        stack.push_async_callback(s3.close)
        yield _Stores(mongo, kafka, s3)


class Readiness:
    """What `/readyz` says of the process: each store, the node's executor, and whether the service has started."""

    def __init__(self, stores: Mapping[str, Store], executor: Path | None = None) -> None:
        self._stores = stores
        self._executor = executor
        self.started = False

    def checks(self) -> Mapping[str, Check]:
        """Return the checks by name."""
        found: dict[str, Check] = {name: store.check for name, store in self._stores.items()}
        if self._executor is not None:
            found["executor"] = self._executing
        return {**found, "service": self._service}

    async def _executing(self) -> str | None:
        path = self._executor
        return None if path is None or await answers(path) else "the executor does not answer"

    async def _service(self) -> str | None:
        return None if self.started else STARTING

    async def stores_answer(self, log: Log) -> None:
        """Wait until every store has answered. Raises what waiting cannot mend."""
        for name, store in self._stores.items():
            pause = RETRY_S
            while True:
                try:
                    said = await store.probe()
                except TRANSIENT as error:
                    log.say("warning", "store_not_ready", f"{name} does not answer yet: {error}")
                    await asyncio.sleep(pause)
                    pause = min(LONGEST_RETRY_S, pause * 2)
                else:
                    log.say("info", "store_ready", f"{name}: {said}")
                    break


# --- the process


@dataclass(frozen=True, slots=True)
class _Process(Generic[P]):
    name: str
    loaded: Loaded[P]
    build: "Build[P]"
    log: Log

    async def serve(self) -> None:
        """Live until SIGTERM or SIGINT, or until a part dies."""
        found = self.loaded.value
        data = _folder(found.cluster.data)
        replica = found.cluster.replica or socket.gethostname().lower()
        listener = listen(found.http)
        async with _stores(found, self.name, replica) as stores, _clients(found) as clients:
            opened = self._opened(stores, clients, replica, data)
            readiness = Readiness(stores.named(), _executor(found.cluster))
            async with self.build(opened) as built, Lifecycle(self.log.report) as life:
                _listen_to_signals(life)
                app = whole_app([built.service], self._parts(opened.platform, readiness))
                servers: list[Server] = []
                life.at_end("http", lambda: _drain(servers), deadline_s=found.http.drain_s + 2)
                servers.append(await life.enter(serve(app, found.http, listener)))
                self.log.say("info", "listening", f"{self.name} {opened.version} listens at {servers[0].url}.")
                await self._begin(opened, built, readiness, life)
                await life.wait()

    async def _begin(self, opened: Opened[P], built: Built, readiness: Readiness, life: Lifecycle) -> None:
        """Start the service once the stores answer, unless the end comes first."""

        async def begin() -> None:
            await readiness.stores_answer(self.log)
            if built.prelude is not None:
                await _patiently(built.prelude, self.log)
            if not built.owns_keys:
                life.spawn("access", feed_access(opened.platform.bus, opened.platform.access))
            await built.service.start(life)
            readiness.started = True
            self.log.say("info", "ready", f"{self.name} is ready.")

        starting = asyncio.create_task(begin(), name=f"{self.name}-start")
        ending = asyncio.create_task(life.wait(), name=f"{self.name}-end")
        try:
            await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
        finally:
            for task in (starting, ending):
                task.cancel()
            await asyncio.gather(starting, ending, return_exceptions=True)

    def _opened(self, stores: _Stores, clients: "_Clients", replica: str, data: Path) -> Opened[P]:
        found = self.loaded.value.cluster
        clock = SystemClock()
        pepper = found.pepper.get_secret_value().encode()
        platform = Platform(
            journal=LargeJournal(stores.mongo.journal, stores.s3, self.name),
            views=stores.mongo.views,
            leases=stores.mongo.leases,
            bus=stores.kafka,
            blobs=stores.s3,
            clock=clock,
            random=SystemRandom(),
            http=clients.http,
            access=AccessTable(pepper, clock, staleness=found.access_staleness),
            installation=found.installation,
        )
        elsewhere = Elsewhere(clients.peers, platform.leases, clock, replica, found.address)
        return Opened(
            settings=self.loaded.value,
            platform=platform,
            pepper=pepper,
            token=found.token.get_secret_value(),
            replica=replica,
            data=data,
            version=_version(),
            base_url=lambda: found.public_url,
            elsewhere=elsewhere,
        )

    def _parts(self, platform: Platform, readiness: Readiness) -> ProcessParts:
        return ProcessParts(
            version=Version(name="cloche", version=_version(), installation=platform.installation),
            access=platform.access,
            log=self.log,
            clock=platform.clock,
            random=platform.random,
            policy=_policy(self.loaded.value),
            openapi=_openapi_file(),
            checks={**readiness.checks(), "access": _check_of(platform.access)},
        )


def _check_of(access: AccessTable) -> Check:
    async def check() -> str | None:
        stale = access.stale()
        return None if stale is None else f"{stale.code}: {stale.why}"

    return check


def _executor(cluster: ClusterSettings) -> Path | None:
    """Return the socket of the executor that the process's node needs."""
    return Path(cluster.executor) if cluster.node and cluster.executor else None


def _folder(path: str) -> Path:
    folder = Path(path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class _Clients:
    http: HttpClient
    peers: PeerClient


@asynccontextmanager
async def _clients(found: ProcessSettings) -> AsyncIterator[_Clients]:
    async with AsyncExitStack() as stack:
        clients = _Clients(HttpClient(), PeerClient(found.cluster.peer_ca_file))
        stack.push_async_callback(clients.http.close)
        stack.push_async_callback(clients.peers.close)
        yield clients


def _policy(found: ProcessSettings) -> FrontPolicy:
    """Return the front's policy; other replicas reach this one by the name in its address."""
    policy = front_policy(found.http)
    own = host_name(found.cluster.address.partition("://")[2])
    return replace(policy, hosts=policy.hosts | {own}) if own else policy


async def _patiently(step: Callable[[], Awaitable[None]], log: Log) -> None:
    while True:
        try:
            await step()
        except TRANSIENT as error:
            log.say("warning", "store_not_ready", str(error))
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _drain(servers: list[Server]) -> None:
    for server in servers:
        await server.drain()


def _listen_to_signals(life: Lifecycle) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.stop)


def _version() -> str:
    return metadata.version("cloche")


def _openapi_file() -> bytes | None:
    """Return the merged document that was made at build time: the same from every service."""
    with contextlib.suppress(ModuleNotFoundError):
        file = resources.files("cloche").joinpath(OPENAPI)
        return file.read_bytes() if file.is_file() else None
    return None


def show_config(loaded: Loaded[P], *, sources: bool) -> str:
    """Return every setting as a line, secrets masked; with `sources` where each came from."""
    lines = []
    for one in loaded.shown():
        value = json.dumps(one.value, default=str)
        lines.append(f"{one.name} = {value}" + (f"    # {one.source}" if sources else ""))
    return "\n".join(lines)


def main(name: str, model: type[P], build: "Build[P]", arguments: list[str] | None = None) -> int:
    """Run `python -m cloche_<name>`; return the exit status.

    Settings come from `--config FILE` (TOML) and the environment. `config show [--sources]` prints them.
    """
    parser = argparse.ArgumentParser(prog=f"python -m cloche_{name}")
    parser.add_argument("--config", default="", metavar="FILE", help=f"settings, as in {FILE}")
    commands = parser.add_subparsers(dest="command")
    config = commands.add_parser("config", help="show the settings").add_subparsers(dest="what", required=True)
    config.add_parser("show").add_argument("--sources", action="store_true")
    asked = parser.parse_args(arguments)
    os.umask(0o077)
    scrubber = Scrubber()
    log = process_log(name, scrubber)
    try:
        loaded = read_settings(model, asked.config, os.environ)
        if asked.command == "config":
            sys.stdout.write(show_config(loaded, sources=asked.sources) + "\n")
            return 0
        scrubber.learn(loaded.secrets())
        run(_Process(name, loaded, build, log).serve())
    except ClocheError as error:
        _say_why(log, error)
        return 1
    except OSError as error:
        log.say("error", "stopped", f"{type(error).__name__}: {error.strerror}", code="start_failed")
        return 1
    return 0


def _say_why(log: Log, error: ClocheError) -> None:
    members: dict[str, object] = {"code": error.code}
    if isinstance(error, Internal) and error.__cause__ is not None:
        members["trace"] = "".join(traceback.format_exception(error.__cause__))[-8000:]
    log.say("error", "stopped", f"{error.what} {error.why} {error.todo}".strip(), **members)
