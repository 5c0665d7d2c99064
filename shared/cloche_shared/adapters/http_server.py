"""uvicorn as our server: the one place that opens listening sockets for HTTP.

Loopback unless told otherwise; beyond it only with TLS or `insecure`. Ending drains: no new
connections, running requests finish within the deadline, streams end at once.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import stat
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import uvicorn

from cloche_shared.adapters.http_protocol import Connections, protocol_class
from cloche_shared.errors import Conflict, Invalid
from cloche_shared.http.app import App
from cloche_shared.http.policy import LOOPBACK_HOSTS, FrontPolicy
from cloche_shared.http.proxies import Proxies
from cloche_shared.settings import HttpSettings

BACKLOG: Final = 512
KEEP_ALIVE_S: Final = 75
RATE_PER_S: Final = 50.0
TICKS: Final = 10
"""uvicorn's ticks between two looks at the connections: one second."""

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Run a process's main coroutine on uvloop."""
    import uvloop  # noqa: PLC0415 - imported on use

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def check_exposure(settings: HttpSettings) -> None:
    """Raise `Invalid` (`insecure_bind`, `tls_incomplete`) unless the address may be listened at."""
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise Invalid("tls_incomplete", "TLS needs a certificate and a key.", todo="Set both, or none.")
    if settings.uds or is_loopback(settings.host) or settings.tls_certificate or settings.insecure:
        return
    raise Invalid(
        "insecure_bind",
        f"Listening at {settings.host} would send tokens in clear text.",
        why="The address can be reached from other machines, and there is no TLS.",
        todo="Set http.tls_certificate and http.tls_key; or http.insecure where a proxy in front has TLS.",
    )


def front_policy(settings: HttpSettings) -> FrontPolicy:
    """Return the front's policy: hosts are loopback's names, the address, and what was added.

    Keys are not held to a rate on loopback unless that was set.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host.lower()
    names = LOOPBACK_HOSTS | {host} | {name.lower() for name in settings.hosts}
    rate = settings.requests_per_s
    if rate is None:
        rate = 0.0 if settings.uds or is_loopback(settings.host) else RATE_PER_S
    origins = frozenset(origin.lower() for origin in settings.origins)
    proxies = Proxies(settings.proxies, settings.outer_proxies)
    return FrontPolicy(hosts=frozenset(names), origins=origins, requests_per_s=rate, proxies=proxies)


def listen(settings: HttpSettings) -> socket.socket:
    """Return a bound socket.

    Raises `Conflict` (`port_in_use`) and `Invalid` (`address_not_available`, `port_not_allowed`).
    """
    check_exposure(settings)
    if settings.uds:
        return _listen_unix(settings.uds)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.bind((settings.host, settings.port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise _bind_error(settings, error) from error
    found.settimeout(0)
    return found


def _listen_unix(path: str) -> socket.socket:
    place = Path(path)
    if place.exists() and stat.S_ISSOCK(place.stat().st_mode):
        place.unlink()
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.bind(path)
    place.chmod(0o600)
    found.listen(BACKLOG)
    found.settimeout(0)
    return found


def _bind_error(settings: HttpSettings, error: OSError) -> Conflict | Invalid:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            "port_in_use",
            f"Something else listens at {where}.",
            todo="`cloche status` shows whether it is a Cloche; else set another port with --port or http.port.",
        )
    if error.errno == errno.EACCES:
        return Invalid("port_not_allowed", f"This user may not listen at {where}.", todo="Use a port over 1023.")
    return Invalid("address_not_available", f"{where} is not an address of this machine.", todo="Set http.host.")


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the lifecycle's."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._held = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        """Look at the connections once a second; uvicorn asks ten times a second whether to end."""
        if counter % TICKS == 0:
            self._held.look(list(self.server_state.connections), asyncio.get_running_loop().time())
        return await super().on_tick(counter)


class Server:
    """A server that listens. `port` is the bound one (0 on a Unix socket)."""

    def __init__(self, app: App, settings: HttpSettings, listener: socket.socket) -> None:
        self._app = app
        self._settings = settings
        connections = Connections(settings.head_s, settings.connections_per_address, Proxies(settings.proxies))
        self._server = _Uvicorn(_config(app, settings, connections), connections)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        self.port: int = 0 if settings.uds else listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The address to use, for people."""
        if self._settings.uds:
            return f"unix:{self._settings.uds}"
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._settings.tls_certificate else 'http'}://{host}:{self.port}"

    async def ready(self) -> None:
        """Wait until requests are answered."""
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task

    async def wait(self) -> None:
        """Wait until the server has ended (for `Lifecycle.spawn`)."""
        await asyncio.shield(self._task)

    async def drain(self) -> None:
        """Take nothing new, end the streams, let requests finish within `drain_s`, then cut."""
        self._app.drain.set()
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=self._settings.drain_s + 1)
        if not self._task.done():
            self._server.force_exit = True
        await self._task


def _config(app: App, settings: HttpSettings, connections: Connections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=protocol_class(connections),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


@asynccontextmanager
async def serve(app: App, settings: HttpSettings, listener: socket.socket | None = None) -> AsyncIterator[Server]:
    """Serve until the block is left, then drain. Raises what `listen` raises."""
    server = Server(app, settings, listener or listen(settings))
    try:
        await server.ready()
        yield server
    finally:
        await server.drain()
