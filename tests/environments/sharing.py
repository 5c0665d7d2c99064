"""Servers that test processes share: started once, used by all, gone with the last of them, also after a crash."""

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from tests.environments import build, engine
from tests.environments.box import LABEL, OWNER, authority_of
from tests.environments.catalogue import ROLES
from tests.environments.owners import STANDING, lives, runs, this_owner
from tests.environments.places import cache, locked
from tests.environments.servers import Server
from tests.environments.starts import KIND, START

# The owner of servers that several processes use, with the folder where their users stand.
SHARED = "shared"
SWEEP_SECONDS = 2.0
# The watcher outlives the run, so the run must not be the one who waits for it.
GRANDCHILD = """
import os, sys
if os.fork():
    os._exit(0)
os.execv(sys.executable, [sys.executable, "-m", "tests.environments", "watch"])
"""


def together() -> str:
    """The owner of the servers that this cache's runs share; runs with another cache leave them alone."""
    return f"{SHARED}-{hashlib.sha256(bytes(cache())).hexdigest()[:8]}"


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
    """The shared server of a role, if it runs."""
    path = folder(role) / "server.json"
    if not path.exists():
        return None
    server = KIND[role].load(path)
    try:
        handle = server.handle()
    except NotFound:
        return None
    return server if handle.status in {"running", "paused"} else None


def outdated(role: str, server: Server) -> bool:
    """Whether another image would be chosen now than the server runs on."""
    wanted = build.found(engine.client(), ROLES[role])
    return bool(wanted) and server.handle().attrs["Config"]["Image"] != wanted


def acquire(role: str, user: str) -> Server:
    """The shared server of a role, started if it does not run; it stays until `user` and all others are gone."""
    with locked(f"server-{role}"):
        others = set(users(role)) - {user}
        (folder(role) / "users" / user).touch()
        server = running(role)
        if server is None or (not others and outdated(role, server)):
            remove_shared(role)
            server = start(role, together())
            server.save(folder(role) / "server.json")
    if user != STANDING:
        WATCH.ensure()
    return server


def start(role: str, owner: str) -> Server:
    """Start a server; once more when another process took one of its ports in between."""
    try:
        return START[role](owner)
    except APIError as error:
        if not any(words in str(error) for words in ("already allocated", "already in use")):
            raise
        return START[role](owner)


def release(user: str) -> None:
    """Take a user's name off every server, and stop those that nobody uses any more."""
    for role in START:
        with locked(f"server-{role}"):
            (folder(role) / "users" / user).unlink(missing_ok=True)
            if not users(role):
                remove_shared(role)
    (runs() / user).unlink(missing_ok=True)


def remove_shared(role: str) -> None:
    (folder(role) / "server.json").unlink(missing_ok=True)
    for found in containers(role):
        if found.labels[OWNER] == together():
            remove(found)


def containers(role: str = "") -> list[Container]:
    """The containers of tests, of one role or of all, whatever their state."""
    label = f"{LABEL}={role}" if role else LABEL
    return list(engine.client().containers.list(all=True, filters={"label": [label, OWNER]}, ignore_removed=True))


def strangers() -> list[str]:
    """The names of the engine's containers that belong to no test run and not to `up`."""
    found = engine.client().containers.list(all=True, ignore_removed=True)
    return [str(each.name) for each in found if OWNER not in each.labels]


def remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except NotFound:
        return
    authority_of(str(container.name)).unlink(missing_ok=True)


@contextmanager
def private(role: str) -> Iterator[Server]:
    """A server of a role for one test alone, to break as it likes."""
    WATCH.ensure()
    server = start(role, this_owner())
    try:
        yield server
    finally:
        with suppress(NotFound):
            remove(server.handle())


def sweep() -> None:
    """Remove what belongs to test runs that are gone."""
    for found in containers():
        owner = found.labels[OWNER]
        if not owner.startswith(SHARED) and not lives(owner):
            remove(found)
    for role in START:
        with locked(f"server-{role}"):
            if not users(role):
                remove_shared(role)


def watch() -> None:
    """Sweep until no test run is left. One watcher does it for all; it lives on when a run is killed."""
    runs().mkdir(exist_ok=True)
    with suppress(BlockingIOError), locked("watch", wait=False):
        while True:
            before = list(runs().iterdir())
            gone = [run for run in before if not lives(run.name)]
            sweep()
            for run in gone:
                run.unlink(missing_ok=True)
            if not any(runs().iterdir()):
                return
            time.sleep(SWEEP_SECONDS)


class Watch:
    """Whether this process entered its run and saw to it that a watcher runs. The watcher leaves by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used = False

    def ensure(self) -> None:
        """Enter this run, and start a watcher unless there is one."""
        with self._lock:
            if self.used:
                return
            self.used = True
            runs().mkdir(exist_ok=True)
            (runs() / this_owner()).touch()
            try:
                with locked("watch", wait=False):
                    pass
            except BlockingIOError:
                return
            subprocess.run(
                [sys.executable, "-c", GRANDCHILD],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                check=True,
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
