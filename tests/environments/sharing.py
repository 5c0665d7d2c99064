"""Servers that test processes share: started once, used by all, gone with the last of them, also after a crash."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker.errors import NotFound
from docker.models.containers import Container

from tests.environments import build, engine
from tests.environments.box import LABEL, OWNER
from tests.environments.catalogue import ROLES
from tests.environments.places import cache, locked
from tests.environments.servers import Server
from tests.environments.starts import KIND, START

# The owner of servers that several processes use; the folder of their users says who.
SHARED = "shared"
# The user that `up` enters and only `down` removes.
STANDING = "standing"
SWEEP_SECONDS = 2.0


def this_owner() -> str:
    """The test run that this process belongs to: with pytest-xdist the process that started the workers."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    return owner_of(os.getppid() if worker else os.getpid())


def owner_of(process: int) -> str:
    """A process by number and start, for numbers are used again."""
    return f"{process}-{born(process)}"


def born(process: int) -> str:
    """When a process started, in the kernel's ticks; nothing when it is gone, 0 where the kernel does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(process, 0)
    except OSError:
        return ""
    return "0"


def lives(owner: str) -> bool:
    if owner == STANDING:
        return True
    number, _, start = owner.partition("-")
    return number.isdigit() and bool(start) and born(int(number)) == start


def folder(role: str) -> Path:
    found = cache() / "servers" / role
    (found / "users").mkdir(parents=True, exist_ok=True)
    return found


def users(role: str) -> list[str]:
    """Who uses the shared server of a role. Users that died are forgotten; the caller holds the role's lock."""
    alive = []
    for entry in (folder(role) / "users").iterdir():
        if lives(entry.name):
            alive.append(entry.name)
        else:
            entry.unlink(missing_ok=True)
    return alive


def running(role: str) -> Server | None:
    """The shared server of a role if it runs on the image that would be chosen now."""
    path = folder(role) / "server.json"
    if not path.exists():
        return None
    server = KIND[role].load(path)
    try:
        handle = server.handle()
    except NotFound:
        return None
    wanted = build.found(engine.client(), ROLES[role])
    same = not wanted or handle.attrs["Config"]["Image"] == wanted
    return server if same and handle.status in {"running", "paused"} else None


def acquire(role: str, user: str) -> Server:
    """The shared server of a role, started if it does not run; it stays until `user` and all others are gone."""
    with locked(f"server-{role}"):
        (folder(role) / "users" / user).touch()
        server = running(role)
        if server is None:
            remove_shared(role)
            server = START[role](SHARED)
            server.save(folder(role) / "server.json")
    if user != STANDING:
        WATCH.ensure()
    return server


def release(user: str) -> None:
    """Take a user's name off every server, and stop those that nobody uses any more."""
    for role in START:
        with locked(f"server-{role}"):
            (folder(role) / "users" / user).unlink(missing_ok=True)
            if not users(role):
                remove_shared(role)


def remove_shared(role: str) -> None:
    (folder(role) / "server.json").unlink(missing_ok=True)
    for found in containers(role):
        if found.labels.get(OWNER) == SHARED:
            remove(found)


def containers(role: str = "") -> list[Container]:
    """The containers of tests, of one role or of all, whatever their state."""
    label = f"{LABEL}={role}" if role else LABEL
    return list(engine.client().containers.list(all=True, filters={"label": [label, OWNER]}, ignore_removed=True))


def remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except NotFound:
        return


@contextmanager
def private(role: str) -> Iterator[Server]:
    """A server of a role for one test alone, to break as it likes."""
    WATCH.ensure()
    server = START[role](this_owner())
    try:
        yield server
    finally:
        with suppress(NotFound):
            remove(server.handle())


def sweep() -> bool:
    """Remove what belongs to test runs that are gone. Says whether anything is left that could become so."""
    left = False
    for found in containers():
        owner = found.labels[OWNER]
        if owner == SHARED:
            continue
        if lives(owner):
            left = True
        else:
            remove(found)
    for role in START:
        with locked(f"server-{role}"):
            alive = users(role)
            if not alive:
                remove_shared(role)
            left |= any(user != STANDING for user in alive)
    return left


def watch() -> None:
    """Sweep until no test run is left. One watcher does it for all; it lives on when a run is killed."""
    with locked("watch"):
        while sweep():
            time.sleep(SWEEP_SECONDS)


class Watch:
    """The watcher that this process started. It leaves by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def used(self) -> bool:
        """Whether this process took any server."""
        return self._process is not None

    def ensure(self) -> None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.environments", "watch"],
                    cwd=Path(__file__).parents[2],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )


WATCH = Watch()


def up(roles: list[str]) -> dict[str, Server]:
    """Start shared servers that stay until `down`."""
    return {role: acquire(role, STANDING) for role in roles}


def down(*, everything: bool) -> None:
    """Stop the standing servers that no run uses; with `everything` each container that tests ever started."""
    release(STANDING)
    sweep()
    for found in containers() if everything else ():
        remove(found)
