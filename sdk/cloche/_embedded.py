"""The embedded Cloche: all four services in one process, on SQLite, files and local processes.

This is the only module of the SDK that knows the services. `python -m cloche._embedded` is what
`cloche up -d` starts; `serve` is what `cloche up` runs itself.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib import resources
from pathlib import Path
from tempfile import gettempdir

from pydantic import Field

import cloche_builder.wiring as builder
import cloche_deployer.wiring as deployer
import cloche_registry.wiring as registry
import cloche_runner.wiring as runner
import cloche_runtime
from cloche import __version__
from cloche._config import LOG
from cloche._home import made
from cloche._room import telling_what_is_full
from cloche_builder.settings import BuilderSettings
from cloche_deployer.adapters.node_stage import BASE_ENV, NodeParts, NodeStage
from cloche_deployer.settings import DeployerSettings
from cloche_registry.settings import RegistrySettings
from cloche_runner.settings import RunnerSettings
from cloche_shared.access import AccessTable, issue_key
from cloche_shared.adapters.conda.solver import RattlerSolver
from cloche_shared.adapters.devices import NvmlDevices
from cloche_shared.adapters.disk_reserve import DiskReserve, keep
from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.folder_lock import FolderLock
from cloche_shared.adapters.garbage import look_again, short_pauses
from cloche_shared.adapters.git_fetch import LocalGit
from cloche_shared.adapters.http_client import HttpClient
from cloche_shared.adapters.http_server import Server, front_policy, listen, run
from cloche_shared.adapters.http_server import serve as serve_app
from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.log_file import LogFile
from cloche_shared.adapters.log_sink import LogSink
from cloche_shared.adapters.sqlite.file import SqliteFile
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.errors import ClocheError, Invalid
from cloche_shared.http.app import App, openapi_document
from cloche_shared.http.health import Version
from cloche_shared.http.whole import ProcessParts, whole_app
from cloche_shared.journal.large import LargeBus, LargeJournal
from cloche_shared.lifecycle import Lifecycle
from cloche_shared.logs import Log, Scrubber, StdlibBridge
from cloche_shared.service import Platform, Service
from cloche_shared.settings import HttpSettings, Loaded, Section, load

PEPPER_BYTES = 32
OPENAPI = "openapi.json"
SOCKET_FOLDER = 70
"""Bytes of the path of the folder for sockets at most, so that a socket's has no more than 100."""
SECOND_CTRL_C = 3.0
"""Seconds that a second Ctrl-C has to come after the first, when runs are active."""


class EmbeddedSettings(Section):
    """What holds for the process as a whole.

    `delay` holds back every delivery between services, in seconds.
    `log_bytes`: so large `cloche.log` grows before it becomes `cloche.log.1`, in place of the former one; 0: no limit.
    """

    delay: float = 0.0
    log_bytes: int = Field(default=32 * 1024 * 1024, ge=0)


class Settings(Section):
    """All settings of an embedded Cloche."""

    http: HttpSettings = HttpSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    registry: RegistrySettings = RegistrySettings()
    builder: BuilderSettings = BuilderSettings()
    runner: RunnerSettings = RunnerSettings()
    deployer: DeployerSettings = DeployerSettings()


@dataclass(frozen=True, slots=True)
class Options:
    """How to start: the data folder, and what overrides the settings."""

    home: Path
    host: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a caller needs to know of a server that is ready."""

    url: str
    token_file: str
    pid: int
    version: str
    started: str


def settings(home: Path, environ: Mapping[str, str] | None = None) -> Loaded[Settings]:
    """Return the settings of a data folder with their sources. Raises `Invalid`."""
    file = home / "config.toml"
    text = file.read_text() if file.is_file() else ""
    return load(Settings, text, os.environ if environ is None else environ)


def _http(options: Options, found: HttpSettings) -> HttpSettings:
    changes: dict[str, object] = {}
    if options.host is not None:
        changes["host"] = options.host
    if options.port is not None:
        changes["port"] = options.port
    return found.model_copy(update=changes)


# --- the data folder


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes this data folder one installation: its id, its secret, and the first key's token."""

    installation: str
    pepper: bytes
    token: str


