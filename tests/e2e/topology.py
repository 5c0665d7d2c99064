"""A running Cloche as the tests see it: a URL, a token, and what can happen to its process and data folder.

The behaviour suite knows a server only through this. `Topology` is what every test may use;
`Embedded` adds what concerns the one process of an embedded Cloche (tests with it are `embedded_only`).
"""

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import random
import select
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from cloche import AsyncClient, Client
from tests.e2e.keeper import processes_of, state

WAIT: Final = 60.0
"""Seconds that a test waits for anything, unless deliveries are delayed."""
DELAY: Final = float(os.environ.get("CLOCHE_TEST_DELAY") or 0)
"""Seconds by which every delivery between services is delayed."""
PATIENCE: Final = WAIT + 60 * DELAY
NICENESS: Final = 5
SMALL: Final[dict[str, Any]] = {"cpus": 0.1, "memory": 64 * 1024 * 1024}
"""Resources of a run that many others may run beside."""

_MOUNT: Final = 'mount -t tmpfs -o size="$1",mode=700 tmpfs "$2" && echo mounted && exec cat'
"""A disk of its own lasts as long as the process that holds it, which ends with the tests."""
_LOGGED: Final = 'exec 2>>"$1/cloche.log" && shift && exec "$@"'
"""The log goes into the data folder there, as with `cloche up -d`: what fills the disk fills it too."""


@dataclass
class Ended:
    """How a call of the program ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it wrote with --json."""
        return json.loads(self.out)


@dataclass
class Topology:
    """A server: where it is reached, and a token for it. `scratch` is a folder for the client's side."""

    url: str
    token: str
    scratch: Path

    def client(self) -> Client:
        return Client(self.url, self.token, home=self.scratch)

    def async_client(self) -> AsyncClient:
        return AsyncClient(self.url, self.token, home=self.scratch)

    def rest(self, *, address: str = "", **headers: str) -> httpx2.Client:
        """Return an HTTP client with the token; a header given as an empty text is left out.

        `address`: where it comes from, for requests whose failures others shall not be held to.
        """
        given = {"authorization": f"Bearer {self.token}", **headers}
        chosen = {name: value for name, value in given.items() if value}
        transport = httpx2.HTTPTransport(verify=_tls(), local_address=address or None)
        return httpx2.Client(base_url=self.url, headers=chosen, timeout=PATIENCE, transport=transport)

    def environ(self) -> dict[str, str]:
        """Return the environment of a user of the command line."""
        return {
            **_environment(),
            "CLOCHE_URL": self.url,
            "CLOCHE_TOKEN": self.token,
            "CLOCHE_HOME": str(self.scratch),
            "NO_COLOR": "1",
        }

    def cli(self, *arguments: str | Path, stdin: str = "", cwd: Path | None = None, code: int | None = 0) -> Ended:
        """Call the program; its exit code must be `code` (None: any)."""
        return call(arguments, self.environ(), stdin=stdin, cwd=cwd, code=code)


