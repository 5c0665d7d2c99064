"""The executor's side of the socket: who may come in, and how long all of it lasts."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloche_shared.adapters.socket_executor.handover import Handover
from cloche_shared.adapters.socket_executor.reach import bound, peer_uid
from cloche_shared.adapters.socket_executor.room import Room
from cloche_shared.adapters.socket_executor.session import Session, is_owner
from cloche_shared.errors import Conflict, Throttled, Unauthenticated

MOST_SESSIONS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where the executor listens and for whom.

    `root` (0700) holds the groups' folders. `clients` says which users may act for which owners; an
    owner that it does not name, and without it anybody else than our own user, is turned away. `gid`
    is the group in common with the services, `share` the folder of the node that both work in.
    """

    socket: Path
    root: Path
    clients: Mapping[str, frozenset[int]] = field(default_factory=dict)
    gid: int | None = None
    share: Path | None = None

    def admits(self, uid: int, owner: str) -> bool:
        """Tell whether a user may act for an owner."""
        return uid in self.clients[owner] if owner in self.clients else not self.clients and uid == os.geteuid()

    def knows(self, uid: int) -> bool:
        """Tell whether a user may come in at all."""
        return any(uid in one for one in self.clients.values()) if self.clients else uid == os.geteuid()


class Server:
    """The executor while it runs; one at a time has a root."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._handover = Handover(rules.share, rules.gid)
        self._rooms: dict[str, Room] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self._lock = -1

    async def start(self) -> None:
        """Settle what a former executor left, then listen. Raises `Conflict`, `OSError`."""
        root = self._rules.root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(root)
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and is_owner(folder.name):
                # what a dead executor left is judged before anything new runs, so no pid can be mistaken
                room = self._room(folder.name)
                await room.enter()
                await room.leave()
        sock = bound(self._rules.socket, self._rules.gid)
        self._listening = await asyncio.start_unix_server(self._meet, sock=sock)

    async def stop(self, patience: float) -> None:
        """End every group as lost, tell those who listen, and close; after `patience` seconds in any case."""
        if self._listening is not None:
            self._listening.close()
        try:
            async with asyncio.timeout(patience):
                await asyncio.gather(*(self._end(room) for room in self._rooms.values()))
                await asyncio.sleep(0.05)  # the sessions' last words are on their way
        except TimeoutError:
            _log.warning("groups_not_ended: some still live after %s s", patience)
        for task in list(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        for room in self._rooms.values():
            await room.close()
        with contextlib.suppress(FileNotFoundError):
            self._rules.socket.unlink()
        os.close(self._lock)

    async def _end(self, room: Room) -> None:
        await room.enter()
        await room.end()

    def _room(self, owner: str) -> Room:
        if owner not in self._rooms:
            self._rooms[owner] = Room(self._rules.root, owner, self._handover)
        return self._rooms[owner]

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._sessions.add(task)
        try:
            await self._talk(reader, writer)
        finally:
            if task is not None:
                self._sessions.discard(task)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        session = Session(reader, writer)
        try:
            owner = await self._let_in(session, uid)
            if owner is not None:
                await self._serve(session, self._room(owner))
        except OSError:
            return
        finally:
            await session.close()

    async def _let_in(self, session: Session, uid: int) -> str | None:
        """Return the owner that a peer may act for; one that may not is told so."""
        if not self._rules.knows(uid):
            await session.turn_away(_foreign(uid))
            return None
        if len(self._sessions) > MOST_SESSIONS:
            await session.turn_away(Throttled("too_many_connections", "Too many connections to the executor."))
            return None
        greeting = await session.greeted()
        if greeting is None:
            return None
        number, owner = greeting
        if self._rules.admits(uid, owner):
            await session.welcome(number)
            return owner
        _log.warning("peer_refused: user %s may not act for %s", uid, owner)
        await session.turn_away(_foreign(uid))
        return None

    async def _serve(self, session: Session, room: Room) -> None:
        await room.enter()
        try:
            await session.serve(room)
        finally:
            await room.leave()


def _foreign(uid: int) -> Unauthenticated:
    return Unauthenticated(
        "executor_refused",
        "The executor does not act for this process.",
        why=f"User {uid} is not among those that it was told to trust.",
        todo="Name the services' users where the executor is started (--client OWNER=UID).",
    )


def _locked(root: Path) -> int:
    """Take the root for this process. Raises `Conflict`."""
    lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict(
            "executor_runs",
            f"Another executor uses the folder {root}.",
            todo="End it first, or give this one a folder of its own.",
        ) from None
    return lock