def _identity(home: Path, random: SystemRandom) -> Identity:
    """Return the folder's identity, made at the first start; the files are the user's alone (0600)."""
    path = home / "identity.json"
    if path.exists():
        installation, pepper = _read_identity(path)
        token = (home / "token").read_text().strip() if (home / "token").exists() else ""
        return Identity(installation, pepper, token or _new_token(home, random, pepper))
    pepper = secrets.token_bytes(PEPPER_BYTES)
    installation = uuid.uuid4().hex[:12]
    token = _new_token(home, random, pepper)
    _write(path, json.dumps({"installation": installation, "pepper": pepper.hex()}))
    return Identity(installation, pepper, token)


def _read_identity(path: Path) -> tuple[str, bytes]:
    """Return installation and pepper. Raises `Invalid` (`identity_damaged`)."""
    try:
        found = json.loads(path.read_text())
        return str(found["installation"]), bytes.fromhex(found["pepper"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(
            "identity_damaged",
            f"{path} cannot be read.",
            why=f"It says who this installation is: {error}.",
            todo="Put it back from a backup. Without it (remove it and `token`) all keys of services and users change.",
        ) from error


def _new_token(home: Path, random: SystemRandom, pepper: bytes) -> str:
    token = issue_key(random, pepper).token
    _write(home / "token", token + "\n")
    return token


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _sockets(home: Path) -> Iterator[Path]:
    """Make the short, private folder that scoring workers' sockets lie in (a path has 100 bytes at most)."""
    name = f"cloche-{os.getuid()}-{sha256(str(home.resolve()).encode()).hexdigest()[:12]}"
    parents = [Path(gettempdir()), Path("/tmp")]  # noqa: S108 - a folder of ours, checked below
    parent = next((one for one in parents if len(str(one / name)) <= SOCKET_FOLDER), parents[-1])
    folder = parent / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else")
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            for left in folder.iterdir():
                left.unlink()
            folder.rmdir()


# --- composition


@dataclass(frozen=True, slots=True)
class Embedded:
    """The composition: services by name, the app, what ends runs, and the room that is kept."""

    services: tuple[Service, ...]
    app: App
    runner: runner.Runner
    reserve: DiskReserve


@dataclass(frozen=True, slots=True)
class Machine:
    """The real adapters of one machine, opened."""

    store: SqliteFile
    http: HttpClient
    blobs: FileBlobStore
    interpreters: Interpreters
    files: LocalNodeFiles
    executor: LocalExecutor
    sockets: Path
    clock: SystemClock
    random: SystemRandom
    reserve: DiskReserve

    def platform(self, service: str, access: AccessTable, installation: str) -> Platform:
        """Return what a service is built from."""
        return Platform(
            journal=LargeJournal(self.store.journal(service), self.blobs, service),
            views=self.store.views(service),
            leases=self.store.leases(service),
            bus=LargeBus(self.store.bus(), self.blobs),
            blobs=self.blobs,
            clock=self.clock,
            random=self.random,
            http=self.http,
            access=access,
            installation=installation,
            exclusive=True,
            relays=False,
            reserve=self.reserve,
        )


@asynccontextmanager
async def _machine(home: Path, delay: float) -> AsyncIterator[Machine]:
    """Open what this machine offers, in the data folder; close it in the opposite order."""
    reserve = DiskReserve(home / "reserve")
    reserve.make_room()
    node, uv = home / "node", home / "builder" / "uv"
    node.mkdir(exist_ok=True)
    uv.mkdir(parents=True, exist_ok=True)
    interpreters = Interpreters(managed=uv / "python")
    async with contextlib.AsyncExitStack() as stack:
        store = await SqliteFile.open(home / "cloche.db", delay=delay)
        stack.push_async_callback(store.close)
        http, files = HttpClient(), LocalNodeFiles(node, interpreters)
        executor = LocalExecutor(node / "processes")
        for part in (http, files, executor):
            stack.push_async_callback(part.close)
        sockets = stack.enter_context(_sockets(home))
        blobs = FileBlobStore(home / "blobs")
        clock, random = SystemClock(), SystemRandom()
        yield Machine(store, http, blobs, interpreters, files, executor, sockets, clock, random, reserve)


@asynccontextmanager
async def _compose(home: Path, found: Settings, log: Log, base_url: Callable[[], str]) -> AsyncIterator[Embedded]:
    identity = _identity(home, SystemRandom())
    async with _machine(home, found.embedded.delay) as machine:
        access = AccessTable(identity.pepper, machine.clock)

        def platform_of(service: str) -> Platform:
            return machine.platform(service, access, identity.installation)

        registry_service = registry.build(platform_of("registry"), found.registry, identity.pepper)
        await registry_service.ensure_bootstrap_key(identity.token)
        files = machine.files
        own = builder.embedded_ports(
            home / "builder",
            found.builder,
            interpreters=machine.interpreters,
            prove=files.prefix,
            warm=files.warm,
            conda=RattlerSolver(files.conda_workers),
        )
        builder_service = builder.build(platform_of("builder"), found.builder, own)
        node = runner.local_node(home / "node", machine.executor, files, NvmlDevices())
        node_id = found.runner.node or f"n{identity.installation}"
        runner_settings = found.runner.model_copy(update={"node": node_id})
        runner_service = runner.build(platform_of("runner"), runner_settings, node, git=LocalGit())
        stage = _stage(machine, found.deployer)
        extras = deployer.Extras(stage, identity.pepper, base_url, code_version=__version__, node=node_id)
        deployer_service = deployer.build(platform_of("deployer"), found.deployer, extras)
        services: tuple[Service, ...] = (registry_service, builder_service, runner_service, deployer_service)
        yield Embedded(services, _app(services, found, access, log, identity), runner_service, machine.reserve)


def _stage(machine: Machine, found: DeployerSettings) -> NodeStage:
    return NodeStage(
        NodeParts(
            executor=machine.executor,
            files=machine.files,
            blobs=machine.blobs,
            random=machine.random,
            runtime=Path(str(cloche_runtime.__file__)).parent.parent,
            sockets=machine.sockets,
            base_env=BASE_ENV,
            orphan_after=found.orphan_after,
        )
    )


def _app(services: tuple[Service, ...], found: Settings, access: AccessTable, log: Log, identity: Identity) -> App:
    parts = ProcessParts(
        version=Version(name="cloche", version=__version__, installation=identity.installation),
        access=access,
        log=log,
        clock=SystemClock(),
        random=SystemRandom(),
        policy=front_policy(found.http),
        openapi=_openapi_file(),
    )
    return whole_app(services, parts)


async def document(home: Path) -> bytes:
    """Return the OpenAPI document of all four services, made from the code; `home` is a scratch folder."""
    log = Log("cloche", write=lambda _line: None, clock=SystemClock())
    async with _compose(home, Settings(), log, lambda: "") as embedded:
        return openapi_document(embedded.app.api)


def _openapi_file() -> bytes | None:
    """Return the document that was made at build time; it is checked against the code in CI."""
    file = resources.files("cloche").joinpath(OPENAPI)
    return file.read_bytes() if file.is_file() else None


# --- the process


class Shutdown:
    """Signals: the first asks for the end, a second Ctrl-C ends the runs too."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self.interactive = False
        self.cancel_runs = asyncio.Event()

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked, number)

    def _asked(self, number: int) -> None:
        if number == signal.SIGINT and self._life.stopping:
            self.cancel_runs.set()
        self.interactive |= number == signal.SIGINT
        self._life.stop()


async def _serve(options: Options, ready: Callable[[Started], None], say: Callable[[str], None]) -> None:
    home = options.home
    found = settings(home).value
    found = found.model_copy(update={"http": _http(options, found.http)})
    log = _log(home, found.embedded.log_bytes)
    with FolderLock(home / "lock"):
        listener = listen(found.http)
        address: list[str] = []
        async with (
            _compose(home, found, log, lambda: address[0] if address else "") as embedded,
            Lifecycle(log.report) as life,
        ):
            shutdown = Shutdown(life)
            shutdown.install()
            servers: list[Server] = []
            life.at_end("http", lambda: _drain(servers), deadline_s=found.http.drain_s + 2)
            life.spawn("garbage", look_again())
            life.spawn("reserve", keep(embedded.reserve))
            for service in embedded.services:
                await service.start(life)
            server = await life.enter(serve_app(embedded.app, found.http, listener))
            servers.append(server)
            address.append(server.url)
            started = _started(home, server)
            ready(started)
            if not sys.stderr.isatty():  # on a terminal `ready` has just said it
                log.say("info", "ready", f"Cloche {__version__} is ready at {server.url}.")
            await life.wait()
            await _leave(embedded, shutdown, say)
        (home / "server.json").unlink(missing_ok=True)


async def _drain(servers: list[Server]) -> None:
    """Take no further requests, before the services that would answer them end."""
    for server in servers:
        await server.drain()


async def _leave(embedded: Embedded, shutdown: Shutdown, say: Callable[[str], None]) -> None:
    """Say which runs go on; end them when the user insists."""
    active = embedded.runner.active()
    if not active:
        return
    again = f" Press Ctrl-C again within {SECOND_CTRL_C:g} s to end them." if shutdown.interactive else ""
    many = "1 run goes" if len(active) == 1 else f"{len(active)} runs go"
    say(f"{many} on without Cloche: {', '.join(active)}.{again}")
    if not shutdown.interactive:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECOND_CTRL_C):
            await shutdown.cancel_runs.wait()
            say("Ending them …")
            await embedded.runner.cancel_all()
            await _all_ended(embedded)


async def _all_ended(embedded: Embedded) -> None:
    while embedded.runner.active():  # noqa: ASYNC110 - once in a process's life, and for a moment
        await asyncio.sleep(0.05)


def _started(home: Path, server: Server) -> Started:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    started = Started(server.url, str(home / "token"), os.getpid(), __version__, now)
    _write(home / "server.json", json.dumps(asdict(started)))
    return started


def _log(home: Path, limit: int) -> Log:
    """Return the process's log: readable on a terminal, else JSON lines to standard error."""
    import logging  # noqa: PLC0415 - set up once, here

    sink = LogSink(LogFile(home / LOG, limit).write)
    log = Log("cloche", write=sink, clock=SystemClock(), pretty=sys.stderr.isatty(), scrubber=Scrubber())
    sink.tell = lambda lost: log.line("warning", "log_lines_lost", f"{lost} lines could not be written.", count=lost)
    logging.basicConfig(handlers=[StdlibBridge(log)], level=logging.WARNING, force=True)
    log.say("debug", "home", f"The data folder is {home}.")
    return log


def serve(options: Options, ready: Callable[[Started], None], say: Callable[[str], None] = lambda _text: None) -> None:
    """Run the embedded process until SIGTERM or SIGINT; `ready` is called once it answers requests.

    Raises `Conflict` (`already_running`, `port_in_use`, `data_too_new`), `Invalid` and `Unavailable`.
    """
    os.umask(0o077)
    home = made(options.home).resolve()
    with short_pauses(), telling_what_is_full(home):
        run(_serve(replace(options, home=home), ready, say))


def main(arguments: list[str] | None = None) -> int:
    """Start in the background: the parent waits at `--ready-fd` for one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m cloche._embedded")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--ready-fd", type=int)
    found = parser.parse_args(arguments)

    def tell(message: Mapping[str, object]) -> None:
        if found.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(found.ready_fd, json.dumps(message).encode() + b"\n")
                os.close(found.ready_fd)

    try:
        serve(Options(found.home, found.host, found.port), lambda started: tell(asdict(started)))
    except ClocheError as error:
        tell({"error": {"code": error.code, "what": error.what, "why": error.why, "todo": error.todo}})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