def call(
    arguments: tuple[str | Path, ...],
    environ: Mapping[str, str],
    *,
    stdin: str = "",
    cwd: Path | None = None,
    code: int | None = 0,
) -> Ended:
    """Call `cloche` as a user would and return how it ended."""
    done = subprocess.run(
        program(*arguments),
        env=dict(environ),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    if code is not None:
        told = f"{' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, told
    return Ended(done.returncode, done.stdout, done.stderr)


def program(*arguments: str | Path) -> list[str]:
    """Return the command line of `cloche` with arguments."""
    return [str(Path(sys.executable).with_name("cloche")), *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CLOCHE_")}


@dataclass
class Embedded(Topology):
    """An embedded Cloche: its process and its data folder.

    `disk`: bytes that the data folder may hold (it lies on a small file system of its own then).
    """

    home: Path = Path()
    settings: Mapping[str, str] = field(default_factory=dict)
    disk: int = 0
    said: dict[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    mounted: "subprocess.Popen[bytes] | None" = None

    @property
    def pid(self) -> int:
        return int(self.said["pid"])

    @property
    def folder(self) -> Path:
        """The data folder as this process sees it."""
        return Path(f"/proc/{self.mounted.pid}/root{self.home}") if self.mounted is not None else self.home

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "CLOCHE_HOME": str(self.home)} if not self.disk else super().environ()

    def start(self, *, port: int = 0) -> dict[str, Any]:
        """Start the server and return when it is ready. What it says instead is returned too (`error`)."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.reap()
        reading, writing = os.pipe()
        server = [sys.executable, "-P", "-m", "cloche._embedded", "--home", str(self.home)]
        argv = [*self.on_own_disk(), *server, "--port", str(port), "--ready-fd", str(writing)]
        delay = {"CLOCHE_EMBEDDED__DELAY": str(DELAY)} if DELAY else {}
        environ = {**_environment(), **delay, **self.settings}
        with self.log_file.open("ab") as log, os.fdopen(reading, "rb") as told:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, pass_fds=[writing],
                start_new_session=True,
            )  # fmt: skip
            os.close(writing)
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)
            ready, _, _ = select.select([told], [], [], PATIENCE)
            line = told.readline() if ready else b""
        assert line, f"The server did not start: {self.log_file.read_text()[-4000:]}"
        answer: dict[str, Any] = json.loads(line)
        if "error" not in answer:
            self.said, self.url = answer, answer["url"]
            self.token = (self.folder / "token").read_text().strip()
        return answer

    @property
    def log_file(self) -> Path:
        """What the server wrote; beside the data folder, which is the server's own."""
        return self.home.with_name(f"{self.home.name}.log")

    def on_own_disk(self) -> list[str]:
        """Return what a command line begins with whose program sees the data folder on its own disk."""
        if not self.disk:
            return []
        if self.mounted is None:
            self.mounted = self._mount()
        there = f"/proc/{self.mounted.pid}/ns"
        user = [] if os.getuid() == 0 else [f"--user={there}/user", "--preserve-credentials"]
        return ["nsenter", *user, f"--mount={there}/mnt", "--", "sh", "-c", _LOGGED, "sh", str(self.home)]

    def _mount(self) -> "subprocess.Popen[bytes]":
        apart = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
        argv = [*apart, "sh", "-c", _MOUNT, "sh", str(self.disk), str(self.home)]
        holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n", "the disk of its own cannot be mounted"
        return holder

    def unmount(self) -> None:
        """Give the disk of its own back, with all that is on it."""
        if self.mounted is not None:
            self.mounted.communicate()
            self.mounted = None

    def kill(self) -> None:
        """End the server as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        self._gone()

    def stop(self) -> None:
        """Ask the server to end and wait for it."""
        os.kill(self.pid, signal.SIGTERM)
        self._gone()

    def restart(self, *, port: int = 0) -> None:
        """Start it again on the same data folder; it gets another URL, unless a port is given."""
        if self.lives:
            self.stop()
        said = self.start(port=port)
        assert "error" not in said, said

    @property
    def lives(self) -> bool:
        return bool(self.said) and state(self.pid) not in {"Z", "X"}

    def reap(self) -> None:
        if self.process is not None:
            self.process.wait(PATIENCE)
            self.process = None

    def _gone(self) -> None:
        self.reap()
        eventually(lambda: not self.lives, "the server ended")

    def processes(self) -> list[int]:
        """Return the processes that have to do with this data folder: server, supervisors, user code."""
        return processes_of(self.home)

    def fill_disk(self) -> None:
        """Leave no room in the data folder; only where it has a disk of its own."""
        assert self.disk, "fill_disk() would fill everybody's disk: ask for own_topology(disk=…)"
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1024 * 1024, 4096, 1):
                with suppressed_full_disk():
                    while True:
                        file.write(b"\0" * size)

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        (self.folder / "filler").unlink()


@contextmanager
def suppressed_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def eventually(holds: "Any", what: str, *, seconds: float = PATIENCE) -> Any:
    """Return the first true value of `holds()`; fails after `seconds`."""
    end = time.monotonic() + seconds
    for attempt in itertools.count():
        found = holds()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(min(0.25, 0.02 * (attempt + 1)))
    return None


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return one context for all clients: making one costs more than a test's requests."""
    return ssl.create_default_context()


def own_address() -> str:
    """Return a loopback address that no other test speaks from."""
    return f"127.{random.randrange(1, 250)}.{random.randrange(250)}.{random.randrange(1, 250)}"


# --- one server for all


@contextmanager
def shared_server(root: Path, name: str = "shared", settings: Mapping[str, str] | None = None) -> Iterator[Embedded]:
    """Yield a server of the whole test session; who comes first starts it, the keeper ends it after the last."""
    said, scratch = root / "servers" / f"{name}.json", root / f"scratch-{name}-{os.getpid()}"
    server = Embedded("", "", scratch, home=root / "homes" / name, settings=settings or {})
    scratch.mkdir(exist_ok=True)
    said.parent.mkdir(exist_ok=True)
    with (root / f"{name}.lock").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not said.exists():
            answer = server.start()
            assert "error" not in answer, answer
            _let_go(server.process)
            said.write_text(json.dumps({"token": server.token, "said": server.said}))
    found = json.loads(said.read_text())
    server.said, server.url, server.token, server.process = found["said"], found["said"]["url"], found["token"], None
    yield server


def _let_go(process: "subprocess.Popen[bytes] | None") -> None:
    """The keeper ends it: nobody waits for it here."""
    if process is not None:
        process.returncode = 0


@contextmanager
def using(root: Path) -> Iterator[None]:
    """Hold the session's folder in use, and see that somebody cleans up when nobody does any more."""
    (root / "homes").mkdir(parents=True, exist_ok=True)
    with (root / "users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        keeper = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("keeper.py")), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _let_go(keeper)
        yield


@contextmanager
def own_server(root: Path, name: str, settings: Mapping[str, str], disk: int = 0) -> Iterator[Embedded]:
    """Yield a server for one test; afterwards nothing of it may live."""
    scratch = root / f"scratch-{name}"
    scratch.mkdir(parents=True, exist_ok=True)
    server = Embedded("", "", scratch, home=root / "homes" / name, settings=settings, disk=disk)
    said = server.start()
    assert "error" not in said, said
    try:
        yield server
    finally:
        try:
            _end(server)
        finally:
            server.unmount()


def _end(server: Embedded) -> None:
    """End a private server with its runs, and check that nothing is left."""
    if not server.lives and server.processes():
        server.restart()
    if server.lives:
        with contextlib.suppress(Exception), server.client() as client:
            for run in client.runs.list():
                if not run.ended:
                    client.runs.cancel(run.id)
                    client.runs.wait(run.id, timeout=PATIENCE)
        server.stop()
    server.reap()
    eventually(lambda: not server.processes(), "all processes of the server ended", seconds=10)
