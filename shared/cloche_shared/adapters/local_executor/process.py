"""A supervised group, seen from the service."""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from cloche_shared.adapters.local_executor import folder as folders
from cloche_shared.ports.executor import Exit, LogChunk

_CHUNK = 256 * 1024
_SMALL = 64 * 1024  # bytes of a log that are read on the loop
_AGAIN = 0.05  # seconds before a lost connection to a living supervisor is tried again, at first
_SELDOM = 2.0  # and at most

_log = logging.getLogger(__name__)


class LocalProcess:
    """One group: a connection to its supervisor while that lives, its folder afterwards."""

    def __init__(self, process_id: str, folder: Path) -> None:
        self._id = process_id
        self._folder = folder
        self._pid = 0
        self._began: bool | None = None
        self._exit: Exit | None = None
        self._size = 0
        self._follows = False
        self._met = False
        self._writer: asyncio.StreamWriter | None = None
        self._fresh: socket.socket | None = None
        self._unsent: list[dict[str, object]] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def has_ended(self) -> bool:
        """Whether its end is known: written down, and none of it lives."""
        return self._exit is not None

    def attend(self, connection: socket.socket | None) -> None:
        """Begin to listen to the supervisor, over a fresh connection or by connecting to its socket."""
        self._fresh = connection
        self._task = asyncio.create_task(self._live(), name=f"executor:{self._id}")

    async def met(self) -> bool:
        """Wait for the supervisor's first word; false when it ended without one."""
        while not self._met and self._exit is None:
            await self._changed.wait()
        return self._met

    async def started(self) -> bool:
        while self._began is None and self._exit is None:
            await self._changed.wait()
        return bool(self._began) if self._exit is None else self._exit.started

    async def wait(self) -> Exit:
        while self._exit is None:
            await self._changed.wait()
        return self._exit

    async def cancel(self, *, grace: float | None = None) -> None:
        self._send({"do": "cancel", "grace": grace})

    async def grant(self, seconds: float) -> None:
        self._send({"do": "grant", "seconds": seconds})

    async def log(self, offset: int = 0, *, follow: bool = True) -> AsyncIterator[LogChunk]:
        if follow and not self._follows:
            self._follows = True
            self._send({"do": "follow"})
        while True:
            changed, ended = self._changed, self._exit is not None
            data = await self._read_log(offset)
            if data:
                yield LogChunk(offset, data)
                offset += len(data)
                if not ended or offset < self._size:
                    continue
            if ended or not follow:
                return
            if self._size <= offset:
                await changed.wait()

    async def _read_log(self, offset: int) -> bytes:
        if self._exit is not None and self._size - offset <= _SMALL:
            # what is left was just written: the kernel has it at hand, a thread costs more
            return folders.read_log(self._folder, offset, _CHUNK)
        return await asyncio.to_thread(folders.read_log, self._folder, offset, _CHUNK)

    async def leave(self) -> None:
        """Stop listening; the group lives on."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._fresh is not None:
            self._fresh.close()

    # --- the connection

    async def _live(self) -> None:
        """Listen until the end is known, connecting again as long as the supervisor lives."""
        pause = _AGAIN
        while self._exit is None:
            connection, self._fresh = self._fresh or _connect(self._folder), None
            if connection is not None:
                await self._listen(connection)
                pause = _AGAIN
            if self._exit is None:
                await self._judge()
            if self._exit is None:
                await asyncio.sleep(pause)
                pause = min(_SELDOM, pause * 2)

    async def _judge(self) -> None:
        """Decide the end if the supervisor is dead. A disk that is full only delays it."""
        try:
            self._decide(await asyncio.to_thread(folders.settle, self._folder))
        except OSError as error:
            _log.warning("process_not_settled: %s: %s", self._id, error)

    async def _listen(self, connection: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=connection)
        try:
            if self._follows:
                self._send({"do": "follow"})
            unsent, self._unsent = self._unsent, []
            for command in unsent:
                self._send(command)
            while self._exit is None and (line := await reader.readline()):
                self._hear(cast("dict[str, object]", json.loads(line)))
        except (OSError, ValueError):
            return
        finally:
            writer, self._writer = self._writer, None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _send(self, command: dict[str, object]) -> None:
        """Send a command now, or as soon as the supervisor can be reached; the dead need none."""
        if self._writer is not None:
            self._writer.write(json.dumps(command).encode() + b"\n")
        elif self._exit is None and command["do"] != "follow":
            self._unsent.append(command)

    def _hear(self, message: dict[str, object]) -> None:
        self._met = True
        at = message.pop("at")
        if at == "exited":
            self._decide(folders.exit_from(message))
            return
        self._pid = cast("int", message.get("pid", self._pid))
        self._size = cast("int", message.get("size", self._size))
        if at in ("started", "not_started"):
            self._began = at == "started"
        elif at == "up" and self._began is None:
            self._began = cast("bool | None", message["started"])
        self._tell()

    def _decide(self, ended: Exit | None) -> None:
        if ended is not None:
            self._exit = ended
            self._size = ended.log_bytes
            self._tell()

    def _tell(self) -> None:
        """Wake everybody who waits for news."""
        self._changed.set()
        self._changed = asyncio.Event()


def _connect(folder: Path) -> socket.socket | None:
    """Connect to the supervisor of a folder, however long its path: a socket's may have 107 bytes.

    Local sockets connect at once or not at all, so nothing waits here.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(f"/proc/self/fd/{fd}/sock")
    except OSError:
        connection.close()
        return None
    finally:
        os.close(fd)
    return connection
